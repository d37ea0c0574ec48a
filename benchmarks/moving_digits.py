"""Do generated videos keep the law of the data? Digits of configs/moving_digits.py move by one pixel a frame, or rest.

    python main.py --config=configs/moving_digits.py --workdir=DIR
    python benchmarks/moving_digits.py --workdir=DIR

Draws 90 videos of the nine directions. For each frame the direction is found in which the frame before fits best, and the
root mean square of what does not fit, on the scale 0 to 255. Then 45 held-out videos are continued from their first two
frames by `editing`, which keeps these frames as it keeps known pixels of images, by a network that is not told the
direction, and by one that is. Beside them are 45 videos of no label. Writes benchmarks/moving_digits.json, and
docs/images/moving_digits.png with a row for each direction.

    python main.py --config=configs/moving_digits.py --workdir=HALF --config.train.init_from=DIR \
        --config.train.num_steps=1500 --config.train.learning_rate=5e-4 --config.train.label_dropout=0.5
    python benchmarks/moving_digits.py --workdir=HALF --name=moving_digits_half

The same, without a picture, of a network that has seen half of the videos without a label.
"""

import argparse
import json
import pathlib
import platform
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from diffusion_jax import editing, grids, operators, process, samplers, streams
from diffusion_jax.compose import processes
from diffusion_jax.data import moving, videos
from diffusion_jax.runs import pictures

NUM_VIDEOS, NUM_CONTINUED, NUM_KNOWN, NUM_STEPS = 90, 45, 2, 50
NAME = "moving_digits"
SMALL = samplers.ancestral(variance="small")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="a run of configs/moving_digits.py")
    parser.add_argument("--name", default=NAME, help="of the file in benchmarks/")
    flags = parser.parse_args()
    trained = dj.load(flags.workdir)
    of = moving.moving_digits(image_size=trained.config.data.image_size, split="test")
    real, labels = np.stack([of.read(number)["x"] for number in range(NUM_VIDEOS)]), np.arange(NUM_VIDEOS) % 9
    generated = trained.sample(NUM_VIDEOS, batch_per_device=45)
    result = {
        "command": "python benchmarks/moving_digits.py" + f" --name={flags.name}" * (flags.name != NAME),
        "hardware": f"{platform.machine()}, CPU",
        "checkpoint_step": trained.step,
        "real": law(real, labels),
        "generated": law(generated, labels),
    }
    real, labels = real[:NUM_CONTINUED], labels[:NUM_CONTINUED]
    result["rms_of_real_frames"] = float(np.sqrt(np.mean(real[:, NUM_KNOWN:].astype(np.float32) ** 2)))
    for name, x in continued(trained, real, labels):
        result[name] = law(x, labels, first=NUM_KNOWN - 1) if name != "no label" else law(x, moving.moves(x)[0][:, 0])
        away = x[:, NUM_KNOWN:].astype(np.float32) - real[:, NUM_KNOWN:]
        result[name]["rms_from_real"] = float(np.sqrt(np.mean(away**2)))
        print(name, json.dumps(result[name]), flush=True)
    (ROOT / "benchmarks" / f"{flags.name}.json").write_text(json.dumps(result, indent=2) + "\n")
    if flags.name == NAME:
        picture = pictures.encode_png(videos.grid(generated[: len(moving.DIRECTIONS)]))
        (ROOT / "docs" / "images" / "moving_digits.png").write_bytes(picture)
    print(json.dumps(result, indent=2))


def law(x: np.ndarray, labels: np.ndarray, first: int = 0) -> dict[str, float]:
    """Returns the share of frames that move as their label says, of videos whose frames all do, and what does not fit."""
    directions, left = (part[:, first:] for part in moving.moves(x))
    right = directions == labels[:, None]
    return {
        "right_direction": float(np.mean(right)),
        "videos_all_right": float(np.mean(np.all(right, axis=1))),
        "rms_of_rest": float(np.mean(left)),
    }


def continued(trained: dj.Model, real: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (how, videos that begin with the first frames of real ones); of 'no label' they begin with noise.

    The law of 'no label' is that all frames move as the first does.
    """
    of, num = processes.process_of(trained.config), len(real)
    x_0, mask = dj.from_uint8(jnp.asarray(real)), jnp.zeros(real.shape[1:], bool).at[NUM_KNOWN:].set(True)
    keys, known = streams.keys(0, "sampler", np.arange(num)), operators.known(mask)
    x_T = jax.vmap(lambda key: jax.random.normal(key, real.shape[1:]))(streams.keys(0, "x_T", np.arange(num)))
    grid = of.level(grids.trailing(of, NUM_STEPS))
    jumps = of.level(grids.jumps(grids.trailing(of, NUM_STEPS), jump_length=5, num_resamples=3))
    plain = trained.denoiser(label=jnp.full(num, trained.config.model.num_classes))
    unlabelled, told = dj.clip_x_0(plain), dj.clip_x_0(trained.denoiser(label=jnp.asarray(labels)))
    repaint = editing.replaced(SMALL, x_0, mask)
    consistent = editing.consistent(unlabelled, x_0, known, recompute_eps=False)
    guided = dj.clip_x_0(editing.pseudoinverse_guided(plain, x_0, known))
    for name, drawn in {
        "no label": lambda: dj.sample(unlabelled, SMALL, x_T, grid, keys).x,
        "continued by replaced, no label": lambda: dj.sample(unlabelled, repaint, x_T, jumps, keys).x,
        "continued by consistent, no label": lambda: dj.sample(consistent, samplers.ddim(), x_T, grid, keys).x,
        "continued by replaced, label told": lambda: dj.sample(told, repaint, x_T, jumps, keys).x,
    }.items():
        yield name, np.asarray(dj.to_uint8(jax.jit(drawn)()))
    yield "continued by pseudoinverse_guided, no label", np.asarray(dj.to_uint8(looped(guided, x_T, grid, keys)))


def looped(denoise: dj.Denoiser, x: Array, grid: process.Level, keys: Array) -> Array:
    """Returns images by `SMALL`, as `dj.sample`, in a loop: on a CPU jax.lax.scan makes gradients of convolutions slow."""
    num_steps = len(grid.alpha) - 1

    @jax.jit
    def step(x: Array, index: Array) -> Array:
        interval = samplers.Interval(process.rows(grid, index), process.rows(grid, index + 1), index, num_steps - 1 - index)
        noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), x.shape[1:]))(keys)
        return SMALL.step(denoise, x, interval, lambda k: noise)[0]

    for index in range(num_steps):
        x = step(x, jnp.asarray(index))
    return x


if __name__ == "__main__":
    main()
