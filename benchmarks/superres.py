"""How well images agree with what the network was shown: of a run of data.condition = 'low_resolution' and a dump of it.

    python benchmarks/superres.py --workdir=runs/superres --held_out=OTHER --dump=DUMP [DUMP ...] --name=NAME

Image i of a dump was made from image i % n of the held-out set. Compared are its averages with those that were shown, and
the image with the true one, beside enlargements that need no network. Writes benchmarks/superres_<name>.json.
"""

import argparse
import json
import os
import pathlib
import platform
import sys

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from diffusion_jax import operators
from diffusion_jax.compose import inputs, stored
from diffusion_jax.data import feed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="of the run")
    parser.add_argument("--held_out", required=True, help="what data.held_out was for the dumps")
    parser.add_argument("--dump", required=True, nargs="+", help="folders of --mode=sample")
    parser.add_argument("--name", required=True, help="of the result")
    flags = parser.parse_args()
    config = dj.load(flags.workdir).config.with_values("data", held_out=flags.held_out)
    true, factor = feed.read(inputs.held_out(config))["x"].astype(float), config.data.condition_factor
    rows = {pathlib.Path(dump).name: figures(generated(dump), true, factor) for dump in flags.dump}
    rows |= {
        kind: figures(enlarged(operators.averaging(factor).apply(true), factor, kind), true, factor)
        for kind in ("nearest", "bicubic")
    }
    result = {
        "command": " ".join(["python", "benchmarks/superres.py", *sys.argv[1:]]),
        "num_true": len(true),
        "factor": factor,
    }
    result |= {"machine": f"{os.cpu_count()} CPU cores, {platform.machine()}", "versions": stored.versions(), "rows": rows}
    text = json.dumps(result, indent=1)
    (ROOT / "benchmarks" / f"superres_{flags.name}.json").write_text(text + "\n")
    print(text)


def generated(dump: str) -> np.ndarray:
    """Returns the images of a dump, with its guidance. # float [N, H, W, C]"""
    [file] = pathlib.Path(dump).glob("samples_*.npz")
    with np.load(file, allow_pickle=False) as found:
        return found["arr_0"].astype(float)


def enlarged(small: np.ndarray, factor: int, kind: str) -> np.ndarray:
    """Returns images of the size that the averages are of, made by Pillow."""
    size = [factor * side for side in small.shape[2:0:-1]]
    images = [Image.fromarray(np.round(image).astype(np.uint8)) for image in small]
    return np.stack([np.asarray(image.resize(size, Image.Resampling[kind.upper()]), float) for image in images])


def figures(images: np.ndarray, true: np.ndarray, factor: int) -> dict[str, float]:
    """Returns the root mean square of what averages are off, in grey levels of 255, and the mean PSNR of images, in dB."""
    of = true[np.arange(len(images)) % len(true)]
    averages = operators.averaging(factor).apply
    off = np.sqrt(np.mean((averages(images) - averages(of)) ** 2))
    errors = np.mean((images - of) ** 2, axis=(1, 2, 3))
    return {"num_images": len(images), "averages_off": round(float(off), 3), "psnr": round(float(psnr(errors)), 3)}


def psnr(errors: np.ndarray) -> np.ndarray:
    return np.mean(20 * np.log10(255) - 10 * np.log10(np.maximum(errors, 1e-12)))


if __name__ == "__main__":
    main()
