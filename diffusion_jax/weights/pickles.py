"""Pickled tensors, read without executing anything.

A pickle is a program for a small machine with a stack. Here is that machine with the few instructions and the few names
that tensors of NumPy and of torch need. Each name gives a value of ours, and no other name is looked up anywhere.
"""

import math
import pickletools
import re
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

STORAGES = {"Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": jnp.bfloat16}
STORAGES |= {"Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?"}
MARK = object()


class Known(NamedTuple):
    """What a name stands for: a function of ours, or the numbers that a torch storage is made of."""

    make: Callable[..., Any] | None = None
    dtype: np.dtype | None = None


class Unfinished:
    """An array or a type of NumPy's, which a pickle makes first and fills afterwards."""

    value: Any = None

    def __init__(self, fill: Callable[..., Any]):
        self.fill = fill


class Storage(NamedTuple):
    """Numbers that lie elsewhere in a torch file."""

    key: str
    dtype: np.dtype
    num: int

    def num_bytes(self) -> int:
        """Returns how long it is."""
        return self.num * self.dtype.itemsize


class Tensor(NamedTuple):
    """A view of a storage: what starts at `offset`, with a stride for each axis, all in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Pickle(NamedTuple):
    """What one pickle holds: dictionaries, lists, numbers, texts, arrays, `Tensor`; and each storage it speaks of."""

    value: Any
    storages: dict[str, Storage]


def load(file: BinaryIO) -> Pickle:
    """Returns what one pickle holds, and leaves the file behind it.

    Raises ValueError for what is not of tensors; what a damaged pickle raises has many names.
    """
    stack, memo, storages = [], {}, {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "STOP":
            return Pickle(stack.pop(), storages)
        if opcode.name not in INSTRUCTIONS:
            raise ValueError(f"it has instruction {opcode.name}, which tensors do not need")
        INSTRUCTIONS[opcode.name](stack, memo, argument)
        if opcode.name == "BINPERSID":
            storages[stack[-1].key] = stack[-1]
    raise ValueError("it has no end")


def value_of(item: Any) -> Any:
    """Returns an item of a pickle; of what was filled afterwards, what it was filled with."""
    return item.value if isinstance(item, Unfinished) else item


def is_shape(*tuples: Any) -> bool:
    """Returns whether each is a tuple of whole numbers from 0 on."""
    return all(isinstance(given, tuple) and all(isinstance(n, int) and n >= 0 for n in given) for given in tuples)


def _array(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    dtype = value_of(dtype)
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes | bytearray) or not is_shape(shape):
        raise ValueError("it has an array that is not of numbers")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"it has an array {list(shape)} of {dtype} in {len(data):,} bytes")
    return np.ndarray(shape, dtype, buffer=data, order=order)


def _ordered(pairs: Any = ()) -> dict:
    """Returns a dictionary of [key, item] pairs, as Python 2 wrote them."""
    is_pairs = isinstance(pairs, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs)
    if not is_pairs or not all(isinstance(key, str | int) for key, _ in pairs):
        raise ValueError("it has a dictionary whose keys are not names")
    return dict(pairs)


def _reconstruct(*_: Any) -> Unfinished:
    return Unfinished(lambda version, shape, dtype, is_fortran, data: _array(data, dtype, shape, "F" if is_fortran else "C"))


def _dtype(code: str, *_: Any) -> Unfinished:
    if not re.fullmatch(r"[biufc]\d{1,2}", code):
        raise ValueError(f"it has an array of type {code!r:.20}, which is not a number's")
    made = Unfinished(lambda version, order, *_: np.dtype(code).newbyteorder(order))
    made.value = np.dtype(code)
    return made


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage) or not is_shape((offset,), shape, strides) or len(shape) != len(strides):
        raise ValueError("it has a tensor without a shape or a storage")
    return Tensor(storage, offset, shape, strides)


def _names() -> dict[tuple[str, str], Known]:
    """Returns what each known name stands for; NumPy's modules have an old and a new name."""
    found = {("collections", "OrderedDict"): Known(_ordered)}
    found |= {("torch", f"{name}Storage"): Known(dtype=np.dtype(dtype)) for name, dtype in STORAGES.items()}
    found |= {("torch._utils", name): Known(_tensor) for name in ("_rebuild_tensor", "_rebuild_tensor_v2")}
    found |= {("torch._utils", "_rebuild_parameter"): Known(lambda tensor, *_: tensor)}
    found |= {("numpy", "ndarray"): Known(), ("numpy", "dtype"): Known(_dtype)}
    for core in ("numpy.core", "numpy._core"):
        found[f"{core}.multiarray", "_reconstruct"] = Known(_reconstruct)
        found[f"{core}.multiarray", "scalar"] = Known(lambda dtype, data: _array(data, dtype, (), "C"))
        found[f"{core}.numeric", "_frombuffer"] = Known(_array)
    return found


