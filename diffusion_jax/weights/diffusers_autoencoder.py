"""Weights of diffusers' AutoencoderKL and AutoencoderTiny, the first stages of Stable Diffusion and of TAESD."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.weights import diffusers, maps, sources
from diffusion_jax.weights.sources import Published, Source

QUANT = {"encoder": "quant_conv", "decoder": "post_quant_conv"}  # the 1x1 convolution of each half, which is outside it
BLOCKS = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}  # of each stage
DEFAULTS: dict[str, dict[str, Any]] = {  # of each class, where config.json is silent
    "AutoencoderKL": {
        "in_channels": 3,
        "out_channels": 3,
        **{name: list(kind) for name, kind in BLOCKS.items()},
        "block_out_channels": [64],
        "layers_per_block": 1,
        "act_fn": "silu",
        "latent_channels": 4,
        "norm_num_groups": 32,
        "sample_size": 32,
        "scaling_factor": 0.18215,
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
        "mid_block_add_attention": True,
    },
    "AutoencoderTiny": {
        "in_channels": 3,
        "out_channels": 3,
        "encoder_block_out_channels": [64, 64, 64, 64],
        "decoder_block_out_channels": [64, 64, 64, 64],
        "act_fn": "relu",
        "upsample_fn": "nearest",
        "latent_channels": 4,
        "upsampling_scaling_factor": 2,
        "num_encoder_blocks": [1, 3, 3, 3],
        "num_decoder_blocks": [3, 3, 3, 1],
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
    },
}
TINY_SIZE = 512  # pixels of the images that TAESD's latents are of; its folder does not say it


def published(source: Source) -> Published | None:
    """Returns an AutoencoderKL or an AutoencoderTiny; None for another model.

    Raises UserError for options that our network does not have, and where config.json is missing.
    """
    return _kl(source) or _tiny(source)


def _kl(source: Source) -> Published | None:
    found = sources.part(source.tensors, "encoder.down_blocks.0.resnets.0.conv1.weight")
    if not found:
        return None
    options = diffusers.options_of(source, "AutoencoderKL", DEFAULTS["AutoencoderKL"])
    widths, size = options["block_out_channels"], options["sample_size"]
    needed = {name: list(kind) * len(widths) for name, kind in BLOCKS.items()}
    needed |= {"act_fn": "silu", "latents_mean": None, "latents_std": None, "out_channels": options["in_channels"]}
    diffusers.check(options, needed | {"use_post_quant_conv": options["use_quant_conv"]})
    fields = {
        "model.kind": "autoencoder_kl",
        "model.channels": widths[0],
        "model.multipliers": tuple(width / widths[0] for width in widths),
        "model.num_res_blocks": options["layers_per_block"],
        "model.num_groups": options["norm_num_groups"],
        "model.norm_epsilon": 1e-6,
        "model.middle_attention": options["mid_block_add_attention"],
        "model.quant_conv": options["use_quant_conv"],
        "data.image_size": tuple(size) if isinstance(size, list) else (size, size),
    }
    tensors = {diffusers.new_name(name): tensor for name, tensor in found.items()}
    return _finished(fields, options, tensors, map_of)


def _tiny(source: Source) -> Published | None:
    found = sources.part(source.tensors, "encoder.layers.0.weight")
    if not found:
        return None
    options = diffusers.options_of(source, "AutoencoderTiny", DEFAULTS["AutoencoderTiny"])
    num_blocks, [width, *_] = options["num_encoder_blocks"], options["encoder_block_out_channels"]
    widths = {f"{half}_block_out_channels": [width] * len(num_blocks) for half in QUANT}
    needed = {"act_fn": "relu", "upsample_fn": "nearest", "upsampling_scaling_factor": 2}
    needed |= {"out_channels": options["in_channels"], "num_decoder_blocks": num_blocks[::-1]}
    diffusers.check(options, widths | needed)
    fields = {
        "model.kind": "autoencoder_tiny",
        "model.channels": width,
        "model.num_blocks": tuple(num_blocks),
        "data.image_size": (TINY_SIZE, TINY_SIZE),
    }
    return _finished(fields, options, found, tiny_map_of)


def _finished(
    fields: Mapping[str, Any], options: Mapping[str, Any], tensors: maps.Tensors, map_of: Callable[..., maps.Map]
) -> Published:
    """Returns a model with the fields that both kinds have, and what its latents become in diffusers."""
    shared = {"model.latent_channels": options["latent_channels"], "data.channels": options["in_channels"]}
    shared |= {"loss.name": "reconstruction"}
    scale, shift = float(options["scaling_factor"]), float(options["shift_factor"] or 0.0)
    given, and_shift = f"latents * {scale:g}", ""
    if shift:
        given, and_shift = f"(latents - {shift:g}) * {scale:g}", f" and data.latent_shift={shift:g}"
    note = f"diffusers gives its models {given}; for such a model set data.latent_scale={scale:g}{and_shift}."
    return Published({**fields, **shared}, tensors, map_of, (note,))


def scale_of(source: Source) -> float:
    """Returns the factor on latents that diffusers' models are given; UserError where they are also shifted."""
    kind = source.settings["config"].get("_class_name", "AutoencoderKL")
    options = diffusers.options_of(source, kind, DEFAULTS[kind])
    if options["shift_factor"]:
        raise UserError(f"vae/config.json has shift_factor = {options['shift_factor']}; it must be 0 or None.")
    return float(options["scaling_factor"])


