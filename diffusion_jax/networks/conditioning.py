"""What a network is given besides x_t and c_noise: classes, or nothing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Cond = Any  # a pytree of arrays [B, ...]; {} for nothing


class Conditioning(NamedTuple):
    """What `cond` is."""

    spec: Callable[[int], Cond]  # B -> `jax.ShapeDtypeStruct`s of `cond` for B images
    null: Callable[[Cond], Cond] | None  # cond -> the same with nothing given; None where the network does not know that
    drop: Callable[[Cond, Array, float], Cond]  # (cond, key, rate) -> cond, null for each image with that probability
    of_image: Callable[[Array], Cond]  # image numbers [B] -> the cond with which to generate these images


def unconditional() -> Conditioning:
    """Returns the conditioning of a network that is given nothing: cond is {}."""
    return Conditioning(lambda num_images: {}, lambda cond: cond, lambda cond, key, rate: cond, lambda numbers: {})


def labels(num_classes: int, null_label: bool = False, *, label: int = -1) -> Conditioning:
    """Returns the conditioning of a network that knows classes: cond is {"label": int32 [B]}.

    Args:
        num_classes: K.
        null_label: whether label K means "no class". [Ho & Salimans 2022]
        label: with which to generate images; with -1 image i has the label i % K.
    """

    def spec(num_images: int) -> Cond:
        return {"label": jax.ShapeDtypeStruct((num_images,), jnp.int32)}

    def null(cond: Cond) -> Cond:
        return {**cond, "label": jnp.full_like(cond["label"], num_classes)}

    def drop(cond: Cond, key: Array, rate: float) -> Cond:
        is_dropped = jax.random.bernoulli(key, rate, cond["label"].shape)
        return {**cond, "label": jnp.where(is_dropped, num_classes, cond["label"])}

    def of_image(numbers: Array) -> Cond:
        return {"label": numbers % num_classes if label < 0 else numbers * 0 + label}

    return Conditioning(spec, null if null_label else None, drop, of_image)
