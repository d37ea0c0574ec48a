"""What a config may say: every field with the values it takes, and its form as JSON. Imports nothing slow.

A config is a nested mapping; here it is flat, {"process.num_steps": 1000, ...}. What the fields mean stands beside their
defaults in configs/cifar10.py; what becomes of them, in build/.
"""

import difflib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diffusion_jax.compose import consistency
from diffusion_jax.errors import UserError
from diffusion_jax.runs.shards import flatten

FORMAT_VERSION = 5  # of config.json and of the checkpoints beside it
ADDED = {  # format_version -> fields that the one before had not, with what was done before they could be said
    3: {
        "process.kind": "chain",
        "loss.density": "uniform",
        "train.split_update": False,
        "sample.times": (),
        "sample.end": "data",
        "sample.interpolation": "log_alpha",
        "sample.order": 2,
        "sample.solves_for": "x_0",
        "sample.lower_order_final": True,
        "sample.churn": (0.0, 0.0, 1e9, 1.0),
        "sample.tolerance": 1e-5,
    },
    4: {"compilation_cache": True, "train.deterministic": False},
    5: {"model.num_remat_levels": 0},  # instead of "model.remat", on which no result depended
}

MOST_ITEMS = 32  # of a tuple of whole numbers: a network of more levels halves every image to nothing


class Rule(NamedTuple):
    """Which values a field takes, as a predicate and in words."""

    admits: Callable[[Any], bool]
    allowed: str


def _one_of(*names: str) -> Rule:
    return Rule(lambda value: isinstance(value, str) and value in names, "one of " + ", ".join(names))


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    """Returns whether a value is a number that a float can be; comparing, unlike math.isnan, takes any whole number."""
    if isinstance(value, float):
        return not math.isnan(value)
    return _is_int(value) and abs(value) < 2**1023


def _integer(low: int, high: int = 2**31 - 1) -> Rule:
    return Rule(lambda value: _is_int(value) and low <= value <= high, f"a whole number from {low} to {high}")


def _real(admits: Callable[[float], bool], allowed: str) -> Rule:
    return Rule(lambda value: _is_real(value) and admits(value), allowed)


def _tuple_of(admits: Callable[[Any], bool], allowed: str, lengths: range = range(2**31)) -> Rule:
    return Rule(lambda value: isinstance(value, tuple) and len(value) in lengths and all(map(admits, value)), allowed)


def _integers(low: int, lengths: range = range(MOST_ITEMS + 1), count: str = "") -> Rule:
    allowed = f"a tuple of {count}whole numbers, each at least {low}"
    return _tuple_of(lambda item: _is_int(item) and low <= item < 2**31, allowed, lengths)


_FLAG = Rule(lambda value: isinstance(value, bool), "True or False")
_TEXT = Rule(lambda value: isinstance(value, str), "text")
_FRACTION = _real(lambda value: 0 <= value < 1, "a number from 0 up to, not including, 1")
_POSITIVE = _real(lambda value: 0 < value < math.inf, "a finite number above 0")
_RATES = _tuple_of(lambda item: _is_real(item) and 0 < item < 1, "a tuple of numbers between 0 and 1")
_CHURN = _tuple_of(
    lambda item: _is_real(item) and item >= 0, "a tuple of 4 numbers from 0, such as (40, 0.05, 50, 1.003)", range(4, 5)
)
_TIMES = _tuple_of(lambda item: _is_real(item) and 0 <= item < math.inf, "a tuple of finite numbers from 0")

