"""The models of improved- and guided-diffusion: what their tensors say of the network, and their READMEs of the process."""

import itertools
import re
from typing import Any

from diffusion_jax.errors import UserError
from diffusion_jax.weights import maps, openai, sources
from diffusion_jax.weights.sources import Published, Source

IMPROVED = {"process.num_steps": 4000, "process.schedule": "cosine", "process.rescale_c_noise": True, "model.num_heads": 4}
RESCALED, UNSCALED = {"process.rescale_c_noise": True}, {"process.rescale_c_noise": False}
RESCALING = "t is taken to be rescaled to 1000, as in improved-diffusion; where T is 1000 it is the same."
LSUN_2021 = {"data.image_size": (256, 256), "process.num_steps": 1000, "process.schedule": "linear", "model.num_heads": 1}
GUIDED = {"process.num_steps": 1000, "process.schedule": "linear", "model.head_channels": 64}
FOUR_HEADS = {"model.head_channels": 0, "model.num_heads": 4}


def _square(size: int) -> dict[str, Any]:
    return {"data.image_size": (size, size)}


KNOWN = {  # file -> the fields that its README gives and its tensors do not
    "cifar10_uncond_50M_500K": IMPROVED | _square(32),
    "cifar10_uncond_vlb_50M_500K": IMPROVED | _square(32),
    "imagenet64_uncond_100M_1500K": IMPROVED | _square(64),
    "imagenet64_uncond_vlb_100M_1500K": IMPROVED | _square(64),
    "imagenet64_cond_270M_250K": IMPROVED | UNSCALED | _square(64),
    "upsample_cond_500K": IMPROVED | UNSCALED | {"process.schedule": "linear"} | _square(256),
    "lsun_uncond_100M_1200K_bs128": LSUN_2021,
    "lsun_uncond_100M_2400K_bs64": LSUN_2021,
    "64x64_diffusion": GUIDED | {"process.schedule": "cosine"} | _square(64),
    "64x64_classifier": GUIDED | {"process.schedule": "cosine"} | _square(64),
    "128x128_diffusion": GUIDED | FOUR_HEADS | _square(128),
    "128x128_classifier": GUIDED | _square(128),
    "64_256_upsampler": GUIDED | FOUR_HEADS | _square(256),
    "128_512_upsampler": GUIDED | _square(512),
}
KNOWN |= {f"256x256_{kind}": GUIDED | _square(256) for kind in ("diffusion", "diffusion_uncond", "classifier")}
KNOWN |= {f"512x512_{kind}": GUIDED | _square(512) for kind in ("diffusion", "classifier")}
KNOWN |= {f"lsun_{name}": GUIDED | _square(256) for name in ("bedroom", "cat", "horse", "horse_nodropout")}
IN_NEW_ORDER = ("64x64_diffusion",)  # the files whose README has use_new_attention_order
NEEDED = (("model.num_heads", "model.head_channels"), ("process.schedule",), ("process.num_steps",), ("data.image_size",))


def published(source: Source) -> Published | None:
    """Returns a UNetModel, a SuperResModel or an EncoderUNetModel, its heads of attention interleaved; None for others."""
    return _published(source, split_heads_first=source.name.removesuffix(".pt") not in IN_NEW_ORDER)


def published_in_new_order(source: Source) -> Published | None:
    """Returns the same of a model that was trained with `use_new_attention_order`, which the weights do not show."""
    return _published(source, split_heads_first=False)


def _published(source: Source, *, split_heads_first: bool) -> Published | None:
    found = sources.part(source.tensors, "input_blocks.0.0.weight")
    if not found or "time_embed.0.weight" not in found or any(".transformer_blocks." in name for name in found):
        return None
    is_classifier = not any(name.startswith("output_blocks.") for name in found)
    known = KNOWN.get(source.name.removesuffix(".pt"))

    def map_of(like: Any, model: Any) -> maps.Map:
        return openai.map_of(like, num_heads=heads(model), split_heads_first=split_heads_first)

    fields = structure(found) | (_classifier(found) if is_classifier else _diffusion(found)) | (known or RESCALED)
    return Published(fields, found, map_of, *(() if known else ((RESCALING,), NEEDED[is_classifier:])))


