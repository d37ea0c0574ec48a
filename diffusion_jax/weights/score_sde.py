"""Weights of score_sde's `ncsnpp` network, of its PyTorch code and of its Flax code. [Song et al. 2021, score SDE]

Both count modules in the order of the forward pass: PyTorch all of them, Flax those of each class. What of the function is
not in the weights is in the process: 'vp' with the output eps; 've_sde' with the output -eps, which their network divides by
sigma into a score.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.weights import maps, sources
from diffusion_jax.weights.sources import Published, Source

PARTS = {"norm1": "GroupNorm_0", "conv1": "Conv_0", "embedding": "Dense_0", "norm2": "GroupNorm_1", "conv2": "Conv_1"}
PARTS |= {"shortcut": "Conv_2", "norm": "GroupNorm_0", "query": "NIN_0", "key": "NIN_1", "value": "NIN_2", "out": "NIN_3"}
FREQUENCIES = "all_modules.0.W"  # not trained, so that their EMA does not have them
ATTENDED = 16  # pixels, at which they have attention, whatever the size of the images
KINDS = {"Dense_0": "r", "NIN_0": "a", "Conv2d_0": "i", "Conv_0": "i"}  # what a module has in it -> a letter for it
KINDS_OF_NDIM = {1: "n", 2: "d", 4: "c"}  # the same of a module that is a weight and a bias
KINDS_OF_FLAX = {"ResnetBlockBigGANpp": "r", "AttnBlockpp": "a", "Combine": "i", "Downsample": "i"}
KINDS_OF_FLAX |= {"GroupNorm": "n", "Dense": "d", "Conv": "c", "GaussianFourierProjection": "w"}
ATTENDED_OF_FLAX = {4: (1,), 7: (4,), 8: (6,)}  # stages -> those with attention, of 32, 256 and 1024 pixels
SAMPLING = {"sample.num_steps": 1000, "sample.variance": "small", "sample.clip": "none"}
VP = SAMPLING | {"process.kind": "vp", "predicts": "eps", "sample.grid": "uniform"}
VE = SAMPLING | {"process.kind": "ve_sde", "predicts": "scaled_score", "sample.grid": "log_snr"}
VE |= {"loss.time_density": "log_uniform", "process.sigma_min": 0.02, "process.sigma_max": 100.0}  # the last, of CIFAR-10

Module = Mapping[str, np.ndarray]  # the tensors of a module, by their names in it


def published(source: Source) -> Published | None:
    """Returns a model of the PyTorch code's `ncsnpp`, with its averages where there are some; None for another model."""
    found = of_checkpoint(source.tensors, ema="ema.shadow_params.0" in source.tensors)
    modules = _by_class(found).get("all_modules", [])
    kinds = "".join(_kind(module) for module in modules)
    if not re.fullmatch("w?ddc[rainc]+", kinds):
        return None
    of_kind = {kind: [module for module, its in zip(modules, kinds, strict=True) if its == kind] for kind in kinds}
    places, firsts = [place for place, kind in enumerate(kinds) if kind == "r"], _firsts(of_kind["r"])
    attended = tuple(stage for stage, block in enumerate(firsts) if kinds[places[block] + 1] == "a")
    return _published(found, of_kind, attended, map_of) if len(firsts) > 1 else None


def published_of_flax(source: Source) -> Published | None:
    """Returns a model of the Flax code's `ncsnpp`, with its averages where there are some; None for another model."""
    found = sources.part(source.tensors, "ResnetBlockBigGANpp_0.GroupNorm_0.scale")
    if not found:
        return None
    by_class = _by_class(found)
    of_kind = {letter: by_class[kind] for kind, letter in KINDS_OF_FLAX.items() if kind in by_class}
    is_attended = len(of_kind["a"]) > 1  # one is in the middle
    attended = ATTENDED_OF_FLAX.get(len(_firsts(of_kind["r"])), ()) if is_attended else ()
    return _published(found, of_kind, attended, flax_map_of, (("model.attention_stages",),) * (is_attended and not attended))


def _published(
    found: maps.Tensors,
    modules: Mapping[str, Sequence[Module]],
    attended: tuple[int, ...],
    map_of: Callable[[Any], maps.Map],
    needed: tuple[tuple[str, ...], ...] = (),
) -> Published:
    """Returns a model, of its modules by `KINDS`, the stages with attention, and what else is needed."""
    fields = _structure(modules) | {"model.attention_stages": attended} | (VE if "w" in modules else VP)
    notes: tuple[str, ...] = ("the filter is taken to be the paper's.",)
    if attended:
        side = ATTENDED << attended[0]
        fields |= {"data.image_size": (side, side)}
        notes += (f"images are taken to have {side} x {side} pixels, as those of the paper that have such stages.",)
    else:
        needed += (("data.image_size",),)
    if "w" not in modules:
        needed += (("process.kind",),)
    elif fields.get("data.image_size") != (32, 32):
        needed += (("process.sigma_max",),)
    return Published(fields, found, lambda like, model: map_of(like), notes, needed)


def _by_class(found: maps.Tensors) -> dict[str, list[Module]]:
    """Returns the modules of each class in order, from 'Conv_0.kernel'; from 'all_modules.0.weight' all as of one class."""
    classes: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for name, tensor in found.items():
        if match := re.fullmatch(r"(\w+)[._](\d+)\.(.+)", name):
            classes.setdefault(match[1], {}).setdefault(int(match[2]), {})[match[3]] = tensor
    return {kind: [modules[number] for number in sorted(modules)] for kind, modules in classes.items()}


