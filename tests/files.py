"""Files of every kind that is read, as bytes: good ones, and ones whose headers say what is not so."""

import io
import pathlib
import struct
import tarfile
import zipfile
import zlib

import numpy as np
from PIL import Image


def listing(folder) -> dict[str, bytes]:
    """Returns every file of a folder with its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in pathlib.Path(folder).rglob("*") if file.is_file()}


def npy(data=b"\x07" * 8, head=None, **changes) -> bytes:
    """Returns an .npy file with any header, by default that of uint8 [2, 2, 2, 1]."""
    head = head or repr({"descr": "|u1", "fortran_order": False, "shape": (2, 2, 2, 1)} | changes).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head) + 1) + head + b"\n" + data


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def zipped(members, **options) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tar(members, form=tarfile.USTAR_FORMAT) -> bytes:
    """Returns an uncompressed .tar file of {name: content}, in a form that `tarfile` names."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1.5  # of which POSIX.1-2001 makes a head of its own
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def repeated(name, content) -> bytes:
    """Returns an archive with one member a hundred times."""
    whole = zipped({f"{number:0{len(name)}d}": content for number in range(100)})
    for number in range(100):
        whole = whole.replace(f"{number:0{len(name)}d}".encode(), name.encode())
    return whole


def in_directory(whole, at, value, size) -> bytes:
    """Returns an archive with another number in its central directory and, where it is there too, in the local header."""
    whole, start = bytearray(whole), whole.index(b"PK\x01\x02")
    whole[start + at : start + at + size] = value.to_bytes(size, "little")
    whole[at - 2 : at - 2 + size] = value.to_bytes(size, "little")
    return bytes(whole)


def idx(*shape, data=None, kind=8) -> bytes:
    """Returns an IDX file, by default of the unsigned bytes 0, 1, 2 .. in this shape.

    As on Yann LeCun's page of MNIST: 0, 0, the type (8), the number of dimensions, the dimensions, the bytes.
    """
    data = bytes(number % 256 for number in range(np.prod(shape))) if data is None else data
    return struct.pack(f">HBB{len(shape)}i", 0, kind, len(shape), *shape) + data


def encoded(kind) -> bytes:
    """Returns an image file of 8 x 8 colours."""
    file = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(file, format=kind)
    return file.getvalue()


def png(width, height) -> bytes:
    """Returns a PNG file that claims a size."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def wide_profile():
    """Returns an ICC profile of version 2 with wide primaries and gamma 2.2."""
    fixed = lambda value: struct.pack(">i", round(value * 65536))  # noqa: E731
    xyz = lambda *values: b"XYZ \0\0\0\0" + b"".join(map(fixed, values))  # noqa: E731
    tags = [(b"desc", b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + b"\0" * 78), (b"cprt", b"text\0\0\0\0x\0\0\0")]
    tags += [(b"wtpt", xyz(0.9642, 1, 0.8249)), (b"rXYZ", xyz(0.60974, 0.31111, 0.01947))]
    tags += [(b"gXYZ", xyz(0.20528, 0.62567, 0.06087)), (b"bXYZ", xyz(0.14919, 0.06322, 0.74457))]
    tags += [(name, b"curv\0\0\0\0" + struct.pack(">IH", 1, 563) + b"\0\0") for name in (b"rTRC", b"gTRC", b"bTRC")]
    start, table, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags:
        content += b"\0" * (-len(content) % 4)
        table, body = table + name + struct.pack(">II", start + len(body), len(content)), body + content
    head = struct.pack(">I", start + len(body)) + b"lcms" + struct.pack(">I", 0x02100000) + b"mntrRGB XYZ "
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + xyz(0.9642, 1, 0.8249)[8:]
    return head + b"\0" * 48 + struct.pack(">I", len(tags)) + table + body
