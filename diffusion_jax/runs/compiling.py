"""How programs are compiled: kept between runs, and on request reproducible."""

from typing import Any

import jax

from diffusion_jax.runs import storage


def keep_compiled() -> None:
    """Keeps programs that compile for more than a second in the user's cache folder, for the next start.

    JAX_COMPILATION_CACHE_DIR, which may be gs://, names another folder.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(storage.user_cache() / "compiled"))


def options(*, deterministic: bool) -> dict[str, Any]:
    """Returns `compiler_options` of `jax.jit`: those that give the same bytes in every run.

    On a CPU and on a TPU programs do so anyway. On a GPU some operations add in the order in which threads come, and which
    algorithm a convolution takes is decided by a race of them; XLA's option ends both.
    """
    return {"xla_gpu_deterministic_ops": True} if deterministic and jax.default_backend() == "gpu" else {}
