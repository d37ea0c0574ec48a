"""The two ways in which a run ends early on purpose; main.py prints their sentence without a stack trace."""


class UserError(ValueError):
    """The input is wrong: one sentence with the field, its value and what is allowed."""


class RunError(RuntimeError):
    """The run cannot go on: one sentence with what happened and what to do."""
