"""Weights of published U-Nets as parameters of ours: a map of paths for each code base, and how their tensors are laid out.

What is only a permutation of weights (the order of q, k and v, of sines and cosines, of axes) is settled here and is no
option of the network.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from diffusion_jax.errors import UserError

Tensors = Mapping[str, np.ndarray]
Map = dict[str, str]  # our name of a block, or of a part of one -> theirs

# What each code base calls the parts of a block.
RES = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}
HO = RES | {"embedding": "temb_proj", "shortcut": "nin_shortcut"}
HO |= {"norm": "norm", "query": "q", "key": "k", "value": "v", "out": "proj_out"}
DIFFUSERS = RES | {"embedding": "time_emb_proj", "shortcut": "conv_shortcut"}
DIFFUSERS |= {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
OPENAI = {"norm1": "in_layers.0", "conv1": "in_layers.2", "embedding": "emb_layers.1", "norm2": "out_layers.0"}
OPENAI |= {"conv2": "out_layers.3", "shortcut": "skip_connection", "norm": "norm", "out": "proj_out"}


def from_ho(tensors: Tensors, like: Any) -> Any:
    """Returns the parameters of a checkpoint of Ho et al.'s code (TensorFlow): [H, W, in, out] and [in, out].

    Args:
        tensors: by the names of its variables, with or without 'model/'.
        like: parameters of the network, for its structure.

    Raises:
        UserError: where a tensor is missing, or has another shape.
    """
    tensors = {name.removeprefix("model/"): value for name, value in tensors.items()}
    places, leaves = _ho_places(like), {"kernel": "W", "bias": "b", "scale": "gamma"}

    def find(module: str, leaf: str) -> np.ndarray:
        name = "beta" if leaf == "bias" and module.split(".")[-1].startswith("norm") else leaves[leaf]
        return _get(tensors, f"{_path(module, places, HO, '/')}/{name}")

    return _fill(like, find)


def from_diffusers(tensors: Tensors, like: Any) -> Any:
    """Returns the parameters of a diffusers UNet2DModel with DDPM's options. Arguments and errors as for `from_ho`."""
    places = _diffusers_places(like)

    def find(module: str, leaf: str) -> np.ndarray:
        return _torch(_get(tensors, f"{_path(module, places, DIFFUSERS)}.{'bias' if leaf == 'bias' else 'weight'}"))

    return _fill(like, find)


