"""Do latents pay at 64 pixels? A U-Net of pixels, a U-Net and a Transformer of latents, trained for equal processor time.

    python -m diffusion_jax.tools.fetch emoji --size=64 --out=data/emoji64
    python main.py --config=configs/emoji64_autoencoder.py --workdir=runs/emoji64_autoencoder
    python benchmarks/latents.py --codec=runs/emoji64_autoencoder --minutes=10

The processor time of a step is the difference between two short runs. Each model then trains for as many steps as fit into
the minutes, and draws as many images as there are held-out ones. They, and what the autoencoder makes of the held-out
images, are compared with the training set in EfficientNet-lite0's features. Writes benchmarks/latents_emoji64.json, .md, and
docs/images/latents_emoji64.png: a row of each model's images.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import shutil
import subprocess
import sys

import jax
import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from diffusion_jax.compose import inputs, stored
from diffusion_jax.data import feed
from diffusion_jax.runs import pictures

SHORT, LONG = 20, 60  # steps of the runs that are timed
NUM_SHOWN = 12
FIGURES = ("frechet_distance", "kernel_distance", "precision", "recall")
MODELS = {  # what differs from configs/emoji64_latents.py
    "U-Net of pixels": [
        "data.codec=",
        "data.latent_shape=()",
        "model.channels=16",
        "model.multipliers=(1,2,4,4)",
        "model.attention_stages=(3,)",
        "sample.clip=static",
    ],
    "U-Net of latents": [],
    "Transformer of latents": ["model.kind=dit", "model.channels=128", "model.depth=6", "model.num_heads=4"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", required=True, help="workdir of configs/emoji64_autoencoder.py")
    parser.add_argument("--runs", default="runs/latents", help="folder for the runs")
    parser.add_argument("--minutes", type=float, default=10, help="processor time of each training")
    flags = parser.parse_args()
    trained = [train(name, changes, flags) for name, changes in MODELS.items()]
    codec = dj.load(flags.codec)
    real, held_out = (feed.read(of)["x"] for of in (inputs.source(codec.config), inputs.held_out(codec.config)))
    sets = {"held-out images": held_out, "autoencoder of held-out images": codec.sample(len(held_out))}
    sets |= {row["model"]: dj.load(row["workdir"]).sample(len(held_out), batch_per_device=32) for row in trained}
    rows = [figures(name, images, real, held_out) for name, images in sets.items()]
    for row in trained:
        next(found for found in rows if found["model"] == row["model"]).update(row)
    result = {
        "command": " ".join(["python", "benchmarks/latents.py", *sys.argv[1:]]),
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "versions": stored.versions(),
        "num_images": len(held_out),
        "psnr_of_autoencoder": psnr(sets["autoencoder of held-out images"], held_out),
        "rows": [{name: value for name, value in row.items() if name != "workdir"} for row in rows],
    }
    write(result, np.stack([sets[row["model"]][:NUM_SHOWN] for row in trained]))


def train(name: str, changes: list[str], flags: argparse.Namespace) -> dict:
    """Returns a model's training, done for as many steps as fit into the time."""
    workdir = pathlib.Path(flags.runs) / name.replace(" ", "_")
    record = workdir / "training.json"
    if record.exists():
        return json.loads(record.read_text())
    short, long = (run(f"{workdir}_timed", steps, changes, flags) for steps in (SHORT, LONG))
    step_s = (long - short) / (LONG - SHORT)
    num_steps = int(60 * flags.minutes / step_s) // 100 * 100
    found = {"model": name, "workdir": str(workdir), "cpu_s_of_a_step": round(step_s, 3), "num_steps": num_steps}
    found["cpu_minutes"] = round(run(str(workdir), num_steps, changes, flags, keep=True) / 60, 1)
    found["num_parameters"] = sum(np.size(leaf) for leaf in jax.tree.leaves(dj.load(workdir).params))
    record.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found), flush=True)
    return found


def run(workdir: str, num_steps: int, changes: list[str], flags: argparse.Namespace, *, keep: bool = False) -> float:
    """Returns the processor time of a training, in seconds: of all its threads, compiling and pictures included."""
    if not keep:
        shutil.rmtree(workdir, ignore_errors=True)
    own = [f"train.num_steps={num_steps}", f"data.codec={flags.codec}", "train.tensorboard=False", *changes]
    own += [f"data.latents={flags.runs}/latents"] * ("data.codec=" not in changes)
    command = [sys.executable, "main.py", "--config=configs/emoji64_latents.py", f"--workdir={workdir}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, *(f"--config.{change}" for change in own)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def figures(name: str, images: np.ndarray, real: np.ndarray, held_out: np.ndarray) -> dict:
    found = dj.evaluate(images, real, held_out)
    row = {"model": name} | {figure: round(float(found[figure].value.value), 4) for figure in FIGURES}
    row["kernel_distance_error"] = round(float(found["kernel_distance"].value.standard_error), 4)
    print(json.dumps(row), flush=True)
    return row


def psnr(images: np.ndarray, real: np.ndarray) -> float:
    """Returns the mean peak signal-to-noise ratio in decibels. # uint8 [N, H, W, C] twice"""
    mse = np.mean((images.astype(float) - real) ** 2, axis=(1, 2, 3))
    return round(float(np.mean(10 * np.log10(255**2 / mse))), 2)


def write(result: dict, strips: np.ndarray) -> None:
    (ROOT / "benchmarks" / "latents_emoji64.json").write_text(json.dumps(result, indent=1) + "\n")
    lines = ["| images | steps | CPU minutes | kernel distance | Frechet distance | precision | recall |"]
    lines.append("|" + "---|" * 7)
    for row in result["rows"]:
        cells = [row["model"], str(row.get("num_steps", "")), str(row.get("cpu_minutes", ""))]
        cells += [f"{row['kernel_distance']:.3g} ({row['kernel_distance_error']:.1g})"]
        cells += [f"{row['frechet_distance']:.3g}", f"{row['precision']:.2f}", f"{row['recall']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    (ROOT / "benchmarks" / "latents_emoji64.md").write_text("\n".join(lines) + "\n")
    grid = pictures.grid(strips.reshape(-1, *strips.shape[2:]), num_columns=NUM_SHOWN)
    Image.fromarray(grid).save(ROOT / "docs" / "images" / "latents_emoji64.png", optimize=True)


if __name__ == "__main__":
    main()
