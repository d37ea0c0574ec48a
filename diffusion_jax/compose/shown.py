"""What a network is shown when it generates. For image i that is the condition of image i % n of the held-out set.

Where there is no held-out set, it is of the training set.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import streams
from diffusion_jax.compose import inputs
from diffusion_jax.compose.config import Config
from diffusion_jax.data import codecs, feed
from diffusion_jax.data.feed import Batch
from diffusion_jax.data.sources import Source
from diffusion_jax.runs import storage

NUM_PICTURED = 32  # images beside their conditions


def reader(config: Config) -> Callable[[np.ndarray], Batch | None]:
    """Returns image numbers [N] -> the batch that says what is shown for them; None for nothing."""
    if config.data.condition == "none":
        return lambda numbers: None
    source = _source(config)
    return lambda numbers: feed.read(source, (numbers % source.num_images).tolist())


def _source(config: Config) -> Source:
    return inputs.held_out(config) or inputs.source(config)


def cond_of_image(config: Config) -> Callable[[Array, Array, Batch | None], Any]:
    """Returns (seed, image numbers [B], what `reader` reads for them) -> the cond with which to generate these images.

    A label is that of the image that is read, unless `sample.label` says another.
    """
    of_image, encode = inputs.conditioning(config).of_image, inputs.encode(config)

    def cond_of(seed: Array, numbers: Array, batch: Batch | None) -> Any:
        if batch is None:
            return of_image(numbers)
        _, shown = encode(batch, streams.keys(seed, "condition", numbers))
        return {**shown, **of_image(numbers)} if config.sample.label >= 0 else {**of_image(numbers), **shown}

    return cond_of


def labels(config: Config) -> np.ndarray | None:
    """Returns the labels with which the images of the section `sample` are generated, int [N]; None where there are none."""
    numbers = np.arange(config.sample.num_images)
    if not config.model.num_classes:
        return None
    if config.data.condition == "none" or config.sample.label >= 0:
        return inputs.conditioning(config).of_image(numbers)["label"]
    source = _source(config)
    stored = [source.read(number)["cond"]["label"] for number in range(min(len(numbers), source.num_images))]
    return np.array(stored)[numbers % source.num_images]


def pictured(config: Config) -> tuple[np.ndarray, ...]:
    """Returns what is shown for the first images, and the images that it is of, uint8 [n, H, W, C] each; () for nothing."""
    numbers = np.arange(min(NUM_PICTURED, config.sample.num_images))
    if (batch := reader(config)(numbers)) is None:
        return ()
    image = cond_of_image(config)(config.sample.seed, numbers, batch)["image"]
    channels = config.data.channels
    image = image[..., :channels] if image.shape[-1] >= channels else jnp.repeat(image, channels, axis=-1)
    return np.asarray(codecs.to_uint8(image)), batch["x"]


def identity(config: Config) -> dict[str, Any]:
    """Returns what conditions depend on, for a manifest; {} for nothing."""
    data = config.data
    if data.condition == "none":
        return {}
    split, beside = ("held_out", data.condition_held_out) if data.held_out else ("training", data.condition_path)
    pairs = {"pairs": inputs.digest_of_files(storage.path(beside))} if beside else {}
    return {"condition": {"kind": data.condition, **inputs.identity(config, split), **pairs}}
