"""Weights of a UNetModel of improved- or guided-diffusion, and of an EncoderUNetModel, their classifier of noisy images."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion_jax.weights import maps

PARTS = {"norm1": "in_layers.0", "conv1": "in_layers.2", "embedding": "emb_layers.1", "norm2": "out_layers.0"}
PARTS |= {"conv2": "out_layers.3", "shortcut": "skip_connection", "norm": "norm", "out": "proj_out"}
QKV = ("query", "key", "value")


def read(tensors: maps.Tensors, like: Any, *, num_heads: Callable[[int, str], int], split_heads_first: bool) -> Any:
    """Returns the parameters of a model; errors as for `maps.read`.

    Args:
        tensors: its state dict, as NumPy arrays.
        num_heads: (channels, our path) -> heads of that attention.
        split_heads_first: whether q, k and v are interleaved by head (improved-diffusion, and guided-diffusion unless
            `use_new_attention_order`).
    """
    return maps.read(tensors, like, map_of(like, num_heads=num_heads, split_heads_first=split_heads_first))


def map_of(like: Any, *, num_heads: Callable[[int, str], int], split_heads_first: bool) -> maps.Map:
    """Returns {our path: (their name, layout)} of a network's parameters; arguments as for `read`."""
    places = _places(like)

    def entry(module: str, leaf: str) -> tuple[str, maps.Layout]:
        parent, _, part = module.rpartition(".")
        suffix = "bias" if leaf == "bias" else "weight"
        if part in QKV:
            of_pool = parent == "pool"  # whose heads never come first
            options = {"num_heads": num_heads, "path": parent, "split_heads_first": split_heads_first and not of_pool}
            fused = f"{places[parent]}.{'qkv_proj' if of_pool else 'qkv'}.{suffix}"
            return fused, functools.partial(_part_of_qkv, part=QKV.index(part), **options)
        if leaf == "places":
            return f"{places[module]}.positional_embedding", np.transpose
        layout = np.asarray if leaf == "embedding" else maps.torch
        return f"{maps.name_of(module, places, PARTS)}.{suffix}", _sines_first if module == "embedding_0" else layout

    return maps.of_leaves(like, entry)


def _sines_first(tensor: np.ndarray) -> np.ndarray:
    """Returns the first layer of the embedding; theirs takes [cos, sin]."""
    return tensor if tensor.ndim < 2 else maps.torch(np.concatenate(np.split(tensor, 2, axis=1)[::-1], axis=1))


def _part_of_qkv(
    fused: np.ndarray, *, part: int, num_heads: Callable[[int, str], int], path: str, split_heads_first: bool
) -> np.ndarray:
    """Returns q, k or v (part 0, 1 or 2) of a fused projection [3 C, ...], ordered by head."""
    heads = num_heads(len(fused) // 3, path)
    shape = (heads, 3, -1) if split_heads_first else (3, heads, -1)
    rows = np.arange(len(fused)).reshape(shape)
    return maps.torch(fused[np.ravel(rows[:, part] if split_heads_first else rows[part])])


def _places(like: Any) -> maps.Names:
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
