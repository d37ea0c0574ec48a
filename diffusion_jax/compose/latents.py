"""The images of a config as the latents of its codec: computed once, and kept in shards beside the run."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.compose import chunked, coding, inputs, processes, texts
from diffusion_jax.compose.config import Config
from diffusion_jax.data import codecs, feed, sources
from diffusion_jax.data.sources import Source
from diffusion_jax.errors import UserError
from diffusion_jax.runs import logs, sharding, shards, storage

SHARD_SIZE = 1000  # images in a file: what a kill costs at most


def images(config: Config, workdir: storage.Path) -> tuple[Config, Source, Source | None]:
    """Returns (the config that says what is stored, the training set, the held-out set) of a config.

    Where it has a codec they are latents, after making those that are missing.

    The latents are in `data.latents`, by default in the workdir, in a folder whose name depends on the codec's weights and
    on the images. The config is then told their shape, and the factor that gives those of the training set a standard
    deviation of 1. All processes have to ask. [Rombach et al. 2022, appendix G]

    Raises UserError where the codec does not exist, or is of other images.
    """
    if not config.data.codec:
        return config, inputs.source(config), inputs.held_out(config)
    shape = processes.first_stage(processes.codec_config(config)).shape
    if config.data.latent_shape not in ((), shape):
        raise UserError(f"{config.show('data.latent_shape')} is not that of data.codec = {config.data.codec!r}, {shape!r}.")
    training, std = _latents(config, workdir, "training")
    held_out = _latents(config, workdir, "held_out")[0] if config.data.held_out else None
    scale = config.data.latent_scale or 1 / std
    config = config.with_values("data", latent_shape=shape, latent_scale=scale)
    logs.say("latents", f"{' x '.join(map(str, config.data.latent_shape))}, times {scale:.4g}; of {config.data.codec}")
    return config, training, held_out


def _latents(config: Config, workdir: storage.Path, split: str) -> tuple[Source, float]:
    """Returns (the latents of a split's images, the standard deviation of all values).

    Those of an image are [V, h, w, c]: of itself, and where there are flips of its mirror.
    """
    of, (own, params) = inputs.of_split(config, split), coding.first_stage(config.data.codec)
    manifest = {
        "codec_sha256": coding.sha256(config.data.codec),
        "random_flip": config.data.random_flip,
        "num_images": of.num_images,
        **inputs.identity(config, split),
    }
    folder = storage.path(config.data.latents or workdir / "latents") / f"{split}_{shards.digest(manifest)}"
    own = own.with_values("data", random_flip=config.data.random_flip)
    on_devices = jax.device_put(params, sharding.replicated(sharding.local_mesh()))

    def make(first: int) -> Iterator[shards.Rows]:
        for start in range(first, of.num_images, SHARD_SIZE):
            numbers = np.arange(start, min(start + SHARD_SIZE, of.num_images))
            found = feed.read(of, numbers.tolist())
            pieces = chunked.in_chunks(make_encode, [own], on_devices, "sample", numbers, found["x"])
            latents = np.concatenate([latents for _, latents in pieces])[: len(numbers)]
            yield {"x": latents, **{name: column for name, column in found["cond"].items() if name != "text"}}

    rows = shards.read_all(shards.by_image(folder, manifest, of.num_images, SHARD_SIZE, make, label="latents"))

    def read(number: int) -> sources.Record:
        return {"x": rows["x"][number], "cond": {name: rows[name][number] for name in rows if name != "x"}}

    source = of._replace(read=read)
    return texts.captioned(config, source) if source.captions else source, _std(rows["x"])


def _std(x: np.ndarray) -> float:
    """Returns the standard deviation of all values, in float64, with few of them at once."""
    pieces = [x[start : start + SHARD_SIZE] for start in range(0, len(x), SHARD_SIZE)]
    mean = sum(piece.sum(dtype=np.float64) for piece in pieces) / x.size
    return float(np.sqrt(sum(np.sum((piece - mean) ** 2) for piece in pieces) / x.size))


def make_encode(config: Config) -> Callable[[Any, Array, Array, Array], Array]:
    """Returns (an autoencoder's weights, seed, numbers, uint8 images [B, H, W, C]) -> mean latents, [B, V, h, w, c]."""
    of, is_flipped = coding.coder_of(config), config.data.random_flip

    def encode(params: Any, seed: Array, numbers: Array, images: Array) -> Array:
        x = codecs.from_uint8(images)
        views = [x, x[:, :, ::-1]] if is_flipped else [x]
        return jnp.stack([of(params).encode(view).mean for view in views], axis=1)

    return encode


def contradictions(config: Config) -> Iterator[str]:
    """Yields a sentence for everything that does not fit the codec of a config."""
    data = config.data
    if not data.codec:
        for name in ("latents", "latent_shape", "latent_scale", "latent_shift"):
            if getattr(data, name):
                yield f"{config.show(f'data.{name}')} is for latents; set data.codec, the workdir of an autoencoder."
        return
    if data.condition != "none":
        yield f"{config.show('data.condition')} is made of pixels, and with data.codec the network sees latents; set 'none'."
    if config.sample.clip in ("static", "static_keep_eps"):
        yield f"{config.show('sample.clip')} limits x_0 to [-1, 1], which latents leave; set 'none' or 'dynamic'."
