"""The makers' figures of accelerators: published, not measured."""

import math
from typing import NamedTuple

from jax.sharding import Mesh

GIB = 2**30


class Chip(NamedTuple):
    """What one device can do at most; where that is unknown it is infinite."""

    memory: float  # bytes
    bfloat16: float = math.inf  # floating-point operations a second of matrix products in bfloat16, without sparsity
    float32: float = math.inf  # the same at the highest precision; on a TPU a float32 product is six in bfloat16
    bandwidth: float = math.inf  # bytes a second from its own memory
    links: float = math.inf  # bytes a second to other chips, all links of a chip together


def _tpu(memory_gib: float, tflops: float, gigabytes: float, gigabits: float) -> Chip:
    return Chip(memory_gib * GIB, tflops * 1e12, tflops * 1e12 / 6, gigabytes * 1e9, gigabits * 1e9 / 8)


PUBLISHED = {  # by `device_kind`: the system pages of Cloud TPU, NVIDIA's data sheets
    "TPU v4": _tpu(32, 275, 1228, 2400),
    "TPU v5 lite": _tpu(16, 197, 819, 1600),
    "TPU v5": _tpu(95, 459, 2765, 4800),
    "TPU v6 lite": _tpu(32, 918, 1640, 3584),
    "NVIDIA A100-SXM4-80GB": Chip(80e9, 312e12, 19.5e12, 2039e9, 600e9),
    "NVIDIA H100 80GB HBM3": Chip(80e9, 989e12, 67e12, 3350e9, 900e9),
    "NVIDIA H200": Chip(141e9, 989e12, 67e12, 4800e9, 900e9),
}


def peak(mesh: Mesh) -> float:
    """Returns the operations a second of a mesh's devices at their peak in bfloat16, 0 where it is not published.

    It serves for every dtype: where the precision is the default, float32 products are TF32 on a GPU and bfloat16 on a TPU.
    """
    chip = PUBLISHED.get(mesh.devices.flat[0].device_kind)
    return mesh.size * chip.bfloat16 if chip else 0.0
