"""Does the map of a student approach the probability flow's? Measured where that is known: a mixture on a line.

    python benchmarks/flow_map.py

On a line the flow keeps the share of the data that lies below. So its map from noise to data is known. A small network is
trained as a teacher, and students of it by losses of `distillation`; a mean flow is trained without a teacher. After every
part of their training, the error of their map is taken: the root of the mean squared difference from the flow's, over 4,000
values of x_T. Writes benchmarks/flow_map.json and docs/images/flow_map.png.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from matplotlib.figure import Figure
from scipy.special import ndtr, ndtri

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from diffusion_jax import distillation, losses, timesteps
from diffusion_jax.compose import stored
from diffusion_jax.process import Level

WEIGHTS, MEANS, STDS = np.array([0.6, 0.4]), np.array([-0.7, 0.5]), np.array([0.15, 0.3])
PROCESS = dj.process.vp()
FLOW = dj.process.rectified_flow(c_noise_scale=999.0)  # of the mean flow; the network divides by 999, and its sines are slow
NUM_TEACHER, NUM_PART, NUM_PARTS, BATCH = 20_000, 2_500, 8, 512
FIRST_STEPS = 64  # of DDIM, of the first student of progressive distillation
WIDTH, FREQUENCIES = 128, 2.0 ** np.arange(-1, 6)


def network(params: Any, x_t: Array, c_noise: Array) -> Array:
    """Returns the output for x_t [B, 1], by four layers; c_noise is [B], or [B, 2] of two levels."""
    angles = (c_noise.reshape(len(x_t), -1, 1) / 999 * FREQUENCIES).reshape(len(x_t), -1)
    hidden = jnp.concatenate([x_t, jnp.sin(angles), jnp.cos(angles)], axis=1)
    for weight, bias in params[:-1]:
        hidden = jax.nn.silu(hidden @ weight + bias)
    return hidden @ params[-1][0] + params[-1][1]


def init(key: Array, num_levels: int = 1) -> Any:
    sizes = [1 + 2 * num_levels * len(FREQUENCIES), WIDTH, WIDTH, WIDTH, 1]
    keys = jax.random.split(key, len(sizes) - 1)
    shapes = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [(jax.random.normal(key, (n, m)) / np.sqrt(n), jnp.zeros(m)) for key, n, m in shapes]


def denoiser_of(params: Any) -> dj.Denoiser:
    return dj.make_denoiser(functools.partial(network, params), dj.V)


def mean_flow_of(params: Any) -> dj.Denoiser:
    """Returns the denoiser of a network that is always told two levels."""

    def told_two(x_t: Array, c_noise: Array) -> Array:
        return network(params, x_t, c_noise if c_noise.ndim == 2 else jnp.stack([c_noise, c_noise], axis=-1))

    return dj.make_denoiser(told_two, dj.VELOCITY)


def trained(
    params: Any,
    loss_at: Callable[[Array], losses.Loss],
    level_of: Callable[[Array], Level],
    draw: Any,
    first: int,
    num: int,
    of: Callable[[Any], dj.Denoiser] = denoiser_of,
) -> Any:
    """Returns parameters after `num` steps of Adam, whose rate falls to 0 by a cosine; step `first` is the loss's first."""
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, num))

    def step(carry: Any, number: Array) -> tuple[Any, None]:
        params, state = carry
        key_x, key_t, key_eps = jax.random.split(jax.random.fold_in(jax.random.key(0), first + number), 3)
        x_0, eps = sampled(key_x), jax.random.normal(key_eps, (BATCH, 1))
        t, _ = draw.draw((), key_t, BATCH)
        gradient = jax.grad(lambda p: jnp.mean(loss_at(first + number)(of(p), x_0, level_of(t), eps)[0]))(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(num))[0][0])(params)


def sampled(key: Array) -> Array:
    """Returns values of the mixture. # [B, 1]"""
    key_which, key_value = jax.random.split(key)
    which = jax.random.bernoulli(key_which, WEIGHTS[1], (BATCH, 1)).astype(int)
    return jnp.asarray(MEANS)[which] + jnp.asarray(STDS)[which] * jax.random.normal(key_value, (BATCH, 1))