def heads(model: Any) -> Any:
    """Returns (channels, our path) -> heads of an attention, of the fields of the section `model`."""

    def of(channels: int, path: str) -> int:
        if model["head_channels"]:
            return channels // model["head_channels"]
        return (path.startswith("up") and model["num_heads_up"]) or model["num_heads"]

    return of


def structure(found: maps.Tensors) -> dict[str, Any]:
    """Returns the fields of the stages: their number, their widths, and what lies between them."""
    blocks = _blocks(found, "input_blocks")[1:]  # the first is a convolution alone
    per_stage = _num_res_blocks(found, blocks) + 1  # the last of them halves the image
    firsts, channels = blocks[::per_stage], found["time_embed.0.weight"].shape[1]
    widths = [len(found[f"input_blocks.{number}.0.out_layers.3.weight"]) for number in firsts]
    attends = [f"input_blocks.{number}.1.norm.weight" in found for number in firsts]
    return {
        "model.channels": channels,
        "model.multipliers": tuple(width / channels for width in widths),
        "model.num_res_blocks": per_stage - 1,
        "model.attention_stages": tuple(itertools.compress(range(len(firsts)), attends)),
        "model.scale_shift_norm": len(found[f"input_blocks.{blocks[0]}.0.emb_layers.1.weight"]) == 2 * widths[0],
        "model.resample": "conv" if any(name.endswith(".0.op.weight") for name in found) else "res_block",
        "model.norm_epsilon": 1e-5,
        "model.downsample_padding": "all_sides",
        "model.embedding_spacing": "half_open",
        "model.dropout": 0.0,
    }


def _blocks(found: maps.Tensors, kind: str) -> list[int]:
    """Returns the numbers of the blocks of one kind, in order."""
    return sorted({int(match[1]) for name in found if (match := re.match(rf"{kind}\.(\d+)\.", name))})


def _num_res_blocks(found: maps.Tensors, blocks: list[int]) -> int:
    """Returns the residual blocks of a stage.

    Told by where the first upsampling is, or the first convolution that halves; else, in a classifier that halves by
    residual blocks, by how many blocks in a row have attention.
    """
    for number in _blocks(found, "output_blocks"):
        if any(f"output_blocks.{number}.{layer}" in found for layer in ("1.conv.weight", "2.conv.weight")):
            return number
        if any(f"output_blocks.{number}.{layer}.in_layers.0.weight" in found for layer in (1, 2)):
            return number
    for place, number in enumerate(blocks):
        if f"input_blocks.{number}.0.op.weight" in found:
            return place
    if outputs := _blocks(found, "output_blocks"):
        return len(outputs) - 1  # one stage alone
    attends = [f"input_blocks.{number}.1.qkv.weight" in found for number in blocks]
    runs = [len(run) for run in "".join("a" if has else " " for has in attends).split()]
    if not runs or len(set(runs)) > 1:
        raise UserError("the weights do not show how many blocks a stage has: no stage but the middle has attention.")
    return runs[0]


def _diffusion(found: maps.Tensors) -> dict[str, Any]:
    """Returns the fields of a model that draws; one that enlarges is shown an image of the same size."""
    given, out = found["input_blocks.0.0.weight"].shape[1], len(found["out.2.weight"])
    enlarges = given == 6
    channels = given // (1 + enlarges)
    learned = out == 2 * channels
    return {
        "data.channels": channels,
        "data.condition": "paired" if enlarges else "none",
        "model.num_classes": len(found["label_emb.weight"]) if "label_emb.weight" in found else 0,
        "model.learned_variance": learned,
        "loss.name": "hybrid" if learned else "simple",
        "sample.grid": "iddpm",
        "sample.variance": "learned_range" if learned else "large",
    }


def _classifier(found: maps.Tensors) -> dict[str, Any]:
    """Returns the fields of a classifier of noisy images; the heads of theirs have 64 channels."""
    pool = "attention" if "out.2.positional_embedding" in found else "adaptive"
    logits = found.get("out.2.c_proj.weight" if pool == "attention" else "out.3.weight", ())
    return {
        "data.channels": found["input_blocks.0.0.weight"].shape[1],
        "loss.name": "cross_entropy",
        "model.kind": "noisy_classifier",
        "model.pool": pool,
        "model.num_classes": len(logits),
        "model.head_channels": 64,
    }
