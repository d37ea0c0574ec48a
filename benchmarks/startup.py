"""How long one waits for the first step and the first image: python benchmarks/startup.py

Real processes on the digits of the README: with nothing compiled before, and with what the run before it kept
(`compilation_cache`). Also the parameters of the CIFAR-10 network, from the key to the last array. Writes
benchmarks/startup.json.
"""

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

from configs import cifar10  # noqa: E402
from diffusion_jax import build, checkpoint, loop  # noqa: E402


def main() -> None:
    result = {
        "command": "python benchmarks/startup.py",
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "versions": checkpoint.versions(),
        "seconds": {"parameters of the CIFAR-10 network": initialised()},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds in processes(pathlib.Path(folder)):
            result["seconds"][name] = seconds
            print(f"{name}: {seconds:.1f} s", flush=True)
            (ROOT / "benchmarks" / "startup.json").write_text(json.dumps(result, indent=2) + "\n")


def initialised() -> float:
    """Returns the seconds that compiling and drawing the first state of the CIFAR-10 run takes."""
    make_state = jax.jit(functools.partial(loop.make_state, parts=build.parts(cifar10.get_config().to_dict())))
    start = time.perf_counter()
    jax.block_until_ready(make_state(jax.random.key(0)))
    return time.perf_counter() - start


def processes(folder: pathlib.Path):
    """Yields (what was run, its seconds in all)."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    train = ["--config=configs/digits.py", "--config.train.num_steps=1", "--config.train.checkpoint_every=1"]
    sample = ["--mode=sample", f"--workdir={folder / 'cold'}", "--config.sample.num_images=16"]
    for name, arguments in {
        "main.py --help": ["--help"],
        "a mistyped field": ["--config=configs/digits.py", "--config.train.batchsize=1"],
        "one step of training and a grid, nothing kept": [*train, f"--workdir={folder / 'cold'}"],
        "the same, programs kept": [*train, f"--workdir={folder / 'warm'}"],
        "16 images, nothing kept": [*sample, f"--out={folder / 'one'}"],
        "16 images, programs kept": [*sample, f"--out={folder / 'two'}"],
    }.items():
        start = time.perf_counter()
        command = [sys.executable, "main.py", *arguments]
        subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        yield name, time.perf_counter() - start


if __name__ == "__main__":
    main()
