"""Packages of Debian, npm and PyPI, unpacked in memory: no path in them becomes one of this machine, no link is followed.

Where an archive is damaged, or unpacks to more than is allowed, a function raises ValueError or what the module of its
compression raises.
"""

import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import BinaryIO

from diffusion_jax import errors

MOST_UNPACKED = 2**30  # bytes of an archive
MOST_OF_A_FILE = 2**27  # bytes of one file in it
AR_MAGIC, AR_HEAD = b"!<arch>\n", 60
Wanted = Callable[[str], bool]  # path in an archive -> whether to read it


class Bounded:
    """A stream that can be read up to a number of bytes; ValueError beyond."""

    def __init__(self, stream: BinaryIO, most: int):
        self._stream, self._most, self._left = stream, most, most

    def read(self, size: int) -> bytes:
        piece = self._stream.read(size)
        self._left -= len(piece)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {self._most:,} bytes")
        return piece


def ar(content: bytes) -> dict[str, bytes]:
    """Returns {name: content} of an ar archive, the outer layer of a Debian package. [deb(5), ar(5)]"""
    if not content.startswith(AR_MAGIC):
        raise ValueError("it does not begin as an ar archive does")
    members, start = {}, len(AR_MAGIC)
    while start < len(content):
        head = content[start : start + AR_HEAD]
        size = head[48:58].decode("ascii", "replace").strip()
        if head[58:] != b"`\n" or not size.isdecimal() or start + AR_HEAD + int(size) > len(content):
            raise ValueError("it is cut short, or not an ar archive")
        start += AR_HEAD
        members[head[:16].decode("ascii", "replace").strip().rstrip("/")] = content[start : start + int(size)]
        start += int(size) + int(size) % 2  # members begin at even places
    return members


def tar(stream: BinaryIO, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    """Yields (path, content) of the regular files of an unpacked tar archive, but of no link, device or sparse file.

    Args:
        stream: has `read`.
        wanted: gets paths as they are yielded, without a leading './'.
    """
    with tarfile.open(fileobj=Bounded(stream, MOST_UNPACKED), mode="r|") as archive:
        for member in archive:
            path = member.name.removeprefix("./")
            if not member.isreg() or member.issparse() or not wanted(path):
                continue
            if path.startswith("/") or ".." in path.split("/"):
                raise ValueError(f"it has a file {path!r}, which would lie outside")
            if member.size > MOST_OF_A_FILE:
                raise ValueError(f"its file {path!r} has {member.size:,} bytes, and {MOST_OF_A_FILE:,} are allowed")
            yield path, archive.extractfile(member).read()


def deb(content: bytes, part: str, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    """Yields (path, content) of the regular files of a Debian package.

    Raises UserError where it is compressed with zstd, as on Ubuntu, and Python's zstandard is not installed.

    Args:
        part: 'data', what it installs, or 'control', what it says of itself.
    """
    for name, packed in ar(content).items():
        stem, _, suffix = name.rpartition(".")
        if name == f"{part}.tar" or stem == f"{part}.tar":
            yield from tar(_unpacked(packed, suffix), wanted)
            return
    raise ValueError(f"it has no {part}.tar")


def tgz(content: bytes, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    """Yields (path, content) of the regular files of an npm package; all paths begin with 'package/'."""
    return tar(_unpacked(content, "gz"), wanted)


def whl(content: bytes, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    """Yields (path, content) of the files of a Python package, a wheel."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            if wanted(member.filename):
                if member.file_size > MOST_OF_A_FILE:
                    raise ValueError(f"its file {member.filename!r} unpacks to more than {MOST_OF_A_FILE:,} bytes")
                yield member.filename, archive.read(member)


def _unpacked(packed: bytes, suffix: str) -> BinaryIO:
    stream = io.BytesIO(packed)
    if suffix == "zst":
        sentence = "this Debian package is compressed with zstd, which needs a package: pip install zstandard."
        return errors.needed("zstandard", sentence).ZstdDecompressor().stream_reader(stream)
    kinds = {"tar": lambda same: same, "gz": lambda packed: gzip.GzipFile(fileobj=packed), "xz": lzma.LZMAFile}
    if suffix not in kinds:
        raise ValueError(f"it is compressed as .{suffix}; {', '.join(kinds)} and zst can be read")
    return kinds[suffix](stream)
