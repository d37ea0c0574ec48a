"""Weights of a diffusers UNet2DModel with DDPM's options."""

from typing import Any

from diffusion_jax.weights import maps

PARTS = maps.RES | {"embedding": "time_emb_proj", "shortcut": "conv_shortcut"}
PARTS |= {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
BLOCKS = {"embedding_0": "time_embedding.linear_1", "embedding_1": "time_embedding.linear_2"}
BLOCKS |= {"middle_0": "mid_block.resnets.0", "middle_1": "mid_block.resnets.1"}
BLOCKS |= {"middle_attention": "mid_block.attentions.0"}
BLOCKS |= {"conv_in": "conv_in", "conv_out": "conv_out", "norm_out": "conv_norm_out"}


def read(tensors: maps.Tensors, like: Any) -> Any:
    """Returns the parameters of a model, from its state dict as NumPy arrays; errors as for `maps.read`."""
    return maps.read(tensors, like, map_of(like))


def map_of(like: Any) -> maps.Map:
    """Returns the map of a network's parameters."""
    last = max(int(name.split("_")[1]) for name in like if name.startswith("down_"))

    def of_stage(way: str, stage: str, place: str, *attention: str) -> str:
        block = f"{way}samplers.0.conv" if place == "sample" else f"{'attentions' if attention else 'resnets'}.{place}"
        return f"{way}_blocks.{int(stage) if way == 'down' else last - int(stage)}.{block}"  # going up from the smallest

    places = BLOCKS | maps.of_stages(like, of_stage)

    def entry(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
        return maps.torch(f"{maps.name_of(module, places, PARTS)}.{'bias' if leaf == 'bias' else 'weight'}", shape)

    return maps.of_leaves(like, entry)
