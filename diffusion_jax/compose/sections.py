"""Sections of a config: typed, frozen and hashable. A field is one line: name, what it takes, default and meaning."""

import difflib
import itertools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, NamedTuple

import pydantic

from diffusion_jax.errors import UserError

MOST_ITEMS = 32  # of a tuple of whole numbers: a network of more stages halves every image to nothing
MOST_BLOCKS = 1000  # of a transformer
MOST_STEPS = 10**6  # of a process and of a grid, which are tables
MOST_PIXELS = 1024  # of a kernel and beside an image: tables and canvases are made of them
MOST_AT_ONCE = 2**20  # images that a device takes
MOST_IMAGES = 10**8  # to generate: a list of their numbers is made
MOST = 2**31 - 1
SYNONYMS = {  # field -> what other code bases call it
    "process.num_steps": "t timesteps num_timesteps diffusion_steps noise_steps num_train_timesteps",
    "process.schedule": "scheduler beta_schedule noise_schedule betas",
    "predicts": "prediction_type objective parameterization target",
    "model.channels": "base_channels model_channels ch dim width hidden_size",
    "model.depth": "num_layers n_layers layers",
    "model.multipliers": "channel_mult ch_mult dim_mults channel_multipliers",
    "model.num_classes": "classes n_classes class_cond",
    "loss.name": "loss_type",
    "train.num_steps": "steps iterations iters max_steps train_steps total_steps epochs num_epochs max_epochs",
    "train.batch_size": "batch bs batchsize",
    "train.learning_rate": "lr",
    "train.decay": "lr_scheduler lr_schedule",
    "train.warmup_steps": "warmup lr_warmup",
    "train.grad_clip": "clip_grad max_grad_norm gradient_clipping",
    "train.ema_rates": "ema ema_decay ema_rate",
    "train.checkpoint_every": "save_every save_interval save_freq ckpt_every",
    "train.init_from": "pretrained checkpoint ckpt",
    "data.image_size": "size resolution img_size image_resolution",
    "data.path": "data_dir data_path dataroot data_root folder",
    "data.source": "dataset",
    "data.random_flip": "flip hflip horizontal_flip",
    "data.augment_rate": "augment augmentation augment_prob",
    "sample.sampler": "scheduler method",
    "sample.num_steps": "steps timesteps sampling_steps sample_steps num_inference_steps ddim_steps nfe",
    "sample.num_images": "samples n num_samples n_samples images",
    "sample.batch_per_device": "batch bs batch_size batchsize",
    "sample.eta": "ddim_eta",
    "sample.label": "class class_label y",
    "sample.ema_rate": "ema",
    "sample.guidance": "guidance_scale cfg cfg_scale w",
}
EXPLAINED = {  # part of a word -> what to know
    "epoch": "an epoch has as many steps as there are images divided by train.batch_size. ",
    "resume": "the same command resumes. ",
}


class Section(pydantic.BaseModel, frozen=True, strict=True, extra="forbid"):
    """A group of fields."""


class Field(NamedTuple):
    """What is known of a field."""

    default: Any  # its value where nobody sets it
    allowed: str  # in words, what it takes
    meaning: str  # in words, what it does
    free: bool  # whether it may change when a run is resumed
    names: tuple[str, ...] = ()  # that it takes, where it is a choice


def field(default: Any, meaning: str, *, free: bool = False) -> Any:
    """Returns the right side of a field's line; a section that is `free` makes all its fields free."""
    return pydantic.Field(default, description=meaning, json_schema_extra={"free": free})


def fields_of(section: type[Section], *, prefix: str = "", free: bool = False) -> dict[str, Field]:
    """Returns {"section.field": `Field`} of a section and of the sections in it, in the order of their lines."""
    found = {}
    for name, info in section.model_fields.items():
        is_free = free or info.json_schema_extra["free"]
        if isinstance(info.default, Section):
            found |= fields_of(type(info.default), prefix=f"{name}.", free=is_free)
        else:
            [allowed] = [item for item in info.metadata if isinstance(item, str)]
            names = next((item for item in info.metadata if isinstance(item, tuple)), ())
            found[prefix + name] = Field(info.default, allowed, info.description, is_free, names)
    return found


def _allowed(kind: Any, allowed: str, admits: Callable[[Any], bool] = lambda value: True) -> Any:
    """Returns the type of a field that takes some values of a kind, with the words for them."""

    def check(value: Any) -> Any:
        if not admits(value):
            raise ValueError(allowed)
        return value

    return Annotated[kind, pydantic.AfterValidator(check), allowed]


def one_of(names: Collection[str]) -> Any:
    """Returns the type of a choice between names, such as the keys of a table."""
    return Annotated[_allowed(str, "one of " + ", ".join(sorted(names)), lambda value: value in names), tuple(names)]


def integer(low: int, high: int = MOST) -> Any:
    """Returns the type of a whole number between two, both included."""
    end = "on, below 2^31" if high == MOST else f"to {high}"
    return _allowed(int, f"a whole number from {low} {end}", lambda value: low <= value <= high)


def integers(low: int, high: int = MOST, *, lengths: range = range(MOST_ITEMS + 1), count: str = "") -> Any:
    """Returns the type of a tuple of whole numbers; `count` says in words how many."""
    allowed = f"a tuple of {count}whole numbers, each " + (f"at least {low}" if high == MOST else f"from {low} to {high}")

    def admits(items: tuple[int, ...]) -> bool:
        return len(items) in lengths and all(low <= item <= high for item in items)

    return _allowed(tuple[int, ...], allowed, admits)


