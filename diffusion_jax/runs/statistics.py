"""Files of the mean and the covariance of features, as pytorch-fid, EDM and guided-diffusion write and read them."""

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.runs import arrays, storage

KEYS = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}  # the latter of guided-diffusion alone


class Statistics(NamedTuple):
    """What is known of a set of images without having them."""

    moments: dict[str, tuple[np.ndarray, np.ndarray]]  # of "features", maybe of "spatial": mean [D], covariance [D, D]
    made_from: dict[str, Any]  # images and network, as `write` was told; {} in a file of another program


def holds(names: Collection[str]) -> bool:
    """Returns whether statistics are among the arrays of a file, by their names."""
    return KEYS["features"][0] in names


def read(file: storage.Path) -> Statistics:
    """Returns the statistics in an .npz file; UserError where it has none, or is damaged."""
    names = [name for pair in KEYS.values() for name in pair]
    try:
        with storage.reading(file) as opened:
            found = arrays.read_npz(opened, [*names, "made_from"])
        made_from = json.loads(str(found["made_from"])) if "made_from" in found else {}
    except Exception as error:  # zipfile, NumPy and json have a dozen names for what a damaged file is
        raise UserError(
            f"file {str(file)!r} cannot be read as an .npz file of statistics ({type(error).__name__})."
        ) from error
    if not isinstance(made_from, dict):
        raise UserError(f"file {str(file)!r} is damaged: its 'made_from' is not a dictionary.")
    if not holds(found):
        raise UserError(f"file {str(file)!r} has no statistics; it must hold 'mu' [D] and 'sigma' [D, D].")
    pairs = {name: pair for name, pair in KEYS.items() if pair[0] in found}
    return Statistics({name: _checked(file, found, *pair) for name, pair in pairs.items()}, made_from)


def _checked(
    file: storage.Path, found: Mapping[str, np.ndarray], mean: str, covariance: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a mean and a covariance in float64; UserError where they are not."""
    pair = found[mean], found.get(covariance, np.zeros(0))
    width = pair[0].size
    if pair[0].shape != (width,) or pair[1].shape != (width, width) or not width:
        shapes = f"{list(pair[0].shape)} and {list(pair[1].shape)}"
        raise UserError(f"file {str(file)!r} has {mean!r} and {covariance!r} of {shapes}; they must be [D] and [D, D].")
    if any(array.dtype.kind != "f" or not np.all(np.isfinite(array)) for array in pair):
        raise UserError(f"file {str(file)!r} has {mean!r} or {covariance!r} with values that are not finite numbers.")
    return pair[0].astype(np.float64), pair[1].astype(np.float64)


def write(file: storage.Path, statistics: Statistics, **more: np.ndarray) -> None:
    """Writes statistics, and more arrays, as an .npz file that all three programs read."""
    found = {key: part for name, pair in statistics.moments.items() for key, part in zip(KEYS[name], pair, strict=True)}
    with storage.writing(file) as opened:
        np.savez(opened, **found, made_from=json.dumps(statistics.made_from), **more)