def from_openai(tensors: Tensors, like: Any, *, num_heads: Callable[[int, str], int], split_heads_first: bool) -> Any:
    """Returns the parameters of a UNetModel of improved- or guided-diffusion. Errors as for `from_ho`.

    Args:
        tensors: its state dict, as NumPy arrays.
        like: parameters of the network, for its structure.
        num_heads: (channels, our path) -> heads of that attention.
        split_heads_first: whether q, k and v are interleaved by head (improved-diffusion, and guided-diffusion unless
            `use_new_attention_order`).
    """
    places = _openai_places(like)

    def find(module: str, leaf: str) -> np.ndarray:
        parent, _, part = module.rpartition(".")
        suffix = "bias" if leaf == "bias" else "weight"
        if part in ("query", "key", "value"):
            fused = _get(tensors, f"{places[parent]}.qkv.{suffix}")
            heads = num_heads(len(fused) // 3, parent)
            return _torch(_part_of_qkv(fused, ("query", "key", "value").index(part), heads, split_heads_first))
        tensor = _get(tensors, f"{_path(module, places, OPENAI)}.{suffix}")
        if module == "embedding_0" and leaf == "kernel":
            tensor = np.concatenate(np.split(tensor, 2, axis=1)[::-1], axis=1)  # theirs are [cos, sin]
        return tensor if leaf == "embedding" else _torch(tensor)

    return _fill(like, find)


def _get(tensors: Tensors, name: str) -> np.ndarray:
    if name not in tensors:
        raise UserError(f"the weights have no tensor {name!r}: they are of a network with other options.")
    return np.asarray(tensors[name])


def _fill(like: Any, find: Callable[[str, str], np.ndarray]) -> Any:
    """Returns parameters like `like`, each leaf from `find(module, leaf)`; the axes of size 1 may differ."""

    def leaf(path, old) -> np.ndarray:
        *modules, name = (part.key for part in path)
        found = find(".".join(modules), name)
        if [size for size in found.shape if size > 1] != [size for size in old.shape if size > 1]:
            where = ".".join([*modules, name])
            raise UserError(f"the weights for {where} are {list(found.shape)}; the network's are {list(old.shape)}.")
        return found.reshape(old.shape)

    return jax.tree_util.tree_map_with_path(leaf, like)


def _torch(tensor: np.ndarray) -> np.ndarray:
    """Returns a torch tensor, [out, in, ...], with our axes, [..., in, out]."""
    if tensor.ndim < 2:
        return tensor
    return np.moveaxis(tensor, (0, 1), (-1, -2))


def _part_of_qkv(fused: np.ndarray, part: int, num_heads: int, split_heads_first: bool) -> np.ndarray:
    """Returns the rows of q, k or v (part 0, 1 or 2) of a fused projection [3 C, ...], ordered by head."""
    shape = (num_heads, 3, -1) if split_heads_first else (3, num_heads, -1)
    rows = np.arange(len(fused)).reshape(shape)
    return fused[np.ravel(rows[:, part] if split_heads_first else rows[part])]


def _path(module: str, places: Map, parts: Map, separator: str = ".") -> str:
    """Returns a code base's name of our module, from its names of our blocks and of their parts."""
    block, _, part = module.partition(".")
    return separator.join([places[block], parts[part]] if part else [places[block]])


def _of_the_levels(like: Any) -> list[str]:
    """Returns the names of our blocks that lie in a level: down_<level>_<place>, up_<level>_<place>_attention, ..."""
    return [name for name in like if name.startswith(("down_", "up_"))]


def _ho_places(like: Any) -> Map:
    """Returns Ho et al.'s name of each of our blocks."""
    places = {"embedding_0": "temb/dense0", "embedding_1": "temb/dense1"}
    places |= {"middle_0": "mid/block_1", "middle_1": "mid/block_2", "middle_attention": "mid/attn_1"}
    places |= {"conv_in": "conv_in", "conv_out": "conv_out", "norm_out": "norm_out"}
    for name in _of_the_levels(like):
        way, level, place, *attention = name.split("_")
        block = f"{way}sample/conv" if place == "sample" else f"{'attn' if attention else 'block'}_{place}"
        places[name] = f"{way}_{level}/{block}"
    return places


def _diffusers_places(like: Any) -> Map:
    """Returns diffusers' name of each of our blocks; its levels going up count from the smallest image."""
    places = {"embedding_0": "time_embedding.linear_1", "embedding_1": "time_embedding.linear_2"}
    places |= {"middle_0": "mid_block.resnets.0", "middle_1": "mid_block.resnets.1"}
    places |= {"middle_attention": "mid_block.attentions.0"}
    places |= {"conv_in": "conv_in", "conv_out": "conv_out", "norm_out": "conv_norm_out"}
    last = max(int(name.split("_")[1]) for name in _of_the_levels(like))
    for name in _of_the_levels(like):
        way, level, place, *attention = name.split("_")
        block = f"{way}samplers.0.conv" if place == "sample" else f"{'attentions' if attention else 'resnets'}.{place}"
        places[name] = f"{way}_blocks.{int(level) if way == 'down' else last - int(level)}.{block}"
    return places


def _openai_places(like: Any) -> Map:
    """Returns OpenAI's name of each of our blocks: theirs are numbered in the order of the forward pass."""
    places = {"middle_0": "middle_block.0", "middle_attention": "middle_block.1", "middle_1": "middle_block.2"}
    places |= {"conv_in": "input_blocks.0.0", "norm_out": "out.0", "conv_out": "out.2", "label": "label_emb"}
    places |= {"embedding_0": "time_embed.0", "embedding_1": "time_embed.2"}
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
    way, level, place = name.split("_")
    return int(level) * (1 if way == "down" else -1), float("inf") if place == "sample" else int(place)
