"""Does augmentation of which the network is told help where images are few? Digits, 300 of the 1,797, with and without it.

    python benchmarks/augmentation.py --runs=runs/augmentation

Trains configs/digits.py for 4,000 steps with each rate and seed, on the same 300 digits; the others are held out. Compares
the held-out loss, and as many generated digits as are held out with those, in pixels. A run that is complete is not trained
again. Writes benchmarks/augmentation_digits.json.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from diffusion_jax.compose import stored
from diffusion_jax.data import feed, sources
from diffusion_jax.metrics import memorisation

NUM_TRAINED, NUM_STEPS = 300, 4000
RATES = (0.0, 0.12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="runs/augmentation", help="folder for the data and the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags = parser.parse_args()
    folder, digits = pathlib.Path(flags.runs), feed.read(sources.digits())["x"]
    order = np.random.default_rng(0).permutation(len(digits))
    train, held_out = digits[order[:NUM_TRAINED]], digits[order[NUM_TRAINED:]]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "train.npz", arr_0=train)
    np.savez(folder / "held_out.npz", arr_0=held_out)
    rows = [row(folder, rate, seed, train, held_out) for seed in flags.seeds for rate in RATES]
    result = {
        "command": " ".join(["python", "benchmarks/augmentation.py", *sys.argv[1:]]),
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "versions": stored.versions(),
        "training_images": len(train),
        "held_out_images": len(held_out),
        "control": {"authenticity": authenticity(held_out, train)},
        "means": {f"augment_rate {rate}": means([each for each in rows if each["augment_rate"] == rate]) for rate in RATES},
        "rows": rows,
    }
    (ROOT / "benchmarks" / "augmentation_digits.json").write_text(json.dumps(result, indent=1) + "\n")


def row(folder: pathlib.Path, rate: float, seed: int, train: np.ndarray, held_out: np.ndarray) -> dict:
    """Returns the figures of one training."""
    workdir = folder / f"rate_{rate}_seed_{seed}"
    data = {"source": "npz", "path": folder / "train.npz", "held_out": folder / "held_out.npz", "augment_rate": rate}
    fields = {f"data.{name}": value for name, value in data.items()}
    fields |= {"train.seed": seed, "train.num_steps": NUM_STEPS, "train.tensorboard": False}
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    command = [sys.executable, "main.py", "--config=configs/digits.py", f"--workdir={workdir}", *words]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["held_out_loss_ema0.99"] for line in lines if "held_out_loss_ema0.99" in line]
    images = dj.load(workdir).sample(len(held_out), seed=0, sampler="unipc", num_steps=20, batch_per_device=250)
    found = dj.evaluate(images, held_out, features="pixels")
    figures = {name: round(found[name].value.value, 4) for name in ("frechet_distance", "kernel_distance")}
    figures["authenticity"] = authenticity(images, train)
    losses = {"held_out_loss": round(losses[-1], 4), "least_held_out_loss": round(min(losses), 4)}
    return {"augment_rate": rate, "seed": seed, **losses, **figures}


def authenticity(images: np.ndarray, train: np.ndarray) -> float:
    """Returns the share of images that are farther from the training set than it is from itself."""
    found = memorisation.closeness(images, train, memorisation.own_distances(train))
    return round(memorisation.figures(found)["authenticity"].value, 4)


def means(rows: list[dict]) -> dict:
    """Returns mean and standard error over the seeds of each figure."""
    columns = {name: [each[name] for each in rows] for name in rows[0] if name not in ("augment_rate", "seed")}
    error = {name: np.std(of, ddof=1) / len(of) ** 0.5 if len(of) > 1 else np.nan for name, of in columns.items()}
    return {name: [round(float(np.mean(of)), 4), round(float(error[name]), 4)] for name, of in columns.items()}


if __name__ == "__main__":
    main()
