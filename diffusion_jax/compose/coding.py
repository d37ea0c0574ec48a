"""How the images of a config become x_0 and come back: as pixels, or as the latents of an autoencoder."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import errors, networks, process
from diffusion_jax.autoencoding import Coder
from diffusion_jax.compose import processes, stored, weights
from diffusion_jax.compose.choices import MEDIA
from diffusion_jax.compose.config import Config
from diffusion_jax.data import codecs
from diffusion_jax.data.codecs import Codec
from diffusion_jax.data.feed import Batch
from diffusion_jax.networks import efficientnet
from diffusion_jax.runs import storage
from diffusion_jax.weights import features


def codec(config: Config) -> Codec:
    """Returns how what is stored becomes x_0: as its medium says, or as the latents of `data.codec`.

    These are the means, as `standardised` says.

    The autoencoder's weights are read when the codec is used. Raises UserError then where they do not exist.
    """
    if not config.data.codec:
        medium = MEDIA[config.data.medium]
        return Codec(medium.encode, medium.decode, processes.image_shape(config))

    def encode(images: Array) -> Array:
        return standardised(config, coder(config.data.codec).encode(codecs.from_uint8(images)).mean)

    def decode(x: Array) -> Array:
        return codecs.to_uint8(coder(config.data.codec).decode(latents_of(config, x)))

    return Codec(encode, decode, processes.shape(config))


def standardised(config: Config, latents: Array) -> Array:
    """Returns a codec's latents as the network sees them: (z - `data.latent_shift`) `data.latent_scale`."""
    return (latents - config.data.latent_shift) * config.data.latent_scale


def latents_of(config: Config, x: Array) -> Array:
    """Returns the latents that the codec decodes: the inverse of `standardised`."""
    return x / config.data.latent_scale + config.data.latent_shift


def coarse(config: Config, mask: Array) -> Array:
    """Returns where x_0 is free, of pixels that are free: a latent is, of whose square any pixel is. # bool [B, h, w, k]"""
    if not config.data.codec:
        return mask
    factor, any_free = processes.pixels_per_latent(config), jnp.any(mask, axis=-1, keepdims=True)
    batch, height, width, _ = mask.shape
    squares = any_free.reshape(batch, height // factor, factor, width // factor, factor, 1)
    return jnp.any(squares, axis=(2, 4))


@functools.lru_cache(maxsize=2)
def coder(workdir: str) -> Coder:
    """Returns an autoencoder with the weights of a run. They become constants of the programs that use it."""
    config, params = first_stage(workdir)
    return coder_of(config)(params)


@functools.lru_cache(maxsize=2)
def first_stage(workdir: str) -> tuple[Config, Any]:
    """Returns the config and the weights, in NumPy, of an autoencoder's run; they are read once.

    Raises UserError where they do not exist.
    """
    with errors.of(f"config field data.codec = {workdir!r}: "):
        config = stored.read_config(folder := storage.path(workdir))
        return config, jax.tree.map(np.asarray, weights.restored(folder, config)[1])


@functools.lru_cache(maxsize=2)
def sha256(workdir: str) -> str:
    """Returns the SHA-256 of an autoencoder's weights; errors as of `first_stage`."""
    return features.sha256(first_stage(workdir)[1])


def coder_of(config: Config) -> Callable[[Any], Coder]:
    """Returns the weights of an autoencoder's config -> it."""
    found = processes.network(config)
    return lambda params: networks.coder(networks.bind(found, found.cast(params), {}))


def make_reconstruct(config: Config, guide: None = None) -> Callable[[Any, Array, Array, Batch], tuple[Array, Array]]:
    """Returns (an autoencoder's weights, seed, numbers, images "x") -> what it makes of them, uint8, and which are finite.

    Images are uint8 [B, H, W, C].
    """
    of = coder_of(config)

    def reconstruct(params: Any, seed: Array, numbers: Array, batch: Batch) -> tuple[Array, Array]:
        coder = of(params)
        x = coder.decode(coder.encode(codecs.from_uint8(batch["x"])).mean)
        return codecs.to_uint8(x), jnp.all(jnp.isfinite(x), axis=process.value_axes(x))

    return reconstruct


def perceptual_features() -> Callable[[Array], list[Array]]:
    """Returns the features of EfficientNet-lite0, for `autoencoding.perceptual_distance`; UserError without its package."""
    params = jax.tree.map(np.asarray, features.load("efficientnet_lite0").params)
    return functools.partial(efficientnet.stage_features, params)
