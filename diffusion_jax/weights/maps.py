"""Maps of published weights to parameters of ours, as values: {our path: their name, its shape, our view of it}.

What is only a permutation of weights (the order of q, k and v, of sines and cosines, of axes) is settled in these maps.
It is never an option of the network. A permutation is a view of NumPy, so that the same map reads and writes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax import errors
from diffusion_jax.errors import UserError

Tensors = Mapping[str, np.ndarray]
Names = dict[str, str]  # our name of a block, or of a part of one -> theirs
View = Callable[[np.ndarray], np.ndarray]


class Entry(NamedTuple):
    """Where their tensors have a parameter of ours."""

    name: str  # of their tensor
    shape: tuple[int, ...]  # of their tensor
    view: View  # their tensor -> the part that is ours, with our order of axes; never a copy


Map = dict[str, Entry]  # our path, such as 'down_0_1.conv1.kernel' -> `Entry`

TORCH = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}  # our leaves -> torch's
TORCH |= {"mean": "running_mean", "var": "running_var"}
QKV = ("query", "key", "value")
RES = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}  # parts of a block; most code bases agree


def of_leaves(like: Any, entry: Callable[[str, str, tuple[int, ...]], Entry]) -> Map:
    """Returns the map of parameters, from (module, leaf, our shape) -> `Entry`."""
    found = {}
    for path, old in jax.tree_util.tree_leaves_with_path(like):
        *modules, leaf = (part.key for part in path)
        found[".".join([*modules, leaf])] = entry(".".join(modules), leaf, old.shape)
    return found


def read(tensors: Tensors, like: Any, theirs: Map) -> Any:
    """Returns parameters like `like`, made of tensors: each is used whole, and each parameter is filled.

    Axes of size 1 may differ. UserError, with the names and shapes of all differences, where that is impossible.
    """
    if found := _differences(tensors, theirs):
        raise UserError(f"the weights are of another network, or have other options: {'; '.join(found)}.")

    def leaf(path: Any, old: Any) -> np.ndarray:
        entry = theirs[_path_of(path)]
        return entry.view(np.asarray(tensors[entry.name]).reshape(entry.shape)).reshape(old.shape)

    return jax.tree_util.tree_map_with_path(leaf, like)


def write(params: Any, theirs: Map) -> dict[str, np.ndarray]:
    """Returns their tensors, made of parameters: the inverse of `read`."""
    found: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        entry = theirs[_path_of(path)]
        tensor = found.setdefault(entry.name, np.empty(entry.shape, leaf.dtype))
        view = entry.view(tensor)
        view[...] = np.asarray(leaf).reshape(view.shape)
    return found


def by_name(like: Any) -> Map:
    """Returns the map of tensors that have our own names: 'down_0_1.conv1.kernel'."""
    return of_leaves(like, lambda module, leaf, shape: same(f"{module}.{leaf}".strip("."), shape))


def same(name: str, shape: tuple[int, ...]) -> Entry:
    """Returns the entry of a tensor that is our parameter as it is."""
    return Entry(name, shape, lambda tensor: tensor)


def torch(module: str, leaf: str, shape: tuple[int, ...], *, cosines_first: bool = False) -> Entry:
    """Returns the entry of a torch module's tensor, [out, in, ...], where ours is [..., in, out]; embeddings are alike.

    Args:
        module: its name in torch.
        leaf: our name of the tensor in it, of `TORCH`.
        shape: of ours.
        cosines_first: whether the module takes [cos, sin] of c_noise, where ours takes [sin, cos].
    """
    name = f"{module}.{TORCH[leaf]}"
    if leaf == "embedding":
        return same(name, shape)
    view = _sines_first if cosines_first and leaf == "kernel" else of_torch
    return Entry(name, (*shape[-2:][::-1], *shape[:-2]), view)


def torch_qkv(module: str, leaf: str, shape: tuple[int, ...], part: str, *, num_heads: int, heads_first: bool) -> Entry:
    """Returns the entry of a part, of `QKV`, of a torch module that projects to q, k and v at once, [3 C, in, ...].

    Args:
        module: its name in torch.
        leaf: our name of the tensor in it: 'kernel' or 'bias'.
        shape: of ours, [..., in, C] or [C].
        part: which of the three it is.
        num_heads: of the attention.
        heads_first: whether its rows are q, k and v of one head after the other; else q of all heads comes first, then k.
    """
    index = QKV.index(part)

    def view(fused: np.ndarray) -> np.ndarray:
        rows = fused.reshape(*((num_heads, 3) if heads_first else (3, num_heads)), -1, *fused.shape[1:])
        found = rows[:, index] if heads_first else rows[index]
        return found if fused.ndim < 2 else np.moveaxis(found, (0, 1), (-2, -1))

    name, (channels, *others), _ = torch(module, leaf, shape)
    return Entry(name, (3 * channels, *others), view)


def of_torch(tensor: np.ndarray) -> np.ndarray:
    """Returns a torch tensor, [out, in, ...], with our order of axes, [..., in, out]."""
    return tensor if tensor.ndim < 2 else np.moveaxis(tensor, (0, 1), (-1, -2))


def _sines_first(kernel: np.ndarray) -> np.ndarray:
    """Returns a torch layer of the embedding, [out, in], that takes [cos, sin], as one of [sin, cos]: [2, in / 2, out]."""
    return np.moveaxis(kernel.reshape(len(kernel), 2, -1)[:, ::-1], 0, -1)


def name_of(module: str, places: Names, parts: Names, separator: str = ".") -> str:
    """Returns a code base's name of our module, from its names of our blocks and of their parts."""
    block, _, part = module.partition(".")
    return separator.join([places[block], parts[part]] if part else [places[block]])


def of_stages(like: Any, theirs: Callable[..., str]) -> Names:
    """Returns their name of each of our blocks in a stage, from the parts of ours: 'down', stage, place[, 'attention']."""
    return {name: theirs(*name.split("_")) for name in like if name.startswith(("down_", "up_"))}


def _differences(tensors: Tensors, theirs: Map) -> list[str]:
    """Returns a phrase for each kind of difference between some tensors and those of a map."""
    shapes = {entry.name: entry.shape for entry in theirs.values()}
    missing = [name for name in shapes if name not in tensors]
    left = [f"{name} {list(np.shape(tensors[name]))}" for name in tensors if name not in shapes]
    other = [
        f"{name} is {list(np.shape(tensors[name]))} and not {list(shape)}"
        for name, shape in shapes.items()
        if name in tensors and _without_ones(np.shape(tensors[name])) != _without_ones(shape)
    ]
    kinds = {"missing": missing, "of another shape": other, "left over": left}
    return [f"{len(names)} {kind}: {errors.some(names)}" for kind, names in kinds.items() if names]


def _path_of(path: Any) -> str:
    return ".".join(part.key for part in path)


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size > 1]
