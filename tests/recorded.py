"""What reference implementations returned on stored inputs; goldens/README.md says which, and under which licences."""

import functools
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "goldens"


@functools.cache
def load(name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a file, by key."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as stored:
        return {key: stored[key] for key in stored}


def keys(name: str, starts_with: str = "") -> list[str]:
    """Returns the keys that begin so."""
    return [key for key in load(name) if key.startswith(starts_with)]
