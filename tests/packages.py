"""Packages of Debian and npm, made by hand, as bytes."""

import gzip
import io
import json
import lzma
import tarfile

import numpy as np
from PIL import Image


def tar(files, links=()) -> bytes:
    """Returns a tar archive of {path: content}, and of {path: where it leads} as symbolic links."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, target in dict(links).items():
            member = tarfile.TarInfo(path)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def ar(members) -> bytes:
    """Returns an ar archive of {name: content}. [ar(5)]"""
    whole = b"!<arch>\n"
    for name, content in members.items():
        whole += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        whole += content + b"\n" * (len(content) % 2)
    return whole


def deb(name, version, files, *, pack=lzma.compress, suffix=".xz", links=()) -> bytes:
    """Returns a Debian package that installs {path: content}."""
    control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nDescription: of tests\n".encode()
    parts = {"control.tar.xz": lzma.compress(tar({"./control": control}))}
    parts[f"data.tar{suffix}"] = pack(tar({f"./{path}": content for path, content in files.items()}, links))
    return ar({"debian-binary": b"2.0\n", **parts})


def tgz(name, version, files) -> bytes:
    """Returns an npm package of {path: content}."""
    files = {"package.json": json.dumps({"name": name, "version": version}).encode(), **files}
    return gzip.compress(tar({f"package/{path}": content for path, content in files.items()}), mtime=0)


def png(seed, width=32, height=32, mode="RGB") -> bytes:
    """Returns a PNG file of random pixels."""
    channels = len(mode) if mode != "P" else 1
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels).save(file, format="PNG")
    return file.getvalue()
