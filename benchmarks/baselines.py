"""Diffusion beside a GAN, a VAE and a flow (examples/baselines.py): two moons, whose density is known, and 8 x 8 digits.

    python benchmarks/baselines.py [--seeds 0 1 2]

On two moons all four are trained here: about 54,000 parameters, 3,000 steps of 512 points. The diffusion model of the digits
is examples/digits, of one training, which draws with other seeds; the others have about as many parameters (367,000) and
--digits_steps steps of 64 images. Digits of all are rounded to the 17 levels of the data.

The divergence is the mean of log p - log q over 2,000 held-out points: for the flow exact, for diffusion by its probability
flow. For the VAE it is at most this, since log q is bounded from below with 500 draws. A GAN has none. The other figures
are those of diffusion_jax.evaluate; `truth` has them of real points or images in the place of drawn ones. Processor time
counts all cores, and compilation. Writes benchmarks/baselines.json after every row, where rows of
other seeds are kept, and docs/images/baselines.png.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from benchmarks import quality_vs_steps, two_moons
from diffusion_jax.compose import inputs, stored
from diffusion_jax.data import feed, points
from diffusion_jax.metrics import compare, figure
from diffusion_jax.runs import pictures
from examples import baselines

NUM_POINTS, NUM_DIGITS = 4_000, 898  # drawn; the latter is half of the real ones
NUM_MEASURED = 2_000  # points of the divergence
LEVEL = 2 / 16  # between two of the 17 grey levels, in [-1, 1]
NUM_EVALUATIONS = 20  # of the diffusion model's network, by UniPC
OF_POINTS = {
    "flow": baselines.flow(2, width=58, num_couplings=14),
    "vae": baselines.vae(2, width=160, num_latents=2),
    "gan": baselines.gan(2, width=160, num_latents=8),
}
OF_DIGITS = {
    "flow": baselines.flow(64, width=128, num_couplings=9),
    "vae": baselines.vae(64, width=360, num_latents=32),
    "gan": baselines.gan(64, width=384, num_latents=32),
}
MEANS = baselines.vae(64, width=360, num_latents=32, noise=0.0)  # of the decoder, with the params of OF_DIGITS["vae"]
NAMES = {
    "truth": "the truth",
    "diffusion": "diffusion",
    "flow": "flow",
    "vae": "VAE",
    "vae, means": "VAE, means",
    "gan": "GAN",
}
COLUMNS = {  # data -> name of a figure -> its heading and decimals in the table
    "two_moons": {"divergence_nats": ("divergence, nats", 3), "sliced_wasserstein": ("sliced Wasserstein distance", 4)},
    "digits": {"frechet_distance": ("Frechet distance", 2), "kernel_distance": ("kernel distance", 4)},
}
OF_BOTH = {name: (name, 3) for name in ("precision", "recall", "coverage")} | {"processor_seconds": ("processor time, s", 0)}
SIDE, WINDOW, NUM_SHOWN = two_moons.SIDE, two_moons.WINDOW, 16  # of the picture: bins, half the width, and digits
Row = tuple[str, dict, dict]  # a model, its figures, and what the picture shows of it
Density = Callable[[np.ndarray], np.ndarray]  # points [N, 2] -> log density in nats [N]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of training; none prints the tables alone")
    parser.add_argument("--points_steps", type=int, default=3000, help="of all four on two moons")
    parser.add_argument("--digits_steps", type=int, default=5000, help="of the GAN, the VAE and the flow on digits")
    flags = parser.parse_args()
    file = ROOT / "benchmarks" / "baselines.json"
    before = json.loads(file.read_text())["rows"] if file.exists() else []
    result = {
        "command": "python benchmarks/baselines.py",
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": stored.versions(),
        "rows": [row for row in before if row["seed"] not in flags.seeds],
    }
    shown = {}
    for seed in flags.seeds:
        for data, rows in {
            "two_moons": of_points(seed, flags.points_steps),
            "digits": of_digits(seed, flags.digits_steps),
        }.items():
            for name, row, panels in rows:
                result["rows"].append({"data": data, "model": name, "seed": seed, **row})
                print(json.dumps(result["rows"][-1]), flush=True)
                file.write_text(json.dumps(result, indent=1) + "\n")
                shown.setdefault((data, name), panels)
        if seed == 0:
            picture(shown)
    print(table(result["rows"]))


def of_points(seed: int, num_steps: int) -> Iterator[Row]:
    """Yields every model on two moons, and the truth itself."""
    train, held_out = (two_moons.drawn(points.two_moons(split=split)) for split in ("", "test"))
    measured, to_real = held_out[:: len(held_out) // NUM_MEASURED], compare.figures_to({"features": held_out[:NUM_POINTS]})

    def row(drawn: np.ndarray, log_density: Density | None, known: dict) -> tuple[dict, dict]:
        density = log_density and np.exp(log_density(grid()))
        if log_density and known:
            ratio = points.two_moons_log_density(measured) - log_density(measured)
            found = {"value": float(np.mean(ratio)), "standard_error": float(np.std(ratio) / math.sqrt(len(ratio)))}
            known = known | {"divergence_nats": found}
        return known | values(to_real({"features": drawn})), {"drawn": drawn, "density": density}

    yield "truth", *row(train[:NUM_POINTS], points.two_moons_log_density, {})
    trained, seconds = diffusion(seed, num_steps)
    known = {"num_parameters": size(trained.params), "num_steps": num_steps, "processor_seconds": seconds}
    drawn = trained.sample(NUM_POINTS, seed=seed, batch_per_device=NUM_POINTS)
    yield "diffusion", *row(drawn, lambda x: two_moons.log_density(trained, x), known)
    for name, model in OF_POINTS.items():
        params, known = train_baseline(model, train, seed, num_steps=num_steps, batch_size=512)
        yield name, *row(draw(model, params, NUM_POINTS), log_density_of(model, params), known)


def of_digits(seed: int, num_steps: int) -> Iterator[Row]:
    """Yields every model on digits, and half of the real ones in the place of drawn ones."""
    trained = dj.load(ROOT / "examples" / "digits")
    images = feed.read(inputs.source(trained.config))["x"]
    of, _ = quality_vs_steps.hidden_units(trained.config)
    half, other = np.array_split(np.random.default_rng(seed).permutation(len(images))[: 2 * NUM_DIGITS], 2)
    to_real = compare.figures_to({"features": of(images[other])})

    def row(drawn: np.ndarray, known: dict) -> tuple[dict, dict]:
        return known | values(to_real({"features": of(drawn)})), {"drawn": drawn[:NUM_SHOWN]}

    yield "truth", *row(images[half], {})
    drawn = trained.sample(NUM_DIGITS, seed=seed, sampler="unipc", grid="trailing", num_steps=NUM_EVALUATIONS)
    yield (
        "diffusion",
        *row(as_levels(drawn / 127.5 - 1), {"num_parameters": size(trained.params), "num_steps": trained.step}),
    )
    x = images.reshape(len(images), -1) / 127.5 - 1
    for name, model in OF_DIGITS.items():
        params, known = train_baseline(model, x, seed, num_steps=num_steps, batch_size=64, dequantize=LEVEL)
        yield name, *row(as_levels(draw(model, params, NUM_DIGITS)), known)
        if name == "vae":
            yield "vae, means", *row(as_levels(draw(MEANS, params, NUM_DIGITS)), known)


def diffusion(seed: int, num_steps: int) -> tuple[dj.Model, float]:
    """Returns a model of configs/two_moons.py after training, and the seconds of processor time that it took."""
    with tempfile.TemporaryDirectory() as workdir:
        flags = [f"--workdir={workdir}", f"--config.train.seed={seed}", f"--config.train.num_steps={num_steps}"]
        flags += ["--config.train.tensorboard=False", f"--config.train.checkpoint_every={num_steps}"]
        before = seconds_of(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "main.py", "--config=configs/two_moons.py", *flags]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return dj.load(workdir), seconds_of(resource.RUSAGE_CHILDREN) - before


def train_baseline(model: baselines.Baseline, x: np.ndarray, seed: int, **options) -> tuple[Any, dict]:
    """Returns (params, what is known of the training)."""
    before = seconds_of(resource.RUSAGE_SELF)
    params = baselines.train(model, x.astype(np.float32), seed=seed, **options)
    seconds = seconds_of(resource.RUSAGE_SELF) - before
    return params, {"num_parameters": size(params), "num_steps": options["num_steps"], "processor_seconds": seconds}


def seconds_of(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def draw(model: baselines.Baseline, params: Any, num: int) -> np.ndarray:
    return np.asarray(model.sample(params, jax.random.key(1), num))


def log_density_of(model: baselines.Baseline, params: Any) -> Density | None:
    if model.log_density is None:
        return None
    of = jax.jit(model.log_density)
    return lambda x: np.asarray(of(params, jax.random.key(2), x))


def as_levels(x: np.ndarray) -> np.ndarray:
    """Returns values in [-1, 1] as digits of the nearest of the 17 levels. # uint8 [N, 8, 8, 1]"""
    levels = np.clip(np.round((x + 1) / LEVEL), 0, 16)
    return np.round(levels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)


