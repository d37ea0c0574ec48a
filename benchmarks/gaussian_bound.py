"""How far the variational bound lies above the truth, where the truth is known.

    python benchmarks/gaussian_bound.py

Gaussian data with its exact denoiser, so that nothing but the number of steps parts the bound from the mutual information of
image and level r, which it estimates. Writes benchmarks/gaussian_bound.json and docs/images/gaussian_bound.png.
"""

import argparse
import json
import pathlib
import sys

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import oracles

from diffusion_jax import likelihood, process, schedules

ROW = 50  # r, of T = 1000
STEPS = (5, 10, 25, 50, 100, 200, 475, 950)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    jax.config.update("jax_enable_x64", True)
    levels = oracles.rows_of(schedules.linear(1000))
    x_0 = oracles.MEAN + oracles.STD * jax.random.normal(jax.random.key(0), (256, 16, 16, 1))
    rows = [measure(levels, x_0, num_steps) for num_steps in STEPS]
    for row in rows:
        print(row, flush=True)
    snr = float(levels.alpha[ROW] / levels.sigma[ROW]) ** 2
    truth = 0.5 * np.log2(1 + snr * oracles.STD**2)
    result = {"command": "python benchmarks/gaussian_bound.py", "information_bits_per_dim": truth, "rows": rows}
    (ROOT / "benchmarks" / "gaussian_bound.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(rows, truth)


def measure(levels: process.Level, x_0: jax.Array, num_steps: int) -> dict[str, float]:
    """Returns the KL terms from T down to level r, measured and in closed form, in bits per dimension."""
    grid = process.rows(levels, np.append(np.round(np.linspace(1000, ROW, num_steps + 1)).astype(int), 0))
    keys = jax.random.split(jax.random.key(1), num_steps + 1)
    found = likelihood.bound(
        oracles.gaussian(), x_0, grid, lambda step: jax.random.normal(keys[step], x_0.shape), variance="small"
    )
    rate = found.terms[:-1].sum(axis=0)
    return {
        "num_steps": num_steps,
        "bits_per_dim": float(np.mean(rate)),
        "standard_error": float(np.std(rate, ddof=1) / np.sqrt(len(rate))),
        "closed_form": closed_form(grid),
    }


def closed_form(grid: process.Level) -> float:
    """Returns sum (SNR_s - SNR_t) Var(x_0 | x_t) / 2, the expected KL terms of the exact denoiser with variance 'small'."""
    snr = (np.asarray(grid.alpha[:-1], np.float64) / np.asarray(grid.sigma[:-1], np.float64)) ** 2
    variance = oracles.STD**2 / (1 + snr * oracles.STD**2)
    return float(np.sum(np.diff(snr) * variance[:-1]) / 2 / np.log(2))


def plot(rows: list[dict[str, float]], truth: float) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    steps = [row["num_steps"] for row in rows]
    errors = [2 * row["standard_error"] for row in rows]
    axes.errorbar(
        steps, [row["bits_per_dim"] - truth for row in rows], errors, fmt="o", label="measured, two standard errors"
    )
    axes.plot(steps, [row["closed_form"] - truth for row in rows], label="closed form")
    axes.set(xscale="log", yscale="log", xlabel="steps", ylabel="bits per dimension", title="bound minus mutual information")
    axes.legend()
    axes.grid(which="both", alpha=0.3)
    figure.savefig(ROOT / "docs" / "images" / "gaussian_bound.png", dpi=100)


if __name__ == "__main__":
    main()
