"""What a config says of the images that its network is shown beside x_t: what they are, and what does not fit them."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.compose.choices import CONDITIONS, chosen
from diffusion_jax.compose.config import Config


def condition(config: Config) -> Callable[..., Array] | None:
    """Returns (x_0 [B, H, W, C], keys [B], images) -> what the network is shown, float [B, H, W, k]; None for nothing.

    `images` are those stored with each x_0, uint8 [B, H, W, C], or None.
    """
    if (made := CONDITIONS.get(config.data.condition)) is None:
        return None
    return lambda x_0, keys, images: chosen(made, config.data, x_0=x_0, keys=keys, images=images)


def num_channels(config: Config) -> int:
    """Returns the channels of what the network is shown; 0 for nothing."""
    if (made := condition(config)) is None:
        return 0
    shape = (1, *config.data.image_size, config.data.channels)
    x_0, images = (jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.float32, jnp.uint8))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    return jax.eval_shape(made, x_0, keys, images).shape[-1]


def has_null(config: Config) -> bool:
    """Returns whether the network takes "nothing" too: no label where there are classes, else no image or no text."""
    is_given = config.data.condition != "none" or config.model.text != "none"
    return config.model.null_label if config.model.num_classes else is_given


def contradictions(config: Config) -> Iterator[str]:
    """Yields a sentence for everything that does not fit together in what the network is shown."""
    data, name = config.data, config.show("data.condition")
    if data.condition == "grey" and data.channels != 3:
        yield f"{name} needs images in colour: data.channels = 3."
    if data.condition == "low_resolution" and any(size % data.condition_factor for size in data.image_size):
        yield f"{config.show('data.condition_factor')} must divide data.image_size = {data.image_size!r}."
    if data.condition == "paired" and data.source != "folder":
        yield f"{name} needs data.source = 'folder', whose files have names."
    yield from _of_paths(config)


def _of_paths(config: Config) -> Iterator[str]:
    data = config.data
    for field, images in {"condition_path": "path", "condition_held_out": "held_out"}.items():
        is_given, name = bool(getattr(data, field)), config.show(f"data.{field}")
        if is_given and data.condition != "paired":
            yield f"{name} is for data.condition = 'paired'; leave it empty."
        elif data.condition == "paired" and is_given != bool(getattr(data, images)):
            yield f"{name} must be a folder with an image for each of data.{images} = {getattr(data, images)!r}."
