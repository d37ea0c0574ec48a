"""How programs are compiled: to the same numbers, kept between runs, with a CPU's faster convolutions."""

import functools
from typing import Any

import jax
from jax.sharding import Mesh

from diffusion_jax.runs import storage

# On a CPU, XLA's convolutions instead of YNNPACK's, whose gradient by a kernel takes up to nine times as long. The other
# operations stay with YNNPACK, as is the default.
EIGEN_CONVOLUTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
}

# What the same seed means must not depend on variables that somebody exports, such as JAX_ENABLE_X64.
NUMERICS = {
    "jax_enable_x64": False,
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_numpy_dtype_promotion": "standard",
    "jax_default_matmul_precision": None,
}


def pin_numerics() -> None:
    """Sets what JAX computes to what this library means, whatever the environment says."""
    for name, value in NUMERICS.items():
        if name in jax.config.values:  # a later version may not leave the choice
            jax.config.update(name, value)


def keep_compiled() -> None:
    """Keeps programs that compile for more than a second in the user's cache folder, for the next start.

    JAX_COMPILATION_CACHE_DIR, which may be gs://, names another folder.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(storage.user_cache() / "compiled"))


def options(mesh: Mesh, *, deterministic: bool = False) -> dict[str, Any]:
    """Returns `compiler_options` of `jax.jit` for the devices of a mesh.

    Args:
        mesh: of the devices.
        deterministic: whether a GPU gives the same bytes in every run, as a CPU and a TPU do anyway. On a GPU some
            operations otherwise add in the order in which threads come, and a race decides which algorithm a convolution
            takes.
    """
    platform = mesh.devices.flat[0].platform
    if platform == "cpu":
        return EIGEN_CONVOLUTIONS if _is_known(tuple(EIGEN_CONVOLUTIONS.items())) else {}
    return {"xla_gpu_deterministic_ops": True} if deterministic and platform == "gpu" else {}


@functools.cache
def _is_known(options: tuple[tuple[str, Any], ...]) -> bool:
    """Returns whether this version of XLA has the options: experimental ones come and go."""
    try:
        jax.jit(lambda: 0, compiler_options=dict(options)).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
