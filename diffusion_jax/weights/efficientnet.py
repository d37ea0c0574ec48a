"""Weights of EfficientNet-lite0, from the state dict of efficientnet_lite_pytorch."""

from typing import Any

from diffusion_jax.weights import maps

CONVS = {"expand": "_expand_conv", "depthwise": "_depthwise_conv", "project": "_project_conv"}
NORMS = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
OUTER = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}


def read(tensors: maps.Tensors, like: Any) -> Any:
    """Returns the parameters of a state dict as NumPy arrays; errors as for `maps.read`."""
    kept = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    return maps.read(kept, like, map_of(like))


def map_of(like: Any) -> maps.Map:
    """Returns the map of the network's parameters."""
    return maps.of_leaves(like, lambda module, leaf, shape: maps.torch(_name(module), leaf, shape))


def _name(module: str) -> str:
    if module == "logits":
        return "_fc"
    block, *inner, part = module.split(".")
    if inner:
        place = f"_blocks.{block.removeprefix('block_')}."
        conv, norm = CONVS[inner[0]], NORMS[inner[0]]
    else:
        place, (conv, norm) = "", OUTER[block]
    return place + (conv if part == "conv" else norm)