def size(params: Any) -> int:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(params))


def values(figures: dict[str, figure.Figure]) -> dict[str, dict[str, float]]:
    return {name: each._asdict() for name, each in figures.items()}


def table(rows: list[dict]) -> str:
    """Returns Markdown, a table for each data set: of each figure the mean over seeds, and its standard deviation."""
    tables = []
    for data, columns in COLUMNS.items():
        shown = columns | OF_BOTH
        lines = [["model", *(heading for heading, _ in shown.values())], ["---"] * (len(shown) + 1)]
        of_data = [row for row in rows if row["data"] == data]
        for model in dict.fromkeys(row["model"] for row in of_data):
            of_model = [row for row in of_data if row["model"] == model]
            figures = [([row[name] for row in of_model if name in row], places) for name, (_, places) in shown.items()]
            lines.append([NAMES[model], *(over_seeds(*found) for found in figures)])
        tables.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n".join(tables)


def over_seeds(found: list, places: int) -> str:
    each = [one["value"] if isinstance(one, dict) else one for one in found]
    if not each:
        return ""
    mean = f"{np.mean(each):.{places}f}"
    return mean if len(set(each)) == 1 else f"{mean} ± {np.std(each, ddof=1):.{places}f}"


def grid() -> np.ndarray:
    """Returns the middles of the picture's bins, rows downwards. # float32 [SIDE^2, 2]"""
    axis = (np.arange(SIDE) + 0.5) * (2 * WINDOW / SIDE) - WINDOW
    return np.stack(np.meshgrid(axis, -axis), axis=-1).reshape(-1, 2).astype(np.float32)


