"""Whether bfloat16 costs quality: python benchmarks/bfloat16.py

Trains the digits of the README from three seeds in float32 and in bfloat16, as main.py does, and compares the last loss
and the Frechet distance of 2,000 images (in the features of quality_vs_steps.py): the difference of the means beside the
spread between seeds. Writes benchmarks/bfloat16.json after every run.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import quality_vs_steps

from diffusion_jax import model
from diffusion_jax.compose import stored
from diffusion_jax.runs import storage, writers

SEEDS, NUM_IMAGES = (0, 1, 2), 2000


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            for dtype in ("float32", "bfloat16"):
                rows.append({"dtype": dtype, "seed": seed} | trained(pathlib.Path(folder) / f"{dtype}_{seed}", dtype, seed))
                print(json.dumps(rows[-1]), flush=True)
                write(rows)


def trained(workdir: pathlib.Path, dtype: str, seed: int) -> dict[str, float]:
    """Returns a run's loss at the end, and how far its images are from the training set."""
    flags = [f"--config.model.dtype={dtype}", f"--config.train.seed={seed}", f"--workdir={workdir}"]
    subprocess.run([sys.executable, "main.py", "--config=configs/digits.py", *flags], cwd=ROOT, check=True)
    run = model.load(workdir)
    measure, _ = quality_vs_steps.reference(run.config, NUM_IMAGES, "mlp")
    last = {
        name: value for line in writers.read_metrics(storage.path(workdir) / "metrics.jsonl") for name, value in line.items()
    }
    return {"loss": last["loss"], "frechet_distance": measure(run.sample(NUM_IMAGES))["frechet_distance"]}


def write(rows: list[dict]) -> None:
    summary = {}
    for name in [name for name in rows[0] if name not in ("dtype", "seed")]:
        by_type = {dtype: [row[name] for row in rows if row["dtype"] == dtype] for dtype in ("float32", "bfloat16")}
        if all(len(values) > 1 for values in by_type.values()):
            means = {dtype: statistics.mean(values) for dtype, values in by_type.items()}
            spread = statistics.mean(statistics.stdev(values) for values in by_type.values())
            summary[name] = means | {"difference": means["bfloat16"] - means["float32"], "deviation_of_a_seed": spread}
    result = {
        "command": "python benchmarks/bfloat16.py",
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "versions": stored.versions(),
        "summary": summary,
        "rows": rows,
    }
    (ROOT / "benchmarks" / "bfloat16.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
