"""What a config may say: every field with the values it takes, and its form as JSON. Imports nothing slow.

A config is a nested mapping; here it is flat, {"process.num_steps": 1000, ...}. What the fields mean stands beside their
defaults in configs/cifar10.py; what becomes of them, in build.py.
"""

import difflib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diffusion_jax.errors import UserError

FORMAT_VERSION = 2  # of config.json and of the checkpoints beside it


class Rule(NamedTuple):
    """Which values a field takes, as a predicate and in words."""

    admits: Callable[[Any], bool]
    allowed: str


def _one_of(*names: str) -> Rule:
    return Rule(lambda value: value in names, "one of " + ", ".join(names))


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _integer(low: int, high: int = 2**31 - 1) -> Rule:
    return Rule(lambda value: _is_int(value) and low <= value <= high, f"a whole number from {low} to {high}")


def _real(admits: Callable[[float], bool], allowed: str) -> Rule:
    return Rule(lambda value: _is_real(value) and admits(value), allowed)


def _integers(low: int, length: int | None = None) -> Rule:
    def admits(value: Any) -> bool:
        return (
            isinstance(value, tuple)
            and (length is None or len(value) == length)
            and all(_is_int(item) and item >= low for item in value)
        )

    count = "" if length is None else f"{length} "
    return Rule(admits, f"a tuple of {count}whole numbers, each at least {low}")


_FLAG = Rule(lambda value: isinstance(value, bool), "True or False")
_TEXT = Rule(lambda value: isinstance(value, str), "text")
_FRACTION = _real(lambda value: 0 <= value < 1, "a number from 0 up to, not including, 1")
_POSITIVE = _real(lambda value: 0 < value < math.inf, "a finite number above 0")
_RATES = Rule(
    lambda value: isinstance(value, tuple) and all(_is_real(rate) and 0 < rate < 1 for rate in value),
    "a tuple of numbers between 0 and 1",
)

