"""Does a learned schedule lower bits per dimension? A variational diffusion model of digits against improved DDPM.

    python main.py --config=configs/digits_vdm.py --workdir=runs/digits_vdm
    python benchmarks/vdm.py --workdir=runs/digits_vdm

Takes the bound of infinitely many steps of 300 training images, by 100 draws, with the EMA weights of a checkpoint. Beside
it stands what benchmarks/hybrid.py found for configs/digits.py as improved DDPM (cosine schedule, L_hybrid, learned
variance): the bound over all 1000 steps of the same images. Writes benchmarks/vdm_digits.json.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from benchmarks.hybrid import job
from diffusion_jax.compose import stored

NUM_IMAGES, NUM_DRAWS = 300, 100
KEPT = ("standard_error", "decoder", "sum_of_kl", "prior")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--step", type=int, default=2000, help="of the checkpoint")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out"
        asked = [f"--config.likelihood.num_images={NUM_IMAGES}", f"--config.sample.num_steps={NUM_DRAWS}"]
        job("--mode=likelihood", f"--workdir={flags.workdir}", f"--out={out}", f"--config.sample.step={flags.step}", *asked)
        found = json.loads((out / "continuous.json").read_text())
    log_snr = dj.load(flags.workdir, step=flags.step).config.process.log_snr
    ours = {"num_steps": flags.step, "bits_per_dim": found["continuous_bits_per_dim"]} | {name: found[name] for name in KEPT}
    ours |= {"log_snr_at_t_0_to_1_by_eighths": log_snr[::32]}
    theirs = json.loads((ROOT / "benchmarks" / "hybrid_digits.json").read_text())
    [row] = [row for row in theirs["rows"] if row["loss"] == "hybrid"]
    other = {"num_steps": 2000, "bits_per_dim": row["bound_bits_per_dim"]} | {name: row[name] for name in KEPT}
    difference = {
        "bits_per_dim": ours["bits_per_dim"] - other["bits_per_dim"],
        "standard_error": float(np.hypot(ours["standard_error"], other["standard_error"])),
    }
    result = {"command": f"python benchmarks/vdm.py --workdir=runs/digits_vdm --step={flags.step}", "num_images": NUM_IMAGES}
    result |= {"vdm": ours, "improved_ddpm": other | {"command": theirs["command"]}, "difference": difference}
    result |= {"hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})", "versions": stored.versions()}
    (ROOT / "benchmarks" / "vdm_digits.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
