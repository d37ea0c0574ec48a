"""Weights of Ho et al.'s code (TensorFlow): [H, W, in, out] and [in, out]."""

from typing import Any

from diffusion_jax.weights import maps

PARTS = maps.RES | {"embedding": "temb_proj", "shortcut": "nin_shortcut"}
PARTS |= {"norm": "norm", "query": "q", "key": "k", "value": "v", "out": "proj_out"}
BLOCKS = {"embedding_0": "temb/dense0", "embedding_1": "temb/dense1"}
BLOCKS |= {"middle_0": "mid/block_1", "middle_1": "mid/block_2", "middle_attention": "mid/attn_1"}
BLOCKS |= {"conv_in": "conv_in", "conv_out": "conv_out", "norm_out": "norm_out"}
LEAVES = {"kernel": "W", "bias": "b", "scale": "gamma"}


def read(tensors: maps.Tensors, like: Any) -> Any:
    """Returns the parameters of a checkpoint, from its variables, with or without 'model/'; errors as for `maps.read`."""
    return maps.read({name.removeprefix("model/"): value for name, value in tensors.items()}, like, map_of(like))


def map_of(like: Any) -> maps.Map:
    """Returns the map of a network's parameters."""
    places = BLOCKS | maps.of_stages(like, _of_stage)

    def entry(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
        is_norm = module.split(".")[-1].startswith("norm")
        name = "beta" if leaf == "bias" and is_norm else LEAVES[leaf]
        return maps.same(f"{maps.name_of(module, places, PARTS, '/')}/{name}", shape)

    return maps.of_leaves(like, entry)


def _of_stage(way: str, stage: str, place: str, *attention: str) -> str:
    block = f"{way}sample/conv" if place == "sample" else f"{'attn' if attention else 'block'}_{place}"
    return f"{way}_{stage}/{block}"
