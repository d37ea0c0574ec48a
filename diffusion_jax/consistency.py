"""What must hold between the fields of a config. Imports nothing slow."""

from typing import Any

WHOLE_GRIDS = ("ddim_quadratic", "ddim_uniform", "iddpm", "leading", "linspace", "trailing")
REAL_GRIDS = ("explicit", "karras", "log_snr", "quadratic", "uniform")

Checks = list[tuple[bool, str]]  # (what must hold between fields, the sentence for when it does not)


def _show(flat: dict[str, Any], name: str) -> str:
    return f"config field {name} = {flat[name]!r}"


def rules(flat: dict[str, Any]) -> Checks:
    """Returns what must hold of a flat config, each with the sentence for when it does not."""
    return _of_the_network(flat) + _of_the_process(flat) + _of_the_sampler(flat) + _of_the_run(flat)


def _of_the_process(flat: dict[str, Any]) -> Checks:
    is_chain, kind = flat["process.kind"] == "chain", _show(flat, "process.kind")
    return [
        (
            flat["process.schedule"] != "linear" or flat["process.num_steps"] >= 20,
            f"{_show(flat, 'process.num_steps')} is too short for schedule 'linear', which needs at least 20.",
        ),
        (
            not flat["process.zero_terminal_snr"] or flat["process.num_steps"] > 1,
            f"{_show(flat, 'process.num_steps')} must be at least 2 with process.zero_terminal_snr = True.",
        ),
        (
            is_chain or not flat["process.zero_terminal_snr"],
            f"{kind} has no schedule to rescale; set process.zero_terminal_snr = False.",
        ),
        (
            is_chain or flat["loss.name"] == "simple",
            f"{_show(flat, 'loss.name')} is a bound of chains, and {kind}; set loss.name = 'simple'.",
        ),
        (
            is_chain or flat["loss.timesteps"] != "loss_second_moment",
            f"{_show(flat, 'loss.timesteps')} counts the levels of a chain, and {kind}; set 'uniform' or 'stratified'.",
        ),
        (
            flat["loss.density"] == "uniform" or not is_chain,
            f"{_show(flat, 'loss.density')} is of real-valued times, and {kind}; set 'uniform'.",
        ),
        (
            flat["loss.density"] != "logit_normal" or flat["process.kind"] != "ve",
            f"{_show(flat, 'loss.density')} is of times from 0 to 1, and {kind}; set 'log_normal' or 'log_uniform'.",
        ),
    ]


def _of_the_sampler(flat: dict[str, Any]) -> Checks:
    is_chain, is_ode = flat["process.kind"] == "chain", flat["sample.sampler"] == "ode"
    is_whole = is_chain and flat["sample.grid"] in WHOLE_GRIDS
    return [
        (
            flat["sample.num_steps"] <= flat["process.num_steps"] or not is_whole,
            f"{_show(flat, 'sample.num_steps')} must be at most process.num_steps = {flat['process.num_steps']} with "
            f"{_show(flat, 'sample.grid')}.",
        ),
        (
            is_chain or flat["sample.grid"] in ("trailing", *REAL_GRIDS),
            f"{_show(flat, 'sample.grid')} counts the levels of a chain, and {_show(flat, 'process.kind')}; use one of "
            f"trailing, {', '.join(REAL_GRIDS)}.",
        ),
        (
            (flat["sample.grid"] == "explicit") == (flat["sample.times"] != ()),
            f"{_show(flat, 'sample.times')} does not fit {_show(flat, 'sample.grid')}: 'explicit' needs times, the other "
            "grids take none.",
        ),
        (
            flat["sample.grid"] != "explicit" or flat["sample.end"] == "data",
            f"{_show(flat, 'sample.end')} is not for sample.grid = 'explicit', whose times end where they end; set 'data'.",
        ),
        (
            flat["sample.churn"][0] == 0 or flat["sample.sampler"] in ("euler", "heun"),
            f"{_show(flat, 'sample.churn')} is for sample.sampler = 'euler' or 'heun'; set the first number to 0.",
        ),
        (
            flat["sample.strip"] <= flat["sample.num_steps"],
            f"{_show(flat, 'sample.strip')} must be at most sample.num_steps = {flat['sample.num_steps']}.",
        ),
        (
            flat["sample.strip"] == 0 or not is_ode,
            f"{_show(flat, 'sample.strip')} is impossible with sample.sampler = 'ode', whose steps are its own; set 0.",
        ),
    ]


