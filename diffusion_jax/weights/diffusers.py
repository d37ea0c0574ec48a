"""Weights of a diffusers UNet2DModel with the options of DDPM and of what grew from it."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion_jax import errors
from diffusion_jax.errors import UserError
from diffusion_jax.weights import maps, schedulers, sources
from diffusion_jax.weights.sources import Published, Source

PARTS = maps.RES | {"embedding": "time_emb_proj", "shortcut": "conv_shortcut"}
ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
PARTS |= {"norm": "group_norm", **ATTENTION}
FIRST = "transformer_blocks.0."  # of a Transformer2DModel with one block
PARTS |= {"norm_in": "norm", "proj_in": "proj_in", "proj_out": "proj_out"}
PARTS |= {f"norm_{name}": f"{FIRST}norm{i + 1}" for i, name in enumerate(("pixels", "text", "mlp"))}
PARTS |= {f"pixels.{ours}": f"{FIRST}attn1.{part}" for ours, part in ATTENTION.items()}
PARTS |= {f"text.{ours}": f"{FIRST}attn2.{part}" for ours, part in ATTENTION.items()}
PARTS |= {"mlp_0": f"{FIRST}ff.net.0.proj", "mlp_1": f"{FIRST}ff.net.2"}
BLOCKS = {"embedding_0": "time_embedding.linear_1", "embedding_1": "time_embedding.linear_2"}
BLOCKS |= {"middle_0": "mid_block.resnets.0", "middle_1": "mid_block.resnets.1"}
BLOCKS |= {"middle_attention": "mid_block.attentions.0", "label": "class_embedding"}
BLOCKS |= {"conv_in": "conv_in", "conv_out": "conv_out", "norm_out": "conv_norm_out"}
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of attention, before 0.13
DEFAULTS = {  # of UNet2DModel, where config.json is silent
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "class_embed_type": None,
    "num_class_embeds": None,
    "add_attention": True,
}
ALLOWED = {  # what our network computes
    **{name: (DEFAULTS[name],) for name in ("center_input_sample", "time_embedding_type", "time_embedding_dim")},
    **{name: (DEFAULTS[name],) for name in ("mid_block_type", "mid_block_scale_factor", "downsample_type", "upsample_type")},
    **{name: (DEFAULTS[name],) for name in ("attn_norm_num_groups", "class_embed_type", "add_attention")},
    "act_fn": ("silu", "swish"),
    "downsample_padding": (0, 1),
    "freq_shift": (0, 1),
    "resnet_time_scale_shift": ("default", "scale_shift"),
}


def published(source: Source) -> Published | None:
    """Returns a UNet2DModel, with what its scheduler says of the process; None for another model.

    Raises UserError for options that our network does not have, and where config.json is missing.
    """
    found = sources.part(source.tensors, "down_blocks.0.resnets.0.conv1.weight")
    if not found or any(".attn2." in name for name in found):
        return None
    options = options_of(source, "UNet2DModel", DEFAULTS)
    fields, notes = schedulers.fields(source.settings.get("scheduler_config"))
    is_flipped = options["flip_sin_to_cos"]
    return Published(
        {**fields, **fields_of(options)},
        {new_name(name): tensor for name, tensor in found.items()},
        lambda like, model: map_of(like, cosines_first=is_flipped),
        notes,
    )


def new_name(name: str) -> str:
    """Returns a tensor's name as diffusers has it since version 0.13."""
    block, part, leaf = ["", "", *name.rsplit(".", 2)][-3:]
    return f"{block}.{OLD_NAMES[part]}.{leaf}" if "attentions" in block and part in OLD_NAMES else name


