"""Weights of Ho et al.'s code (TensorFlow): [H, W, in, out] and [in, out]."""

import re
from typing import Any

from diffusion_jax.errors import UserError
from diffusion_jax.weights import maps, sources
from diffusion_jax.weights.sources import Published, Source

PARTS = maps.RES | {"embedding": "temb_proj", "shortcut": "nin_shortcut"}
PARTS |= {"norm": "norm", "query": "q", "key": "k", "value": "v", "out": "proj_out"}
BLOCKS = {"embedding_0": "temb/dense0", "embedding_1": "temb/dense1"}
BLOCKS |= {"middle_0": "mid/block_1", "middle_1": "mid/block_2", "middle_attention": "mid/attn_1"}
BLOCKS |= {"conv_in": "conv_in", "conv_out": "conv_out", "norm_out": "norm_out"}
LEAVES = {"kernel": "W", "bias": "b", "scale": "gamma"}
ATTENDED = 16  # pixels, at which Ho et al. have attention, whatever the size of the images


def published(source: Source) -> Published | None:
    """Returns a model of Ho et al.'s checkpoints; None for another model."""
    found = sources.part(source.tensors, "down_0/block_0/conv1/W")
    if not found:
        return None
    widths = {name: tensor.shape[-1] for name, tensor in found.items() if name.endswith("conv1/W")}
    ends = [*found["conv_in/W"].shape[2:], found["conv_out/W"].shape[-1]]
    fields, notes = fields_of(widths, set(found), ends)
    return Published(fields, found, map_of, notes)


def fields_of(widths: dict[str, int], names: set[str], ends: list[int]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the fields of our config that a network of Ho et al.'s has, and what was assumed.

    Args:
        widths: of a block by its first convolution, 'down_0/block_1/conv1/W' or 'down.0.block.1.conv1.weight'.
        names: of all tensors.
        ends: channels of the image, of the first layer and of the output.
    """
    attended = sorted({int(match[1]) for name in names if (match := _at(name, "attn"))})
    given, channels, out = ends
    size = ATTENDED << attended[0] if len(attended) == 1 else 0
    if not size:
        raise UserError(f"the weights have attention in stages {attended}; Ho et al. have it at {ATTENDED} pixels alone.")
    return {
        "data.image_size": (size, size),
        "data.channels": given,
        **of_stages(widths, channels),
        "model.attention_stages": tuple(attended),
        "model.learned_variance": out == 2 * given,
        "loss.name": "hybrid" if out == 2 * given else "simple",
        "process.schedule": "linear_raw",
        "sample.variance": "large" if size == 32 else "small",  # of the published runs: CIFAR-10 alone has the large one
    }, (f"images are taken to have {size} x {size} pixels: of those the network has attention at {ATTENDED} pixels.",)


def of_stages(widths: dict[str, int], channels: int) -> dict[str, Any]:
    """Returns the fields of the stages; `widths` as for `fields_of`, `channels` of the first layer."""
    blocks = {tuple(map(int, match.groups())): widths[name] for name in widths if (match := _at(name, "block"))}
    num_stages = 1 + max(stage for stage, _ in blocks)
    return {
        "model.channels": channels,
        "model.multipliers": tuple(blocks[stage, 0] / channels for stage in range(num_stages)),
        "model.num_res_blocks": len(blocks) // num_stages,
    }


def _at(name: str, kind: str) -> re.Match | None:
    """Returns the match of a name like 'down_0/block_1/...' or 'down.0.block.1....': (stage, place)."""
    return re.match(rf"down[_.](\d+)[/.]{kind}[_.](\d+)[/.]", name)


def map_of(like: Any, model: Any = None) -> maps.Map:
    """Returns the map of a network's parameters."""
    places = BLOCKS | maps.of_stages(like, name_of)

    def entry(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
        is_norm = module.split(".")[-1].startswith("norm")
        name = "beta" if leaf == "bias" and is_norm else LEAVES[leaf]
        return maps.same(f"{maps.name_of(module, places, PARTS, '/')}/{name}", shape)

    return maps.of_leaves(like, entry)


def name_of(way: str, stage: str, place: str, *attention: str) -> str:
    """Returns their name of a block, as `maps.of_stages` asks for it."""
    block = f"{way}sample/conv" if place == "sample" else f"{'attn' if attention else 'block'}_{place}"
    return f"{way}_{stage}/{block}"
