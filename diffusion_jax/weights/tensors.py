"""Tensors of other people's files, read without executing anything: torch's, Flax's, pickled NumPy arrays, .safetensors."""

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np
import safetensors.numpy

from diffusion_jax import errors
from diffusion_jax.errors import UserError
from diffusion_jax.runs import storage
from diffusion_jax.weights import pickles

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
TORCH = 0x1950A86A20F9469CFC6C  # the number that begins torch's older files
ABOUT = "about"  # the entry of a .safetensors file of ours that says what it is
SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": jnp.bfloat16, "I64": "<i8", "I32": "<i4", "I16": "<i2"}
SAFETENSORS |= {"I8": "i1", "U8": "u1", "BOOL": "?"}
LARGEST_HEADER = 10**8  # bytes, of a .safetensors file; that library reads no larger one
FLAX = tuple(bytes([first]) for first in (*range(0x81, 0x90), 0xDE, 0xDF))  # how a dictionary begins in msgpack
CHUNKED = "__msgpack_chunked_array__"  # of Flax: an entry of what stands for an array of more than 1 GiB
ARRAYS = (1, 3)  # its extensions of msgpack that are arrays and NumPy's scalars; 2 is a complex number of Python's
LFS = b"version https://git-lfs"
KINDS = "a state dict of torch (.pth, .pt or .bin), a checkpoint of Flax, pickled NumPy arrays, or .safetensors"
AGAIN = "download it again"


