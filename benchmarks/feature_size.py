"""To how many pixels images are best scaled for EfficientNet-lite0: what each size costs, and what it notices.

    python benchmarks/feature_size.py --images=emoji32.npz

takes `images`, uint8 [N, H, W, C], of an .npz file. Three sets of them are compared with another: as they are, blurred (half
the size and back), and with noise of standard deviation 8 of 255. A figure is the kernel distance (KID, cubic kernel,
unbiased) with its standard deviation over halves of the sets: how many of these a distance has is how well damage is
noticed. Writes benchmarks/feature_size.json.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
import time

import jax
import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from diffusion_jax.weights import features

SIZES = (64, 96, 128)
NUM_IMAGES, BATCH, NUM_HALVES = 384, 64, 16
OUT = pathlib.Path(__file__).with_suffix(".json")


def sets(images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns four sets of equal size: what the others are compared with, real ones, and the real ones damaged twice."""
    random = np.random.default_rng(0)
    reference, real = np.split(images[random.permutation(len(images))[: 2 * NUM_IMAGES]], 2)
    noise = np.clip(real + random.normal(0, 8, real.shape), 0, 255).round().astype(np.uint8)
    return {"reference": reference, "real": real, "blurred": np.stack([blurred(image) for image in real]), "noisy": noise}


def blurred(pixels: np.ndarray) -> np.ndarray:
    """Returns an image at half the size and back."""
    height, width, channels = pixels.shape
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    small = image.resize((width // 2, height // 2), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).reshape(pixels.shape)


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the unbiased squared maximum mean discrepancy of equally many features. [Binkowski et al. 2018, eq. 4]"""
    of_x, of_y, between = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = sum(np.sum(k) - np.trace(k) for k in (of_x, of_y)) / (len(x) * (len(x) - 1))
    return float(within - 2 * np.mean(between))


def of_size(size: int, compared: dict[str, np.ndarray]) -> dict:
    """Returns the cost and the distances of one size."""
    found, seconds, computed = features.load("efficientnet_lite0", size=size), [], {}
    apply = jax.jit(lambda images: found.network.apply(found.params, images)["features"])
    apply(compared["real"][:BATCH]).block_until_ready()
    for name, images in compared.items():
        computed[name] = []
        for start in range(0, NUM_IMAGES, BATCH):
            before = time.perf_counter()
            computed[name].append(np.asarray(apply(images[start : start + BATCH]), np.float64))
            seconds.append(time.perf_counter() - before)
    computed = {name: np.concatenate(parts) for name, parts in computed.items()}
    row = {"size": size, "images_per_second": round(BATCH / float(np.median(seconds)), 1)}
    for name in ("real", "blurred", "noisy"):
        whole = kernel_distance(computed["reference"], computed[name])
        spread = np.std([of_halves(computed["reference"], computed[name], seed) for seed in range(NUM_HALVES)])
        row[name] = {"distance": round(whole, 5), "deviation_of_halves": round(float(spread), 5)}
    return row


def of_halves(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """Returns the distance of a random half of each."""
    random = np.random.default_rng(seed)
    return kernel_distance(*[part[random.permutation(len(part))[: len(part) // 2]] for part in (x, y)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="an .npz file")
    with np.load(parser.parse_args().images, allow_pickle=False) as stored:
        compared = sets(stored["images"])
    found = {
        "command": "python benchmarks/feature_size.py --images=emoji32.npz",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores with a load of {os.getloadavg()[0]:.1f} besides",
        "jax": jax.__version__,
        "num_images": NUM_IMAGES,
        "batch": BATCH,
        "rows": [of_size(size, compared) for size in SIZES],
    }
    OUT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