def picture(shown: dict) -> None:
    """Writes docs/images/baselines.png: above points drawn and densities, below a row of digits for each model."""
    canvas = Figure(figsize=(8, 7.6), layout="constrained")
    above, below = canvas.subfigures(2, 1, height_ratios=(3.3, 3.6))
    columns = [name for data, name in shown if data == "two_moons"]
    axes = above.subplots(2, len(columns), squeeze=False)
    edges = np.linspace(-WINDOW, WINDOW, SIDE + 1)
    for name, (one, two) in zip(columns, axes.T, strict=True):
        panels = shown["two_moons", name]
        one.imshow(np.sqrt(np.histogram2d(*panels["drawn"].T, bins=edges)[0].T[::-1]), cmap="Greys")
        one.set_title(NAMES[name], fontsize="medium")
        if panels["density"] is not None:
            two.imshow(np.sqrt(panels["density"].reshape(SIDE, SIDE)), cmap="Greys", vmin=0, vmax=0.65)
        else:
            two.text(0.5, 0.5, "no density", ha="center", transform=two.transAxes)
    rows = [name for data, name in shown if data == "digits"]
    strips = below.subplots(len(rows), 1)
    for name, each in zip(rows, strips, strict=True):
        strip = pictures.grid(shown["digits", name]["drawn"], num_columns=NUM_SHOWN, pad=1, min_size=8)
        each.imshow(strip[..., 0], cmap="gray")
        each.set_ylabel(NAMES[name], rotation=0, ha="right", va="center")
    for each in (*axes.flat, *strips):
        each.set(xticks=[], yticks=[])
        each.spines[:].set_visible(False)
    axes[0, 0].set_ylabel("points drawn")
    axes[1, 0].set_ylabel("density")
    canvas.savefig(ROOT / "docs" / "images" / "baselines.png", dpi=90)


if __name__ == "__main__":
    main()
