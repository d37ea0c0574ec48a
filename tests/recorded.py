"""What reference implementations returned on stored inputs; goldens/README.md says which, and under which licences."""

import functools
import pathlib

import jax
import numpy as np

FOLDER = pathlib.Path(__file__).parent / "goldens"


@functools.cache
def load(name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a file, by key."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as stored:
        return dict(stored)


def keys(name: str, starts_with: str = "") -> list[str]:
    """Returns the keys that begin so."""
    return [key for key in load(name) if key.startswith(starts_with)]


def once(function):
    """Returns a function that computes each result once in either precision: a recorded run has several arrays."""
    results = {}

    @functools.wraps(function)
    def remembered(*arguments):
        key = (*arguments, jax.config.jax_enable_x64)
        if key not in results:
            results[key] = function(*arguments)
        return results[key]

    return remembered
