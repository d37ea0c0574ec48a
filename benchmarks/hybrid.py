"""Does the hybrid loss lower bits per dimension at equal steps? Measured on digits.

    python benchmarks/hybrid.py

Trains configs/digits.py twice, with L_simple and with L_hybrid, all else equal, and takes the variational bound of the same
images with the same noises: of L_simple with both fixed variances, of L_hybrid with the learned one. Writes
benchmarks/hybrid.json.
"""

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

from diffusion_jax import checkpoint  # noqa: E402

RUNS = {
    "simple": [],
    "hybrid": ["--config.loss.name=hybrid", "--config.model.learned_variance=True"],
}
CASES = [("simple", "small"), ("simple", "large"), ("hybrid", "learned_range")]
NUM_IMAGES = 300
CHAIN = ["--config.sample.num_steps=1000", f"--config.likelihood.num_images={NUM_IMAGES}"]


def main() -> None:
    rows, totals = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in RUNS.items():
            job("--config=configs/digits.py", f"--workdir={folder}/{name}", "--config.train.sample_every=2000", *changes)
        for name, variance in CASES:
            out = pathlib.Path(folder) / f"{name}_{variance}"
            chain = [*CHAIN, f"--config.sample.variance={variance}"]
            job("--mode=likelihood", f"--workdir={folder}/{name}", f"--out={out}", *chain)
            result = json.loads((out / "bound.json").read_text())
            with np.load(out / "bound.npz") as stored:
                totals[name, variance] = stored["total"]
            kept = ("bound_bits_per_dim", "standard_error", "decoder", "sum_of_kl", "prior")
            rows.append({"loss": name, "variance": variance} | {field: result[field] for field in kept})
            print(rows[-1], flush=True)
    gains = {f"hybrid - simple, {kind}": compare(totals, kind) for kind in ("small", "large")}
    result = {"command": "python benchmarks/hybrid.py", "num_images": NUM_IMAGES, "rows": rows, "differences": gains}
    result |= {"hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})", "versions": checkpoint.versions()}
    (ROOT / "benchmarks" / "hybrid.json").write_text(json.dumps(result, indent=2) + "\n")
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
