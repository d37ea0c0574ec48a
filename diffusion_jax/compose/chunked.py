"""A function of many images, run on as many at once as a section of the config says."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from diffusion_jax.compose.config import Config
from diffusion_jax.runs import compiling, sharding


def in_chunks(
    make: Callable, configs: list[Config], weights: Any, section: str, numbers: np.ndarray, *more: Any, shared: tuple = ()
) -> Iterator[tuple[int, Any]]:
    """Yields (place of its first image, what a function finds, in NumPy) for each chunk of images.

    The function always runs on whole chunks. The last one is padded with its last image, and so is what is found.

    Args:
        make: the configs -> (weights, seed, numbers [size], *more, *shared) -> pytree.
        configs: of the run, and of its guide where there is one.
        weights: what the function expects for them.
        section: of the config, which says how many images are a chunk.
        numbers: of the images, [N].
        *more: pytrees of what belongs to each image, [N, ...].
        shared: pytrees of what belongs to all of them.
    """
    size, where = size_of(configs[0], section), sharding.batched(sharding.local_mesh())
    counts = {"num_images": 1, "shard_size": 1}  # these fields and those beside them do not change the program
    alike = [config.with_values("sample", **counts, seed=0, step=-1) for config in configs]
    fn = compiled(make, *(config.with_values("likelihood", **counts) for config in alike))
    for start in range(0, len(numbers), size):
        rows = np.minimum(np.arange(start, start + size), len(numbers) - 1)
        chosen = jax.device_put(jax.tree.map(lambda leaf, rows=rows: leaf[rows], (numbers, *more)), where)
        yield start, jax.device_get(fn(weights, configs[0].sample.seed, *chosen, *shared))


def size_of(config: Config, section: str) -> int:
    """Returns how many images a section takes at once, over all devices of this process."""
    return getattr(config, section).batch_per_device * jax.local_device_count()


@functools.lru_cache(maxsize=8)
def compiled(make: Callable, *configs: Config):
    """Returns a function of `compose` jitted, the same object for the same settings: asking twice compiles once."""
    mesh = sharding.local_mesh()
    return jax.jit(make(*configs), out_shardings=sharding.replicated(mesh), compiler_options=compiling.options(mesh))
