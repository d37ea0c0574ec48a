"""What must hold between the fields of a config. Imports nothing slow."""

import itertools
from collections.abc import Iterator
from typing import Any

WHOLE_GRIDS = ("ddim_quadratic", "ddim_uniform", "iddpm", "leading", "linspace", "trailing")
REAL_GRIDS = ("explicit", "karras", "log_snr", "quadratic", "uniform")
# by process, of the times that training draws
DENSITIES = {"rectified_flow": ("logit_normal", "uniform"), "ve": ("log_normal", "log_uniform"), "vp": ("uniform",)}


def _show(flat: dict[str, Any], name: str) -> str:
    return f"config field {name} = {flat[name]!r}"


def contradictions(flat: dict[str, Any]) -> Iterator[str]:
    """Yields a sentence for everything in a flat config that does not fit together."""
    return itertools.chain(_of_the_network(flat), _of_the_process(flat), _of_the_sampler(flat), _of_the_run(flat))


def _of_the_process(flat: dict[str, Any]) -> Iterator[str]:
    is_chain, kind = flat["process.kind"] == "chain", f"process.kind is {flat['process.kind']!r}"
    if flat["process.schedule"] == "linear" and flat["process.num_steps"] < 20:
        yield f"{_show(flat, 'process.num_steps')} is too short for schedule 'linear', which needs at least 20."
    if flat["process.zero_terminal_snr"] and flat["process.num_steps"] <= 1:
        yield f"{_show(flat, 'process.num_steps')} must be at least 2 with process.zero_terminal_snr = True."
    if not is_chain and flat["process.zero_terminal_snr"]:
        yield f"{_show(flat, 'process.kind')} has no schedule to rescale; set process.zero_terminal_snr = False."
    if not is_chain and flat["process.rescale_condition"]:
        yield f"{_show(flat, 'process.rescale_condition')} is for chains, and {kind}; set False."
    if not is_chain and flat["loss.name"] != "simple":
        yield f"{_show(flat, 'loss.name')} is a bound of chains, and {kind}; set loss.name = 'simple'."
    if not is_chain and flat["loss.timesteps"] == "loss_second_moment":
        yield f"{_show(flat, 'loss.timesteps')} counts the levels of a chain, and {kind}; set 'uniform' or 'stratified'."
    if flat["loss.density"] != "uniform" and is_chain:
        yield f"{_show(flat, 'loss.density')} is of real-valued times, and {kind}; set 'uniform'."
    if not is_chain and flat["loss.density"] not in (densities := DENSITIES[flat["process.kind"]]):
        yield (
            f"{_show(flat, 'loss.density')} does not fit the times of process {flat['process.kind']!r}; set "
            f"{' or '.join(map(repr, densities))}."
        )


def _of_the_sampler(flat: dict[str, Any]) -> Iterator[str]:
    is_chain, is_ode = flat["process.kind"] == "chain", flat["sample.sampler"] == "ode"
    is_whole = is_chain and flat["sample.grid"] in WHOLE_GRIDS
    if flat["sample.num_steps"] + (flat["sample.end"] == "lowest") > flat["process.num_steps"] and is_whole and not is_ode:
        yield (
            f"{_show(flat, 'sample.num_steps')} must be at most process.num_steps = {flat['process.num_steps']} for "
            f"sample.grid = {flat['sample.grid']!r}."
        )
    if not is_chain and flat["sample.grid"] not in ("trailing", *REAL_GRIDS):
        yield (
            f"{_show(flat, 'sample.grid')} counts the levels of a chain, and process.kind is {flat['process.kind']!r}; "
            f"use one of trailing, {', '.join(REAL_GRIDS)}."
        )
    if (flat["sample.grid"] == "explicit") != bool(flat["sample.times"]):
        yield (
            f"{_show(flat, 'sample.times')} does not fit sample.grid = {flat['sample.grid']!r}: 'explicit' needs "
            "times, the other grids take none."
        )
    if flat["sample.grid"] == "explicit" and flat["sample.end"] != "data":
        yield f"{_show(flat, 'sample.end')} is not for sample.grid = 'explicit', whose times end where they end; set 'data'."
    if flat["sample.grid"] == "trailing" and flat["sample.end"] == "lowest" and not is_ode:
        yield f"{_show(flat, 'sample.end')} is not for sample.grid = 'trailing', which leads to the data; set 'uniform'."
    if is_ode and flat["sample.grid"] == "explicit":
        yield f"{_show(flat, 'sample.grid')} is not for sample.sampler = 'ode', whose steps are its own; set 'trailing'."
    if is_ode and flat["sample.clip"] != "none":
        yield f"{_show(flat, 'sample.clip')} is not for sample.sampler = 'ode', whose flow must be smooth; set 'none'."
    if flat["sample.churn"][0] != 0 and flat["sample.sampler"] not in ("euler", "heun"):
        yield f"{_show(flat, 'sample.churn')} is for sample.sampler = 'euler' or 'heun'; set the first number to 0."
    num_steps = len(flat["sample.times"]) - 1 if flat["sample.times"] else flat["sample.num_steps"]
    if flat["sample.strip"] > num_steps:
        yield f"{_show(flat, 'sample.strip')} must be at most the number of steps, {num_steps}."
    if flat["sample.strip"] != 0 and is_ode:
        yield f"{_show(flat, 'sample.strip')} is impossible with sample.sampler = 'ode', whose steps are its own; set 0."