FIELDS: dict[str, Rule] = {
    "compilation_cache": _FLAG,
    "process.kind": _one_of("chain", "rectified_flow", "ve", "vp"),
    "process.schedule": _one_of(
        *["constant", "cosine", "jsd", "linear", "linear_raw", "scaled_linear"],
        *["sigmoid", "sigmoid_beta", "warmup10", "warmup50"],
    ),
    "process.num_steps": _integer(1),
    "process.zero_terminal_snr": _FLAG,
    "process.rescale_condition": _FLAG,
    "predicts": _one_of("edm", "eps", "score", "v", "velocity", "x_0"),
    "model.channels": _integer(4),
    "model.multipliers": _integers(1, range(1, MOST_ITEMS + 1), "one or more "),
    "model.num_res_blocks": _integer(1, 64),
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
    "model.num_remat_levels": _integer(0, MOST_ITEMS),
    "model.dtype": _one_of("bfloat16", "float32"),
    "loss.name": _one_of("hybrid", "simple", "vlb"),
    "loss.weighting": _one_of("constant", "min_snr", "p2", "truncated_snr"),
    "loss.timesteps": _one_of("loss_second_moment", "stratified", "uniform"),
    "loss.density": _one_of("log_normal", "log_uniform", "logit_normal", "uniform"),
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
    "train.split_update": _FLAG,
    "train.deterministic": _FLAG,
    "train.log_every": _integer(1),
    "train.checkpoint_every": _integer(1),
    "train.sample_every": _integer(1),
    "train.keep_checkpoints": _integer(1),
    "train.tensorboard": _FLAG,
    "data.source": _one_of("digits", "folder", "idx", "npz", "tfds"),
    "data.name": _TEXT,
    "data.path": _TEXT,
    "data.held_out": _TEXT,
    "data.image_size": _integers(1, range(2, 3), "2 "),
    "data.channels": _integer(1),
    "data.center_crop": _integer(0),
    "data.resize": _FLAG,
    "data.resident_gib": _real(lambda value: 0 <= value < math.inf, "a finite number from 0"),
    "data.random_flip": _FLAG,
    "sample.sampler": _one_of(
        *["ancestral", "ddim", "dpm_solver", "dpm_solver_sde", "dpm_solver_singlestep"],
        *["euler", "euler_ancestral", "heun", "ode", "unipc"],
    ),
    "sample.grid": _one_of(*sorted(consistency.WHOLE_GRIDS + consistency.REAL_GRIDS)),
    "sample.num_steps": _integer(1),
    "sample.times": _TIMES,
    "sample.end": _one_of("data", "lowest"),
    "sample.interpolation": _one_of("log_alpha", "log_snr"),
    "sample.eta": _real(lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    "sample.order": _integer(1, 3),
    "sample.solves_for": _one_of("eps", "x_0"),
    "sample.lower_order_final": _FLAG,
    "sample.churn": _CHURN,
    "sample.tolerance": _real(lambda value: 1e-7 <= value < 1, "a number from 1e-7 up to, not including, 1"),
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
    [
        *["compilation_cache", "model.num_remat_levels", "data.path", "data.held_out", "data.resident_gib"],
        *["train.num_steps", "train.steps_per_call", "train.max_skipped", "train.deterministic"],
        *["train.num_fsdp", "train.split_update", "train.log_every", "train.checkpoint_every", "train.sample_every"],
        *["train.keep_checkpoints", "train.tensorboard"],
        *[name for name in FIELDS if name.startswith(("sample.", "likelihood."))],
    ]
)


def check_name(name: str) -> None:
    """Raises UserError for a field that does not exist; the sentence lists those that do."""
    if name in FIELDS:
        return
    section = name.split(".")[0] + "."
    known = [field for field in FIELDS if field.startswith(section)] or sorted({field.split(".")[0] for field in FIELDS})
    if name + "." == section and known[0].startswith(section):
        raise UserError(f"config field {name!r} is a section; set one of {', '.join(known)}.")
    close = difflib.get_close_matches(name, FIELDS, n=1)
    hint = f"did you mean {close[0]}? Known" if close else "known"
    raise UserError(f"config field {name!r} is unknown; {hint}: {', '.join(known)}.")


def _shown(value: Any) -> str:
    """Returns a value as a sentence can hold it: Python writes no whole number of more than 4,300 digits."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of too many digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def not_allowed(name: str, value: Any) -> str:
    """Returns what to say of a value that a field does not take."""
    return f"config field {name} = {_shown(value)} is not allowed; it must be {FIELDS[name].allowed}."


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
            raise UserError(not_allowed(name, flat[name]))
    for sentence in consistency.contradictions(flat):
        raise UserError(sentence)


def with_values(config: Mapping[str, Any], section: str, **values) -> dict[str, Any]:
    """Returns the nested config with fields of one section changed; `check` it where they come from a user."""
    return {**config, section: {**config[section], **values}}


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


def to_json(config: Mapping[str, Any], versions: dict[str, str], **more: Any) -> str:
    """Returns config.json's text: the nested config, the format's and the packages' versions, and what else is given."""
    stored = {"format_version": FORMAT_VERSION, "config": _nested(flatten(config)), "versions": versions, **more}
    return json.dumps(stored, indent=2) + "\n"


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, field = name.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[field] = value
    return nested


def from_json(text: str) -> dict[str, Any]:
    """Returns the nested config in config.json's text, lists as tuples again; fields that it is too old for are filled in.

    Raises:
        UserError: where the text is not such a config, or is of a later format.
    """
    try:
        stored = json.loads(text)
        version, flat = stored["format_version"], flatten(_nested(flatten(_tuples(stored["config"]))))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"config.json is damaged ({type(error).__name__}: {error}).") from error
    if not _is_int(version) or version not in range(min(ADDED) - 1, FORMAT_VERSION + 1):
        raise UserError(
            f"config.json has format_version = {_shown(version)}; this version of diffusion_jax reads {min(ADDED) - 1} to "
            f"{FORMAT_VERSION}."
        )
    if version < 5:
        flat.pop("model.remat", None)
    for later in range(version + 1, FORMAT_VERSION + 1):
        flat = ADDED[later] | flat
    check(config := _nested(flat))
    return config


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(value) if isinstance(value, list) else value
