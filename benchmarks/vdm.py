"""Does a learned schedule lower bits per dimension at equal steps? A variational diffusion model against improved DDPM.

    python benchmarks/vdm.py

Trains configs/digits_vdm.py, the same without Fourier features, and configs/digits.py as improved DDPM (cosine schedule,
L_hybrid, learned variance), each for 2,000 steps. Takes the bound of the same 300 training images: of improved DDPM over
all its 1000 steps, of the others in the limit of infinitely many, by 200 draws. Writes benchmarks/vdm_digits.json.
"""

import argparse
import json
import os
import pathlib
import platform
import tempfile

import numpy as np
from hybrid import ROOT, RUNS, job

from diffusion_jax.compose import stored

NUM_STEPS, NUM_IMAGES = 2000, 300
CASES = {  # name: (kind of likelihood, changes of training, changes of measuring)
    "improved_ddpm": (
        "bound",
        ["--config=configs/digits.py", *RUNS["hybrid"]],
        ["--config.sample.variance=learned_range", "--config.sample.num_steps=1000"],
    ),
    "vdm": ("continuous", ["--config=configs/digits_vdm.py"], ["--config.sample.num_steps=200"]),
    "vdm_without_fourier_features": (
        "continuous",
        ["--config=configs/digits_vdm.py", "--config.model.fourier_exponents=()"],
        ["--config.sample.num_steps=200"],
    ),
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows, totals = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (kind, training, measuring) in CASES.items():
            workdir, out = f"{folder}/{name}", pathlib.Path(folder) / f"{name}_out"
            every = [f"--config.train.{what}_every={NUM_STEPS}" for what in ("sample", "checkpoint")]
            job(*training, *every, f"--config.train.num_steps={NUM_STEPS}", f"--workdir={workdir}")
            images = f"--config.likelihood.num_images={NUM_IMAGES}"
            job("--mode=likelihood", f"--workdir={workdir}", f"--out={out}", images, *measuring)
            rows[name], totals[name] = read(pathlib.Path(workdir), out, kind)
            print(name, rows[name], flush=True)
    differences = {name: difference(totals, name) for name in list(CASES)[1:]}
    result = {"command": "python benchmarks/vdm.py", "num_steps": NUM_STEPS, "num_images": NUM_IMAGES, "rows": rows}
    result |= {"minus_improved_ddpm": differences, "versions": stored.versions()}
    result |= {"hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})"}
    (ROOT / "benchmarks" / "vdm_digits.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(differences, indent=2))


def read(workdir: pathlib.Path, out: pathlib.Path, kind: str) -> tuple[dict, np.ndarray]:
    """Returns what was found, with the ends of the schedule where it was learned, and the bits of each image."""
    result = json.loads((out / f"{kind}.json").read_text())
    kept = (f"{kind}_bits_per_dim", "standard_error", "decoder", "sum_of_kl", "prior")
    row = {"kind": kind} | {name.replace(f"{kind}_bits", "bits"): result[name] for name in kept}
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    row |= {name: last[name] for name in ("log_snr_first", "log_snr_last") if name in last}
    with np.load(out / f"{kind}.npz", allow_pickle=False) as found:
        return row, found["total"]


def difference(totals: dict[str, np.ndarray], name: str) -> dict[str, float]:
    """Returns the mean difference to improved DDPM, image by image, and its standard error."""
    found = totals[name] - totals["improved_ddpm"]
    return {"bits_per_dim": float(np.mean(found)), "standard_error": float(np.std(found, ddof=1) / np.sqrt(len(found)))}


if __name__ == "__main__":
    main()
