"""Fashion-MNIST, from the Debian package dataset-fashion-mnist. [Xiao et al. 2017, arXiv:1708.07747]"""

import gzip
import io

import numpy as np

from diffusion_jax.tools.fetch import packages
from diffusion_jax.tools.fetch.collection import Made

PACKAGE, TRIED = "dataset-fashion-mnist", "0.0~git20200523.55506a9-1"
FOLDER, LICENCE = "usr/share/datasets/fashion-mnist/", f"usr/share/doc/{PACKAGE}/copyright"
NAMES = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def make(*, package: str = "") -> Made:
    """Returns the four IDX files as they are published, gzipped, for data.source = 'idx'."""
    got = packages.of_apt(PACKAGE, tried=TRIED, given=package)
    files = dict(got.files(lambda path: path == LICENCE or path.removeprefix(FOLDER) in NAMES))
    with packages.understood(got.file):
        idx = {name: files[FOLDER + name] for name in NAMES}
        training, held_out = (_labels(idx[name]) for name in NAMES if "labels" in name)
        of_each = np.bincount(np.concatenate([training, held_out]), minlength=len(CLASSES))
        classes = dict(zip(CLASSES, of_each.tolist(), strict=True))
        counts = {"num_training": len(training), "num_held_out": len(held_out)}
        about = {**got.about(), **counts, "image_shape": [28, 28, 1], "classes": classes}
        return Made({**idx, "LICENCE.txt": files[LICENCE]}, about)


def _labels(packed: bytes) -> np.ndarray:
    """Returns the labels of an IDX file, which stand behind eight bytes. # uint8 [N]"""
    return np.frombuffer(gzip.GzipFile(fileobj=io.BytesIO(packed)).read(2**20), np.uint8, offset=8)
