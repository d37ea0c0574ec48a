"""How long one waits for the first step and the first image: python benchmarks/startup.py [--only=PART]

Real processes on the digits of the README, with nothing compiled before and with what the run before it kept
(`compilation_cache`); `cpu_s` are their seconds on all processors, `s` those on the clock. Then the processors' seconds to
trace and compile 20 steps of each sampler of a chain for 16 images, of the digits' network and of the CIFAR-10 network, and
those for the parameters of the latter. Writes benchmarks/startup.json, and prints the tables of docs/performance.md.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from configs import cifar10, digits
from diffusion_jax.compose import processes as networks
from diffusion_jax.compose import sampling, stored, training
from diffusion_jax.compose.choices import SAMPLERS
from diffusion_jax.compose.config import Config
from diffusion_jax.runs import compiling, sharding
from diffusion_jax.runs.shards import flatten
from diffusion_jax.training import start

NUM_STEPS, NUM_IMAGES = 20, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("processes", "compiled"), help="one part; the other stays as it is in the file")
    only, file = parser.parse_args().only, ROOT / "benchmarks" / "startup.json"
    result = json.loads(file.read_text()) if only else {}
    result |= {
        "command": "python benchmarks/startup.py",
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "versions": stored.versions(),
    }
    for part, measured in {"processes": processes, "compiled": compiled}.items():
        if only not in (None, part):
            continue
        result[part] = {}
        for name, found in measured():
            result[part][name] = found
            print(f"{name}: {found}", flush=True)
            file.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))


def table(result: dict) -> str:
    """Returns the processes and the samplers as two tables, in seconds of the processors."""
    lines = ["| | nothing kept | programs kept |", "|---|---|---|"]
    cpu_s = {name: f"{found['cpu_s']:.1f}" for name, found in result["processes"].items()}
    once = [name for name in cpu_s if not name.endswith("kept")]
    lines += [f"| {name} | {cpu_s[name]} | |" for name in once]
    twice = [name for name in cpu_s if name not in once]
    for cold, warm in zip(twice[::2], twice[1::2], strict=True):
        lines.append(f"| {cold.removesuffix(', nothing kept')} | {cpu_s[cold]} | {cpu_s[warm]} |")
    lines += ["", "| sampler | digits | cifar10 |", "|---|---|---|"]
    samplers = {name: found for name, found in result["compiled"].items() if "digits" in found}
    lines += [f"| `{name}` | {found['digits']:.1f} | {found['cifar10']:.1f} |" for name, found in samplers.items()]
    return "\n".join(lines) + "\n"


def processes() -> Iterator[tuple[str, dict[str, float]]]:
    """Yields (what was run, its seconds)."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        environment["XDG_CACHE_HOME"] = f"{folder}/cache"
        short = [f"--config.train.{field}" for field in ("num_steps=1", "warmup_steps=0")]
        train = ["--config=configs/digits.py", *short]
        sample = ["--mode=sample", f"--workdir={folder}/cold", "--config.sample.num_images=16"]
        example = ["--mode=sample", "--workdir=examples/digits"]
        fewer = ["--config.sample.sampler=unipc", "--config.sample.num_steps=10"]
        for name, code, arguments in (
            ("main.py --help", 0, ["--help"]),
            ("a mistyped field", 2, ["--config=configs/digits.py", "--config.train.batchsize=1"]),
            ("one step of training and a grid, nothing kept", 0, [*train, f"--workdir={folder}/cold"]),
            ("the same, programs kept", 0, [*train, f"--workdir={folder}/warm"]),
            ("16 images, nothing kept", 0, [*sample, f"--out={folder}/one"]),
            ("16 images, programs kept", 0, [*sample, f"--out={folder}/two"]),
            ("64 images of examples/digits, nothing kept", 0, [*example, f"--out={folder}/three"]),
            ("64 images of examples/digits, programs kept", 0, [*example, f"--out={folder}/four"]),
            ("the same in 10 steps of UniPC, nothing kept", 0, [*example, *fewer, f"--out={folder}/five"]),
            ("the same in 10 steps of UniPC, programs kept", 0, [*example, *fewer, f"--out={folder}/six"]),
        ):
            began, before = time.perf_counter(), used(resource.RUSAGE_CHILDREN)
            run = subprocess.run([sys.executable, "main.py", *arguments], cwd=ROOT, env=environment, capture_output=True)
            cpu_s, seconds = used(resource.RUSAGE_CHILDREN) - before, time.perf_counter() - began
            assert run.returncode == code, run.stderr.decode()
            yield name, {"cpu_s": round(cpu_s, 2), "s": round(seconds, 2)}


def compiled() -> Iterator[tuple[str, dict[str, float]]]:
    """Yields (what was compiled, its seconds on all processors), of the digits and of CIFAR-10."""
    of = {
        name: Config.of_flat(flatten(made.get_config().to_dict()))
        for name, made in (("digits", digits), ("cifar10", cifar10))
    }
    make_state = jax.jit(functools.partial(start.make_state, parts=training.parts(of["cifar10"])))
    yield "parameters and optimizer state", {"cifar10": seconds_to_compile(make_state, jax.random.key(0))}
    for sampler in sorted(SAMPLERS.keys() - sampling.IN_TIME.keys() - {"mean_flow"}):  # those of a chain
        settings = {"sampler": sampler, "num_steps": NUM_STEPS} | ({"clip": "none"} if sampler == "ode" else {})
        yield sampler, {name: of_sampler(config.with_values("sample", **settings)) for name, config in of.items()}


def of_sampler(config: Config) -> float:
    """Returns the seconds that the program of --mode=sample takes."""
    mesh = sharding.local_mesh()
    options = {"out_shardings": sharding.replicated(mesh), "compiler_options": compiling.options(mesh)}
    params = jax.eval_shape(networks.network(config).init, jax.random.key(0))
    return seconds_to_compile(jax.jit(sampling.make_generate(config), **options), params, 0, jnp.arange(NUM_IMAGES))


def seconds_to_compile(program, *arguments) -> float:
    before = used(resource.RUSAGE_SELF)
    program.lower(*arguments).compile()
    return round(used(resource.RUSAGE_SELF) - before, 2)


def used(who: int) -> float:
    """Returns the seconds on all processors so far."""
    times = resource.getrusage(who)
    return times.ru_utime + times.ru_stime


if __name__ == "__main__":
    main()