def _of_the_network(flat: dict[str, Any]) -> Checks:
    num_levels = len(flat["model.multipliers"])
    multiple = 2 ** (num_levels - 1)
    attended = [level for level in {*flat["model.attention_levels"], num_levels - 1} if level < num_levels]
    widths = [flat["model.channels"] * flat["model.multipliers"][level] for level in attended]
    per_head = "model.head_channels" if flat["model.head_channels"] else "model.num_heads"
    heads = [flat[per_head], flat["model.num_heads_up"] or flat[per_head]]
    return [
        (
            all(size % multiple == 0 for size in flat["data.image_size"]),
            f"{_show(flat, 'data.image_size')} does not fit {num_levels} levels of model.multipliers; "
            f"height and width must be multiples of {multiple}.",
        ),
        (
            flat["model.channels"] % flat["model.num_groups"] == 0,
            f"{_show(flat, 'model.channels')} must be a multiple of model.num_groups = {flat['model.num_groups']}.",
        ),
        (flat["model.channels"] % 2 == 0, f"{_show(flat, 'model.channels')} must be even."),
        (
            all(level < num_levels for level in flat["model.attention_levels"]),
            f"{_show(flat, 'model.attention_levels')} names a level that model.multipliers lacks; "
            f"it has 0 to {num_levels - 1}.",
        ),
        (
            all(width % number == 0 for width in widths for number in heads),
            f"{_show(flat, per_head)} (and model.num_heads_up = {flat['model.num_heads_up']}) must divide the channels of "
            f"every level with attention, here {', '.join(map(str, widths))}.",
        ),
        (
            flat["model.learned_variance"] == (flat["loss.name"] != "simple"),
            f"{_show(flat, 'model.learned_variance')} does not fit loss.name = {flat['loss.name']!r}: 'hybrid' and 'vlb' "
            "train the variance and need it, 'simple' does not.",
        ),
    ]


def _of_the_run(flat: dict[str, Any]) -> Checks:
    num_classes, rates = flat["model.num_classes"], flat["train.ema_rates"]
    has_null = flat["model.null_label"] and num_classes > 0
    return [
        (
            flat["loss.weighting"] == "constant" or flat["loss.name"] == "simple",
            f"{_show(flat, 'loss.weighting')} is for loss.name = 'simple'.",
        ),
        (
            flat["train.warmup_steps"] < flat["train.num_steps"],
            f"{_show(flat, 'train.warmup_steps')} must be below train.num_steps = {flat['train.num_steps']}; set both.",
        ),
        (
            flat["train.label_dropout"] == 0 or has_null,
            f"{_show(flat, 'train.label_dropout')} needs model.num_classes above 0 and model.null_label = True.",
        ),
        (
            flat["sample.label"] < num_classes + has_null,
            f"{_show(flat, 'sample.label')} is no label of model.num_classes = {num_classes}; -1 goes through all.",
        ),
        (
            flat["model.learned_variance"] or flat["sample.variance"] != "learned_range",
            f"{_show(flat, 'sample.variance')} needs model.learned_variance = True.",
        ),
        (
            flat["sample.ema_rate"] in (0, *rates),
            f"{_show(flat, 'sample.ema_rate')} must be one of train.ema_rates = {rates!r}, "
            "or 0 for the parameters themselves.",
        ),
    ]
