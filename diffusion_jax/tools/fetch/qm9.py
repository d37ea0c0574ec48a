"""QM9: small molecules with the places of their atoms, from the Python package qm9pack. [Ramakrishnan et al. 2014]"""

import csv
import io
import re

import numpy as np

from diffusion_jax.data import molecules
from diffusion_jax.tools.fetch import packages
from diffusion_jax.tools.fetch.collection import Made

PACKAGE, TRIED = "qm9pack", "1.0.3"
TABLES = tuple(f"{PACKAGE}/data/qm9_part{part}.csv" for part in (1, 2, 3))
MOST_ATOMS = 29
TRAINING = 100_000 / 130_831  # share of the molecules, as is that of the test set
TEST = 0.1


def make(*, package: str = "") -> Made:
    """Returns the molecules as arrays of `data.molecules`, in three files.

    The split is that of [Anderson et al. 2019, Cormorant; Hoogeboom et al. 2022]: of a permutation by NumPy's generator of
    seed 0 the first 100,000 are to train with, the last 13,083 the test set.
    """
    got = packages.of_pip(PACKAGE, tried=TRIED, given=package)
    files = dict(got.files(lambda path: path in TABLES or path.endswith(".dist-info/LICENSE")))
    with packages.understood(got.file):
        x = np.stack([molecule for table in TABLES for molecule in _molecules(files.pop(table).decode())])
        (licence,) = files.values()
        order, num_training = np.random.RandomState(0).permutation(len(x)), round(TRAINING * len(x))
        training, valid, test = np.split(order, [num_training, len(x) - int(TEST * len(x))])
        parts = {"": training, "_valid": valid, "_test": test}
        files = {f"qm9{name}.npz": _npz(x[rows]) for name, rows in parts.items()}
        classes = {f"{num} atoms": int(count) for num, count in enumerate(np.bincount(molecules.num_atoms(x))) if count}
        counts = {"num_training": len(training), "num_held_out": len(test), "image_shape": list(x.shape[1:])}
        return Made(files | {"LICENCE.txt": licence}, {**got.about(), **counts, "classes": classes})


def _molecules(table: str) -> list[np.ndarray]:
    """Returns the array of each row of a table, whose lists are written as in Python."""
    found = []
    for row in csv.DictReader(io.StringIO(table)):
        elements = [molecules.TYPES.index(symbol) for symbol in re.findall("[A-Z]", row["Elements"])]
        places = np.array(re.sub(r"[][]", "", row["XYZ_Ang"]).split(","), np.float64).reshape(len(elements), 3)
        found.append(molecules.padded(elements, places, MOST_ATOMS))
    return found


def _npz(x: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, arr_0=x)
    return file.getvalue()
