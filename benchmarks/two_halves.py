"""Memorised or learned? Two models of disjoint halves of a set draw the same seeds. [Kadkhodaie et al. 2024, figure 2]

    python benchmarks/two_halves.py --data=FILE.npz --workdir=DIR [--config=configs/fashion_mnist.py] [--sizes 50 500 1800]

For each size trains a small model on so many images of one half, and another on as many of the other half. Where they
memorise, each draws images of its own half. Where they learned what the halves have in common, images of the same seed are
alike, and no more like their own half than like the other. Alike is the cosine similarity of pixels, with the set's mean
image taken away: 1 for the same image, 0 for no relation. (The paper takes nothing away. On a white background all images
would be alike.)

Models that learned nothing draw the same from the same seed too. Their images are less like real ones than real ones are
like each other: compare `nearest_of_other_half` with `halves`.

The file holds images, uint8 [N, H, W, C]; of equal ones one is taken. What is done stays in --workdir, and the same
command goes on. Writes benchmarks/two_halves_<name>.json, a curve in docs/images, and DIR/pairs.png. That has four rows for
each size: in the middle what the two models draw, above and below the most similar training image of the model's own half.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys

import numpy as np
from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from diffusion_jax.compose import stored
from diffusion_jax.data import feed, sources
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import figure, memorisation
from diffusion_jax.runs import pictures

NUM_SHOWN = 12  # pairs of each size in the picture
TRAINING = {"train.tensorboard": False, "data.held_out": "", "data.source": "npz"}
SAMPLING = {"sample.sampler": "ddim", "sample.num_steps": 50, "sample.batch_per_device": 64, "sample.seed": 0}
OWN, OTHER = [(0, 0), (1, 1)], [(0, 1), (1, 0)]  # (whose images, whose training images they are compared with)
KINDS = {
    "same_seed": "two models, same seed",
    "other_seed": "two models, other seeds",
    "nearest_of_own_half": "image and nearest of its own half",
    "nearest_of_other_half": "image and nearest of the other half",
    "halves": "training image and nearest of the other half",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="an .npz file of images")
    parser.add_argument("--workdir", required=True, help="where the models stay")
    parser.add_argument("--name", default="", help="of the result; the file's name by default")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 500, 1800], help="images of each half")
    parser.add_argument("--config", default="configs/fashion_mnist.py", help="of the network and its training")
    parser.add_argument("--num_steps", type=int, default=8000, help="of training")
    parser.add_argument("--num_images", type=int, default=256, help="drawn from each model")
    flags = parser.parse_args()
    name, workdir, rows, shown = flags.name or pathlib.Path(flags.data).stem, pathlib.Path(flags.workdir).resolve(), [], []
    try:
        halves = two_halves(flags.data, max(flags.sizes))
    except UserError as error:
        parser.error(str(error))
    mean = np.mean(np.concatenate(halves), axis=0, dtype=np.float64)
    for size in sorted(flags.sizes):
        train = [half[:size] for half in halves]
        runs = [workdir / f"{name}_{size}{letter}_{flags.num_steps}" for letter in "ab"]
        drawn = [draw(run, images, flags) for run, images in zip(runs, train, strict=True)]
        rows.append({"num_training_images": size, **measured(train, drawn, mean)})
        print(json.dumps(rows[-1]), flush=True)
        shown.append(block(train, drawn, mean))
        write(name, flags, rows)
    grid = pictures.grid(np.concatenate(shown), num_columns=NUM_SHOWN, min_size=32)
    (workdir / "pairs.png").write_bytes(pictures.encode_png(grid))


def two_halves(file: str, size: int) -> list[np.ndarray]:
    """Returns two disjoint sets of different images in a fixed random order, uint8 [N, H, W, C]; UserError for too few."""
    images = np.unique(feed.read(sources.npz(path=file))["x"], axis=0)
    images = np.random.default_rng(0).permutation(images)
    if 2 * size > len(images):
        raise UserError(f"--data={file} has {len(images):,} different images; two halves of {size:,} need {2 * size:,}.")
    return np.array_split(images, 2)


def draw(run: pathlib.Path, images: np.ndarray, flags: argparse.Namespace) -> np.ndarray:
    """Returns what a model trained on images draws, training and drawing what is not there yet. # uint8 [N, H, W, C]"""
    data, out, shape = run.parent / f"{run.name}.npz", run / f"drawn_{flags.num_images}", images.shape[1:]
    dump = out / f"samples_{'x'.join(map(str, (flags.num_images, *shape)))}.npz"
    if not dump.exists():
        run.parent.mkdir(parents=True, exist_ok=True)
        np.savez(data, images=images)
        every = {f"train.{name}_every": flags.num_steps for name in ("checkpoint", "sample")}
        of_data = {"data.path": data, "data.image_size": shape[:2], "data.channels": shape[2]}
        job(
            f"--config={flags.config}",
            f"--workdir={run}",
            settings=TRAINING | every | of_data | {"train.num_steps": flags.num_steps},
        )
        settings = SAMPLING | {"sample.num_images": flags.num_images}
        job("--mode=sample", f"--workdir={run}", f"--out={out}", settings=settings)
    with np.load(dump, allow_pickle=False) as found:
        return found["arr_0"]


