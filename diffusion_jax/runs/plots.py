"""Curves as PNG. matplotlib is imported when the first is plotted."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np


def loss(metrics: Sequence[dict[str, float]]) -> bytes:
    """Returns every loss against the step as a PNG file's bytes, both axes logarithmic.

    Args:
        metrics: dicts with 'step' and 'loss' or 'held_out_loss_...', as in metrics.jsonl.
    """
    figure, axes = _axes()
    names = dict.fromkeys(name for line in metrics for name in line if name == "loss" or name.startswith("held_out_loss"))
    for name in names:
        lines = [line for line in metrics if name in line]
        axes.loglog([line["step"] for line in lines], [line[name] for line in lines], marker=".", linewidth=1, label=name)
    axes.set(xlabel="training step", ylabel="loss, each point a mean since the last")
    if names:
        axes.legend()
        _label_plainly(axes.xaxis, "{x:,.0f}")
        _label_plainly(axes.yaxis, "{x:.3g}")
    return _png(figure, axes)


def bound_terms(t: np.ndarray, terms: np.ndarray) -> bytes:
    """Returns each step's term of the variational bound as a PNG file's bytes.

    Args:
        t: where the steps begin, [S].
        terms: in bits per dimension, [S].
    """
    figure, axes = _axes()
    axes.loglog(t, terms, marker=".", linewidth=1)
    axes.set(
        xlabel="t", ylabel="bits per dimension", title=f"terms of the bound, {np.sum(terms):.3f} in all without the prior"
    )
    return _png(figure, axes)


def rate_distortion(rate: np.ndarray, rmse: np.ndarray) -> bytes:
    """Returns the curve of progressive lossy coding as a PNG file's bytes. [Ho et al. 2020, figure 5]

    Args:
        rate: bits per dimension received, [S].
        rmse: of the image guessed from them, on the scale 0 to 255, [S].
    """
    figure, axes = _axes()
    axes.plot(rate, rmse, marker=".", linewidth=1)
    axes.set(xlabel="rate (bits per dimension)", ylabel="distortion (RMSE, 0 to 255)", title="progressive lossy coding")
    return _png(figure, axes)


def figures(steps: Sequence[int], against: Sequence[dict[str, Any]]) -> bytes:
    """Returns every figure of some checkpoints against their steps, a panel for each, as a PNG file's bytes.

    Args:
        steps: of the checkpoints, rising.
        against: for each checkpoint the part 'against' of its result in evaluate.json.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for reference in against[0].values() for name in reference["figures"]))
    num_rows = -(-len(names) // 3)
    figure = Figure(figsize=(12, 3.2 * num_rows), layout="constrained")
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(num_rows, 3, place)
        for number, reference in enumerate(against[0]):
            found = [each[reference]["figures"][name] for each in against]
            values, errors = zip(*(each["value"].values() for each in found), strict=True)
            axes.errorbar(
                steps,
                values,
                errors,
                marker=".",
                linewidth=1,
                color=f"C{number}",
                label=f"against {reference.replace('_', '-')}",
            )
            if found[-1]["floor"]:
                floor = found[-1]["floor"]["value"]
                axes.axhline(floor, color=f"C{number}", linestyle=":", label="real images")
        axes.set(xlabel="training step", title=name.replace("_", " "))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    return _png(figure, figure.axes[0])


def widths(rows: Sequence[dict[str, float]]) -> bytes:
    """Returns the kernel distance of averages against their width as a PNG file's bytes, with standard errors.

    Args:
        rows: dicts with 'sigma_rel', 'kernel_distance' and 'kernel_distance_standard_error'.
    """
    figure, axes = _axes()
    rows = sorted(rows, key=lambda row: row["sigma_rel"])
    columns = ([row[name] for row in rows] for name in ("sigma_rel", "kernel_distance", "kernel_distance_standard_error"))
    axes.errorbar(*columns, marker="o", linewidth=1, capsize=3)
    axes.set(xlabel="width of the average, sigma_rel", ylabel="kernel distance to real images, with standard errors")
    return _png(figure, axes)


def _axes() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    return figure, figure.add_subplot()


def _label_plainly(axis: Any, form: str) -> None:
    """Labels a logarithmic axis at powers of ten, at 1, 2 and 5 times those, or evenly: so that four to eight are seen."""
    from matplotlib import ticker

    low, high = axis.get_view_interval()
    powers = ticker.LogLocator(subs=(1,) if high > 300 * low else (1, 2, 5))
    axis.set_major_locator(powers if high > 10 * low else ticker.MaxNLocator(6))
    axis.set_major_formatter(form)
    axis.set_minor_formatter(ticker.NullFormatter())


def _png(figure: Any, axes: Any) -> bytes:
    axes.grid(which="both", alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
