"""Weights of a diffusers DiTTransformer2DModel, which has the same embeddings in each of its blocks.

Its function is that of `embedding_spacing` 'closed'. The norm before each MLP has an epsilon of its own, `norm_eps`, which
is 1e-5 in the published folders and 1e-6 in those that are written here, as in all our norms.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion_jax import errors
from diffusion_jax.errors import UserError
from diffusion_jax.weights import maps, schedulers, sources
from diffusion_jax.weights.diffusers import check, check_counterparts
from diffusion_jax.weights.dit import entry_of, fields_of, notes_on
from diffusion_jax.weights.sources import Published, Source

FIRST = "transformer_blocks.0.norm1.emb."  # the embeddings in the first block, which the last layer takes too
PLACES = {"patches": "pos_embed.proj", "modulation": "proj_out_1", "out": "proj_out_2"}
PLACES |= {f"embedding_{i}": f"{FIRST}timestep_embedder.linear_{i + 1}" for i in range(2)}
PLACES |= {"label": f"{FIRST}class_embedder.embedding_table"}
PARTS = {"query": "attn1.to_q", "key": "attn1.to_k", "value": "attn1.to_v", "out": "attn1.to_out.0"}
PARTS |= {"mlp_0": "ff.net.0.proj", "mlp_1": "ff.net.2", "modulation": "norm1.linear"}


ALLOWED = {  # what our network computes, and what a DiTTransformer2DModel is where config.json is silent
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
    "norm_type": "ada_norm_zero",
    "upcast_attention": False,
}
NORM_EPSILON = 1e-6  # of `networks.dit.modulated`
DEFAULTS = {"num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": None, "num_layers": 28}
DEFAULTS |= {"dropout": 0.0, "sample_size": 32, "patch_size": 2, "num_embeds_ada_norm": 1000}


def published(source: Source) -> Published | None:
    """Returns a DiTTransformer2DModel, with what its scheduler says of the process; None for another model.

    Raises UserError for options that our network does not have, where config.json is missing, and as `shared`.
    """
    found = sources.part(source.tensors, f"{FIRST}timestep_embedder.linear_1.weight")
    if not found:
        return None
    if "config" not in source.settings:
        raise UserError(f"flag --from = {source.name!r} must be the folder with config.json beside the weights.")
    options = ALLOWED | DEFAULTS | dict(source.settings["config"])
    check(options, ALLOWED)
    channels, heads, size = options["in_channels"], options["num_attention_heads"], options["sample_size"]
    sizes = heads * options["attention_head_dim"], channels, options["patch_size"], options["out_channels"] or channels
    fields, notes = schedulers.fields(source.settings.get("scheduler_config"))
    fields = {**fields, **fields_of(*sizes), "model.depth": options["num_layers"], "model.num_heads": heads}
    fields |= {"model.num_classes": options["num_embeds_ada_norm"], "model.dropout": float(options["dropout"])}
    fields |= {"model.embedding_spacing": "closed", "data.image_size": (size, size)}
    return Published(fields, shared(found), map_of, notes + notes_on(channels))


def shared(tensors: maps.Tensors) -> maps.Tensors:
    """Returns the tensors with the embeddings of the first block alone; UserError where those of another block differ."""
    copies = {name: _first(name) for name in tensors if _first(name) in tensors and _first(name) != name}
    if other := [name for name, first in copies.items() if not np.array_equal(tensors[name], tensors[first])]:
        raise UserError(f"the weights have other embeddings in other blocks, and the network has one: {errors.some(other)}.")
    return {name: tensor for name, tensor in tensors.items() if name not in copies}


def write(params: Any) -> dict[str, np.ndarray]:
    """Returns the state dict of a model, with its embeddings in every block."""
    found = maps.write(params, map_of(params))
    blocks = [name for name in params if name.startswith("block_")]
    copies = {name.removeprefix(FIRST): tensor for name, tensor in found.items() if name.startswith(FIRST)}
    return found | {f"{_of_block(name)}.norm1.emb.{part}": copy for name in blocks for part, copy in copies.items()}


def settings_of(model: Mapping[str, Any], image_shape: tuple[int, int, int], cond_channels: int = 0) -> dict[str, Any]:
    """Returns the config.json of a DiTTransformer2DModel that computes what ours does; UserError where none does.

    Args:
        model: the fields of our section `model`.
        image_shape: (H, W, C).
        cond_channels: channels of what goes into the network after x_t.
    """
    height, width, channels = image_shape
    kind, num_classes = "DiTTransformer2DModel", model["num_classes"]
    check_counterparts(model, {"embedding_spacing": "closed", "null_label": True, "text": "none"}, kind)
    if not num_classes:
        raise UserError(f"config field model.num_classes = {num_classes} has no counterpart in {kind}, which needs labels.")
    if cond_channels:
        raise UserError(f"config field data.condition has no counterpart in {kind}, but 'none'.")
    if height != width:
        raise UserError(
            f"config field data.image_size = {(height, width)} has no counterpart in {kind}, whose images are squares."
        )
    return {
        "_class_name": kind,
        **ALLOWED,
        "in_channels": channels,
        "out_channels": channels * (1 + model["learned_variance"]),
        "sample_size": height,
        "patch_size": model["patch_size"],
        "num_layers": model["depth"],
        "num_attention_heads": model["num_heads"],
        "attention_head_dim": model["channels"] // model["num_heads"],
        "num_embeds_ada_norm": num_classes,
        "dropout": model["dropout"],
        "norm_eps": NORM_EPSILON,
    }


def map_of(like: Any, model: Any = None) -> maps.Map:
    """Returns the map of a network's parameters."""
    places = PLACES | {name: _of_block(name) for name in like if name.startswith("block_")}

    def entry(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
        return entry_of(maps.name_of(module, places, PARTS), module, leaf, shape)

    return maps.of_leaves(like, entry)


def _of_block(name: str) -> str:
    return name.replace("block_", "transformer_blocks.")


def _first(name: str) -> str:
    """Returns the name of an embedding in the first block; of other tensors the name itself."""
    _, place, part = name.partition(".norm1.emb.")
    return FIRST + part if place else name