def _of_the_network(flat: dict[str, Any]) -> Iterator[str]:
    num_levels = len(flat["model.multipliers"])
    multiple = 2 ** (num_levels - 1)
    attended = [level for level in {*flat["model.attention_levels"], num_levels - 1} if level < num_levels]
    widths = [flat["model.channels"] * flat["model.multipliers"][level] for level in attended]
    per_head = "model.head_channels" if flat["model.head_channels"] else "model.num_heads"
    heads = {flat[per_head], flat["model.num_heads_up"] or flat[per_head]}
    heads = {flat[per_head]} if flat["model.head_channels"] else heads  # then the number going up is not used
    if not all(size % multiple == 0 for size in flat["data.image_size"]):
        yield (
            f"{_show(flat, 'data.image_size')} does not fit {num_levels} levels of model.multipliers; "
            f"height and width must be multiples of {multiple}."
        )
    if flat["model.channels"] % flat["model.num_groups"] != 0:
        yield f"{_show(flat, 'model.channels')} must be a multiple of model.num_groups = {flat['model.num_groups']}."
    if flat["model.channels"] % 2 != 0:
        yield f"{_show(flat, 'model.channels')} must be even."
    if not all(level < num_levels for level in flat["model.attention_levels"]):
        yield (
            f"{_show(flat, 'model.attention_levels')} names a level that model.multipliers lacks; "
            f"it has 0 to {num_levels - 1}."
        )
    if not all(width % number == 0 for width in widths for number in heads):
        yield (
            f"{_show(flat, per_head)} (and model.num_heads_up = {flat['model.num_heads_up']}) must divide the channels of "
            f"every level with attention, here {', '.join(map(str, widths))}."
        )
    if flat["model.learned_variance"] == (flat["loss.name"] == "simple"):
        yield (
            f"{_show(flat, 'model.learned_variance')} does not fit loss.name = {flat['loss.name']!r}: 'hybrid' and 'vlb' "
            "train the variance and need it, 'simple' does not."
        )


def _of_the_run(flat: dict[str, Any]) -> Iterator[str]:
    num_classes, rates = flat["model.num_classes"], flat["train.ema_rates"]
    has_null = flat["model.null_label"] and num_classes > 0
    if flat["loss.weighting"] != "constant" and flat["loss.name"] != "simple":
        yield f"{_show(flat, 'loss.weighting')} is for loss.name = 'simple'."
    if flat["train.warmup_steps"] >= flat["train.num_steps"]:
        yield f"{_show(flat, 'train.warmup_steps')} must be below train.num_steps = {flat['train.num_steps']}; set both."
    if flat["train.label_dropout"] != 0 and not has_null:
        yield f"{_show(flat, 'train.label_dropout')} needs model.num_classes above 0 and model.null_label = True."
    if flat["sample.label"] >= num_classes + has_null:
        yield f"{_show(flat, 'sample.label')} is no label of model.num_classes = {num_classes}; -1 goes through all."
    if not flat["model.learned_variance"] and flat["sample.variance"] == "learned_range":
        yield f"{_show(flat, 'sample.variance')} needs model.learned_variance = True."
    if flat["sample.ema_rate"] not in (0, *rates):
        yield (
            f"{_show(flat, 'sample.ema_rate')} must be one of train.ema_rates = {rates!r}, "
            "or 0 for the parameters themselves."
        )
