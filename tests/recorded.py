"""What reference implementations returned on stored inputs; goldens/README.md says which, and under which licences."""

import functools
import pathlib

import jax
import numpy as np

FOLDER = pathlib.Path(__file__).parent / "goldens"


class Arrays(dict):
    """Arrays by key, which remember which of them were read."""

    def __init__(self, arrays):
        super().__init__(arrays)
        self.read = set()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)


@functools.cache
def load(name: str) -> Arrays:
    """Returns the arrays of a file, by key."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as stored:
        return Arrays({key: stored[key] for key in stored})


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
