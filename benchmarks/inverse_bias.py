"""How far inverse problems' samplers are from the true conditional law: python benchmarks/inverse_bias.py

The data are images of 4 x 4 pixels from a joint Gaussian, nearer pixels more alike, with its exact denoiser. Given y = A x
of an image x, the law of the rest is known. What a sampler draws is a Gaussian too, computed exactly where its steps are
affine; for posterior sampling, whose steps are not, from 4,000 draws, which adds errors of 0.02 to the mean and about 0.03
to the distance. Figures are over 8 images x, relative to the spread of the true law (the root of its covariance's trace):

    mean      root mean square of the error of the mean
    spread    spread drawn over true spread
    distance  Wasserstein-2 distance of the two laws, root mean square
"""

import argparse
import json
import os
import pathlib
import platform
import sys

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import oracles

import diffusion_jax as dj
from diffusion_jax import editing, grids, operators
from diffusion_jax.compose import stored

SHAPE, NUM_IMAGES, NUM_DRAWS = (4, 4, 1), 8, 4000
MASK = np.arange(16).reshape(4, 4, 1) % 4 >= 2
TASKS = {  # operator, noise of y
    "inpainting half": (operators.known(MASK), 0.0),
    "averages of 2 x 2": (operators.averaging(2), 0.0),
    "averages of 2 x 2, noise 0.2": (operators.averaging(2), 0.2),
    "blur of 0.8 pixels, noise 0.1": (operators.gaussian_blur(0.8), 0.1),
}
SAMPLERS = {"ddim": dj.ddim(), "ancestral": dj.ancestral(variance="small"), "heun": dj.heun(), "unipc": dj.unipc()}
CHAIN = dj.chain(dj.linear(1000))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = [row for task in TASKS for row in measured(task)]
    command = "python benchmarks/inverse_bias.py"
    hardware = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    result = {"command": command, "hardware": hardware, "versions": stored.versions(), "rows": rows}
    (ROOT / "benchmarks" / "inverse_bias.json").write_text(json.dumps(result, indent=1) + "\n")
    (ROOT / "benchmarks" / "inverse_bias.md").write_text(f"`{command}`, {hardware}\n\n{as_markdown(rows)}")


def measured(task: str) -> list[dict]:
    """Returns the rows of a task, printed on the way."""
    operator, noise_std = TASKS[task]
    mean, covariance = oracles.smooth(*SHAPE)
    denoise, random = oracles.joint_gaussian(mean, covariance), np.random.default_rng(0)
    images = random.multivariate_normal(mean, covariance, NUM_IMAGES).reshape(-1, 1, *SHAPE)
    ys = jnp.stack([operator.apply(jnp.asarray(image)) for image in images])
    ys = ys + noise_std * random.standard_normal(ys.shape)
    measure = oracles.matrix(operator.apply, SHAPE)
    truth = [oracles.conditional(mean, covariance, measure, y, noise_std) for y in ys]
    rows = []
    for name, changes, sampler, num_steps, jumps in methods(operator, noise_std):
        times = grids.jumps(grids.trailing(CHAIN, num_steps), **jumps)
        laws = drawn if name.startswith("posterior") else exact
        found, num_evaluations = laws(denoise, changes, sampler, CHAIN.level(times), images, ys)
        rows.append({"task": task, "method": name, "evaluations": num_evaluations, **compared(found, truth)})
        print(rows[-1], flush=True)
    return rows


