"""Weights of score_sde's `ncsnpp` network, of its PyTorch code and of its Flax code. [Song et al. 2021, score SDE]

Both count modules in the order of the forward pass: PyTorch all of them, Flax those of each class. What of the function is
not in the weights is in the process: 'vp' with the output eps; 've_sde' with the output -eps, which their network divides by
sigma into a score.
"""

import itertools
import re
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.weights import maps
from diffusion_jax.weights.sources import Published, Source

PARTS = {"norm1": "GroupNorm_0", "conv1": "Conv_0", "embedding": "Dense_0", "norm2": "GroupNorm_1", "conv2": "Conv_1"}
PARTS |= {"shortcut": "Conv_2", "norm": "GroupNorm_0", "query": "NIN_0", "key": "NIN_1", "value": "NIN_2", "out": "NIN_3"}
FREQUENCIES = "all_modules.0.W"  # not trained, so that their EMA does not have them
ATTENDED = 16  # pixels, at which they have attention, whatever the size of the images
KINDS = {"Dense_0": "r", "NIN_0": "a", "Conv2d_0": "i", "Conv_0": "i"}  # what a module has in it -> a letter for it
KINDS_OF_NDIM = {1: "n", 2: "d", 4: "c"}  # the same of a module that is a weight and a bias
SAMPLING = {"sample.num_steps": 1000, "sample.variance": "small", "sample.clip": "none"}
VP = SAMPLING | {"process.kind": "vp", "predicts": "eps", "sample.grid": "uniform"}
VE = SAMPLING | {"process.kind": "ve_sde", "predicts": "scaled_score", "sample.grid": "log_snr"}
VE |= {"loss.time_density": "log_uniform", "process.sigma_min": 0.02, "process.sigma_max": 100.0}  # the last, of CIFAR-10


def published(source: Source) -> Published | None:
    """Returns a model of the PyTorch code's `ncsnpp`, with its averages where there are some; None for another model."""
    found = of_checkpoint(source.tensors, ema="ema.shadow_params.0" in source.tensors)
    modules = _kinds(found)
    if not re.fullmatch("w?ddc[rasinc]+", modules) or "s" not in modules:
        return None
    fields, is_fourier = _structure(found, modules), modules.startswith("w")
    unknown = {True: "process.sigma_max", False: "process.kind"}[is_fourier]
    needed = () if is_fourier and fields["data.image_size"] == (32, 32) else ((unknown,),)
    notes = ("the filter is taken to be the paper's, and the side of the images the one with attention at 16 pixels.",)
    return Published(fields | (VE if is_fourier else VP), found, lambda like, model: map_of(like), notes, needed)


def _kinds(found: maps.Tensors) -> str:
    """Returns a letter for each module, as `KINDS` has them; 's' is a block that resamples, 'w' the frequencies."""
    parts: dict[int, dict[str, np.ndarray]] = {}
    for name, tensor in found.items():
        _, number, part = name.split(".", 2)
        parts.setdefault(int(number), {})[part] = tensor
    return "".join(_kind(module) for _, module in sorted(parts.items()))


def _kind(module: dict[str, np.ndarray]) -> str:
    if "W" in module:
        return "w"
    if "weight" in module:
        return KINDS_OF_NDIM.get(module["weight"].ndim, "?")
    inside = {name.split(".")[0] for name in module}
    kind = next((letter for name, letter in KINDS.items() if name in inside), "?")
    conv = module.get("Conv_0.weight", np.empty((0, 1)))
    return "s" if kind == "r" and "Conv_2" in inside and conv.shape[0] == conv.shape[1] else kind


def _structure(found: maps.Tensors, modules: str) -> dict[str, Any]:
    """Returns the fields of the network; the first half of the blocks that resample end the stages going down."""
    start, ends = modules.index("c"), [match.start() for match in re.finditer("s", modules)]
    ends = ends[: len(ends) // 2]
    firsts = [modules.index("r", place) for place in (start, *ends)]
    first, channels = found[f"all_modules.{start}.weight"], len(found[f"all_modules.{start}.weight"])
    attended = tuple(stage for stage, block in enumerate(firsts) if modules[block + 1] == "a")
    side, is_ncsnpp = ATTENDED << attended[0] if attended else 1, modules[ends[0] + 1] == "i"
    way = "input_skip" if f"all_modules.{ends[0] + 1}.Conv_0.weight" in found else "residual"
    return {
        "data.channels": first.shape[1],
        "data.image_size": (side, side),
        "model.kind": "ncsnpp",
        "model.channels": channels,
        "model.multipliers": tuple(len(found[f"all_modules.{block}.Conv_0.weight"]) / channels for block in firsts),
        "model.num_res_blocks": modules[start : ends[0]].count("r"),
        "model.attention_stages": attended,
        "model.embedding": "fourier" if modules.startswith("w") else "positional",
        "model.resample_filter": (1, 3, 3, 1) if is_ncsnpp else (1, 1),
        "model.progressive_input": way if is_ncsnpp else "none",
        "model.progressive": "output_skip" if modules.count("n") > 1 else "none",
    }


def read(tensors: maps.Tensors, like: Any) -> Any:
    """Returns the parameters of a state dict of the PyTorch code, such as `of_checkpoint`; errors as for `maps.read`."""
    return maps.read(tensors, like, map_of(like))


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


def read_flax(tensors: maps.Tensors, like: Any) -> Any:
    """Returns the parameters of the Flax code's `params_ema`, by names as 'Conv_0.kernel'; errors as for `maps.read`."""
    return maps.read(tensors, like, flax_map_of(like))


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
        return maps.torch(f"{name}.{'bias' if leaf == 'bias' else 'weight'}", shape)

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