def read(file: storage.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file by name; in nested dictionaries the names are joined by dots, in lists they are numbers.

    A file whose name ends in 8 hex digits, as 'net-6726825d.pth', must have the SHA-256 that begins with them.

    Raises UserError where the file cannot be read, is damaged, or holds anything but tensors, numbers and texts.
    """
    try:
        content = storage.read_bytes(file)
    except (OSError, MemoryError) as error:
        raise UserError(f"file of weights {str(file)!r} cannot be read ({error or 'it is larger than memory'}).") from error
    if content.startswith(LFS):
        raise UserError(
            f"file of weights {str(file)!r} is a pointer of Git LFS, {len(content)} bytes that stand for the weights; get "
            "those with: git lfs pull."
        )
    _check_name(file, content)
    try:
        found = _tensors(content)
    except Exception as error:  # zipfile, safetensors and pickletools have many names for what a damaged file is
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        reason = kind + errors.first_line(error)
        todo = "" if reason.endswith(AGAIN) else f"; it must be {KINDS}"
        raise UserError(f"file of weights {str(file)!r} cannot be read as tensors: {reason}{todo}.") from error
    if not found:
        raise UserError(f"file of weights {str(file)!r} holds no tensors; it must be {KINDS}.")
    return found


def read_metadata(file: storage.Path) -> dict[str, str]:
    """Returns what `as_bytes` has written beside the tensors of a file; {} where it is not of that kind."""
    content = storage.read_bytes(file)
    try:
        return json.loads(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"][ABOUT])
    except (ValueError, TypeError, KeyError):
        return {}


def as_bytes(named: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """Returns a .safetensors file, always the same for the same tensors; without metadata it says what torch's say.

    What it says beside them is one entry, since safetensors writes several in a random order.
    """
    contiguous = {name: np.ascontiguousarray(value) for name, value in named.items()}
    about = {ABOUT: json.dumps(metadata, sort_keys=True)} if metadata else {"format": "pt"}
    return safetensors.numpy.save(contiguous, about)


def _check_name(file: storage.Path, content: bytes) -> None:
    given = re.search(r"-([0-9a-f]{8})\.\w+$", file.name)
    if given and not (found := hashlib.sha256(content).hexdigest()).startswith(given[1]):
        raise UserError(
            f"file of weights {str(file)!r} is damaged: its SHA-256 must begin with {given[1]}, as its name says, but "
            f"begins with {found[:8]}; download it again."
        )


def _tensors(content: bytes) -> dict[str, np.ndarray]:
    if content.startswith(ZIP):
        return _of_zip(content)
    is_safetensors = content[8:10] == b'{"'  # the length of its header may begin as the others do
    if content.startswith(PICKLE) and not is_safetensors:
        return _of_pickle(content)
    if content.startswith(FLAX) and not is_safetensors:
        return _of_flax(content)
    if content[8:9] == b"{":
        _check_whole(content)
        return {name: _of_safetensors(item) for name, item in safetensors.deserialize(content)}
    if content.lstrip().startswith(b"<"):
        raise ValueError(f"it is a web page; {AGAIN}")
    raise ValueError("it is of another kind" if content else f"it is empty; {AGAIN}")


def _check_whole(content: bytes) -> None:
    """Raises ValueError for a .safetensors file that ends before its last tensor does."""
    start = 8 + int.from_bytes(content[:8], "little")
    if len(content) < start < LARGEST_HEADER:
        raise ValueError(f"it is cut short; {AGAIN}")
    if start <= len(content):
        ends = [item["data_offsets"][1] for name, item in json.loads(content[8:start]).items() if name != "__metadata__"]
        if len(content) < (size := start + max(ends, default=0)):
            raise ValueError(f"it is cut short: it has {len(content):,} of {size:,} bytes; {AGAIN}")


def _of_safetensors(item: dict[str, Any]) -> np.ndarray:
    if item["dtype"] not in SAFETENSORS:
        raise ValueError(f"it has a tensor of {item['dtype']}; known: {', '.join(SAFETENSORS)}")
    return np.frombuffer(item["data"], SAFETENSORS[item["dtype"]]).reshape(item["shape"])


def _of_zip(content: bytes) -> dict[str, np.ndarray]:
    """Returns the tensors of a file of torch 1.6 and later: a pickle, and a file for each storage."""
    if not zipfile.is_zipfile(io.BytesIO(content)):  # it has no end
        raise ValueError(f"it is cut short; {AGAIN}")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos.values()):
            raise ValueError("it is a compressed archive")
        if sum(info.file_size for info in infos.values()) > len(content):
            raise ValueError("its parts are larger than the file")
        folder = next((name.removesuffix("data.pkl") for name in infos if name.endswith("/data.pkl")), None)
        if folder is None:
            raise ValueError("it is an archive without data.pkl")
        if f"{folder}byteorder" in infos and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        held = pickles.load(io.BytesIO(archive.read(f"{folder}data.pkl"))).value
        storages = {name.removeprefix(f"{folder}data/"): archive.read(name) for name in infos}
    return {name: _filled(item, storages) for name, item in _flat(held)}


def _of_pickle(content: bytes) -> dict[str, np.ndarray]:
    """Returns the tensors of a pickle; in a file of torch before 1.6 the storages follow after five pickles."""
    file = io.BytesIO(content)
    held, _ = pickles.load(file)
    if held != TORCH:
        return {name: _filled(item, {}) for name, item in _flat(held)}
    _, system, (held, declared), (keys, _) = [pickles.load(file) for _ in range(4)]
    if not system.value["little_endian"]:
        raise ValueError("its numbers are big-endian")
    storages, start = {}, file.tell()
    for key in keys:
        start += 8  # the number of elements, which the pickle has said
        storages[key] = memoryview(content)[start : start + declared[key].num_bytes()]
        start += len(storages[key])
    return {name: _filled(item, storages) for name, item in _flat(held)}


def _of_flax(content: bytes) -> dict[str, np.ndarray]:
    """Returns the tensors of what `flax.serialization.to_bytes` gives: nested dictionaries in msgpack."""
    try:
        held = msgpack.unpackb(content, ext_hook=_of_extension, object_hook=_joined)
    except ValueError as error:
        if "incomplete" in str(error):
            raise ValueError(f"it is cut short; {AGAIN}") from error
        raise
    return dict(_flat(held))


def _of_extension(code: int, data: bytes) -> np.ndarray | None:
    """Returns an array, which Flax writes as [its shape, its type, its numbers]."""
    if code not in ARRAYS:
        return None
    shape, dtype, numbers = msgpack.unpackb(data)
    return np.frombuffer(numbers, jnp.dtype(dtype)).reshape(shape)


def _joined(held: dict[str, Any]) -> dict[str, Any] | np.ndarray:
    """Returns a dictionary as it is, or the array whose chunks it has."""
    if CHUNKED not in held:
        return held
    return np.concatenate(list(held["chunks"].values())).reshape(list(held["shape"].values()))


def _flat(held: Any, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Yields (name, array or `Tensor`) of nested dictionaries and lists; numbers and texts beside them are left out."""
    seen = set() if seen is None else seen
    if not isinstance(held, dict | list):
        raise ValueError("it is neither a dictionary nor a list")
    if id(held) in seen and isinstance(held, dict):
        raise ValueError("it has one dictionary in two places")
    if id(held) in seen:
        return  # settings may share a list of numbers
    seen.add(id(held))
    for key, item in held.items() if isinstance(held, dict) else enumerate(held):
        item, name = pickles.value_of(item), f"{prefix}{key}"
        if isinstance(item, dict | list):
            yield from _flat(item, f"{name}.", seen)
        elif isinstance(item, np.ndarray | pickles.Tensor):
            yield name, item


def _filled(item: Any, storages: dict[str, bytes | memoryview]) -> np.ndarray:
    """Returns an array, or a tensor as a view of its storage: no number is copied."""
    if isinstance(item, np.ndarray):
        return item
    ((key, dtype, num), offset, shape, strides), data = item, storages.get(item.storage.key, b"")
    if len(data) != item.storage.num_bytes():
        raise ValueError(f"storage {key!r:.40} must have {num:,} numbers of {dtype}, and has {len(data):,} bytes")
    if 0 in shape:
        return np.empty(shape, dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if last >= num or math.prod(shape) > num:
        raise ValueError(f"it has a tensor {list(shape)} in a storage of {num:,} numbers")
    start = np.frombuffer(data, dtype)[offset:]
    return np.lib.stride_tricks.as_strided(start, shape, [dtype.itemsize * stride for stride in strides], writeable=False)
