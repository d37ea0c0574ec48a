"""The pictures of docs/theory.md, and beside each that has curves their numbers.

    python docs/theory_figures.py [--workdir=runs/digits]

Writes docs/images/theory_*.png and .csv in half a minute on two CPU cores. Only the picture of the reverse process needs a
trained run of configs/digits.py; without --workdir the others are made.
"""

import argparse
import csv
import json
import pathlib
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from diffusion_jax import denoiser, losses, model, process, schedules, streams
from diffusion_jax.compose import processes
from diffusion_jax.runs import pictures

OUT = ROOT / "docs" / "images"
T = 1000
PAD = 4  # pixels between pictures
COLOURS = {"blue": "#3b6ea5", "orange": "#d9822b", "green": "#4f8f5b", "red": "#b5485d", "grey": "#7a7a7a", "ink": "#222222"}
PARAMETERIZATIONS = {
    "eps": (denoiser.EPS, r"$\epsilon$", "blue"),
    "x_0": (denoiser.X_0, r"$x_0$", "orange"),
    "v": (denoiser.V, r"$v$", "green"),
    "edm": (denoiser.edm(sigma_data=0.5), r"EDM, $\sigma_{data} = 0.5$", "red"),
}
FROM_GALLERY = (4, 3)  # row and column in emoji.png
SHOWN = (4, 8, 11)  # numbers of the generated digits, three of the first sixteen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", default="", help="of a trained run of configs/digits.py")
    workdir = parser.parse_args().workdir
    forward()
    schedule_curves()
    parameterizations()
    quality()
    if workdir:
        reverse(dj.load(workdir))


def forward() -> None:
    """One picture and one noise at nine levels of two schedules."""
    t = np.linspace(0, T, 9).astype(int)
    x_0 = jnp.asarray(gallery_picture())[None]
    eps = jax.random.normal(jax.random.key(0), x_0.shape)
    rows = {"linear": schedules.linear(T), "cosine": schedules.cosine(T)}
    x_t = [process.diffuse(jnp.repeat(x_0, len(t), 0), dj.chain(betas).level(t), eps) for betas in rows.values()]
    show("theory_forward", [np.stack([dj.to_uint8(x) for x in x_t])], list(rows), [f"t = {each}" for each in t], size=96)


def gallery_picture() -> np.ndarray:
    """Returns an emoji that the gallery's network generated, in [-1, 1]. # [32, 32, 3]"""
    top, left = (2 + 66 * place for place in FROM_GALLERY)  # cells of `pictures.grid`: 64 pixels and 2 between
    pixels = np.asarray(Image.open(OUT / "emoji.png").convert("RGB"))[top : top + 64 : 2, left : left + 64 : 2]
    return np.asarray(dj.from_uint8(jnp.asarray(pixels)))


def schedule_curves() -> None:
    """alpha_bar and log SNR of the chains against t / T."""
    chains = {
        "linear": schedules.linear(T),
        "cosine": schedules.cosine(T),
        "linear, zero terminal SNR": schedules.zero_terminal_snr(schedules.linear(T)),
    }
    rows = np.unique(np.r_[1, np.arange(10, T, 10), T - 1, T])
    levels = {name: dj.chain(betas).level(rows) for name, betas in chains.items()}
    columns = {"t": rows}
    signal, ratio = figure(1, 2)
    for (name, level), colour, dash in zip(levels.items(), ["blue", "orange", "blue"], ["-", "-", (0, (4, 2))], strict=True):
        columns[f"alpha_bar {name}"] = level.alpha.astype(np.float64) ** 2
        columns[f"log_snr {name}"] = level.log_snr
        shown = {"color": COLOURS[colour], "linestyle": dash, "label": name}
        signal.plot(rows / T, columns[f"alpha_bar {name}"], **shown)
        ratio.plot(rows / T, columns[f"log_snr {name}"], **shown)
    signal.set(xlabel="t / T", title=r"$\bar\alpha_t$, what is left of the image's variance")
    ratio.set(xlabel="t / T", ylim=(-15, 11), title=r"log SNR, $\log(\alpha_t^2 / \sigma_t^2)$")
    signal.legend(frameon=False)
    write_csv("theory_schedules", columns)
    save("theory_schedules", signal.figure)


