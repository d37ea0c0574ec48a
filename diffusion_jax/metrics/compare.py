"""All figures of generated images against real ones, and beside each the same figure of real images: its floor."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.metrics import figure, frechet, inception_score, kernel, precision_recall, sliced
from diffusion_jax.metrics.figure import Figure

Features = Mapping[str, np.ndarray]  # "features" [N, D], and of Inception also "spatial" [N, D'] and "logits" [N, K]
Statistics = Mapping[str, tuple[np.ndarray, np.ndarray]]  # of "features", maybe of "spatial": mean [D], covariance [D, D]
FRECHET = {"features": "frechet_distance", "spatial": "spatial_frechet_distance"}
FEWEST = 2 * figure.NUM_GROUPS  # images of a set
MOST_NEIGHBOURS = 10_000  # images whose neighbours are searched, as in guided-diffusion's evaluator


class Compared(NamedTuple):
    """A figure, and what to hold it against."""

    value: Figure  # of all images
    matched: Figure | None = None  # of fewer images, where other real images are fewer, against the same as the floor
    floor: Figure | None = None  # of other real images in place of the generated ones; None where there are none
    num_matched: int = 0  # images of the two


def compare(generated: Features, real: Features, others: Features | None = None) -> dict[str, Compared]:
    """Returns every figure of generated images against real ones.

    A distance between samples is above 0 for equal distributions too, and depends on how many images there are. So a figure
    says little without its floor. The images are shuffled first: data sets are often in the order of their classes.

    Args:
        generated: features of generated images, float [N, D].
        real: features of real images, [M, D].
        others: features of other real images, such as held-out ones; None splits `real`, at random, into N images and the
            rest, or into halves where they are too few.

    Raises:
        UserError: for fewer than 20 images, or 40 real ones to split; for sets of other features; where a feature is not
            finite.
    """
    sets = {"generated": generated, "real": real} | ({} if others is None else {"other real": others})
    generated, real, *more = [_shuffled(checked(each, name)) for name, each in sets.items()]
    _check_alike(sets)
    to_real, num_generated = figures_to(real), len(generated["features"])
    others, rest = (more[0], real) if more else _split(real, num_generated)
    to_rest, num = to_real if more else figures_to(rest), min(num_generated, len(others["features"]))
    value, matched, floor = to_real(generated), to_rest(_first(generated, num)), to_rest(_first(others, num))
    return {name: Compared(value[name], matched[name], floor[name], num) for name in value}


def compare_with_statistics(generated: Features, real: Statistics) -> dict[str, Compared]:
    """Returns the figures that a mean and a covariance of real images allow; errors as for `compare`."""
    generated = _shuffled(checked(generated, "generated"))
    check_widths({name: rows.shape[1] for name, rows in generated.items()}, real)
    shared = [name for name in FRECHET if name in real and name in generated]
    found = {FRECHET[name]: frechet.frechet_distance(generated[name], frechet.gaussian(*real[name])) for name in shared}
    found |= _of_generated_alone(generated)
    return {name: Compared(value) for name, value in found.items()}


def figures_to(real: Features) -> Callable[[Features], dict[str, Figure]]:
    """Returns features -> every figure by name, without a floor; what the real images alone decide is found once.

    Arguments as for `compare`, in an order that means nothing.
    """
    gaussians = {name: frechet.of_features(real[name]) for name in FRECHET if name in real}
    two, to_real = real["features"], kernel.distance_to(real["features"])

    def figures(generated: Features) -> dict[str, Figure]:
        one = generated["features"]
        found = {FRECHET[name]: frechet.frechet_distance(generated[name], known) for name, known in gaussians.items()}
        found |= {"kernel_distance": to_real(one), "sliced_wasserstein": sliced.sliced_wasserstein(one, two)}
        found |= precision_recall.figures(two[:MOST_NEIGHBOURS], one[:MOST_NEIGHBOURS])
        return found | _of_generated_alone(generated)

    return figures


def _of_generated_alone(generated: Features) -> dict[str, Figure]:
    logits = generated.get("logits")
    return {} if logits is None else {"inception_score": inception_score.inception_score(logits)}


def checked(features: Features, what: str) -> Features:
    """Returns features as float32, or as float64 where they are.

    Raises UserError where they are too few, of another kind, or not finite.
    """
    num_images = len(features["features"])
    if num_images < FEWEST:
        raise UserError(f"the {what} images are {num_images}; figures need at least {FEWEST}.")
    for name, rows in features.items():
        if rows.dtype.kind != "f" or rows.ndim != 2 or len(rows) != num_images:
            wanted = f"floating point [{num_images}, D]"
            raise UserError(f"{name} of the {what} images are {rows.dtype}{list(rows.shape)}; they must be {wanted}.")
        if lost := int(np.sum(~np.all(np.isfinite(rows), axis=1))):
            raise UserError(f"{name} of {lost:,} of the {num_images:,} {what} images are not finite.")
    kinds = {name: np.float64 if rows.dtype == np.float64 else np.float32 for name, rows in features.items()}
    return {name: rows.astype(kinds[name], copy=False) for name, rows in features.items()}


def _check_alike(sets: Mapping[str, Features]) -> None:
    """Raises UserError where sets have other features, or real images are too few to be split."""
    widths = {what: {name: rows.shape[1] for name, rows in sorted(each.items())} for what, each in sets.items()}
    for what, found in widths.items():
        if found != widths["real"]:
            raise UserError(
                f"the {what} images have {found}, the real ones {widths['real']}; they must have the same features."
            )
    if "other real" not in sets and (num := len(sets["real"]["features"])) < 2 * FEWEST:
        raise UserError(f"the real images are {num}; to be split for the floor they must be at least {2 * FEWEST}.")


def check_widths(widths: Mapping[str, int], real: Statistics) -> None:
    """Raises UserError where statistics are of features of another width. # {"features": D}"""
    for name, (mean, _) in real.items():
        if name in widths and len(mean) != widths[name]:
            raise UserError(
                f"statistics of {len(mean):,} values do not fit {name} of {widths[name]:,}: they are of another network."
            )


def warnings(num_images: int, width: int, *, has_floor: bool) -> list[str]:
    """Returns a sentence for what makes figures of so many images, and of so many values in a feature, hard to read.

    `has_floor` is whether real images are given, so that there are other figures and a floor.
    """
    if num_images > 10 * width:
        return []
    few = f"{num_images:,} images are few for features of {width:,} values"
    instead = "read the kernel distance and the floor" if has_floor else "draw more"
    return [f"{few}: the Frechet distance is mostly the noise of its covariance; {instead}."]


def _split(real: Features, num_generated: int) -> tuple[Features, Features]:
    """Returns real images in two parts: N, or half where they are too few, and the rest."""
    num = min(num_generated, len(real["features"]) // 2)
    return _first(real, num), {name: rows[num:] for name, rows in real.items()}


def _first(features: Features, num: int) -> Features:
    return {name: rows[:num] for name, rows in features.items()}


def _shuffled(features: Features) -> Features:
    order = np.random.default_rng(0).permutation(len(features["features"]))
    return {name: rows[order] for name, rows in features.items()}