FIELDS: dict[str, Rule] = {
    "process.schedule": _one_of(
        *["constant", "cosine", "jsd", "linear", "linear_raw", "scaled_linear"],
        *["sigmoid", "sigmoid_beta", "warmup10", "warmup50"],
    ),
    "process.num_steps": _integer(1),
    "process.zero_terminal_snr": _FLAG,
    "process.rescale_condition": _FLAG,
    "predicts": _one_of("eps", "score", "v", "velocity", "x_0"),
    "model.channels": _integer(4),
    "model.multipliers": Rule(
        lambda value: value != () and _integers(1).admits(value), _integers(1).allowed + ", at least one"
    ),
    "model.num_res_blocks": _integer(1),
    "model.attention_levels": _integers(0),
    "model.dropout": _FRACTION,
    "model.num_groups": _integer(1),
    "model.norm_epsilon": _POSITIVE,
    "model.scale_shift_norm": _FLAG,
    "model.resample": _one_of("conv", "res_block"),
    "model.downsample_padding": _one_of("all_sides", "bottom_right"),
    "model.embedding_spacing": _one_of("closed", "half_open"),
    "model.num_heads": _integer(1),
    "model.num_heads_up": _integer(0),
    "model.head_channels": _integer(0),
    "model.num_classes": _integer(0),
    "model.null_label": _FLAG,
    "model.learned_variance": _FLAG,
    "model.remat": _FLAG,
    "model.dtype": _one_of("bfloat16", "float32"),
    "loss.name": _one_of("hybrid", "simple", "vlb"),
    "loss.weighting": _one_of("constant", "min_snr", "p2", "truncated_snr"),
    "loss.timesteps": _one_of("loss_second_moment", "stratified", "uniform"),
    "train.num_steps": _integer(1),
    "train.batch_size": _integer(0),
    "train.learning_rate": _POSITIVE,
    "train.decay": _one_of("constant", "cosine"),
    "train.warmup_steps": _integer(0),
    "train.grad_clip": _real(lambda value: value > 0, "a number above 0; inf for none"),
    "train.ema_rates": _RATES,
    "train.ema_warmup": _FLAG,
    "train.label_dropout": _FRACTION,
    "train.seed": _integer(0),
    "train.init_from": _TEXT,
    "train.steps_per_call": _integer(0),
    "train.max_skipped": _integer(1),
    "train.num_fsdp": _integer(1),
    "train.log_every": _integer(1),
    "train.checkpoint_every": _integer(1),
    "train.sample_every": _integer(1),
    "train.keep_checkpoints": _integer(1),
    "train.tensorboard": _FLAG,
    "data.source": _one_of("digits", "folder", "idx", "npz", "tfds"),
    "data.name": _TEXT,
    "data.path": _TEXT,
    "data.held_out": _TEXT,
    "data.image_size": _integers(1, 2),
    "data.channels": _integer(1),
    "data.center_crop": _integer(0),
    "data.resize": _FLAG,
    "data.resident_gib": _real(lambda value: 0 <= value < math.inf, "a finite number from 0"),
    "data.random_flip": _FLAG,
    "sample.sampler": _one_of("ancestral", "ddim"),
    "sample.grid": _one_of("ddim_quadratic", "ddim_uniform", "iddpm", "leading", "linspace", "trailing"),
    "sample.num_steps": _integer(1),
    "sample.eta": _real(lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "sample.variance": _one_of("large", "learned_range", "small"),
    "sample.clip": _one_of("dynamic", "none", "static", "static_eps_kept"),
    "sample.num_images": _integer(1),
    "sample.batch_per_device": _integer(1),
    "sample.shard_size": _integer(1),
    "sample.strip": _integer(0),
    "sample.seed": _integer(0),
    "sample.ema_rate": _FRACTION,
    "sample.label": _integer(-1),
    "sample.step": _integer(-1),
    "likelihood.kind": _one_of("bound", "flow"),
    "likelihood.held_out": _FLAG,
    "likelihood.num_images": _integer(0),
    "likelihood.batch_per_device": _integer(1),
    "likelihood.shard_size": _integer(1),
    "likelihood.probes": _one_of("normal", "rademacher"),
    "likelihood.num_probes": _integer(1),
    "likelihood.tolerance": _POSITIVE,
}

# A run may be resumed with these changed; with anything else changed it would be another run.
FREE_ON_RESUME = frozenset(
    ["train.num_steps", "train.steps_per_call", "train.max_skipped", "train.num_fsdp", "train.log_every"]
    + [
        "model.remat",
        "train.checkpoint_every",
        "train.sample_every",
        "train.keep_checkpoints",
        "train.tensorboard",
        "data.path",
        "data.held_out",
        "data.resident_gib",
    ]
    + [name for name in FIELDS if name.startswith(("sample.", "likelihood."))]
)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested config as {"section.field": value}."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def check_name(name: str) -> None:
    """Raises UserError for a field that does not exist; the sentence lists those that do."""
    if name in FIELDS:
        return
    section = name.split(".")[0] + "."
    known = [field for field in FIELDS if field.startswith(section)] or sorted({field.split(".")[0] for field in FIELDS})
    if name + "." == section and known[0].startswith(section):
        raise UserError(f"config field {name!r} is a section; set one of {', '.join(known)}.")
    close = difflib.get_close_matches(name, FIELDS, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise UserError(f"config field {name!r} is unknown; known: {', '.join(known)}.{hint}")


def check(config: Mapping[str, Any]) -> None:
    """Checks a config before anything is built from it.

    Raises:
        UserError: one sentence with the field, its value and what is allowed.
    """
    flat = flatten(config)
    for name in flat:
        check_name(name)
    if missing := [name for name in FIELDS if name not in flat]:
        raise UserError(f"config field {missing[0]!r} is missing; it must be {FIELDS[missing[0]].allowed}.")
    for name, rule in FIELDS.items():
        if not rule.admits(flat[name]):
            raise UserError(f"config field {name} = {flat[name]!r} is not allowed; it must be {rule.allowed}.")
    for holds, sentence in _checks_of_the_network(flat) + _checks_of_the_run(flat):
        if not holds:
            raise UserError(sentence)


Checks = list[tuple[bool, str]]  # (what must hold between fields, the sentence for when it does not)


def _show(flat: dict[str, Any], name: str) -> str:
    return f"config field {name} = {flat[name]!r}"


def _checks_of_the_network(flat: dict[str, Any]) -> Checks:
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


def _checks_of_the_run(flat: dict[str, Any]) -> Checks:
    num_classes, rates = flat["model.num_classes"], flat["train.ema_rates"]
    has_null = flat["model.null_label"] and num_classes > 0
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
            flat["sample.num_steps"] <= flat["process.num_steps"],
            f"{_show(flat, 'sample.num_steps')} must be at most process.num_steps = {flat['process.num_steps']}.",
        ),
        (
            flat["sample.strip"] <= flat["sample.num_steps"],
            f"{_show(flat, 'sample.strip')} must be at most sample.num_steps = {flat['sample.num_steps']}.",
        ),
        (
            flat["sample.ema_rate"] in (0, *rates),
            f"{_show(flat, 'sample.ema_rate')} must be one of train.ema_rates = {rates!r}, "
            "or 0 for the parameters themselves.",
        ),
    ]


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that say which run this is: those that may not change on resume, flat."""
    return {name: value for name, value in flatten(config).items() if name not in FREE_ON_RESUME}


def changed(stored: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Returns 'field: stored -> new' for every field that differs and may not change on resume.

    A new `train.batch_size` of 0 leaves the choice, and so is no difference.
    """
    old, new = identity(stored), identity(config)
    return [
        f"{name}: {old.get(name)!r} -> {new.get(name)!r}"
        for name in FIELDS
        if old.get(name) != new.get(name) and not (name == "train.batch_size" and new.get(name) == 0)
    ]


def to_json(config: Mapping[str, Any], versions: dict[str, str]) -> str:
    """Returns config.json's text: the nested config, the format's version and the packages' versions."""
    nested: dict[str, Any] = {}
    for name, value in flatten(config).items():
        *sections, field = name.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[field] = value
    return json.dumps({"format_version": FORMAT_VERSION, "config": nested, "versions": versions}, indent=2) + "\n"


def from_json(text: str) -> dict[str, Any]:
    """Returns the nested config in config.json's text, lists as tuples again.

    Raises:
        UserError: where the text is not such a config, or is of a later format.
    """
    try:
        stored = json.loads(text)
        version, config = stored["format_version"], stored["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"config.json is damaged ({type(error).__name__}: {error}).") from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"config.json has format_version = {version!r}; this version of diffusion_jax reads {FORMAT_VERSION}."
        )
    return _tuples(config)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(value) if isinstance(value, list) else value
