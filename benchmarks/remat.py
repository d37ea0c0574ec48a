"""Memory against time when levels are computed again: python benchmarks/remat.py

A training step of the exact CIFAR-10 network for every `model.num_remat_stages`: the temporary memory that the compiler
sets aside, and milliseconds, the median of turns taken one after the other. On a CPU in float32 with 8 images, elsewhere in
bfloat16 with 256. Writes benchmarks/remat_<platform>.json and prints it as a table.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

import jax

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import throughput

from diffusion_jax.compose import stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each number of levels")
    arguments = parser.parse_args()
    device, config = jax.devices()[0], throughput.config_of("cifar10")
    on_cpu = device.platform == "cpu"
    cell, num_steps = throughput.Cell("cifar10", 8 if on_cpu else 256, "train"), 1 if on_cpu else 10
    calls, rows = [], []
    for num in range(len(config.model.multipliers) + 1):
        side = throughput.Ours(config.with_values("model", num_remat_stages=num))
        calls.append(side.prepare(cell, num_steps))
        calls[-1]()
        temporary = side.compiled.memory_analysis().temp_size_in_bytes
        rows.append({"num_remat_stages": num, "temporary_bytes": temporary, "flops_per_step": side.num_flops})
        print(f"num_remat_stages {num}: compiled in {side.compile_s:.0f} s", flush=True)
    for row, seconds in zip(rows, turns(calls, arguments.rounds), strict=True):
        row["ms_per_step"] = 1e3 * statistics.median(seconds) / num_steps
        row["spread"] = (max(seconds) - min(seconds)) / statistics.median(seconds)
    result = {"command": "python benchmarks/remat.py", "batch_size": cell.batch_size, "dtype": config.model.dtype}
    result |= {"hardware": throughput.hardware_of(device), "versions": stored.versions(), "rows": rows}
    (ROOT / "benchmarks" / f"remat_{device.platform}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(table(rows))


def turns(calls: list, rounds: int) -> list[list[float]]:
    """Returns the seconds of each call in each round; the calls take turns."""
    seconds = [[] for _ in calls]
    for _ in range(rounds):
        for call, found in zip(calls, seconds, strict=True):
            began = time.perf_counter()
            call()
            found.append(time.perf_counter() - began)
    return seconds


def table(rows: list[dict]) -> str:
    lines = ["| num_remat_stages | temporary, MiB | operations | ms a step | time |", "|---|---|---|---|---|"]
    none = rows[0]
    for row in rows:
        relative = (row[name] / none[name] for name in ("flops_per_step", "ms_per_step"))
        operations, duration = (f"{value:.2f}" for value in relative)
        memory = f"{row['temporary_bytes'] / 2**20:.0f}"
        lines.append(f"| {row['num_remat_stages']} | {memory} | {operations} | {row['ms_per_step']:.0f} | {duration} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
