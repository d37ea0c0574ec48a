"""What do the figures of an evaluation say of images that are damaged in a known way, by the number of images?

    python -m diffusion_jax.tools.fetch sprites --out=data/sprites
    python benchmarks/damage.py --data=data/sprites --name=sprites

Splits the distinct images of a set at random into two halves. The one is the reference. Of the other the first N are
compared with it: as they are (the floor), blurred, with noise, half of them twice (lost diversity), and without a class.
Writes benchmarks/damage_<name>.json and .md, and docs/images/damage_<name>.png: each figure by N.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from diffusion_jax import evaluation
from diffusion_jax.compose import stored
from diffusion_jax.metrics import compare

FIGURES = ("frechet_distance", "kernel_distance", "sliced_wasserstein", "precision", "recall", "coverage")


def blurred(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns images shrunk by area to half their size, and enlarged bilinearly again."""
    size = images.shape[2:0:-1]
    half = size[0] // 2, size[1] // 2
    small = [Image.fromarray(image).resize(half, Image.Resampling.BOX) for image in images]
    return np.stack([np.asarray(image.resize(size, Image.Resampling.BILINEAR)) for image in small])


def noisy(std: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Returns images, labels -> the images with normal noise, on the scale 0 to 255."""

    def damage(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(0).normal(0, std, images.shape)
        return np.clip(np.round(images + noise), 0, 255).astype(np.uint8)

    return damage


def without_the_largest_class(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the images of the other classes, some of them twice, so that there are as many."""
    kept = images[labels != np.bincount(labels).argmax()]
    return kept[np.arange(len(images)) % len(kept)]


DAMAGES = {  # images [N], their labels -> images [N]
    "other real images": lambda images, labels: images,
    "blurred to 1/2": blurred,
    "noise, sd 4 of 255": noisy(4),
    "noise, sd 16 of 255": noisy(16),
    "half of them twice": lambda images, labels: images[np.arange(len(images)) // 2],
    "largest class missing": without_the_largest_class,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of a set that tools.fetch made")
    parser.add_argument("--name", required=True, help="of the set, and of the results")
    parser.add_argument("--num_images", type=int, nargs="+", default=[100, 250, 500, 1000, 2000])
    flags = parser.parse_args()
    network = evaluation.extractor("efficientnet_lite0")
    reference, images, labels = halves(pathlib.Path(flags.data), flags.name)
    nums = [num for num in flags.num_images if num <= len(images)]
    to_reference, rows = compare.figures_to(network.extract(reference)), []
    for damage, function in DAMAGES.items():
        for num in nums:
            found = to_reference(network.extract(function(images[:num], labels[:num])))
            rows.append({"damage": damage, "num_images": num, **{name: found[name]._asdict() for name in FIGURES}})
            print(json.dumps(rows[-1]), flush=True)
    known = {"features": network.description, "num_reference": len(reference), "conditions": conditions()}
    write(flags.name, known, rows)


def halves(folder: pathlib.Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (images of one half, images of the other, its labels) of a set."""
    parts = [np.load(folder / f"{name}{part}.npz", allow_pickle=False) for part in ("", "_test")]
    images, labels = (np.concatenate([part[key] for part in parts]) for key in ("images", "labels"))
    one, two = np.array_split(np.random.default_rng(0).permutation(len(images)), 2)
    return images[one], images[two], labels[two]


def conditions() -> dict:
    return {
        "command": " ".join(["python", "benchmarks/damage.py", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": stored.versions(),
    }


def write(name: str, known: dict, rows: list[dict]) -> None:
    """Writes the rows as JSON and as Markdown, and their picture."""
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    text = json.dumps({**known, "rows": []}, indent=1).replace('"rows": []', f'"rows": [\n  {lines}\n ]')
    (ROOT / "benchmarks" / f"damage_{name}.json").write_text(text + "\n")
    (ROOT / "benchmarks" / f"damage_{name}.md").write_text(table(rows))
    picture(name, rows).savefig(ROOT / "docs" / "images" / f"damage_{name}.png", dpi=80)


def table(rows: list[dict]) -> str:
    """Returns the figures of the most images as Markdown, with their standard errors."""
    most = max(row["num_images"] for row in rows)
    lines = [["images", *(name.replace("_", " ") for name in FIGURES)], ["---"] * (1 + len(FIGURES))]
    for row in rows:
        if row["num_images"] == most:
            lines.append([row["damage"], *(f"{row[f]['value']:.3g} +- {row[f]['standard_error']:.1g}" for f in FIGURES)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def picture(name: str, rows: list[dict]) -> Figure:
    """Returns each figure by the number of images, a line for each damage."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    for axes, each in zip(figure.subplots(2, 3).flat, FIGURES, strict=True):
        for damage in DAMAGES:
            found = [row for row in rows if row["damage"] == damage]
            values, errors = zip(*(row[each].values() for row in found), strict=True)
            style = {"color": "black", "linestyle": ":"} if damage == "other real images" else {}
            axes.errorbar([row["num_images"] for row in found], values, errors, marker=".", label=damage, **style)
        axes.set(xlabel="images", title=each.replace("_", " "), xscale="log")
        axes.grid(which="both", alpha=0.3)
    figure.axes[0].set_yscale("log")
    figure.axes[2].set_yscale("log")
    figure.axes[0].legend(fontsize="small")
    figure.suptitle(f"{name}: images of one half, damaged, against the other half")
    return figure


if __name__ == "__main__":
    main()
