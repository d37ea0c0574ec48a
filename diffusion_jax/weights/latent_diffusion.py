"""Weights in the files of CompVis/latent-diffusion: an autoencoder, as of Flux too, or all parts of Stable Diffusion."""

import re
from typing import Any

from diffusion_jax.errors import UserError
from diffusion_jax.weights import diffusers, ho, maps, openai, openai_models, pesser, schedulers, sources, stable_diffusion
from diffusion_jax.weights.diffusers_autoencoder import QUANT, of_halves
from diffusion_jax.weights.sources import Published, Source

SIZE = 256  # pixels of the images that they are trained on
OTHER_PARTS = ("first_stage_model", "cond_stage_model")  # of Stable Diffusion: its autoencoder, its encoder of text
SCALE = 0.18215  # of Stable Diffusion's latents, which no file says
SCHEDULER = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULER |= {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}  # of Stable Diffusion's published folders
HEADS = {768: {"model.num_heads": 8}, 1024: {"model.head_channels": 64, "model.num_heads": 1}}  # by the width of a text
LATENT_SIZE = 64  # of the images that version 1 is trained on
PARTS = {name: part for name, part in diffusers.PARTS.items() if diffusers.FIRST in part or name in ("norm_in", "proj_in")}
PARTS = openai.PARTS | PARTS | {"proj_out": "proj_out"}
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
    firsts = [name for name in found if name.startswith("encoder.down.") and name.endswith("conv1.weight")]
    widths = {name.removeprefix("encoder."): len(found[name]) for name in firsts}
    channels, given = found["encoder.conv_in.weight"].shape[:2]
    fields = {
        "data.image_size": (SIZE, SIZE),
        "data.channels": given,
        "model.kind": "autoencoder_kl",
        **ho.of_stages(widths, channels),
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


def map_of(like: Any, model: Any = None) -> maps.Map:
    """Returns the map of the parameters of an `autoencoder_kl`."""
    return of_halves(like, pesser.map_of)


def published_network(source: Source) -> Published | None:
    """Returns Stable Diffusion's U-Net; None for another model. `first_stage` and `encoder` are its other parts.

    Raises UserError for SDXL and for inpainting.
    """
    found = sources.part(source.tensors, "input_blocks.0.0.weight")
    texts = [tensor.shape[1] for name, tensor in found.items() if name.endswith("attn2.to_k.weight")]
    if not texts:
        return None
    if "label_emb.0.0.weight" in found or found["input_blocks.0.0.weight"].shape[1] != len(found["out.2.weight"]):
        raise UserError("the weights are those of SDXL or of inpainting; they must be of Stable Diffusion 1 or 2.")
    fields, _ = schedulers.fields(SCHEDULER)
    fields |= openai_models.structure(found) | stable_diffusion.FIELDS | HEADS.get(texts[0], {})
    fields |= {"data.image_size": (LATENT_SIZE, LATENT_SIZE), "data.channels": len(found["out.2.weight"])}
    needed = [("model.text_folder",)] + [("model.num_heads", "model.head_channels")] * (texts[0] not in HEADS)
    needed += [("predicts",)] * (texts[0] == 1024)  # version 2 has files of either kind
    note = f"images are taken to have {LATENT_SIZE} x {LATENT_SIZE} latents, which changes no weight."
    return Published(fields, found, map_of_network, (note,), tuple(needed))


def map_of_network(like: Any, model: Any = None) -> maps.Map:
    """Returns the map of the parameters of a `unet` with Stable Diffusion's blocks."""
    places = openai.places_of(like)

    def entry(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
        return maps.torch(maps.name_of(module, places, PARTS), leaf, shape, cosines_first=module == "embedding_0")

    return maps.of_leaves(like, entry)


def first_stage(source: Source) -> Source | None:
    """Returns the autoencoder of a file with all parts of Stable Diffusion; None for another."""
    found = _part(source, OTHER_PARTS[0])
    return Source(source.name, found) if found and any(".attn2." in name for name in source.tensors) else None


def encoder(source: Source) -> maps.Tensors:
    """Returns the tensors of CLIP's encoder of text, by transformers' names, in a file with all parts; {} for none."""
    return _part(source, f"{OTHER_PARTS[1]}.transformer")


def _part(source: Source, prefix: str) -> maps.Tensors:
    return {name.partition(f"{prefix}.")[2]: of for name, of in source.tensors.items() if f"{prefix}." in name}
