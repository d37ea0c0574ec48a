"""Weights of a UNetModel of improved- or guided-diffusion, and of an EncoderUNetModel, their classifier of noisy images."""

import itertools
from collections.abc import Callable
from typing import Any

from diffusion_jax.weights import maps

PARTS = {"norm1": "in_layers.0", "conv1": "in_layers.2", "embedding": "emb_layers.1", "norm2": "out_layers.0"}
PARTS |= {"conv2": "out_layers.3", "shortcut": "skip_connection", "norm": "norm", "out": "proj_out"}


def map_of(like: Any, *, num_heads: Callable[[int, str], int], split_heads_first: bool) -> maps.Map:
    """Returns the map of a network's parameters.

    Args:
        like: parameters of our network.
        num_heads: (channels, our path) -> heads of that attention.
        split_heads_first: whether q, k and v are interleaved by head (improved-diffusion, and guided-diffusion unless
            `use_new_attention_order`).
    """
    places = places_of(like)

    def entry(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
        parent, _, part = module.rpartition(".")
        if part in maps.QKV:
            name, heads_first = f"{places[parent]}.qkv", split_heads_first
            if parent == "pool":
                name, heads_first = f"{places[parent]}.qkv_proj", False
            heads = num_heads(shape[-1], parent)
            return maps.torch_qkv(name, leaf, shape, part, num_heads=heads, heads_first=heads_first)
        if leaf == "places":
            return maps.Entry(f"{places[module]}.positional_embedding", shape[::-1], maps.of_torch)
        return maps.torch(maps.name_of(module, places, PARTS), leaf, shape, cosines_first=module == "embedding_0")

    return maps.of_leaves(like, entry)


def places_of(like: Any) -> maps.Names:
    """Returns their name of each of our blocks: theirs are numbered in the order of the forward pass."""
    places = {"middle_0": "middle_block.0", "middle_attention": "middle_block.1", "middle_1": "middle_block.2"}
    places |= {"conv_in": "input_blocks.0.0", "norm_out": "out.0", "conv_out": "out.2", "label": "label_emb"}
    places |= {"embedding_0": "time_embed.0", "embedding_1": "time_embed.2"}
    places |= {"pool": "out.2", "logits": "out.2.c_proj" if "pool" in like else "out.3"}
    down = sorted((name for name in like if name.startswith("down_") and "attention" not in name), key=_order)
    for number, name in enumerate(down, start=1):
        places |= {name: f"input_blocks.{number}.0", f"{name}_attention": f"input_blocks.{number}.1"}
    up = sorted((name for name in like if name.startswith("up_") and "attention" not in name), key=_order)
    blocks = [name for name in up if not name.endswith("sample")]
    for number, name in enumerate(blocks):
        places |= {name: f"output_blocks.{number}.0", f"{name}_attention": f"output_blocks.{number}.1"}
    for before, name in itertools.pairwise(up):
        if name.endswith("sample"):  # theirs belongs to the block before, after its attention if it has one
            places[name] = f"output_blocks.{blocks.index(before)}.{2 if f'{before}_attention' in like else 1}"
    convs = [name for name in [*down, *up] if "kernel" in like[name]]
    return places | {name: f"{places[name]}.{'op' if name in down else 'conv'}" for name in convs}


def _order(name: str) -> tuple[int, float]:
    """Returns what sorts our blocks as the forward pass visits them."""
    way, stage, place = name.split("_")
    return int(stage) * (1 if way == "down" else -1), float("inf") if place == "sample" else int(place)