NAMES = _names()


def _since_mark(stack: list) -> list:
    items = []
    while (item := stack.pop()) is not MARK:
        items.append(item)
    return items[::-1]


def _name(module: Any, name: Any) -> Known:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("it has a name that is not a text")
    if (module, name) not in NAMES:
        how = "no code of a file is run; save its state_dict() alone, as docs/weights.md shows for EDM's"
        raise ValueError(f"it names {module:.80}.{name:.80}, which is not of a tensor: {how}")
    return NAMES[module, name]


def _put(stack: list, pairs: list) -> None:
    if not isinstance(stack[-1], dict) or not all(isinstance(key, str | int) for key in pairs[::2]):
        raise ValueError("it has a dictionary whose keys are not names")
    stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))


def _extend(stack: list, items: list) -> None:
    if not isinstance(stack[-1], list):
        raise ValueError("it adds an item to what is not a list")
    stack[-1].extend(items)


def _call(stack: list, memo: dict, argument: Any) -> None:
    arguments, known = stack.pop(), stack.pop()
    if not isinstance(known, Known) or known.make is None or not isinstance(arguments, tuple):
        raise ValueError("it calls what is not a function of tensors")
    stack.append(known.make(*arguments))


def _fill(stack: list, memo: dict, argument: Any) -> None:
    state, made = stack.pop(), stack[-1]
    if isinstance(made, Unfinished) and isinstance(state, tuple):
        made.value = made.fill(*state)
    elif not isinstance(made, dict):  # of a dictionary torch stores attributes as well: its versions
        raise ValueError("it fills what is not an array")


def _storage(stack: list, memo: dict, argument: Any) -> None:
    kind, storage, key, _, num, *view = stack.pop()
    if kind != "storage" or not isinstance(storage, Known) or storage.dtype is None or view not in ([], [None]):
        raise ValueError("it has a storage that is not one of torch's")
    if not isinstance(key, str) or not is_shape((num,)):
        raise ValueError("it has a storage without a name or a size")
    stack.append(Storage(key, storage.dtype, num))


def _pushing(make: Callable[[list, Any], Any]) -> Callable[[list, dict, Any], None]:
    return lambda stack, memo, argument: stack.append(make(stack, argument))


def _tuple_of(num: int) -> Callable[[list, dict, Any], None]:
    return _pushing(lambda stack, argument: tuple([stack.pop() for _ in range(num)][::-1]))


def _instructions() -> dict[str, Callable[[list, dict, Any], None]]:
    """Returns {name of an opcode: (stack, memo, argument) -> None}."""
    found = dict.fromkeys(("PROTO", "FRAME"), lambda stack, memo, argument: None)
    for name in ("INT", "LONG", "FLOAT", "UNICODE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"):
        found[name] = _pushing(lambda stack, argument: argument)
    for name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"):
        found[name] = _pushing(lambda stack, argument: argument)
    for name, value in {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": MARK, "EMPTY_TUPLE": ()}.items():
        found[name] = _pushing(lambda stack, argument, value=value: value)
    for name, make in {"EMPTY_DICT": dict, "EMPTY_LIST": list}.items():
        found[name] = _pushing(lambda stack, argument, make=make: make())
    found |= {"TUPLE1": _tuple_of(1), "TUPLE2": _tuple_of(2), "TUPLE3": _tuple_of(3)}
    found["TUPLE"] = _pushing(lambda stack, argument: tuple(_since_mark(stack)))
    found["GLOBAL"] = _pushing(lambda stack, argument: _name(*argument.split(" ", 1)))
    found["STACK_GLOBAL"] = _pushing(lambda stack, argument: _name(*[stack.pop(), stack.pop()][::-1]))
    for name in ("PUT", "BINPUT", "LONG_BINPUT"):
        found[name] = lambda stack, memo, argument: memo.update({int(argument): stack[-1]})
    found["MEMOIZE"] = lambda stack, memo, argument: memo.update({len(memo): stack[-1]})
    for name in ("GET", "BINGET", "LONG_BINGET"):
        found[name] = lambda stack, memo, argument: stack.append(memo[int(argument)])
    found["SETITEM"] = lambda stack, memo, argument: _put(stack, [stack.pop(), stack.pop()][::-1])
    found["SETITEMS"] = lambda stack, memo, argument: _put(stack, _since_mark(stack))
    found["APPEND"] = lambda stack, memo, argument: _extend(stack, [stack.pop()])
    found["APPENDS"] = lambda stack, memo, argument: _extend(stack, _since_mark(stack))
    return found | {"REDUCE": _call, "BUILD": _fill, "BINPERSID": _storage}


INSTRUCTIONS = _instructions()
