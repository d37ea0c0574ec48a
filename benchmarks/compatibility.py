"""Whether versions of jax agree: python benchmarks/compatibility.py [--record]

A hundred training steps of a tiny network on digits, and 64 images drawn from the weights in examples/digits, against those
in examples/digits/expected.npz, which --record made. Prints a row for the table of docs/compatibility.md, and exits with 1
where a loss is off by more than a thousandth or an image by more than two levels in more than one pixel of a thousand.
"""

import argparse
import functools
import pathlib
import platform
import sys

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import tiny

import diffusion_jax as dj
from diffusion_jax import streams
from diffusion_jax.compose import inputs, stored, training
from diffusion_jax.data import feed
from diffusion_jax.training import start
from diffusion_jax.training import step as training_step

EXPECTED = ROOT / "examples" / "digits" / "expected.npz"
NUM_STEPS, NUM_IMAGES = 100, 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="make the file to compare with")
    record = parser.parse_args().record
    found = {"losses": losses(), "images": dj.load(ROOT / "examples" / "digits").sample(NUM_IMAGES)}
    if record:
        np.savez_compressed(EXPECTED, **found)
    with np.load(EXPECTED, allow_pickle=False) as expected:
        off = float(np.max(np.abs(found["losses"] / expected["losses"] - 1)))
        levels = np.abs(found["images"].astype(int) - expected["images"])
    many = float(np.mean(levels > 2))
    versions = stored.versions()
    print(
        f"| {platform.python_version()} | {versions['jax']} | {versions['flax']} | {versions['optax']} | "
        f"{versions['orbax-checkpoint']} | {off:.1e} | {int(levels.max())} | {100 * many:.3f}% |"
    )
    return int(off > 1e-3 or many > 1e-3)


def losses() -> np.ndarray:
    """Returns the loss of each step. # float32 [NUM_STEPS]"""
    config = tiny.config_of({"model.dropout": 0.1, "model.attention_stages": (0,)})
    parts, source = training.parts(config), inputs.source(config)
    records = feed.read(source)
    fed = feed.make_feed(source, records, batch_size=16, seed=0, first_step=0)
    step = jax.jit(functools.partial(training_step.train_step, parts=parts))
    state, found = jax.jit(functools.partial(start.make_state, parts=parts))(streams.key(0, "init")), []
    for _ in range(NUM_STEPS):
        state, metrics = step(state, fed.batch(fed.store, next(fed.items)))
        found.append(float(metrics["loss"]))
    return np.array(found, np.float32)


if __name__ == "__main__":
    sys.exit(main())
