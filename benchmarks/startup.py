"""How long one waits for the first step and the first image: python benchmarks/startup.py

Real processes on the digits of the README: with nothing compiled before, and with what the run before it kept
(`compilation_cache`). Also the parameters of the CIFAR-10 network, from the key to the last array. Writes
benchmarks/startup.json.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import jax

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from diffusion_jax.compose import stored, training
from diffusion_jax.compose.config import Config
from diffusion_jax.training import start


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    result = {
        "command": "python benchmarks/startup.py",
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "versions": stored.versions(),
        "seconds": {"parameters of the CIFAR-10 network": initialised()},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds in processes(pathlib.Path(folder)):
            result["seconds"][name] = seconds
            print(f"{name}: {seconds:.1f} s", flush=True)
            (ROOT / "benchmarks" / "startup.json").write_text(json.dumps(result, indent=2) + "\n")


def initialised() -> float:
    """Returns the seconds that compiling and drawing the first state of the CIFAR-10 run takes."""
    make_state = jax.jit(functools.partial(start.make_state, parts=training.parts(Config())))
    began = time.perf_counter()
    jax.block_until_ready(make_state(jax.random.key(0)))
    return time.perf_counter() - began


def processes(folder: pathlib.Path):
    """Yields (what was run, its seconds in all)."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    train = ["--config=configs/digits.py", *[f"--config.train.{field}" for field in ("num_steps=1", "warmup_steps=0")]]
    sample = ["--mode=sample", f"--workdir={folder / 'cold'}", "--config.sample.num_images=16"]
    for name, code, arguments in (
        ("main.py --help", 0, ["--help"]),
        ("a mistyped field", 2, ["--config=configs/digits.py", "--config.train.batchsize=1"]),
        ("one step of training and a grid, nothing kept", 0, [*train, f"--workdir={folder / 'cold'}"]),
        ("the same, programs kept", 0, [*train, f"--workdir={folder / 'warm'}"]),
        ("16 images, nothing kept", 0, [*sample, f"--out={folder / 'one'}"]),
        ("16 images, programs kept", 0, [*sample, f"--out={folder / 'two'}"]),
    ):
        start = time.perf_counter()
        run = subprocess.run([sys.executable, "main.py", *arguments], cwd=ROOT, env=environment, capture_output=True)
        yield name, time.perf_counter() - start
        assert run.returncode == code, run.stderr.decode()


if __name__ == "__main__":
    main()
