"""Files of arrays, of which nothing is unpacked before it is known to be there."""

import io
import math
import zipfile
from collections.abc import Callable, Collection
from typing import Any, BinaryIO

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.runs import storage

DEFLATE = 1032  # bytes that deflate can make of one, at most


def read_npz(file: BinaryIO, wanted: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Returns arrays of an .npz file, as np.savez and np.savez_compressed write them, by name.

    Nothing is unpacked before it is known to be there: a file takes at most `DEFLATE` times its size of memory. Raises an
    exception of whatever kind where the file is damaged.

    Args:
        file: opened; no pickle in it is ever loaded.
        wanted: names of arrays, if they are there; None for all.
    """
    most = file.seek(0, io.SEEK_END) * DEFLATE
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if wanted is not None and name not in wanted:
                continue
            is_packed = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            if name in arrays or not is_packed or entry.file_size > most:
                raise ValueError(f"{entry.filename!r} is not what np.savez writes")
            with archive.open(entry) as member:
                _check_head(member, entry.file_size)
            with archive.open(entry) as member:
                arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays


def names(file: BinaryIO) -> set[str]:
    """Returns the names of the arrays in an .npz file; an exception of whatever kind where it is none."""
    with zipfile.ZipFile(file) as archive:
        return {entry.removesuffix(".npy") for entry in archive.namelist()}


def of_user(path: storage.Path, field: str, read: Callable[[BinaryIO], Any]) -> Any:
    """Returns what a function reads of the .npz file that a field of the config names; UserError where it is none."""
    try:
        with storage.reading(path) as file:
            return read(file)
    except Exception as error:  # zipfile and NumPy have a dozen names for what a damaged file is
        raise UserError(
            f"config field {field} = {str(path)!r} cannot be read as an .npz file of arrays ({type(error).__name__})."
        ) from error


def _check_head(member: BinaryIO, size: int) -> None:
    """Raises ValueError where the head of an .npy file promises other than what the file has."""
    version = np.lib.format.read_magic(member)
    read_head = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, _, dtype = read_head(member)
    if dtype.hasobject or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - member.tell():
        raise ValueError(f"{dtype} {list(shape)} are not {size - member.tell()} bytes")