def job(*arguments: str, settings: dict) -> None:
    changes = [f"--config.{field}={value}" for field, value in settings.items()]
    subprocess.run([sys.executable, "main.py", *arguments, *changes], cwd=ROOT, check=True)


def measured(train: list[np.ndarray], drawn: list[np.ndarray], mean: np.ndarray) -> dict:
    """Returns how alike images are, and which share are copies of their own half, with the other half as the control.

    Args:
        train: the two sets of training images, uint8 [N, H, W, C].
        drawn: of each model, image i of seed i, uint8 [M, H, W, C].
        mean: the mean image, [H, W, C].
    """
    own, other = ([np.max(similarity(drawn[i], train[j], mean), axis=1) for i, j in pairs] for pairs in (OWN, OTHER))
    between = similarity(*drawn, mean)
    alike = {
        "same_seed": np.diagonal(between),
        "other_seed": np.diagonal(np.roll(between, 1, axis=1)),
        "nearest_of_own_half": np.concatenate(own),
        "nearest_of_other_half": np.concatenate(other),
        "halves": np.max(similarity(*train, mean), axis=1),
    }
    distances = [memorisation.own_distances(images) for images in train]
    copies = {
        name: np.concatenate([memorisation.closeness(of[i], train[j], distances[j]).calibrated < 1 for i, j in pairs])
        for name, of, pairs in (("copies", drawn, OWN), ("copies_control", train, OTHER))
    }
    return {name: figure.of_mean(values)._asdict() for name, values in (alike | copies).items()}


def similarity(one: np.ndarray, two: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Returns the cosine similarity of each image of a set with each of another, of their differences from a mean."""
    rows = [(images - mean).reshape(len(images), -1) for images in (one, two)]
    unit = [row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows]
    return unit[0] @ unit[1].T


def block(train: list[np.ndarray], drawn: list[np.ndarray], mean: np.ndarray) -> np.ndarray:
    """Returns the four rows of the picture: nearest in one half, its model, the other model, nearest in the other half."""
    few = [images[:NUM_SHOWN] for images in drawn]
    near = [images[np.argmax(similarity(of, images, mean), axis=1)] for of, images in zip(few, train, strict=True)]
    return np.concatenate([near[0], few[0], few[1], near[1]])


def write(name: str, flags: argparse.Namespace, rows: list[dict]) -> None:
    """Writes the rows so far, and their curve."""
    command = f"python benchmarks/two_halves.py --data={pathlib.Path(flags.data).name} --workdir=DIR --config={flags.config}"
    command += f" --sizes {' '.join(map(str, flags.sizes))} --num_steps={flags.num_steps} --num_images={flags.num_images}"
    result = {"command": command, "num_images": flags.num_images, "training_steps": flags.num_steps, "rows": rows}
    result |= {"hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})", "versions": stored.versions()}
    (ROOT / "benchmarks" / f"two_halves_{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    picture = Figure(figsize=(7, 4.5), layout="constrained")
    axes = picture.add_subplot()
    sizes = [row["num_training_images"] for row in rows]
    for kind, label in KINDS.items():
        values = [row[kind]["value"] for row in rows]
        errors = [2 * row[kind]["standard_error"] for row in rows]
        axes.errorbar(sizes, values, errors, marker="o", capsize=3, linestyle=":" if kind == "halves" else "-", label=label)
    axes.set(xscale="log", xlabel="training images of each model", ylabel="cosine similarity", title=name)
    axes.set_xticks(sizes, map(str, sizes))
    axes.minorticks_off()
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    picture.savefig(ROOT / "docs" / "images" / f"two_halves_{name}.png", dpi=90)


if __name__ == "__main__":
    main()
