"""What a dump's bytes depend on, measured: the number of devices, and how many images the network draws at once.

    python benchmarks/same_bytes.py --workdir=DIR [--num_images=64]

Draws the same images of a trained run with several numbers of devices (of a CPU) and several `sample.batch_per_device`, and
compares them with those of one device and 32 at once. Prints a line for each, and writes benchmarks/same_bytes.json.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from diffusion_jax.compose import stored
from diffusion_jax.runs import storage

REFERENCE = (1, 32)  # devices, images at once on each
OTHERS = [(4, 32), (2, 32), (1, 1), (1, 7), (1, 16), (1, 64), (4, 8)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="of a trained run")
    parser.add_argument("--num_images", type=int, default=64)
    flags = parser.parse_args()
    reference = draw(flags.workdir, flags.num_images, *REFERENCE)
    rows = [compare(draw(flags.workdir, flags.num_images, *other), reference, *other) for other in OTHERS]
    config = stored.read_config(storage.path(flags.workdir))
    result = {
        "command": "python benchmarks/same_bytes.py --workdir=DIR",
        "run": f"{config.data.source} {config.data.image_size}, {config.model.channels} channels",
        "num_values": int(reference.size),
        "reference": dict(zip(("num_devices", "batch_per_device"), REFERENCE, strict=True)),
        "rows": rows,
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "versions": stored.versions(),
    }
    (ROOT / "benchmarks" / "same_bytes.json").write_text(json.dumps(result, indent=2) + "\n")


def draw(workdir: str, num_images: int, num_devices: int, batch_per_device: int) -> np.ndarray:
    """Returns images drawn in a process of its own. # uint8 [N, H, W, C]"""
    with tempfile.TemporaryDirectory() as out:
        fields = {"num_images": num_images, "batch_per_device": batch_per_device}
        command = [sys.executable, "main.py", "--mode=sample", f"--workdir={workdir}", f"--out={out}"]
        command += [f"--config.sample.{name}={value}" for name, value in fields.items()]
        flags = f"--xla_force_host_platform_device_count={num_devices}"
        subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "XLA_FLAGS": flags}, stdout=subprocess.DEVNULL)
        [file] = pathlib.Path(out).glob("samples_*.npz")
        with np.load(file, allow_pickle=False) as stored:
            return stored["arr_0"]


def compare(drawn: np.ndarray, reference: np.ndarray, num_devices: int, batch_per_device: int) -> dict:
    """Returns how far images are from the reference, and prints it."""
    difference = np.abs(drawn.astype(int) - reference)
    row = {
        "num_devices": num_devices,
        "batch_per_device": batch_per_device,
        "share_of_values_that_differ": float(np.mean(difference > 0)),
        "largest_difference_in_levels": int(np.max(difference)),
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