def flow_of(x_T: np.ndarray, process: dj.Process) -> np.ndarray:
    """Returns the data at which the flow from x_T arrives, in float64. # [N, 1]"""
    level = process.level(np.float64(process.last))
    spread = np.hypot(float(level.alpha) * STDS, float(level.sigma))
    share = np.sum(WEIGHTS * ndtr((x_T - float(level.alpha) * MEANS) / spread), axis=-1)
    low, high = np.full(len(x_T), -10.0), np.full(len(x_T), 10.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = np.sum(WEIGHTS * ndtr((middle[:, None] - MEANS) / STDS), axis=-1) < share
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return ((low + high) / 2)[:, None]


def error_of(
    params: Any, sampler: dj.Sampler, num_steps: int, of: Any = denoiser_of, process: dj.Process = PROCESS
) -> float:
    """Returns how far a map of S steps is from the flow's."""
    x_T = ndtri((np.arange(4000) + 0.5) / 4000)[:, None].astype(np.float32) * float(process.level(process.last).sigma)
    grid, keys = process.level(dj.trailing(process, num_steps)), jax.random.split(jax.random.key(1), len(x_T))
    found = jax.jit(lambda params: dj.sample(of(params), sampler, jnp.asarray(x_T), grid, keys).x)(params)
    return float(np.sqrt(np.mean((np.asarray(found, np.float64) - flow_of(np.asarray(x_T, np.float64), process)) ** 2)))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    uniform = timesteps.from_quantiles(functools.partial(timesteps.uniform_time, first=1e-5, last=1.0), stratified=True)
    teacher = trained(init(jax.random.key(0)), lambda step: losses.simple(), PROCESS.level, uniform, 0, NUM_TEACHER)
    rows = [{"map": "teacher, DDIM", "num_steps": n, "error": error_of(teacher, dj.ddim(), n)} for n in (1, 4, 16, 64, 1000)]
    rows += consistency(teacher, uniform, 0.0) + consistency(teacher, uniform, 10.0) + progressive(teacher)
    rows += mean_flow(uniform)
    for row in rows:
        print(json.dumps(row))
    result = {
        "command": "python benchmarks/flow_map.py",
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": stored.versions(),
        "rows": rows,
    }
    (ROOT / "benchmarks" / "flow_map.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(rows).savefig(ROOT / "docs" / "images" / "flow_map.png", dpi=90)


def consistency(params: Any, uniform: Any, huber: float) -> list[dict]:
    """Returns the error of one step after each stage, whose gap is half of the one before."""
    rows, name = [], f"consistency, {'squares' if huber else 'norm'}"
    for stage in range(NUM_PARTS):
        gap = distillation.stage_gap(jnp.asarray(stage), ratio=2.0, stage_steps=1)
        loss = distillation.consistency(PROCESS, gap=gap, huber=huber)
        params = trained(params, lambda step, loss=loss: loss, PROCESS.level, uniform, stage * NUM_PART, NUM_PART)
        error = error_of(params, dj.samplers.consistency(), 1)
        trained_for = (stage + 1) * NUM_PART
        rows.append({"map": name, "num_steps": 1, "trained_for": trained_for, "gap": float(gap), "error": error})
    return rows


def progressive(params: Any) -> list[dict]:
    """Returns the error of each student with its own number of steps."""
    rows, num_steps = [], FIRST_STEPS
    for part in range(FIRST_STEPS.bit_length()):
        levels = PROCESS.level(dj.trailing(PROCESS, 2 * num_steps)[::-1])
        loss = distillation.progressive(denoiser_of(params), levels)
        even = timesteps.from_quantiles(lambda u, n=num_steps: 2 + 2 * jnp.floor(u * n).astype(jnp.int32), stratified=True)
        level_of = functools.partial(dj.rows, levels)
        params = trained(params, lambda step, loss=loss: loss, level_of, even, part * NUM_PART, NUM_PART)
        error = error_of(params, dj.ddim(), num_steps)
        rows.append({"map": "progressive", "num_steps": num_steps, "trained_for": (part + 1) * NUM_PART, "error": error})
        num_steps //= 2
    return rows


def mean_flow(uniform: Any) -> list[dict]:
    """Returns the error of one step after each part of a training from nothing, and of more steps at its end."""
    params, pairs, rows = init(jax.random.key(0), num_levels=2), timesteps.pairs(uniform, equal_share=0.75), []
    loss = distillation.mean_flow(FLOW, power=0.0)
    for part in range(NUM_PARTS):
        params = trained(params, lambda step: loss, FLOW.level, pairs, part * NUM_PART, NUM_PART, mean_flow_of)
        for num_steps in (1, 2, 4) if part == NUM_PARTS - 1 else (1,):
            error = error_of(params, dj.samplers.mean_flow(), num_steps, mean_flow_of, FLOW)
            rows.append({"map": "mean flow", "num_steps": num_steps, "trained_for": (part + 1) * NUM_PART, "error": error})
    return rows


def draw(rows: list[dict]) -> Figure:
    """Returns the error of each student against its training, and of the teacher as lines."""
    canvas = Figure(figsize=(7, 4), layout="constrained")
    axes = canvas.add_subplot()
    for name in ("consistency, norm", "consistency, squares", "mean flow", "progressive"):
        own = [row for row in rows if row["map"] == name and (row["num_steps"] == 1 or name == "progressive")]
        axes.plot([row["trained_for"] for row in own], [row["error"] for row in own], marker="o", label=name)
        for row in own if name == "progressive" else []:
            axes.annotate(row["num_steps"], (row["trained_for"], row["error"]), textcoords="offset points", xytext=(4, 4))
    for row in rows:
        if row["map"].startswith("teacher") and row["num_steps"] in (1, 16, 1000):
            axes.axhline(row["error"], linestyle=":", color="black", linewidth=1)
            axes.annotate(f"teacher, {row['num_steps']} steps", (NUM_PART, row["error"]), fontsize="small", va="bottom")
    axes.set(yscale="log", xlabel="steps of the student's training", ylabel="error of the map (root mean square)")
    axes.legend(loc=(0.3, 0.2), ncols=2)
    return canvas


if __name__ == "__main__":
    main()
