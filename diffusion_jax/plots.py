"""Curves as PNG. matplotlib is imported when one is drawn."""

import io
from collections.abc import Sequence


def loss(metrics: Sequence[dict[str, float]]) -> bytes:
    """Returns every loss against the step as a PNG file's bytes, both axes logarithmic.

    Args:
        metrics: dicts with 'step' and 'loss' or 'held_out_loss_...', as in metrics.jsonl.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    names = dict.fromkeys(name for line in metrics for name in line if name == "loss" or name.startswith("held_out_loss"))
    for name in names:
        lines = [line for line in metrics if name in line]
        axes.loglog([line["step"] for line in lines], [line[name] for line in lines], marker=".", linewidth=1, label=name)
    axes.legend()
    axes.set(xlabel="training step", ylabel="loss", title="'loss' is the training loss, means between two points")
    axes.grid(which="both", alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
