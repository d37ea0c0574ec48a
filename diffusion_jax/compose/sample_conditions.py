"""The conditions with which a network generates. For image i that is the condition of image i % n of the held-out set.

Where there is no held-out set, it is of the training set. Texts are the prompts of the section `sample` instead.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import streams
from diffusion_jax.compose import inputs, processes, texts
from diffusion_jax.compose.choices import MEDIA
from diffusion_jax.compose.config import Config
from diffusion_jax.data import codecs, feed
from diffusion_jax.data.feed import Batch
from diffusion_jax.data.sources import Source
from diffusion_jax.runs import storage

NUM_PICTURED = 32  # images beside their conditions


def source(config: Config) -> Source | None:
    """Returns the images of which a network is shown or told something, opened; None where that is nothing.

    An autoencoder is shown the image itself. Of a molecule the number of atoms is told, its label.
    """
    shown = inputs.held_out(config) or inputs.source(config) if _is_shown(config) else None
    if config.model.text == "none":
        return shown
    nothing = inputs.batch_spec(config, 1)["x"]
    return texts.prompted(config, shown, np.zeros(nothing.shape[1:], nothing.dtype))


def _is_shown(config: Config) -> bool:
    is_told = MEDIA[config.data.medium].label is not None and config.sample.label < 0
    return is_told or config.data.condition != "none" or processes.is_autoencoder(config)


def read(source: Source | None, numbers: np.ndarray) -> Batch | None:
    """Returns the batch that says what is shown for images of some numbers, [N]; None for nothing."""
    return source and feed.read(source, (numbers % source.num_images).tolist())


def cond_of_image(config: Config) -> Callable[[Array, Array, Batch | None], Any]:
    """Returns (seed, image numbers [B], what `read` finds for them) -> the cond with which to generate these images.

    A label is that of the image that is read, unless `sample.label` says another.
    """
    of_image, encode = inputs.conditioning(config).of_image, inputs.encode(config)

    def cond_of(seed: Array, numbers: Array, batch: Batch | None) -> Any:
        if batch is None:
            return of_image(numbers)
        _, shown = encode(batch, streams.keys(seed, "condition", numbers))
        asked = of_image(numbers)
        is_asked = config.sample.label >= 0 and "label" in asked  # else it is of a classifier, which is not here
        return {**asked, **shown} | ({"label": asked["label"]} if is_asked else {})

    return cond_of


def labels(config: Config, source: Source | None) -> np.ndarray | None:
    """Returns the labels with which the images of the section `sample` are generated, int [N]; None where there are none."""
    num_images, size = config.sample.num_images, config.sample.shard_size
    if not config.model.num_classes:
        return None
    if not _is_shown(config) or config.sample.label >= 0:
        return np.asarray(inputs.conditioning(config).of_image(np.arange(num_images))["label"], np.int64)
    numbers = np.arange(min(num_images, source.num_images))
    pieces = [numbers[start : start + size] for start in range(0, len(numbers), size)]  # not all images at once
    return np.resize(np.concatenate([read(source, piece)["cond"]["label"] for piece in pieces]), num_images).astype(np.int64)


def pictured(config: Config, source: Source | None) -> tuple[np.ndarray, ...]:
    """Returns what is shown for the first images, and the images that it is of, uint8 [n, H, W, C] each; () for nothing."""
    numbers = np.arange(min(NUM_PICTURED, config.sample.num_images))
    if (batch := read(source, numbers)) is None:
        return ()
    if processes.is_autoencoder(config):
        return (batch["x"],)
    if (image := cond_of_image(config)(config.sample.seed, numbers, batch).get("image")) is None:
        return ()
    channels = config.data.channels
    image = image[..., :channels] if image.shape[-1] >= channels else jnp.repeat(image, channels, axis=-1)
    return np.asarray(codecs.to_uint8(image)), batch["x"]


def identity(config: Config) -> dict[str, Any]:
    """Returns what conditions depend on, for a manifest; {} for nothing."""
    data, said = config.data, texts.identity(config)
    if not _is_shown(config):
        return said
    split, beside = ("held_out", data.condition_held_out) if data.held_out else ("training", data.condition_path)
    pairs = {"pairs": inputs.digest_of_files(storage.path(beside))} if beside else {}
    return {"condition": {"kind": data.condition, **inputs.identity(config, split), **pairs}, **said}
