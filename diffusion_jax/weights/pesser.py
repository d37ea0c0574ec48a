"""Weights of Ho et al.'s network in PyTorch: pesser/pytorch_diffusion and ermongroup/ddim, which agree in all names."""

import re
from typing import Any

from diffusion_jax.weights import ho, maps, sources
from diffusion_jax.weights.sources import Published, Source

BLOCKS = ho.BLOCKS | {"embedding_0": "temb.dense.0", "embedding_1": "temb.dense.1"}
BLOCKS |= {name: place.replace("/", ".") for name, place in ho.BLOCKS.items() if name.startswith("middle")}


def published(source: Source) -> Published | None:
    """Returns a model of theirs; None for another model."""
    found = sources.part(source.tensors, "down.0.block.0.norm1.weight")
    if not found or "temb.dense.0.weight" not in found:
        return None
    widths = {name: len(tensor) for name, tensor in found.items() if name.endswith("conv1.weight")}
    channels, given = found["conv_in.weight"].shape[:2]
    fields, notes = ho.fields_of(widths, set(found), [given, channels, len(found["conv_out.weight"])])
    return Published(fields, found, map_of, notes)


def map_of(like: Any, model: Any = None) -> maps.Map:
    """Returns the map of a network's parameters."""
    places = BLOCKS | maps.of_stages(like, _of_stage)
    return maps.of_leaves(like, lambda module, leaf, shape: maps.torch(maps.name_of(module, places, ho.PARTS), leaf, shape))


def _of_stage(*parts: str) -> str:
    return re.sub("[/_]", ".", ho.name_of(*parts))
