"""Weights of an autoencoder in the files of CompVis/latent-diffusion, as Stable Diffusion and Flux have them too."""

import re
from typing import Any

from diffusion_jax.errors import UserError
from diffusion_jax.weights import maps, pesser, sources
from diffusion_jax.weights.diffusers_autoencoder import QUANT, of_halves
from diffusion_jax.weights.sources import Published, Source

SIZE = 256  # pixels of the images that they are trained on
WITHOUT = ("loss.", "model_ema.")  # what else a training writes: a discriminator, averages


def published(source: Source) -> Published | None:
    """Returns an autoencoder; None for another model, as for one with its diffusion model in the same file.

    Raises UserError where a stage has attention.
    """
    found = sources.part(source.tensors, "encoder.down.0.block.0.norm1.weight")
    if not found or any("diffusion_model." in name for name in source.tensors):
        return None
    if attended := sorted(name for name in found if re.match(r"(encoder\.down|decoder\.up)\.\d+\.attn\.", name)):
        raise UserError(f"the weights have attention in stages, as {attended[0]!r}; they must have it in the middle alone.")
    widths = {
        _place(name): len(of) for name, of in found.items() if name.startswith("encoder.down.") and "conv1.weight" in name
    }
    channels, given = found["encoder.conv_in.weight"].shape[:2]
    num_stages = 1 + max(stage for stage, _ in widths)
    fields = {
        "data.image_size": (SIZE, SIZE),
        "data.channels": given,
        "model.kind": "autoencoder_kl",
        "model.channels": channels,
        "model.multipliers": tuple(widths[stage, 0] / channels for stage in range(num_stages)),
        "model.num_res_blocks": len(widths) // num_stages,
        "model.num_groups": 32,
        "model.norm_epsilon": 1e-6,
        "model.latent_channels": found["decoder.conv_in.weight"].shape[1],
        "model.middle_attention": "encoder.mid.attn_1.q.weight" in found,
        "model.quant_conv": f"{QUANT['encoder']}.weight" in found,
        "loss.name": "reconstruction",
    }
    tensors = {name: of for name, of in found.items() if not name.startswith(WITHOUT)}
    note = f"images are taken to have {SIZE} x {SIZE} pixels, which changes no weight."
    return Published(fields, tensors, map_of, (note,))


def _place(name: str) -> tuple[int, int]:
    """Returns stage and place of a block: (0, 1) of 'encoder.down.0.block.1.conv1.weight'."""
    _, _, stage, _, place, *_ = name.split(".")
    return int(stage), int(place)


def map_of(like: Any, model: Any = None) -> maps.Map:
    """Returns the map of the parameters of an `autoencoder_kl`."""
    return of_halves(like, pesser.map_of)