def parameterizations() -> None:
    """The coefficients (a, b), and the weights of the error of x_0, over the log-SNR of a variance-preserving process."""
    log_snr = np.linspace(-10, 10, 81)
    level = process.level_of_log_snr(dj.chain(schedules.cosine(T)), log_snr)
    columns = {"log_snr": log_snr}
    of_a, of_b, implied, chosen = figure(2, 2)
    for name, (parameterization, label, colour) in PARAMETERIZATIONS.items():
        a, b = (np.asarray(column) for column in parameterization.coefficients(level))
        ratio = np.asarray(losses.x_0_weight(denoiser.Prediction(None, None, (a, b)), level))
        columns |= {f"a {name}": a, f"b {name}": b, f"weight {name}": ratio}
        for axes, column in ((of_a, a), (of_b, b), (implied, ratio)):
            axes.plot(log_snr, column, color=COLOURS[colour], label=label)
    chosen.plot(
        log_snr, losses.snr(level), color=COLOURS["grey"], linestyle=":", linewidth=2, label=r"SNR, as of $\epsilon$"
    )
    weightings = {"min_snr": ("min-SNR, 5", "blue"), "p2": ("P2, k = 1", "orange"), "truncated_snr": ("truncated", "green")}
    for name, (label, colour) in weightings.items():
        columns[f"weight {name}"] = np.asarray(getattr(losses, name)(losses.snr(level)))
        chosen.plot(log_snr, columns[f"weight {name}"], color=COLOURS[colour], label=label)
    of_a.set(title=r"$a$:  output = $a\,x_0 + b\,\epsilon$")
    of_b.set(title=r"$b$")
    implied.set(title=r"weight of $x_0$'s error in $L_{simple}$", yscale="log", ylim=(1e-4, 1e4))
    chosen.set(title=r"weight of $x_0$'s error, chosen", yscale="log", ylim=(1e-4, 1e4))
    for axes in (implied, chosen):
        axes.set(xlabel="log SNR; noise is on the left")
    for axes in (of_a, of_b, implied, chosen):
        axes.set_xticks([-10, -5, 0, 5, 10])
    for axes in (of_b, chosen):
        axes.legend(frameon=False)
    write_csv("theory_parameterizations", columns)
    save("theory_parameterizations", of_a.figure)