def methods(operator, noise_std: float):
    """Yields (name, (denoise, sampler, image, y) -> (denoise, sampler), sampler, steps, jumps) of each row."""

    def consistent(recompute_eps):
        return lambda denoise, sampler, image, y: (
            editing.consistent(denoise, y, operator, recompute_eps=recompute_eps),
            sampler,
        )

    def guided(denoise, sampler, image, y):
        return editing.pseudoinverse_guided(denoise, y, operator, noise_std=noise_std), sampler

    def posterior(scale):
        return lambda denoise, sampler, image, y: (denoise, editing.posterior_sampling(sampler, y, operator, scale=scale))

    def replaced(denoise, sampler, image, y):
        return denoise, editing.replaced(sampler, image, MASK)

    none = {"num_resamples": 1}
    for num_steps in (50, 250, 1000):
        if not noise_std:
            yield f"consistent, ddim, {num_steps} steps", consistent(True), "ddim", num_steps, none
            own = f"consistent, recompute_eps=False, ddim, {num_steps} steps"
            yield own, consistent(False), "ddim", num_steps, none
            yield f"consistent, ancestral, {num_steps} steps", consistent(True), "ancestral", num_steps, none
        for sampler in ("ddim", "ancestral"):
            yield f"pseudoinverse_guided, {sampler}, {num_steps} steps", guided, sampler, num_steps, none
    if not noise_std:
        yield "consistent, recompute_eps=False, heun, 250 steps", consistent(False), "heun", 250, none
    for scale in (0.1, 0.3, 1.0):
        for num_steps in (250, 1000):
            yield (
                f"posterior_sampling({scale}), ancestral, {num_steps} steps",
                posterior(scale),
                "ancestral",
                num_steps,
                none,
            )
    if operator is TASKS["inpainting half"][0]:
        for num in (1, 2, 5, 10, 20):
            jumps = {"jump_length": 10, "num_resamples": num}
            yield f"replaced, ancestral, 250 steps, num_resamples {num}", replaced, "ancestral", 250, jumps


def exact(denoise, changes, sampler, grid, images, ys):
    """Returns the laws of all images, and how often the denoiser was evaluated."""

    def law(image, y):
        return oracles.law(*changes(denoise, SAMPLERS[sampler], image, y), grid, SHAPE)

    means, covariances = jax.jit(jax.vmap(law))(jnp.asarray(images), ys)
    falling = np.diff(grid.sigma) < 0
    num_evaluations = int(falling.sum()) * (2 if sampler == "heun" else 1) - (sampler == "heun")
    return list(zip(np.asarray(means), np.asarray(covariances), strict=True)), num_evaluations


def drawn(denoise, changes, sampler, grid, images, ys):
    """Returns the same from draws."""
    keys, noise = jax.random.split(jax.random.key(0), NUM_DRAWS), jax.random.normal(jax.random.key(1), (NUM_DRAWS, *SHAPE))

    @jax.jit
    def draw(image, y):
        found = dj.sample(*changes(denoise, SAMPLERS[sampler], image, y), noise, grid, keys)
        return found.x.reshape(NUM_DRAWS, -1), found.num_evaluations

    found = [draw(jnp.asarray(image), y) for image, y in zip(images, ys, strict=True)]
    return [(np.mean(x, 0), np.cov(x, rowvar=False)) for x, _ in found], int(found[0][1])


def compared(found: list, truth: list) -> dict[str, float]:
    """Returns the figures over all images."""
    spread = np.mean([np.trace(covariance) for _, covariance in truth])
    means = np.mean([np.sum((f[0] - w[0]) ** 2) for f, w in zip(found, truth, strict=True)])
    squares = np.mean([wasserstein_squared(f, w) for f, w in zip(found, truth, strict=True)])
    drawn_spread = np.mean([np.trace(covariance) for _, covariance in found])
    figures = {"mean": means / spread, "spread": drawn_spread / spread, "distance": squares / spread}
    return {name: round(float(np.sqrt(max(figure, 0))), 3) for name, figure in figures.items()}


def wasserstein_squared(one, other) -> float:
    """Returns the squared Wasserstein-2 distance of two Gaussians."""
    values, axes = scipy.linalg.eigh(one[1])
    root = (axes * np.sqrt(np.maximum(values, 0))) @ axes.T
    both = np.sqrt(np.maximum(scipy.linalg.eigvalsh(root @ other[1] @ root), 0)).sum()
    return np.sum((one[0] - other[0]) ** 2) + np.trace(one[1]) + np.trace(other[1]) - 2 * both


def as_markdown(rows: list[dict]) -> str:
    lines = ["| given | method | evaluations | mean | spread | distance |", "|---|---|---|---|---|---|"]
    return "\n".join(lines + ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]) + "\n"


if __name__ == "__main__":
    main()
