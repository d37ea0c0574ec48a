"""What a TPU program reads from and writes to a chip's large memory, from the compiled program's text."""

import math
import re

from diffusion_jax.tools.plan import collectives

COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
OPERATION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*?)\)")
SHAPE = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\](?:\{([^}]*)\})?")
CALLED = re.compile(r"\b(?:body|branch_computations)=\{?([^,}]+(?:, %[^,}]+)*)")
MOVES_NOTHING = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "copy-done", "slice-done"}
CALLS = {"while", "conditional"}  # what they move is in what they call


def hbm_bytes(text: str) -> int:
    """Returns the bytes in the large memory of the arguments and results of a program's operations.

    What lies in the fast memory has S(1) in its layout. A copy from one memory to the other touches the large one once. A
    loop counts as one pass, a branch as all of its ways.

    Args:
        text: of `jax.stages.Compiled.as_text`, of a program for a TPU.
    """
    computations = _computations(text)
    return sum(_bytes(computations[name]) for name in _visited(computations, "ENTRY"))


def _computations(text: str) -> dict[str, list[str]]:
    """Returns the lines of each computation by its name; that of the program itself is called ENTRY."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if begins := COMPUTATION.match(line):
            lines = found.setdefault("ENTRY" if begins[1] else begins[2], [])
        elif OPERATION.match(line):
            lines.append(line)
    return found


def _visited(computations: dict[str, list[str]], name: str) -> list[str]:
    """Returns a computation and those that its loops and branches run."""
    called = [each for line in computations[name] for found in CALLED.findall(line) for each in found.split(", ")]
    return [name, *(one for each in called for one in _visited(computations, each.removeprefix("%")))]


def _bytes(lines: list[str]) -> int:
    types: dict[str, str] = {}
    size = 0
    for line in lines:
        name, kind, operation, arguments = OPERATION.match(line).groups()
        types[name] = kind
        if operation in ("copy-start", "slice-start"):
            moved = SHAPE.findall(kind)[:2]
            size += min(map(_size, moved)) * sum("S(" not in layout for _, _, layout in moved)
        elif operation not in MOVES_NOTHING | CALLS and "ConcatBitcast" not in line:
            of_all = " ".join([kind, *(types.get(argument, "") for argument in re.findall(r"%([\w.\-]+)", arguments))])
            size += sum(_size(shape) for shape in SHAPE.findall(of_all) if "S(" not in shape[2])
    return size


def _size(shape: tuple[str, str, str]) -> int:
    name, sizes, _ = shape
    return collectives.BYTES[name] * math.prod(map(int, filter(None, sizes.split(","))))
