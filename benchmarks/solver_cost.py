"""What solvers cost: CPU seconds of compilation, and evaluations of the adaptive one: python benchmarks/solver_cost.py

The data are a mixture of two Gaussians with its exact denoiser. The adaptive solver starts from nine values spread over the
law of the noisiest level and goes to the first level; its error is the largest distance from where the flow really leads.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import sys

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import oracles

import diffusion_jax as dj
from diffusion_jax.compose import stored

PROCESSES = {
    "linear chain": dj.chain(dj.linear(1000)),
    "cosine chain": dj.chain(dj.cosine(1000)),
    "vp": dj.process.vp(),
    "ve": dj.process.ve(),
    "rectified flow": dj.process.rectified_flow(),
}
SAMPLERS = {
    "ddim": dj.ddim(),
    "heun": dj.heun(),
    "dpm_solver 3": dj.dpm_solver(order=3),
    "singlestep 3": dj.multistep.dpm_solver_singlestep(order=3),
    "unipc 2": dj.unipc(order=2),
    "unipc 3": dj.unipc(order=3),
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    result = {
        "command": "python benchmarks/solver_cost.py",
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "versions": stored.versions(),
        "compile_cpu_seconds_of_20_steps": {name: compiled(sampler) for name, sampler in SAMPLERS.items()},
        "adaptive_1e-5": {name: adaptive(of, 1e-5) for name, of in PROCESSES.items()},
        "adaptive_1e-7": {name: adaptive(of, 1e-7) for name, of in PROCESSES.items()},
    }
    print(json.dumps(result, indent=2))
    (ROOT / "benchmarks" / "solver_cost.json").write_text(json.dumps(result, indent=2) + "\n")


def compiled(sampler: dj.Sampler) -> float:
    """Returns the CPU seconds that tracing and compiling 20 steps on a known grid take, the least of three times."""
    process = PROCESSES["linear chain"]
    grid, keys = process.level(dj.trailing(process, 20)), dj.streams.keys(0, "sampler", jnp.arange(4))
    found = []
    for _ in range(3):
        began = used()
        program = jax.jit(lambda x: dj.sample(oracles.gaussian(), sampler, x, grid, keys).x)
        program.lower(jnp.zeros((4, 8, 8, 1))).compile()
        found.append(used() - began)
    return round(min(found), 2)


def used() -> float:
    times = resource.getrusage(resource.RUSAGE_SELF)
    return times.ru_utime + times.ru_stime


def adaptive(of: dj.Process, tolerance: float) -> dict[str, float]:
    """Returns evaluations and error of the adaptive solver."""
    grid = of.level(dj.grids.ends(of)[:-1])
    first, last = dj.rows(grid, 0), dj.rows(grid, 1)
    x_T = dj.prior(first, jnp.linspace(-2, 2, 9).reshape(-1, 1, 1, 1))
    sampler = dj.samplers.adaptive(of, tolerance=tolerance)
    got = dj.sample(oracles.mixture(), sampler, x_T, grid, dj.streams.keys(0, "sampler", jnp.arange(9)))
    error = np.max(np.abs(np.ravel(got.x) - oracles.carried(x_T, first, last)))
    return {"evaluations": int(got.num_evaluations), "largest_error": float(f"{error:.2g}")}


if __name__ == "__main__":
    main()
