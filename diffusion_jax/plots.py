"""Curves as PNG. matplotlib is imported when one is drawn."""

import io
from collections.abc import Sequence


def loss(metrics: Sequence[dict[str, float]]) -> bytes:
    """Returns the training loss against the step as a PNG file's bytes, both axes logarithmic.

    Args:
        metrics: dicts with 'step' and 'loss', as in metrics.jsonl.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.loglog([line["step"] for line in metrics], [line["loss"] for line in metrics], marker=".", linewidth=1)
    axes.set(xlabel="training step", ylabel="loss", title="training loss, means over the steps between two points")
    axes.grid(which="both", alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
