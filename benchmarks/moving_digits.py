"""Do generated videos keep the law of the data? Digits of configs/moving_digits.py move by one pixel a frame, or rest.

    python main.py --config=configs/moving_digits.py --workdir=DIR
    python benchmarks/moving_digits.py --workdir=DIR

Draws 90 videos of the nine directions. For each frame the direction is found in which the frame before fits best, and the
root mean square of what does not fit, on the scale 0 to 255. Then 90 held-out videos are continued from their first two
frames, by a network that is not told the direction: `editing.replaced` keeps these frames, as it keeps known pixels of
images. Writes benchmarks/moving_digits.json, and docs/images/moving_digits.png with a row for each direction.
"""

import argparse
import json
import pathlib
import platform
import sys

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from diffusion_jax import editing, grids, samplers, streams
from diffusion_jax.compose import processes
from diffusion_jax.data import moving, videos
from diffusion_jax.runs import pictures

NUM_VIDEOS, NUM_KNOWN, NUM_STEPS = 90, 2, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="a run of configs/moving_digits.py")
    trained = dj.load(parser.parse_args().workdir)
    of = moving.moving_digits(image_size=trained.config.data.image_size, split="test")
    real, labels = np.stack([of.read(number)["x"] for number in range(NUM_VIDEOS)]), np.arange(NUM_VIDEOS) % 9
    generated, predicted = trained.sample(NUM_VIDEOS, batch_per_device=45), predictions(trained, real)
    away = predicted[:, NUM_KNOWN:].astype(np.float32) - real[:, NUM_KNOWN:]
    result = {
        "command": "python benchmarks/moving_digits.py",
        "hardware": f"{platform.machine()}, CPU",
        "checkpoint_step": trained.step,
        "real": law(real, labels),
        "generated": law(generated, labels),
        "predicted": law(predicted, labels, first=NUM_KNOWN - 1),
        "predicted_rms_from_real": float(np.sqrt(np.mean(away**2))),
        "rms_of_real_frames": float(np.sqrt(np.mean(real[:, NUM_KNOWN:].astype(np.float32) ** 2))),
    }
    (ROOT / "benchmarks" / "moving_digits.json").write_text(json.dumps(result, indent=2) + "\n")
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


def predictions(trained: dj.Model, real: np.ndarray) -> np.ndarray:
    """Returns videos that begin with the first frames of real ones, of no label. # uint8 [N, F, H, W, 1]"""
    process = processes.process_of(trained.config)
    mask = jnp.zeros(real.shape[1:], bool).at[NUM_KNOWN:].set(True)
    grid = process.level(grids.jumps(grids.trailing(process, NUM_STEPS), jump_length=5, num_resamples=3))
    keys = streams.keys(0, "sampler", np.arange(len(real)))
    x_T = jax.vmap(lambda key: jax.random.normal(key, real.shape[1:]))(streams.keys(0, "x_T", np.arange(len(real))))
    denoise = dj.clip_x_0(trained.denoiser(label=jnp.full(len(real), trained.config.model.num_classes)))
    sampler = editing.replaced(samplers.ancestral(variance="small"), dj.from_uint8(jnp.asarray(real)), mask)
    drawn = jax.jit(lambda x_T: dj.to_uint8(dj.sample(denoise, sampler, x_T, grid, keys).x))
    return np.asarray(drawn(x_T))


if __name__ == "__main__":
    main()
