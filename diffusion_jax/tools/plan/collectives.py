"""What devices send each other, read from a compiled program's text."""

import math
import re
from collections import Counter

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
BYTES |= {"f64": 8, "s64": 8, "u64": 8}
OPERATION = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(-start)?\(")
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


def moved(text: str) -> dict[str, int]:
    """Returns the bytes that each kind of collective moves on a device: what goes in or what comes out, the larger one.

    An operation in a loop counts once.

    Args:
        text: of `jax.stages.Compiled.as_text`.
    """
    total: Counter[str] = Counter()
    for line in text.splitlines():
        if found := OPERATION.search(line):
            result, kind, started = found.groups()
            shapes = [shape for shape in SHAPE.findall(result) if shape[0] in BYTES]
            sizes = [BYTES[name] * math.prod(map(int, filter(None, dims.split(",")))) for name, dims in shapes]
            total[kind] += _largest(sizes, kind, bool(started)) * (_group_size(line) if kind == "reduce-scatter" else 1)
    return dict(total)


def _largest(sizes: list[int], kind: str, started: bool) -> int:
    """Returns the bytes of what comes out; a started all-gather or permute lists what goes in before it."""
    if started and kind == "collective-permute":
        return sizes[0]
    return sum(sizes[len(sizes) // 2 :]) if started and kind == "all-gather" else sum(sizes)


def _group_size(line: str) -> int:
    """Returns how many devices share an operation: replica_groups={{0,1},{2,3}} or its short form [2,2]<=[4]."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(found[2])
    found = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    return found[1].count(",") + 1 if found else 1
