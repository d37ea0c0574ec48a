"""What training and sampling the CIFAR-10 network take on TPU slices: python benchmarks/plans.py

Compiles for each of them, without a TPU, in ten minutes or more each on two cores (pip install "jax[tpu]"); rows that
benchmarks/plans.json has already are kept.
"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from diffusion_jax.compose.config import Config
from diffusion_jax.tools import plan

RESULTS = ROOT / "benchmarks" / "plans.json"
SLICES = {"v5e:2x2": 128, "v6e:2x2": 128, "v4:2x2x1": 128, "v5e:16x16": 2048}  # -> images a step
SAMPLED = ("v5e:2x2", "v6e:2x2", "v4:2x2x1")  # a chip samples by itself, so that one slice of a kind tells


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for topology in [name for name in SLICES if name not in {row["topology"] for row in rows}]:
        config = Config().with_values("model", dtype="bfloat16").with_values("train", batch_size=SLICES[topology])
        rows.append(plan.run(config, topology, with_sampler=topology in SAMPLED))
        RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows))


def table(rows: list[dict]) -> str:
    """Returns the rows as markdown."""
    lines = ["| slice | of | images | GiB a chip | of GiB | GFLOP a chip | sent a chip | ms: compute, traffic, links |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in rows:
        for step in [step for step in ("training", "sampling") if step in row]:
            found = row[step]
            sent = ", ".join(f"{kind} {size / 2**20:.1f} MiB" for kind, size in found["collectives"].items()) or "nothing"
            lines.append(
                f"| {row['topology']} | {step} | {found['num_images']:,} | {found['memory'] / 2**30:.2f} | "
                f"{found['memory_of_chip'] / 2**30:.0f} | {found['flops'] / 1e9:,.0f} | {sent} | "
                f"{', '.join(f'{1e3 * seconds:.2f}' for seconds in found['bounds_s'].values())} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