def _kind(module: Module) -> str:
    """Returns the letter of a module of the PyTorch code, as `KINDS` has them; 'w' are the frequencies."""
    if "W" in module:
        return "w"
    if "weight" in module:
        return KINDS_OF_NDIM.get(module["weight"].ndim, "?")
    inside = {name.split(".")[0] for name in module}
    return next((letter for name, letter in KINDS.items() if name in inside), "?")


def _firsts(blocks: Sequence[Module]) -> list[int]:
    """Returns which residual blocks begin the stages going down; the first half of those that resample end them."""
    ends = [
        number
        for number, block in enumerate(blocks)
        if "Conv_2.bias" in block and len(block["GroupNorm_0.bias"]) == len(block["Conv_0.bias"])
    ]
    return [0, *(end + 1 for end in ends[: len(ends) // 2])]


def _structure(modules: Mapping[str, Sequence[Module]]) -> dict[str, Any]:
    """Returns the fields of the network, but for its attention."""
    blocks, channels, joined = modules["r"], len(modules["c"][0]["bias"]), modules.get("i", ())
    firsts = _firsts(blocks)
    way = "none" if not joined else "input_skip" if "Conv_0.bias" in joined[0] else "residual"
    return {
        "data.channels": len(modules["c"][-1]["bias"]),
        "model.kind": "ncsnpp",
        "model.channels": channels,
        "model.multipliers": tuple(len(blocks[first]["Conv_0.bias"]) / channels for first in firsts),
        "model.num_res_blocks": firsts[1] - 1,
        "model.embedding": "fourier" if "w" in modules else "positional",
        "model.resample_filter": (1, 3, 3, 1) if joined else (1, 1),
        "model.progressive_input": way,
        "model.progressive": "output_skip" if len(modules["n"]) > 1 else "none",
    }


def of_checkpoint(tensors: maps.Tensors, *, ema: bool = True) -> dict[str, np.ndarray]:
    """Returns the state dict in a checkpoint of the PyTorch code, without 'module.' and the table of noise levels.

    Args:
        tensors: {'model.module.all_modules...': ..., 'ema.shadow_params.0': ...}, as `tensors.read` reads the file; or a
            state dict alone.
        ema: whether its numbers are those of the exponential moving average.

    Raises:
        UserError: where the average has another number of tensors than the network.
    """
    model = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(?:model\.)?(?:module\.)?(all_modules\.\d+\..+)", name):
            model[match[1]] = tensor
    if not ema:
        return model
    trained = [name for name in model if name != FREQUENCIES]
    averages = [tensor for name, tensor in tensors.items() if name.startswith("ema.shadow_params.")]
    if len(averages) != len(trained):
        raise UserError(
            f"the checkpoint's ema.shadow_params are {len(averages)} tensors; those of its network that are trained are "
            f"{len(trained)}."
        )
    return model | dict(zip(trained, averages, strict=True))


def map_of(like: Any) -> maps.Map:
    """Returns the map of a network's parameters to the PyTorch code's, without 'module.'."""
    places = {name: f"all_modules.{number}" for number, name in enumerate(_in_order(like))}
    places |= {name: f"{places[name]}.{_class_of(name, like)[1]}" for name in places if name.endswith("_input")}

    def entry(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
        name = maps.name_of(module, places, PARTS)
        if leaf == "frequencies":
            return maps.same(f"{name}.W", shape)
        if "NIN" in name:
            return maps.same(f"{name}.{'b' if leaf == 'bias' else 'W'}", shape[-2:])
        return maps.torch(name, leaf, shape)

    return maps.of_leaves(like, entry)


def flax_map_of(like: Any) -> maps.Map:
    """Returns the map of a network's parameters to the Flax code's."""
    counts, places = {}, {}
    for name in _in_order(like):
        kind, inner = _class_of(name, like)
        number = next(counts.setdefault(kind, itertools.count()))
        places[name] = ".".join([f"{kind}_{number}", *([inner] if inner else [])])

    def entry(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
        name = maps.name_of(module, places, PARTS)
        if "NIN" in name:
            return maps.same(f"{name}.{'b' if leaf == 'bias' else 'W'}", shape[-2:])
        is_fir = leaf == "kernel" and name.endswith("Conv2d_0")
        return maps.same(f"{name}.{'W' if leaf == 'frequencies' else 'weight' if is_fir else leaf}", shape)

    return maps.of_leaves(like, entry)


def _class_of(name: str, like: Any) -> tuple[str, str]:
    """Returns the class of their module that is our block, and what in it has the weights if not the module itself."""
    if name.endswith("_input"):
        return ("Combine", "Conv_0") if like[name]["kernel"].shape[0] == 1 else ("Downsample", "Conv2d_0")
    if name.endswith("_attention"):
        return "AttnBlockpp", ""
    kinds = {"fourier": "GaussianFourierProjection", "embedding": "Dense", "norm": "GroupNorm", "conv": "Conv"}
    return kinds.get(name.split("_")[0], "ResnetBlockBigGANpp"), ""


def _in_order(like: Any) -> list[str]:
    """Returns our blocks in the order of the forward pass."""
    rows = [name.split("_") for name in like if name.startswith("up_")]
    stages = range(max(int(stage) for _, stage, *_ in rows) + 1)
    places = range(max(int(place) for _, _, place, *_ in rows if place.isdecimal()) + 1)
    names = ["fourier", "embedding_0", "embedding_1", "conv_in"]
    for i in stages:
        names += [f"down_{i}_{j}{part}" for j in places for part in ("", "_attention")]
        names += [f"down_{i}_sample", f"down_{i}_input"]
    names += ["middle_0", "middle_attention", "middle_1"]
    for i in reversed(stages):
        names += [f"up_{i}_{j}" for j in places]
        names += [f"up_{i}_attention", f"norm_out_{i}", f"conv_out_{i}", f"up_{i}_sample"]
    return [name for name in names if name in like]
