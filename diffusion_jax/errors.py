"""The two ways in which a run ends early on purpose, each one sentence without a stack trace, and parts of sentences."""

import contextlib
import difflib
import importlib
import operator
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

DISK_FULL = "No space left on device"


class UserError(ValueError):
    """The input is wrong: one sentence with the field, its value and what is allowed."""


class RunError(RuntimeError):
    """The run cannot go on: one sentence with what happened and what to do."""


@contextlib.contextmanager
def of(subject: str) -> Iterator[None]:
    """Puts what a sentence is about before each `UserError` of this context: with errors.of("config field edit."): ..."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{subject}{error}") from error


def needed(module: str, sentence: str) -> Any:
    """Returns a module that few need; UserError with the sentence where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(sentence) from error


def check_whole(name: str, value: Any, low: int | None = None, high: int | None = None) -> None:
    """Raises UserError for what is not a whole number of Python, NumPy or JAX, or lies outside [low, high]."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or (low is not None and number < low) or (high is not None and number > high):
        limits = "" if low is None else f" from {low} " + ("on" if high is None else f"to {high}")
        raise UserError(f"{name} = {shown(value)} is not allowed; it must be a whole number{limits}{instead(value)}.")


def check_share(name: str, value: Any) -> None:
    """Raises UserError for what is not a number from 0 to 1."""
    if not hasattr(value, "__float__") or not 0 <= value <= 1:
        raise UserError(f"{name} = {shown(value)} is not allowed; it must be from 0 to 1.")


def instead(value: Any) -> str:
    """Returns how to write a float that is a whole number as one, ': write 50', or '' for anything else."""
    return f": write {int(value)}" if isinstance(value, float) and value.is_integer() else ""


def it(word: Any, names: Collection[str]) -> str:
    """Returns the subject of a sentence on a wrong word: "did you mean ...? It", or "it" where no name is like it."""
    close = difflib.get_close_matches(word, names, n=1) if isinstance(word, str) else []
    return f"did you mean {close[0]}? It" if close else "it"


def shown(value: Any) -> str:
    """Returns a value as a sentence can hold it: in one line, of 200 letters at most; arrays by type and shape."""
    if getattr(value, "shape", ()):
        return f"{value.dtype}{list(value.shape)}"
    if hasattr(value, "_fields"):
        return f"{type(value).__name__}(...)"
    if hasattr(value, "__qualname__"):  # a function or a class
        return value.__qualname__
    try:
        text = repr(value).replace("\n", " ")
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of too many digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def not_finite(finite: np.ndarray) -> str:
    """Returns what to say of images of which some are not finite, bool [N]."""
    return (
        f"{np.sum(~finite)} of {len(finite)} images are not finite: the network's output was not, or sample.tolerance is "
        "too small for sample.sampler = 'ode'."
    )


def first_line(error: Exception) -> str:
    """Returns the first line of what another library raised, of at most 200 characters; of a full disk that alone."""
    said = str(error).strip()
    return DISK_FULL if DISK_FULL in said else said.split("\n")[0][:200]


def some(names: Sequence[str], most: int = 10) -> str:
    """Returns the first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
