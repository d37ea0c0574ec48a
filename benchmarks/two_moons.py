"""How near do model and samplers come to a density that is known? Measured on points of configs/two_moons.py.

    python main.py --config=configs/two_moons.py --workdir=DIR
    python benchmarks/two_moons.py --workdir=DIR

The divergence of the model from the truth is the mean of log p - log q over points of the held-out set. log q is that of
the probability flow, whose trace is exact here. Each sampler then draws 16,384 points. Their sliced Wasserstein distance
to the 20,000 of the held-out set is compared with that of as many fresh points of the truth. Writes
benchmarks/two_moons.json, and docs/images/two_moons.png: the density itself, that of the model, and the points that it
draws.
"""

import argparse
import json
import math
import pathlib
import platform
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from diffusion_jax import model
from diffusion_jax.data import points
from diffusion_jax.metrics import sliced
from diffusion_jax.runs import pictures

SAMPLERS = {  # with the evaluations of each
    "euler, 10": {"sampler": "euler", "num_steps": 10},
    "euler, 50": {"sampler": "euler", "num_steps": 50},
    "heun, 9": {"sampler": "heun", "num_steps": 5},
    "heun, 35": {"sampler": "heun", "num_steps": 18},
    "dpm_solver, 10": {"sampler": "dpm_solver", "num_steps": 10},
    "unipc, 10": {"sampler": "unipc", "num_steps": 10},
    "unipc, 20": {"sampler": "unipc", "num_steps": 20},
    "ancestral, 20": {"sampler": "ancestral", "num_steps": 20},
    "ancestral, 200": {"sampler": "ancestral", "num_steps": 200},
    "dpm_solver_sde, 20": {"sampler": "dpm_solver_sde", "num_steps": 20},
    "ode": {"sampler": "ode", "grid": "trailing"},
}
NUM_DRAWN, NUM_MEASURED = 16_384, 2_000
SIDE, WINDOW = 96, 2.0  # of the grid of the picture: bins, and half the width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="a run of configs/two_moons.py")
    trained = dj.load(parser.parse_args().workdir)
    held_out, fresh = (drawn(points.two_moons(split=split)) for split in ("test", ""))
    samples = {name: trained.sample(NUM_DRAWN, **settings) for name, settings in SAMPLERS.items()}
    result = {
        "command": "python benchmarks/two_moons.py",
        "hardware": f"{platform.machine()}, CPU",
        "num_parameters": 54_402,
        "checkpoint_step": trained.step,
        "divergence_nats": divergence(trained, held_out[:: len(held_out) // NUM_MEASURED]),
        "sliced_wasserstein": {name: distance(x, held_out) for name, x in {"truth": fresh[:NUM_DRAWN], **samples}.items()},
    }
    (ROOT / "benchmarks" / "two_moons.json").write_text(json.dumps(result, indent=2) + "\n")
    (ROOT / "docs" / "images" / "two_moons.png").write_bytes(picture(trained, samples["unipc, 20"]))
    print(json.dumps(result, indent=2))


def drawn(of: points.Source) -> np.ndarray:
    return np.stack([of.read(number)["x"] for number in range(of.num_images)])


def distance(x: np.ndarray, real: np.ndarray) -> dict[str, float]:
    return sliced.sliced_wasserstein(x, real)._asdict()


def divergence(trained: dj.Model, x: np.ndarray) -> dict[str, float]:
    """Returns KL(truth || model) with its standard error."""
    ratio = points.two_moons_log_density(x) - log_density(trained, x)
    return {"value": float(np.mean(ratio)), "standard_error": float(np.std(ratio) / math.sqrt(len(ratio)))}


def log_density(trained: dj.Model, x: np.ndarray) -> np.ndarray:
    """Returns log q of points under the probability flow, in nats. # [N]"""
    config = trained.config.with_values("likelihood", batch_per_device=len(x))
    found = model.measure(trained._replace(config=config), {"x": x, "cond": {}}, np.arange(len(x)))
    return -found["bits"] * math.log(2) * x.shape[-1]


def picture(trained: dj.Model, samples: np.ndarray) -> bytes:
    """Returns the density, that of the model and the samples side by side, darker where there is more, as a PNG."""
    axis = (np.arange(SIDE) + 0.5) * (2 * WINDOW / SIDE) - WINDOW
    grid = np.stack(np.meshgrid(axis, -axis), axis=-1).reshape(-1, 2).astype(np.float32)  # rows downwards
    panels = [shaded(np.exp(of)) for of in (points.two_moons_log_density(grid), log_density(trained, grid))]
    edges = np.linspace(-WINDOW, WINDOW, SIDE + 1)
    panels.append(shaded(np.histogram2d(*samples.T, bins=edges)[0].T[::-1]))
    return pictures.encode_png(pictures.grid(np.stack(panels), num_columns=3, min_size=3 * SIDE))


def shaded(density: np.ndarray) -> np.ndarray:
    return (255 - np.round(255 * np.sqrt(density / density.max()))).astype(np.uint8).reshape(SIDE, SIDE, 1)


if __name__ == "__main__":
    main()