def write(params: Any, model: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the state dict of a model of diffusers: the inverse of `maps.read`; `model` is as for `settings_of`."""
    return maps.write(params, (map_of if model["kind"] == "autoencoder_kl" else tiny_map_of)(params, model))


def settings_of(model: Mapping[str, Any], image_shape: tuple[int, int, int], scale: float = 1.0) -> dict[str, Any]:
    """Returns the config.json of an AutoencoderKL or an AutoencoderTiny; UserError where none computes what ours does.

    Args:
        model: the fields of our section `model`.
        image_shape: (H, W, C).
        scale: what a diffusion model is given are the latents times this.
    """
    shared = {"in_channels": image_shape[2], "out_channels": image_shape[2], "latent_channels": model["latent_channels"]}
    shared |= {"scaling_factor": scale}
    if model["kind"] == "autoencoder_tiny":
        num_blocks = list(model["num_blocks"])
        blocks = {"num_encoder_blocks": num_blocks, "num_decoder_blocks": num_blocks[::-1]}
        widths = {f"{half}_block_out_channels": [model["channels"]] * len(num_blocks) for half in QUANT}
        return {"_class_name": "AutoencoderTiny", **DEFAULTS["AutoencoderTiny"], **widths, **blocks, **shared}
    kind, num_stages = "AutoencoderKL", len(model["multipliers"])
    diffusers.check_counterparts(model, {"norm_epsilon": 1e-6}, kind)
    return {
        "_class_name": kind,
        **DEFAULTS[kind],
        **shared,
        **{name: list(of) * num_stages for name, of in BLOCKS.items()},
        "block_out_channels": [round(model["channels"] * multiplier) for multiplier in model["multipliers"]],
        "layers_per_block": model["num_res_blocks"],
        "norm_num_groups": model["num_groups"],
        "sample_size": max(image_shape[:2]),
        "use_quant_conv": model["quant_conv"],
        "use_post_quant_conv": model["quant_conv"],
        "mid_block_add_attention": model["middle_attention"],
    }


def map_of(like: Any, model: Any = None) -> maps.Map:
    """Returns the map of the parameters of an `autoencoder_kl`."""
    return of_halves(like, diffusers.map_of)


def of_halves(like: Any, of_half: Callable[[Any], maps.Map]) -> maps.Map:
    """Returns the map of an `autoencoder_kl` from that of each half, whose 1x1 convolution at the latents is outside it."""
    found = {}
    for half, quant in QUANT.items():
        inside = {name: of for name, of in like[half].items() if name != "quant_conv"}
        outside = {name: of for name, of in like[half].items() if name == "quant_conv"}
        entries = {path: entry._replace(name=f"{half}.{entry.name}") for path, entry in of_half(inside).items()}
        entries |= maps.of_leaves(outside, lambda module, leaf, shape, quant=quant: maps.torch(quant, leaf, shape))
        found |= {f"{half}.{path}": entry for path, entry in entries.items()}
    return found


def tiny_map_of(like: Any, model: Mapping[str, Any]) -> maps.Map:
    """Returns the map of the parameters of an `autoencoder_tiny`; of `model` it needs `num_blocks`."""
    places = {
        f"{half}.{name}": f"{half}.layers.{number}"
        for half, order in _orders(model["num_blocks"]).items()
        for number, name in enumerate(order)
    }

    def entry(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
        half, name, *convs = module.split(".")
        parts = [f".conv.{2 * int(conv.removeprefix('conv')) - 2}" for conv in convs]
        return maps.torch("".join([places[f"{half}.{name}"], *parts]), leaf, shape)

    return maps.of_leaves(like, entry)


def _orders(num_blocks: list[int]) -> dict[str, list[str]]:
    """Returns the layers of each half in order, '' for one without weights: an activation, or one that doubles the size."""
    down, up = ["conv_in"], ["conv_in", ""]
    for i, num in enumerate(num_blocks):
        down += [f"down_{i - 1}_sample"] * (i > 0) + [f"down_{i}_{j}" for j in range(num)]
    for i, num in reversed(list(enumerate(num_blocks))):
        up += [f"up_{i}_{j}" for j in range(num)] + ["", f"up_{i}_sample"] * (i > 0)
    return {"encoder": [*down, "conv_out"], "decoder": [*up, "conv_out"]}
