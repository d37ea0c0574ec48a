"""The two ways in which a run ends early on purpose; main.py prints their sentence without a stack trace."""

from collections.abc import Sequence


class UserError(ValueError):
    """The input is wrong: one sentence with the field, its value and what is allowed."""


class RunError(RuntimeError):
    """The run cannot go on: one sentence with what happened and what to do."""


def some(names: Sequence[str], most: int = 10) -> str:
    """Returns the first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
