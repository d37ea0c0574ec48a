"""Do latents follow their images, and are they easier to draw then? EQ-VAE's term, with and without. [Kouzelis et al. 2025]

    python -m diffusion_jax.tools.fetch emoji --size=64 --out=data/emoji64
    python main.py --config=configs/emoji64_autoencoder.py --workdir=runs/emoji64_autoencoder
    python benchmarks/equivariance.py --codec=runs/emoji64_autoencoder

The autoencoder is trained on twice for equal steps, all else equal, without and with `loss.equivariance_weight`: the paper
adds its term to trained autoencoders too. Then small U-Nets draw the latents of each, for equal steps; none do with
--seeds=0. All images are compared with the training set in EfficientNet-lite0's features, as many as are held out.
`equivariance` is the mean of `autoencoding.equivariance_error` over the four turns of the held-out images, and
`equivariance_floor` the error of what the autoencoder makes of the small images themselves. Writes
benchmarks/equivariance_emoji64.json.
"""

import argparse
import json
import os
import pathlib
import platform
import sys

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from benchmarks.hybrid import job
from benchmarks.latents import figures, psnr
from diffusion_jax import autoencoding, evaluation, operators
from diffusion_jax.compose import coding, inputs, stored
from diffusion_jax.data import codecs, feed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", required=True, help="workdir of configs/emoji64_autoencoder.py")
    parser.add_argument("--runs", default="runs/equivariance", help="folder for the runs")
    parser.add_argument("--weight", type=float, default=1.0, help="loss.equivariance_weight")
    parser.add_argument("--codec_steps", type=int, default=200, help="of training on, for each autoencoder")
    parser.add_argument("--num_steps", type=int, default=600, help="of each model of latents")
    parser.add_argument("--seeds", type=int, default=1, help="models of latents for each autoencoder; 0 for none")
    flags = parser.parse_args()
    codecs_of = {
        name: train_on(f"{flags.runs}/{name}", weight, flags) for name, weight in (("without", 0.0), ("with", flags.weight))
    }
    seeds = range(flags.seeds)
    runs = {(name, seed): draw_latents(codec, seed, flags) for name, codec in codecs_of.items() for seed in seeds}
    of = dj.load(flags.codec).config
    real, held_out = (feed.read(source)["x"] for source in (inputs.source(of), inputs.held_out(of)))
    extract = evaluation.extractor("efficientnet_lite0").extract
    known = [extract(images)["features"] for images in (real, held_out)]
    rows = [figures("held-out images", known[1], *known)]
    for name, workdir in codecs_of.items():
        images = dj.load(workdir).sample(len(held_out))
        row = figures(f"autoencoder, {name}", extract(images)["features"], *known)
        rows.append(row | {"psnr": psnr(images, held_out)} | errors(workdir, held_out))
    for (name, seed), workdir in runs.items():
        drawn = dj.load(workdir).sample(len(held_out), batch_per_device=32)
        rows.append(figures(f"U-Net of latents, {name}, seed {seed}", extract(drawn)["features"], *known))
    result = {
        "command": " ".join(["python", "benchmarks/equivariance.py", *sys.argv[1:]]),
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "versions": stored.versions(),
        "num_images": len(held_out),
        "rows": rows,
    }
    (ROOT / "benchmarks" / "equivariance_emoji64.json").write_text(json.dumps(result, indent=1) + "\n")


def train_on(workdir: str, weight: float, flags: argparse.Namespace) -> str:
    """Returns the workdir of an autoencoder that was trained on with a weight of the term."""
    steps, rates = flags.codec_steps, "--config.train.ema_rates=(0.98,)"  # an average of the last steps of few
    own = [f"train.init_from={flags.codec}", f"train.num_steps={steps}", "train.learning_rate=5e-4", "train.warmup_steps=20"]
    own += [f"train.{name}_every={steps}" for name in ("sample", "checkpoint")]
    own += [f"loss.equivariance_weight={weight}", "train.tensorboard=False"]
    changes = [rates, *(f"--config.{change}" for change in own)]
    job("--config=configs/emoji64_autoencoder.py", f"--workdir={workdir}", *changes)
    return workdir


def draw_latents(codec: str, seed: int, flags: argparse.Namespace) -> str:
    """Returns the workdir of a model of an autoencoder's latents."""
    workdir = f"{codec}_latents_{seed}"
    own = [f"data.codec={codec}", f"data.latents={flags.runs}/latents", f"train.num_steps={flags.num_steps}"]
    own += [f"train.{name}_every={flags.num_steps}" for name in ("sample", "checkpoint")]
    changes = [f"--config.{change}" for change in (*own, f"train.seed={seed}", "train.tensorboard=False")]
    job("--config=configs/emoji64_latents.py", f"--workdir={workdir}", *changes)
    return workdir


def errors(codec: str, images: np.ndarray) -> dict[str, float]:
    """Returns the mean absolute errors of images, in [-1, 1], and of what is made small and turned before and after."""
    coder = coding.coder(codec)

    @jax.jit
    def found(x: jax.Array) -> dict[str, jax.Array]:
        z, small = coder.encode(x).mean, operators.averaging(2).apply(x)
        turned = [autoencoding.equivariance_error(coder.decode, z, x, jnp.full(len(x), turn)) for turn in range(4)]
        plain, floor = (jnp.mean(jnp.abs(coder.decode(coder.encode(of).mean) - of), axis=(1, 2, 3)) for of in (x, small))
        return {
            "l1": plain,
            "equivariance": sum(turned) / 4,
            "equivariance_of_no_turn": turned[0],
            "equivariance_floor": floor,
        }

    parts = [found(codecs.from_uint8(images[start : start + 47])) for start in range(0, len(images), 47)]
    return {name: round(float(np.mean(np.concatenate([part[name] for part in parts]))), 4) for name in parts[0]}


if __name__ == "__main__":
    main()
