"""The config of a published model: what its source says, and what the user adds."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from diffusion_jax.compose import checks, processes, stored
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError, some
from diffusion_jax.runs import storage
from diffusion_jax.weights import formats, latent_diffusion, maps, sources
from diffusion_jax.weights.sources import Published, Source

ALONE = {"train.ema_rates": (), "train.ema_sigma_rels": (), "sample.ema_rate": 0.0}  # one set of weights, whatever it is
DATA = {"data.source": "folder", "data.name": "", "data.held_out": "", "data.resize": True}  # nobody says where they are


def recognised(source: Source, format: str = "") -> Published:
    """Returns what a source is: a folder that `tools.export` has written, or another code base's; see `formats`."""
    settings = source.settings.get("config", {})
    if "format_version" not in settings:
        published = formats.recognised(source, format)
        return published._replace(notes=(*published.notes, *_left_out(source, published)))
    fields = stored.from_json(json.dumps(settings)).flat()
    return Published(fields, source.tensors, lambda like, model: maps.by_name(like))


def _left_out(source: Source, published: Published) -> Iterator[str]:
    """Yields a sentence where a file holds more than one set of weights, as that of a training does."""
    used = {id(tensor) for tensor in published.tensors.values()}
    kept = {name.split(".")[0] for name, of in source.tensors.items() if id(of) in used}
    left = {name.split(".")[0] for name, of in source.tensors.items() if id(of) not in used}
    left -= set(latent_diffusion.OTHER_PARTS)
    alone = kept & {name.split(".")[0] for name in published.tensors}  # no name of a set stands before those of the network
    if kept and left - kept and not alone:
        yield f"of {source.name!r} the tensors of {some(sorted(kept))} are used; left out: {some(sorted(left - kept))}."


def config_of(published: Published, changes: Mapping[str, Any]) -> Config:
    """Returns the config of a published model, checked.

    Raises UserError where nobody says what the weights do not, and for fields that do not fit together.
    """
    for names in published.needed:
        if not changes.keys() & set(names):
            flags = " or ".join(f"--config.{name}=..." for name in names)
            raise UserError(f"the weights do not say {' or '.join(names)}, nor does the name of the file; add {flags}.")
    config = Config.of_flat(Config().flat() | ALONE | DATA | dict(published.fields) | dict(changes))
    config = _of_images(config, changes) if config.data.codec else config
    checks.check(config)
    return config


def _of_images(config: Config, changes: Mapping[str, Any]) -> Config:
    """Returns the config of a model of latents as one of the images that its codec makes of them.

    Raises UserError where nobody says the factor with which the model knows its latents.
    """
    if "data.latent_scale" not in changes:
        raise UserError("the weights do not say data.latent_scale; add it, such as --config.data.latent_scale=0.18215.")
    codec = stored.read_config(storage.path(config.data.codec))
    (height, width), factor = config.data.image_size, processes.first_stage(codec).parts.multiple_of
    sizes = {"image_size": (height * factor, width * factor), "channels": codec.data.channels}
    config = config.with_values("data", **sizes, latent_shape=(height, width, config.data.channels))
    return config.with_values("sample", clip="none")


def params_of(published: Published, config: Config) -> tuple[Any, list[str]]:
    """Returns the network's parameters, float32, and sentences on what was converted.

    Raises UserError where the tensors are not exactly those of the config's network, or not finite.
    """
    like = jax.eval_shape(processes.network(config).init, jax.random.key(0))
    tensors, notes = sources.in_float32(published.tensors)
    return maps.read(tensors, like, published.map_of(like, dict(config.model))), notes
