"""What a network is given besides x_t and c_noise: classes, texts, images, several of them, or nothing."""

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
    of_image: Callable[[Array], Cond]  # image numbers [B] -> the cond with which to generate these, without an image


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

    def of_image(numbers: Array) -> Cond:
        return {"label": numbers % num_classes if label < 0 else jnp.full_like(numbers, label)}

    found = _with(unconditional(), "label", jax.ShapeDtypeStruct((), jnp.int32), lambda: num_classes, of_image)
    return found if null_label else found._replace(null=None)


def with_image(of: Conditioning, shape: tuple[int, int, int]) -> Conditioning:
    """Returns a conditioning with an image too: cond has "image", float32 [B, H, W, k]. Zeros mean that none is shown.

    Args:
        of: what else the network is given.
        shape: of one image, (H, W, k).
    """
    return _with(of, "image", jax.ShapeDtypeStruct(shape, jnp.float32), lambda: 0, of.of_image)


def with_text(
    of: Conditioning, shape: tuple[int, int], empty: Callable[[], Array], prompts: Callable[[], Array]
) -> Conditioning:
    """Returns a conditioning with a text too: cond has "text", float16 [B, L, D]. A token of zeros is padding.

    The null is the empty text.

    Args:
        of: what else the network is given.
        shape: of one text, (L, D).
        empty: gives the tokens of the empty text, [L, D].
        prompts: gives those with which to generate images, [n, L, D]; image i has number i % n.
    """

    def of_image(numbers: Array) -> Cond:
        texts = jnp.asarray(prompts())
        return {**of.of_image(numbers), "text": texts[numbers % len(texts)]}

    return _with(of, "text", jax.ShapeDtypeStruct(shape, jnp.float16), empty, of_image)


def _with(
    of: Conditioning, name: str, one: jax.ShapeDtypeStruct, nothing: Callable[[], Any], of_image: Callable[[Array], Cond]
) -> Conditioning:
    """Returns a conditioning with an array `name` too, like `one` for each image; `nothing` gives its null.

    It is dropped together with what else is given, by the same draw. [Ho & Salimans 2022, algorithm 1]
    """

    def spec(num_images: int) -> Cond:
        return {**of.spec(num_images), name: jax.ShapeDtypeStruct((num_images, *one.shape), one.dtype)}

    def null(cond: Cond) -> Cond:
        return {**of.null(cond), name: jnp.full_like(cond[name], nothing())}

    def drop(cond: Cond, key: Array, rate: float) -> Cond:
        is_dropped = jax.random.bernoulli(key, rate, (len(cond[name]), *[1] * len(one.shape)))
        return {**of.drop(cond, key, rate), name: jnp.where(is_dropped, nothing(), cond[name])}

    return Conditioning(spec, null if of.null else None, drop, of_image)