def _numbers(allowed: str, admits: Callable[[float], bool], lengths: range = range(MOST)) -> Any:
    return _allowed(tuple[int | float, ...], allowed, lambda items: len(items) in lengths and all(map(admits, items)))


def _is_finite(number: float) -> bool:
    """Returns whether a number is from 0 to what a float can be; comparing, unlike math.isfinite, takes any whole number."""
    return 0 <= number < 2**1023


Flag = _allowed(bool, "True or False")
Text = _allowed(str, "text")
Share = _allowed(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)
Rho = _allowed(float, "a number from 0.1 to 100", lambda value: 0.1 <= value <= 100)
Stage = _allowed(float, "a number from 0.01 to 1", lambda value: 0.01 <= value <= 1)
Snr = _allowed(float, "a number above 0, to 10", lambda value: 0 < value <= 10)
Magnitude = _allowed(float, "a number from 1e-6 to 1e6", lambda value: 1e-6 <= value <= 1e6)  # its square is a float32
LogTime = _allowed(float, "a number from -20 to 20", lambda value: -20 <= value <= 20)
LogTimeWidth = _allowed(float, "a number above 0, to 20", lambda value: 0 < value <= 20)
Fraction = _allowed(float, "a number from 0 up to, not including, 1", lambda value: 0 <= value < 1)
Chosen = _allowed(float, "-1, or a number from 0 up to, not including, 1", lambda value: value == -1 or 0 <= value < 1)
Finite = _allowed(float, "a finite number from 0", lambda value: 0 <= value < math.inf)
Real = _allowed(float, "a finite number", math.isfinite)
AboveOne = _allowed(float, "a finite number above 1", lambda value: 1 < value < math.inf)
Positive = _allowed(float, "a finite number above 0", lambda value: 0 < value < math.inf)
Pixels = _allowed(float, f"a number above 0, to {MOST_PIXELS}", lambda value: 0 < value <= MOST_PIXELS)
Limit = _allowed(float, "a number above 0; inf for none", lambda value: value > 0)
Tolerance = _allowed(float, "a number from 1e-7 up to, not including, 1", lambda value: 1e-7 <= value < 1)
Rates = _numbers("a tuple of numbers between 0 and 1", lambda item: 0 < item < 1)
Widths = _numbers("a tuple of numbers above 0, to 0.28", lambda item: 0 < item <= 0.28)
Times = _numbers("a tuple of finite numbers from 0", _is_finite)
LogSnrs = _allowed(
    tuple[int | float, ...],
    "a tuple of 2 or more numbers from 80 to -80 that fall, such as (13.3, -5)",
    lambda items: len(items) > 1 and all(80 >= one > other >= -80 for one, other in itertools.pairwise(items)),
)
Multipliers = _numbers(
    "a tuple of one or more numbers above 0, such as (1, 2, 2)", lambda item: 0 < item <= MOST, range(1, MOST_ITEMS + 1)
)
Churn = _numbers(
    "a tuple of 4 numbers from 0, such as (40, 0.05, 50, 1.003)",
    lambda item: item == math.inf or _is_finite(item),
    range(4, 5),
)
Interval = _allowed(
    tuple[int | float, int | float],
    "a tuple of 2 numbers from 0, the smaller one first, such as (0.2, 3)",
    lambda ends: 0 <= ends[0] < ends[1] < math.inf,
)


def check_name(name: str, fields: Collection[str]) -> None:
    """Raises UserError for a field that does not exist; the sentence lists those that do."""
    if name in fields:
        return
    section = name.split(".")[0] + "."
    known = [field for field in fields if field.startswith(section)] or sorted({field.split(".")[0] for field in fields})
    if name + "." == section and known[0].startswith(section):
        raise UserError(f"config field {name!r} is a section; set one of {', '.join(known)}.")
    raise UserError(f"config field {name!r} is unknown; {hint(name, fields)}: {', '.join(known)}.")


def hint(name: str, fields: Collection[str], *, prefix: str = "") -> str:
    """Returns "did you mean ...? Known", or "known" where nothing is like 'section.word' or 'word'; a list shall follow.

    By `SYNONYMS`, or else by the letters of their last words; those of the section come first. `prefix` stands before each.
    """
    section, _, word = name.lower().replace("-", "_").rpartition(".")
    inside = [field for field in fields if field.startswith(f"{section}.")]
    found = [field for field, synonyms in SYNONYMS.items() if word in synonyms.split() and field in fields]
    found = [field for field in found if field in inside] or found or _near(word, inside, 0.65) or _near(word, fields, 0.8)
    question = f"did you mean {' or '.join(prefix + field for field in found)}? " if found else ""
    for part, text in EXPLAINED.items():
        question += (text.capitalize() if question else text) * (part in word)
    return f"{question}Known" if question else "known"


def _near(word: str, fields: Collection[str], cutoff: float) -> list[str]:
    """Returns the fields whose last word is the most like another."""
    words = [field.rpartition(".")[2] for field in fields]
    close = difflib.get_close_matches(word, words, n=1, cutoff=cutoff)
    return [field for field in fields if field.rpartition(".")[2] in close]


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {"section.field": value} as {"section": {"field": value}}."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        section, _, inner = name.rpartition(".")
        (found.setdefault(section, {}) if section else found)[inner] = value
    return found
