"""Weights of the Inception-v3 of FID, from pytorch-fid's and torch-fidelity's .pth or the pickled dictionary of jax-fid."""

from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.networks.inception import NUM_LOGITS
from diffusion_jax.weights import maps


def read(tensors: maps.Tensors, like: Any) -> Any:
    """Returns the parameters of either; errors as for `maps.read`, and UserError for torchvision's own training."""
    classes = np.size(tensors["fc.bias"]) if "fc.bias" in tensors else NUM_LOGITS
    if classes != NUM_LOGITS or any(name.startswith("AuxLogits") for name in tensors):
        raise UserError(
            f"the weights are of an Inception-v3 with {classes:,} classes, as torchvision trained it: its features are not "
            f"those of FID, whose network of 2015 has {NUM_LOGITS:,}."
        )
    kept = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    theirs = map_of(like) if "fc.weight" in tensors else map_of(like, _of_jax_fid)
    return maps.read(kept, like, theirs)


def map_of(like: Any, made: Callable[[str, str, tuple[int, ...]], maps.Entry] = maps.torch) -> maps.Map:
    """Returns the map of the network's parameters; `made` makes an entry as `maps.torch` does."""

    def entry(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
        if leaf == "fc_bias":
            return made("fc", "bias", shape)
        parent, _, part = module.rpartition(".")
        return made(f"{parent}.bn" if part == "norm" else module, leaf, shape)

    return maps.of_leaves(like, entry)


def _of_jax_fid(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
    return maps.same(f"{module}.{leaf}", shape)
