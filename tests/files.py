"""Files of every kind that is read, as bytes: good ones, and ones whose headers say what is not so."""

import io
import pathlib
import struct
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