def reverse(trained: model.Model, *, num_shown: int = 10) -> None:
    """x_t and the predicted x_0 on the way from noise to digits, by ancestral sampling on every level."""
    of, denoise = processes.process_of(trained.config), dj.clip_x_0(trained.denoiser())
    shape, t = processes.image_shape(trained.config), np.arange(T, 0, -(T // num_shown))

    @jax.jit
    def run(numbers):
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(streams.keys(0, "x_T", numbers))
        x_T = process.prior(of.level(of.last), noise)
        keys, every = streams.keys(0, "sampler", numbers), of.level(np.arange(T, -1, -1))
        found = dj.sample(denoise, dj.ancestral(variance="small"), x_T, every, keys, num_traced=num_shown)
        x_t = jnp.concatenate([x_T[None], found.trace])
        x_0 = jax.lax.map(lambda kept: denoise(*kept).x_0, (x_t[:-1], of.level(t)))
        return x_t, jnp.concatenate([x_0, found.x[None]])

    x_t, x_0 = (np.swapaxes(dj.to_uint8(found), 0, 1) for found in run(jnp.array(SHOWN)))  # [digits, times, H, W, 1]
    groups = [np.stack(pair) for pair in zip(x_t, x_0, strict=True)]
    show("theory_reverse", groups, [r"$x_t$", r"predicted $x_0$"], [f"t = {each}" for each in [*t, 0]], size=64)


def quality() -> None:
    """Distance against evaluations, as benchmarks/quality_vs_steps.py measured it on digits with the grid 'trailing'."""
    stored = json.loads((ROOT / "benchmarks" / "quality_vs_steps_digits.json").read_text())
    shown = {
        "ancestral": ("ancestral", "grey"),
        "ddim": ("DDIM", "blue"),
        "heun": ("Heun", "green"),
        "dpm_solver 2": ("DPM-Solver++(2M)", "orange"),
        "unipc 2": ("UniPC", "red"),
    }
    lines = []
    [axes] = figure(1, 1)
    for name, (label, colour) in shown.items():
        rows = [row for row in stored["rows"] if row["sampler"] == name and row["grid"] == "trailing"]
        points = sorted((row["evaluations"], row["frechet_distance"]) for row in rows)
        lines += [(name, *point) for point in points]
        axes.loglog(*zip(*points, strict=True), marker="o", markersize=4, color=COLOURS[colour], label=label)
    real = stored["real"]["frechet_distance"]
    axes.axhline(real, color=COLOURS["ink"], linestyle=":", linewidth=1)
    axes.text(5, real * 1.03, "real digits", fontsize=8, color=COLOURS["ink"])
    axes.set(xlabel="evaluations of the network", ylabel="Frechet distance to the real digits")
    axes.set(title="digits, evenly spaced steps")
    axes.set_xticks([5, 10, 20, 50], ["5", "10", "20", "50"])
    axes.set_yticks([0.1, 0.2, 0.4, 0.8], ["0.1", "0.2", "0.4", "0.8"])
    axes.tick_params(which="minor", labelleft=False, labelbottom=False)
    axes.legend(frameon=False)
    names = ("sampler", "evaluations", "frechet_distance")
    write_csv("theory_quality", dict(zip(names, zip(*lines, strict=True), strict=True)))
    save("theory_quality", axes.figure)


def figure(num_rows: int, num_columns: int) -> Sequence[Axes]:
    """Returns the panels of a figure, without frames at the top and the right."""
    size = (6, 4) if num_columns == 1 else (9, 3.2 * num_rows)
    panels = Figure(figsize=size, layout="constrained").subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(which="major", alpha=0.3)
    return panels


def show(name: str, groups: Sequence[np.ndarray], row_labels: list[str], column_labels: list[str], *, size: int) -> None:
    """Writes grids of pictures below each other, with a label for each row and column.

    Args:
        name: of the file.
        groups: uint8 [rows, columns, H, W, C] each.
        row_labels: one for each row of a group.
        column_labels: one for each column.
        size: pixels of a picture's shorter side, at least.
    """
    canvases = [
        pictures.grid(group.reshape(-1, *group.shape[2:]), num_columns=len(column_labels), pad=PAD, min_size=size)
        for group in groups
    ]
    (height, width), gap = canvases[0].shape[:2], 8  # pixels
    left, top = 14 + 6.5 * max(len(label.replace("$", "")) for label in row_labels), 22
    total = left + width, top + len(groups) * (height + gap)
    made = Figure(figsize=(total[0] / 100, total[1] / 100))
    for i, canvas in enumerate(canvases):
        bottom = total[1] - top - height - i * (height + gap)
        axes = made.add_axes([left / total[0], bottom / total[1], width / total[0], height / total[1]])
        axes.imshow(canvas.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_xticks(
            centres(width, len(column_labels)), column_labels if i == 0 else [""] * len(column_labels), fontsize=9
        )
        axes.set_yticks(centres(height, len(row_labels)), row_labels, fontsize=10)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
    save(name, made, dpi=100)


def centres(length: int, num: int) -> np.ndarray:
    """Returns where the pictures of `pictures.grid` have their middles."""
    return PAD / 2 + (np.arange(num) + 0.5) * (length - PAD) / num


def save(name: str, made: Figure, *, dpi: int = 110) -> None:
    made.savefig(OUT / f"{name}.png", dpi=dpi)


def write_csv(name: str, columns: dict[str, Sequence]) -> None:
    """Writes columns of equal length with a head."""
    with (OUT / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow([f"{value:.7g}" if isinstance(value, float | np.floating) else value for value in row])


if __name__ == "__main__":
    main()
