"""Weights of diffusers' AutoencoderKL and AutoencoderTiny, the first stages of Stable Diffusion and of TAESD.

Their pipelines give a diffusion model the latents (z - shift_factor) scaling_factor. Both numbers are among the fields.
"""

from collections.abc import Mapping
from typing import Any

from diffusion_jax.errors import UserError
from diffusion_jax.weights import diffusers, maps, sources
from diffusion_jax.weights.sources import Published, Source

QUANT = {"encoder": "quant_conv", "decoder": "post_quant_conv"}  # the 1x1 convolution of each half, which is outside it
DEFAULTS: dict[str, dict[str, Any]] = {  # of each class, where config.json is silent
    "AutoencoderKL": {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D"],
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
    """Returns an AutoencoderKL, with the fields of `networks.autoencoder.autoencoder_kl`; None for another model.

    Raises UserError for options that our network does not have, and where config.json is missing.
    """
    found = sources.part(source.tensors, "encoder.down_blocks.0.resnets.0.conv1.weight")
    if not found:
        return None
    options = _options(source, "AutoencoderKL")
    widths, size = options["block_out_channels"], options["sample_size"]
    blocks = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
    needed = {name: kind * len(widths) for name, kind in blocks.items()}
    needed |= {"act_fn": "silu", "latents_mean": None, "latents_std": None, "out_channels": options["in_channels"]}
    _check(options, needed | {"use_post_quant_conv": options["use_quant_conv"]})
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
    return Published(fields | _shared(options), tensors, map_of)


def published_tiny(source: Source) -> Published | None:
    """Returns an AutoencoderTiny, with the fields of `networks.autoencoder.autoencoder_tiny`; otherwise as `published`."""
    found = sources.part(source.tensors, "encoder.layers.0.weight")
    if not found:
        return None
    options = _options(source, "AutoencoderTiny")
    num_blocks, [width, *_] = options["num_encoder_blocks"], options["encoder_block_out_channels"]
    widths = {f"{half}_block_out_channels": [width] * len(num_blocks) for half in QUANT}
    needed = {"act_fn": "relu", "upsample_fn": "nearest", "upsampling_scaling_factor": 2}
    needed |= {"out_channels": options["in_channels"], "num_decoder_blocks": num_blocks[::-1]}
    _check(options, widths | needed)
    fields = {
        "model.kind": "autoencoder_tiny",
        "model.channels": width,
        "model.num_blocks": tuple(num_blocks),
        "data.image_size": (TINY_SIZE, TINY_SIZE),
    }
    return Published(fields | _shared(options), found, tiny_map_of)


def _options(source: Source, kind: str) -> dict[str, Any]:
    """Returns the options of a class of diffusers; UserError where config.json is missing, or of another class."""
    if "config" not in source.settings:
        raise UserError(f"flag --from = {source.name!r} must be the folder with config.json beside the weights.")
    options = DEFAULTS[kind] | dict(source.settings["config"])
    if options.setdefault("_class_name", kind) != kind:
        raise UserError(f"config.json is of a model of the class {options['_class_name']!r}; it must be an {kind}.")
    return options


def _check(options: Mapping[str, Any], needed: Mapping[str, Any]) -> None:
    """Raises UserError for the first option that is not what our network computes."""
    for name, value in needed.items():
        if options[name] != value:
            raise UserError(f"config.json has {name} = {options[name]!r}; it must be {value!r}.")


def _shared(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that both kinds have."""
    return {
        "model.latent_channels": options["latent_channels"],
        "model.latent_scale": float(options["scaling_factor"]),
        "model.latent_shift": float(options["shift_factor"] or 0.0),
        "data.channels": options["in_channels"],
    }


def map_of(like: Any, model: Any = None) -> maps.Map:
    """Returns the map of the parameters of an `autoencoder_kl`."""
    found = {}
    for half, quant in QUANT.items():
        inside = {name: of for name, of in like[half].items() if name != "quant_conv"}
        outside = {name: of for name, of in like[half].items() if name == "quant_conv"}
        entries = {path: entry._replace(name=f"{half}.{entry.name}") for path, entry in diffusers.map_of(inside).items()}
        entries |= maps.of_leaves(outside, lambda module, leaf, shape, quant=quant: _torch(quant, leaf, shape))
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
        return _torch("".join([places[f"{half}.{name}"], *parts]), leaf, shape)

    return maps.of_leaves(like, entry)


def _orders(num_blocks: list[int]) -> dict[str, list[str]]:
    """Returns the layers of each half in order, '' for one without weights: an activation, or one that doubles the size."""
    down, up = ["conv_in"], ["conv_in", ""]
    for i, num in enumerate(num_blocks):
        down += [f"down_{i - 1}_sample"] * (i > 0) + [f"down_{i}_{j}" for j in range(num)]
    for i, num in reversed(list(enumerate(num_blocks))):
        up += [f"up_{i}_{j}" for j in range(num)] + ["", f"up_{i}_sample"] * (i > 0)
    return {"encoder": [*down, "conv_out"], "decoder": [*up, "conv_out"]}


def _torch(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
    return maps.torch(f"{module}.{'bias' if leaf == 'bias' else 'weight'}", shape)
