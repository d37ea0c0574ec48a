"""How long are losslessly compressed images? Bits-back coding with a trained chain, its bound, and codecs of images.

    python main.py --config=configs/digits_vdm.py --workdir=runs/digits_vdm
    python benchmarks/bits_back.py --workdir=runs/digits_vdm --num_steps 10 20 50

Compresses the training set into one file by tools.compress, with chains of several numbers of steps, decompresses it and
compares every byte. Beside the file stands the bound of the same chain and images (--mode=likelihood), and what general
codecs need for the same images in one picture. Writes benchmarks/bits_back_<data set>.json. `pip install pillow-jxl-plugin`
first, for JPEG XL.
"""

import argparse
import contextlib
import io
import json
import lzma
import math
import os
import pathlib
import platform
import re
import sys
import tempfile
import time

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.hybrid import job
from diffusion_jax import errors, model
from diffusion_jax.compose import inputs, stored
from diffusion_jax.data import feed
from diffusion_jax.tools import compress, decompress

CODECS = {
    "PNG, optimised": {"format": "PNG", "optimize": True},
    "WebP, lossless": {"format": "WEBP", "lossless": True, "quality": 100, "method": 6},
    "JPEG XL, lossless, effort 10": {"format": "JXL", "lossless": True, "effort": 10},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--num_steps", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--num_images", type=int, default=0, help="0 for all")
    flags = parser.parse_args()
    config = model.load(flags.workdir).config
    source = inputs.source(config)
    images = feed.read(source, range(flags.num_images or source.num_images))["x"]
    result = {"command": " ".join(["python", "benchmarks/bits_back.py", *sys.argv[1:]]), "images": images.shape}
    result |= {"others": others(images), "chains": []}
    result |= {"hardware": f"{os.cpu_count()} CPU cores ({platform.machine()}), shared", "versions": stored.versions()}
    for num_steps in flags.num_steps:
        result["chains"].append(measured(flags.workdir, images, num_steps))
        print(json.dumps(result["chains"][-1]), flush=True)
        file = ROOT / "benchmarks" / f"bits_back_{config.data.source}.json"
        file.write_text(json.dumps(result, indent=1) + "\n")


def measured(workdir: str, images: np.ndarray, num_steps: int) -> dict[str, float]:
    """Returns the bound of a chain and the length of its file, in bits per dimension, and the time that the file took."""
    asked, per_dim = f"--config.sample.num_steps={num_steps}", 8 / images.size
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        np.savez(folder / "images.npz", images)
        few = [f"--config.likelihood.num_images={len(images)}", "--config.likelihood.kind=bound"]
        job("--mode=likelihood", f"--workdir={workdir}", f"--out={folder / 'bound'}", asked, *few)
        found = json.loads((folder / "bound" / "bound.json").read_text())
        names = [f"--workdir={workdir}", f"--out={folder / 'packed'}", f"--images={folder / 'images.npz'}", asked]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            seconds = [timed(lambda: compress.main(["compress", *names]))]
        [fixed] = re.findall(r"([\d.]+) of them for any images", said.getvalue())
        names = [f"--workdir={workdir}", f"--out={folder / 'again.npz'}", f"--file={folder / 'packed'}"]
        seconds.append(timed(lambda: decompress.main(["decompress", *names])))
        same = np.array_equal(np.load(folder / "again.npz", allow_pickle=False)["arr_0"], images)
        num_bytes = (folder / "packed").stat().st_size
    return {
        "num_steps": num_steps,
        "bound_bits_per_dim": found["bound_bits_per_dim"],
        "bound_standard_error": found["standard_error"],
        "num_bytes": num_bytes,
        "file_bits_per_dim": num_bytes * per_dim,
        "of_it_for_any_images": float(fixed),
        "over_the_bound": num_bytes * per_dim / found["bound_bits_per_dim"] - 1,
        "same_bytes": bool(same),
        "seconds_to_compress": seconds[0],
        "seconds_to_decompress": seconds[1],
    }


def timed(work) -> float:
    start = time.perf_counter()
    if work():
        sys.exit("a tool failed")
    return round(time.perf_counter() - start, 1)


def others(images: np.ndarray) -> dict[str, float]:
    """Returns the bits per dimension of other codecs for grey images in one picture, all but square, or all bytes (xz)."""
    errors.needed("pillow_jxl", "JPEG XL is missing; pip install pillow-jxl-plugin.")  # which tells PIL of it
    found = {"xz, preset 9e": 8 * len(lzma.compress(images.tobytes(), preset=9 | lzma.PRESET_EXTREME)) / images.size}
    num_images, height, width, _ = images.shape
    in_a_row = math.isqrt(num_images - 1) + 1
    tiles = np.zeros((-(-num_images // in_a_row) * in_a_row, height, width), np.uint8)
    tiles[:num_images] = images[..., 0]
    picture = tiles.reshape(-1, in_a_row, height, width).swapaxes(1, 2).reshape(-1, in_a_row * width)
    for name, settings in CODECS.items():
        file = io.BytesIO()
        Image.fromarray(picture).save(file, **settings)
        assert np.array_equal(Image.open(file).convert("L"), picture), name
        found[name] = 8 * len(file.getvalue()) / images.size
    return found


if __name__ == "__main__":
    main()
