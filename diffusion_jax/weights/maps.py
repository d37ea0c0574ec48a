"""Maps of published weights to parameters of ours, as values: {our path: (their name, layout)}.

What is only a permutation of weights (the order of q, k and v, of sines and cosines, of axes) is settled in these maps.
It is never an option of the network.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from diffusion_jax import errors
from diffusion_jax.errors import UserError

Tensors = Mapping[str, np.ndarray]
Names = dict[str, str]  # our name of a block, or of a part of one -> theirs
Layout = Callable[[np.ndarray], np.ndarray]  # their tensor -> ours
Map = dict[str, tuple[str, Layout]]  # our path, such as 'down_0_1.conv1.kernel' -> (their name, layout)

RES = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}  # parts of a block; most code bases agree


def of_leaves(like: Any, entry: Callable[[str, str], tuple[str, Layout]]) -> Map:
    """Returns the map of parameters, from (module, leaf) -> (their name, layout)."""
    found = {}
    for path, _ in jax.tree_util.tree_leaves_with_path(like):
        *modules, leaf = (part.key for part in path)
        found[".".join([*modules, leaf])] = entry(".".join(modules), leaf)
    return found


def read(tensors: Tensors, like: Any, theirs: Map) -> Any:
    """Returns parameters like `like`, made of tensors.

    Axes of size 1 may differ. UserError where a tensor is missing, has another shape, or no parameter takes it.
    """

    def leaf(path, old) -> np.ndarray:
        where = ".".join(part.key for part in path)
        name, layout = theirs[where]
        if name not in tensors:
            raise UserError(f"the weights do not contain tensor {name!r}: their network has other options.")
        found = layout(np.asarray(tensors[name]))
        if [size for size in found.shape if size > 1] != [size for size in old.shape if size > 1]:
            raise UserError(f"the weights for {where} are {list(found.shape)}; the network's are {list(old.shape)}.")
        return found.reshape(old.shape)

    params = jax.tree_util.tree_map_with_path(leaf, like)
    taken = {name for name, _ in theirs.values()}
    if left := [name for name in tensors if name not in taken]:
        raise UserError(
            f"the weights have {len(left)} tensors that the network does not take: {errors.some(left)}. Their network has "
            "other options; what is not of a network at all must be left out."
        )
    return params


def torch(tensor: np.ndarray) -> np.ndarray:
    """Returns a torch tensor, [out, in, ...], with our axes, [..., in, out]."""
    return tensor if tensor.ndim < 2 else np.moveaxis(tensor, (0, 1), (-1, -2))


def name_of(module: str, places: Names, parts: Names, separator: str = ".") -> str:
    """Returns a code base's name of our module, from its names of our blocks and of their parts."""
    block, _, part = module.partition(".")
    return separator.join([places[block], parts[part]] if part else [places[block]])


def of_stages(like: Any, theirs: Callable[..., str]) -> Names:
    """Returns their name of each of our blocks in a stage, from the parts of ours: 'down', stage, place[, 'attention']."""
    return {name: theirs(*name.split("_")) for name in like if name.startswith(("down_", "up_"))}
