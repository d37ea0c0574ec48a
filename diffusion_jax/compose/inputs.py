"""The images that a config names."""

import math

from diffusion_jax.compose.choices import SOURCES, chosen, named
from diffusion_jax.compose.config import Config
from diffusion_jax.compose.processes import image_shape
from diffusion_jax.data import sources
from diffusion_jax.data.sources import Source
from diffusion_jax.errors import UserError


def source(config: Config) -> Source:
    """Returns the training set, its images as the config says."""
    return _source(config, split="")


def held_out(config: Config) -> Source | None:
    """Returns the set of which only the loss is taken, if the config names one."""
    if not (split := config.data.held_out):
        return None
    try:
        found = _source(config, split=split)
    except UserError as error:
        raise UserError(f"config field data.held_out = {split!r}: {error}") from error
    if config.model.num_classes and found.class_names and found.class_names != source(config).class_names:
        raise UserError(
            f"config field data.held_out = {split!r} has classes other than those of the training set: "
            f"{', '.join(found.class_names)}."
        )
    return found


def _source(config: Config, *, split: str) -> Source:
    section, make = config.data, SOURCES[config.data.source]
    given = {"split" if "split" in named(make) else "path": split} if split else {}  # some have a path for each split
    return sources.fitted(
        chosen(make, section, **given),
        image_shape=image_shape(config),
        center_crop=section.center_crop,
        resize=section.resize,
        num_classes=config.model.num_classes,
    )


def is_resident(config: Config, num_images: int) -> bool:
    """Returns whether so many images stay on the devices."""
    return num_images * math.prod(image_shape(config)) <= config.data.device_cache_gib * 2**30


def evaluated(config: Config) -> Source:
    """Returns the images whose likelihood is asked for: of the held-out set or of the training set, evenly spaced.

    Raises:
        UserError: where the config names no held-out set.
    """
    settings = config.likelihood
    found = held_out(config) if settings.held_out else source(config)
    if found is None:
        raise UserError(
            "config field data.held_out = '' names no images; set it, or likelihood.held_out = False for the training set."
        )
    return sources.thinned(found, settings.num_images or found.num_images)