def options_of(source: Source, kind: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a class of diffusers; UserError where config.json is missing, or of another class."""
    if "config" not in source.settings:
        raise UserError(
            f"flag --from = {source.name!r} must be the folder with config.json beside the weights, whose file is named "
            f"{sources.NAMES[0]}.safetensors or .bin."
        )
    options = {"_class_name": kind, **defaults, **source.settings["config"]}
    if options["_class_name"] != kind:
        raise UserError(f"config.json is of a model of the class {options['_class_name']!r}; it must be {kind}.")
    return options


def check(options: Mapping[str, Any], needed: Mapping[str, Any]) -> None:
    """Raises UserError for the first option that is not what our network computes."""
    sources.check_options(options, {name: (value,) for name, value in needed.items()})


def fields_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of the sections `model` and `data` that the options of a UNet2DModel mean."""
    sources.check_options(options, ALLOWED)
    try:
        widths, size = options["block_out_channels"], options["sample_size"]
        channels, given = options["out_channels"], options["in_channels"]
        attention = _attention_stages(options["down_block_types"], options["up_block_types"])
        num_res_blocks = options["layers_per_block"]
    except KeyError as error:
        raise UserError(f"config.json has no {error.args[0]}, which a UNet2DModel has.") from error
    learned = channels == 2 * given
    if given not in (channels, 2 * channels) and not learned:
        raise UserError(
            f"config.json has in_channels = {given} and out_channels = {channels}; one must be the other or twice it."
        )
    return {
        "data.image_size": tuple(size) if isinstance(size, list) else (size, size),
        "data.channels": min(given, channels),
        "data.condition": "paired" if given == 2 * channels else "none",
        "model.channels": widths[0],
        "model.multipliers": tuple(width / widths[0] for width in widths),
        "model.num_res_blocks": num_res_blocks,
        "model.attention_stages": attention,
        "model.head_channels": options["attention_head_dim"] or 0,
        "model.dropout": float(options["dropout"]),
        "model.num_groups": options["norm_num_groups"],
        "model.norm_epsilon": float(options["norm_eps"]),
        "model.scale_shift_norm": options["resnet_time_scale_shift"] == "scale_shift",
        "model.downsample_padding": ("bottom_right", "all_sides")[options["downsample_padding"]],
        "model.embedding_spacing": ("half_open", "closed")[options["freq_shift"]],
        "model.num_classes": options["num_class_embeds"] or 0,
        "model.learned_variance": learned,
        "loss.name": "hybrid" if learned else "simple",
    }


def _attention_stages(down: list[str], up: list[str]) -> tuple[int, ...]:
    """Returns the stages with attention; UserError for blocks that are not of DDPM's kind, or differ on the way up."""
    kinds = {"DownBlock2D": False, "AttnDownBlock2D": True, "UpBlock2D": False, "AttnUpBlock2D": True}
    if unknown := [name for name in [*down, *up] if name not in kinds]:
        raise UserError(f"config.json has blocks {errors.some(unknown)}; known: {errors.some(list(kinds))}.")
    has = [kinds[name] for name in down]
    if has != [kinds[name] for name in reversed(up)]:
        raise UserError("config.json has attention in other stages of up_block_types than of down_block_types.")
    return tuple(stage for stage, attends in enumerate(has) if attends)


def map_of(like: Any, *, cosines_first: bool = False) -> maps.Map:
    """Returns the map of a network's parameters; `cosines_first` is their `flip_sin_to_cos`."""
    last = max(int(name.split("_")[1]) for name in like if name.startswith(("down_", "up_")))

    def of_stage(way: str, stage: str, place: str, *attention: str) -> str:
        block = f"{way}samplers.0.conv" if place == "sample" else f"{'attentions' if attention else 'resnets'}.{place}"
        return f"{way}_blocks.{int(stage) if way == 'down' else last - int(stage)}.{block}"  # going up from the smallest

    places = BLOCKS | maps.of_stages(like, of_stage)

    def entry(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
        takes_cosines = cosines_first and module == "embedding_0"
        found = maps.torch(maps.name_of(module, places, PARTS), leaf, shape, cosines_first=takes_cosines)
        if re.fullmatch(r".*attention\.(query|key|value|out)", module) and leaf == "kernel":
            found = found._replace(shape=found.shape[:2], view=maps.of_torch)  # linear layers, where ours are convolutions
        return found

    return maps.of_leaves(like, entry)


def write(params: Any) -> dict[str, np.ndarray]:
    """Returns the state dict of a model with sines first: the inverse of `maps.read`."""
    return maps.write(params, map_of(params))


def settings_of(model: Mapping[str, Any], image_shape: tuple[int, int, int], cond_channels: int = 0) -> dict[str, Any]:
    """Returns the config.json of a UNet2DModel that computes what our U-Net does; UserError where none does.

    Args:
        model: the fields of our section `model`.
        image_shape: (H, W, C).
        cond_channels: channels of what goes into the network after x_t.
    """
    height, width, channels = image_shape
    widths = [round(model["channels"] * multiplier) for multiplier in model["multipliers"]]
    needed = {
        "kind": "unet",
        "text": "none",
        "resample": "conv",
        "num_heads_up": 0,
        "fourier_exponents": (),
        "multipliers": (1, *model["multipliers"][1:]),
    }
    check_counterparts(model, needed, "UNet2DModel")
    attends = [stage in model["attention_stages"] for stage in range(len(widths))]
    return {
        "_class_name": "UNet2DModel",
        **{name: allowed[0] for name, allowed in ALLOWED.items()},
        "sample_size": height if height == width else [height, width],
        "in_channels": channels + cond_channels,
        "out_channels": channels * (1 + model["learned_variance"]),
        "block_out_channels": widths,
        "layers_per_block": model["num_res_blocks"],
        "down_block_types": [("DownBlock2D", "AttnDownBlock2D")[has] for has in attends],
        "up_block_types": [("UpBlock2D", "AttnUpBlock2D")[has] for has in reversed(attends)],
        "attention_head_dim": _head_dim(model, [*itertools.compress(widths, attends), widths[-1]]),
        "dropout": model["dropout"],
        "norm_num_groups": model["num_groups"],
        "norm_eps": model["norm_epsilon"],
        "resnet_time_scale_shift": "scale_shift" if model["scale_shift_norm"] else "default",
        "downsample_padding": ("bottom_right", "all_sides").index(model["downsample_padding"]),
        "freq_shift": ("half_open", "closed").index(model["embedding_spacing"]),
        "flip_sin_to_cos": False,
        "num_class_embeds": model["num_classes"] + model["null_label"] if model["num_classes"] else None,
    }


def check_counterparts(model: Mapping[str, Any], needed: Mapping[str, Any], name: str) -> None:
    """Raises UserError, for a class of diffusers, for the first field of our section `model` that is not as it needs it."""
    for field, value in needed.items():
        if model[field] != value:
            raise UserError(f"config field model.{field} = {model[field]!r} has no counterpart in {name}, but {value!r}.")


def _head_dim(model: Mapping[str, Any], attended: list[int]) -> int | None:
    """Returns the channels of a head, which UNet2DModel has in common for all stages; None for one head."""
    if model["head_channels"] or model["num_heads"] == 1:
        return model["head_channels"] or None
    if len(set(attended)) > 1:
        raise UserError(
            f"config field model.num_heads = {model['num_heads']} has no counterpart in UNet2DModel, whose heads have as "
            f"many channels in each stage with attention, and stages have {errors.some([str(width) for width in attended])}."
        )
    return attended[0] // model["num_heads"]
