"""Does the hybrid loss lower bits per dimension at equal steps? Measured on digits and on Fashion-MNIST.

    python benchmarks/hybrid.py --config=digits --num_steps=2000 --ema_rate=0.99 --num_images=300
    python benchmarks/hybrid.py --config=fashion_mnist --num_steps=1000 --ema_rate=0 --num_images=64

Trains a config twice, with L_simple and with L_hybrid, all else equal, and takes the bound over all 1000 steps of
the same images with the same noises: of L_simple with both fixed variances, of L_hybrid with the learned one. The images are
the held-out ones where the config has any. Writes benchmarks/hybrid_<config>.json.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from diffusion_jax.compose import stored

RUNS = {
    "simple": [],
    "hybrid": ["--config.loss.name=hybrid", "--config.model.learned_variance=True"],
}
CASES = [("simple", "small"), ("simple", "large"), ("hybrid", "learned_range")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="digits", choices=["digits", "fashion_mnist"])
    parser.add_argument("--num_steps", type=int, default=2000)
    parser.add_argument("--num_images", type=int, default=300)
    parser.add_argument("--ema_rate", default="0.99", help="of the weights; 0 for the parameters themselves")
    flags = parser.parse_args()
    training = [f"--config=configs/{flags.config}.py", f"--config.train.num_steps={flags.num_steps}"]
    training += [f"--config.train.{every}_every={flags.num_steps}" for every in ("sample", "checkpoint")]
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in RUNS.items():
            job(*training, f"--workdir={folder}/{name}", *changes)
        write(flags, *measure(flags, folder))


def measure(flags: argparse.Namespace, folder: str) -> tuple[list[dict], dict]:
    """Returns what was found in each case, and its bits by image, of the runs in a folder."""
    rows, totals = [], {}
    for name, variance in CASES:
        out = pathlib.Path(folder) / f"{name}_{variance}"
        chain = [f"--config.sample.variance={variance}", "--config.sample.num_steps=1000"]
        chain += [f"--config.likelihood.num_images={flags.num_images}", f"--config.sample.ema_rate={flags.ema_rate}"]
        job("--mode=likelihood", f"--workdir={folder}/{name}", f"--out={out}", *chain)
        result = json.loads((out / "bound.json").read_text())
        with np.load(out / "bound.npz", allow_pickle=False) as stored:
            totals[name, variance] = stored["total"]
        kept = ("bound_bits_per_dim", "standard_error", "decoder", "sum_of_kl", "prior")
        rows.append({"loss": name, "variance": variance} | {field: result[field] for field in kept})
        print(rows[-1], flush=True)
    return rows, totals


def write(flags: argparse.Namespace, rows: list[dict], totals: dict) -> None:
    gains = {f"hybrid - simple, {kind}": compare(totals, kind) for kind in ("small", "large")}
    command = f"python benchmarks/hybrid.py --config={flags.config} --num_steps={flags.num_steps}"
    command += f" --ema_rate={flags.ema_rate} --num_images={flags.num_images}"
    result = {"command": command, "num_images": flags.num_images, "rows": rows, "differences": gains}
    result |= {"hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})", "versions": stored.versions()}
    (ROOT / "benchmarks" / f"hybrid_{flags.config}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(gains, indent=2))


def job(*arguments: str) -> None:
    subprocess.run([sys.executable, "main.py", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def compare(totals: dict, variance: str) -> dict[str, float]:
    """Returns the mean difference over images, and its standard error."""
    difference = totals["hybrid", "learned_range"] - totals["simple", variance]
    error = np.std(difference, ddof=1) / np.sqrt(len(difference))
    return {"bits_per_dim": float(np.mean(difference)), "standard_error": float(error)}


if __name__ == "__main__":
    main()
