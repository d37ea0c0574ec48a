"""What each choice costs a training step on an accelerator: python benchmarks/gpu.py [--limit=SECONDS]

The exact CIFAR-10 network in bfloat16, as benchmarks/throughput.py trains it, with one thing changed at a time: options of
the compiler, recomputation, the number of steps in one call, what is left out. The first is compiled alone, because trials
on the device choose its convolutions; the others reuse that choice and compile side by side. Then all take turns; the median
of the turns counts. Writes benchmarks/gpu_<device>.json after every round.
"""

import argparse
import concurrent.futures
import json
import pathlib
import re
import statistics
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import throughput  # first: it sets how much of the device's memory JAX takes

# isort: split
import jax

from diffusion_jax.compose import stored

VARIANTS: dict[str, dict[str, Any]] = {  # name -> arguments of `prepared`
    "as it is": {},
    "one step a call": {"num_steps": 1},
    "same bytes in every run (train.deterministic)": {"options": {"xla_gpu_deterministic_ops": True}},
    "float32": {"model": {"dtype": "float32"}},
    "float32, precision = highest": {"model": {"dtype": "float32", "precision": "highest"}},
    "no dropout": {"model": {"dropout": 0.0}},
    "num_remat_stages = 1": {"model": {"num_remat_stages": 1}},
    "xla_gpu_enable_triton_gemm = False": {"options": {"xla_gpu_enable_triton_gemm": False}},
    "num_remat_stages = 4": {"model": {"num_remat_stages": 4}},
    "xla_gpu_autotune_level = 0": {"options": {"xla_gpu_autotune_level": 0}},
    "xla_gpu_enable_latency_hiding_scheduler": {"options": {"xla_gpu_enable_latency_hiding_scheduler": True}},
    "xla_gpu_enable_cublaslt = False": {"options": {"xla_gpu_enable_cublaslt": False}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=300, help="seconds after which nothing new is compiled")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each variant")
    parser.add_argument("--batch_size", type=int, default=0, help="0: 128, and 1 on a CPU")
    parser.add_argument("--only", default="", help="variants whose name has this, and the first")
    arguments = parser.parse_args()
    start, device = time.monotonic(), jax.devices()[0]
    batch_size = arguments.batch_size or (1 if device.platform == "cpu" else 128)
    result = {"command": "python benchmarks/gpu.py", "hardware": throughput.hardware_of(device)}
    result |= {"versions": stored.versions(), "batch_size": batch_size, "failed": {}, "rows": []}
    names = [name for name in VARIANTS if name == "as it is" or arguments.only in name]
    calls = prepare_all(names, batch_size, result, until=start + arguments.limit)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    kind = re.sub(r"[^a-z0-9]+", "_", device.device_kind.lower())
    for _ in range(arguments.rounds):
        for name, (_, call, num_steps) in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append((time.perf_counter() - began) / num_steps)
        result["rows"] = [row_of(name, calls[name][0], seconds[name], batch_size) for name in calls]
        (ROOT / "benchmarks" / f"gpu_{kind}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(table(result["rows"]))


def prepare_all(names: list[str], batch_size: int, result: dict[str, Any], until: float) -> dict[str, tuple]:
    """Returns {name: (side, what takes a turn, steps in one turn)}, each called once; `result` names those that fail.

    Args:
        names: of variants, those worth most first.
        batch_size: images of a step.
        result: gets what failed.
        until: when nothing new is begun, on `time.monotonic`.
    """

    def attempt(name: str) -> tuple | None:
        try:
            return prepared(batch_size, **VARIANTS[name]) if time.monotonic() < until else None
        except Exception as error:  # an option that this compiler does not know
            result["failed"][name] = repr(error)[:500]

    calls = {names[0]: attempt(names[0])}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        calls |= dict(zip(names[1:], pool.map(attempt, names[1:]), strict=True))
    return {name: call for name, call in calls.items() if call}


def prepared(
    batch_size: int, *, options: dict[str, Any] | None = None, model: dict[str, Any] | None = None, num_steps: int = 0
) -> tuple[throughput.Ours, Any, int]:
    """Returns (side, what takes a turn, steps in one turn) of one variant.

    Args:
        batch_size: images of a step.
        options: of the compiler.
        model: fields of the config's section `model`.
        num_steps: in one call; 0 is throughput.py's.
    """
    num_steps = num_steps or throughput.STEPS["cpu" if jax.default_backend() == "cpu" else "accelerator"]["train"]
    side = throughput.Ours(throughput.config_of("cifar10").with_values("model", **model or {}), options)
    call = side.prepare(throughput.Cell("cifar10", batch_size, "train"), num_steps)
    call()
    return side, call, num_steps


def row_of(name: str, side: throughput.Ours, seconds: list[float], batch_size: int) -> dict[str, Any]:
    step, sizes = statistics.median(seconds), side.compiled.memory_analysis()
    return {
        "variant": name,
        "ms_per_step": 1e3 * step,
        "images_per_s": batch_size / step,
        "spread": (max(seconds) - min(seconds)) / step,
        "temporary_bytes": sizes.temp_size_in_bytes,
        "flops_per_step": side.num_flops,
        "compile_s": side.compile_s,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the rows as markdown."""
    lines = ["| variant | ms a step | time | temporary, GiB |", "|---|---|---|---|"]
    for row in rows:
        time_ratio = row["ms_per_step"] / rows[0]["ms_per_step"]
        gib = row["temporary_bytes"] / 2**30
        lines.append(f"| {row['variant']} | {row['ms_per_step']:.2f} | {time_ratio:.2f} | {gib:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
