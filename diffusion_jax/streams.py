"""Named random streams: every random number is addressed by (seed, stream, index), and none is stored."""

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax import errors

MOST = 2**31 - 1  # a larger seed would be taken without its higher bits

# The numbers are part of the meaning of a seed: never renumber, only append.
STREAMS = {"init": 0, "train": 1, "data": 2, "x_T": 3, "sampler": 4, "evaluate": 5, "condition": 6, "edit": 7, "held_out": 8}


def key(seed: Array | int, stream: str, index: Array | int = 0) -> Array:
    """Returns the key of item `index` (a training step, an image) of a stream.

    threefry, so that a key means the same draw in every batch and on every device: under rbg it does not.

    Args:
        seed: the run's seed, 0 .. 2^31 - 1; may be traced.
        stream: a name of `STREAMS`.
        index: which step or image; may be traced.
    """
    if not isinstance(seed, Array):
        errors.check_whole("seed", seed, 0, MOST)
    if stream not in STREAMS:
        raise ValueError(f"stream = {stream!r} is unknown; known: {', '.join(STREAMS)}.")
    root = jax.random.key(seed, impl="threefry2x32")
    return jax.random.fold_in(jax.random.fold_in(root, STREAMS[stream]), index)


def keys(seed: Array | int, stream: str, indices: Array) -> Array:
    """Returns one key for each of `indices`. # [B]"""
    indices = jnp.asarray(indices)
    if indices.ndim != 1:
        raise ValueError(f"indices of {list(indices.shape)} are not allowed; they must be [B], such as jnp.arange(4).")
    return jax.vmap(lambda index: key(seed, stream, index))(indices)
