"""Molecules as padded sets of atoms: arrays, their bonds and what is stable of them, as pictures and as .xyz files.

An array is float32 [M, 3 + 5]: of each atom its place in angstrom, and its type as one of five numbers that is 0.25, the
others 0. [Hoogeboom et al. 2022] The atoms stand first, as x_0 about their centre. Rows of zeros follow.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image, ImageDraw

from diffusion_jax.runs import pictures

TYPES = ("H", "C", "N", "O", "F")
TYPE_SCALE = 0.25  # of the one-hot type beside places in angstrom
VALENCES = np.array([1, 4, 3, 2, 1])
# Typical lengths of bonds between the types, in picometres; 0 where there is no such bond. [Hoogeboom et al. 2022, tables 7
# to 9, there from Wired Chemist and a table of bond lengths and enthalpies]
LENGTHS = np.array(
    [
        [[74, 109, 101, 96, 92], [0, 154, 147, 143, 135], [0, 0, 145, 140, 136], [0, 0, 0, 148, 142], [0, 0, 0, 0, 142]],
        [[0, 0, 0, 0, 0], [0, 134, 129, 120, 0], [0, 0, 125, 121, 0], [0, 0, 0, 121, 0], [0, 0, 0, 0, 0]],
        [[0, 0, 0, 0, 0], [0, 120, 116, 113, 0], [0, 0, 110, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
    ]
)
MARGINS = np.array([10, 5, 3])  # picometres by which a single, double and triple bond may be longer [there]
LIMITS = np.where(LENGTHS, LENGTHS + MARGINS[:, None, None], 0)
LIMITS = np.maximum(LIMITS, LIMITS.swapaxes(1, 2)) / 100  # angstrom, [order, type, type]
COLOURS = ("#ffffff", "#606060", "#3050f8", "#e01010", "#40c040")
RADII = (0.25, 0.4, 0.4, 0.4, 0.4)  # angstrom, of the discs
SIDE, WINDOW = 112, 11.0  # of a picture: pixels, and angstrom
SMOOTH = 4  # times as large a picture is drawn


def is_valid(array: np.ndarray) -> bool:
    """Returns whether an array of any kind is of molecules, [N, M, 8]."""
    return (
        array.dtype.kind == "f" and array.ndim == 3 and array.shape[-1] == 3 + len(TYPES) and bool(np.isfinite(array).all())
    )


def padded(elements: np.ndarray, places: np.ndarray, num_rows: int) -> np.ndarray:
    """Returns the array of a molecule. # float32 [num_rows, 8]

    Args:
        elements: numbers of `TYPES`, [n].
        places: in angstrom, [n, 3].
        num_rows: n or more.
    """
    found = np.zeros((num_rows, 3 + len(TYPES)), np.float32)
    found[: len(places), :3] = places
    found[np.arange(len(places)), 3 + np.asarray(elements)] = TYPE_SCALE
    return found


def project(x: Array, num_atoms: Array) -> Array:
    """Returns the orthogonal projection of arrays onto those of so many atoms about their centre.

    It sets the rows after the atoms to 0, and takes the mean of the atoms' places from these.

    Args:
        x: [B, M, 8].
        num_atoms: int [B].
    """
    is_atom = (jnp.arange(x.shape[1]) < num_atoms[:, None])[..., None]
    x = jnp.where(is_atom, x, 0)
    mean = jnp.sum(x, axis=1, keepdims=True) / jnp.maximum(num_atoms, 1)[:, None, None]
    return jnp.where(is_atom, x - mean.at[..., 3:].set(0), 0)


def centred(x: Array) -> Array:
    """Returns molecules, [B, M, 8], whose atoms may stand about any place, about their centre."""
    return project(x, num_atoms(x))


def num_atoms(x: Array | np.ndarray) -> Array | np.ndarray:
    """Returns how many rows of molecules, [N, M, 8], are atoms. # int [N]"""
    return (x != 0).any(axis=-1).sum(axis=1)


def num_values(num_atoms: Array) -> Array:
    """Returns the dimension of the subspace of `project`: of n atoms 8 n - 3. # [B]"""
    return (3 + len(TYPES)) * num_atoms - 3


def elements(x: np.ndarray) -> np.ndarray:
    """Returns the type of each atom as a number of `TYPES`: the largest of the five; -1 of rows of zeros. # int [N, M]"""
    return np.where(np.any(x != 0, axis=-1), np.argmax(x[..., 3:], axis=-1), -1)


def bond_orders(x: np.ndarray) -> np.ndarray:
    """Returns the order of the bond between any two atoms, from their types and distance; 0 for none. # int [N, M, M]

    The highest whose length, and its margin, is not exceeded. [Hoogeboom et al. 2022]
    """
    found = elements(x)
    one, other = found[:, :, None], found[:, None]
    distances = np.linalg.norm(x[:, :, None, :3] - x[:, None, :, :3], axis=-1)
    are_two = (one >= 0) & (other >= 0) & ~np.eye(x.shape[1], dtype=bool)
    single, double, triple = ((distances < LIMITS[order][one, other]) & are_two for order in range(3))
    return single * (1 + double * (1 + triple)).astype(int)


def stability(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each row whether it is an atom whose bonds add up to its valence, and whether it is an atom.

    A molecule is stable if all of its atoms are. [Hoogeboom et al. 2022]

    Args:
        x: [N, M, 8].

    Returns:
        bool [N, M] twice.
    """
    found = elements(x)
    return (found >= 0) & (bond_orders(x).sum(axis=-1) == VALENCES[found]), found >= 0


def xyz(x: np.ndarray, **_: int) -> bytes:
    """Returns the .xyz file of a molecule: the number of atoms, an empty line, and a line for each: type, x, y, z."""
    found = elements(x)
    lines = ["{} {:.4f} {:.4f} {:.4f}".format(TYPES[kind], *x[i, :3]) for i, kind in enumerate(found) if kind >= 0]
    return "\n".join([str(len(lines)), "", *lines, ""]).encode()


def grid(molecules: np.ndarray, *, num_columns: int = 0) -> np.ndarray:
    """Returns drawings of molecules, [N, M, 8], side by side; see `pictures.grid`.

    H is white, C grey, N blue, O red, F green. Each is seen from where it is broadest. Bonds of any order are lines.
    """
    return pictures.grid(np.stack([_drawing(x) for x in molecules]), num_columns=num_columns)


def _drawing(x: np.ndarray) -> np.ndarray:
    """Returns the picture of a molecule. # uint8 [SIDE, SIDE, 3]"""
    is_atom = elements(x) >= 0
    kinds, bonds = elements(x)[is_atom], bond_orders(x[None])[0][is_atom][:, is_atom]
    places = x[is_atom, :3] - np.sum(x[:, :3], axis=0) / max(1, np.sum(is_atom))
    places = places @ np.linalg.eigh(places.T @ places)[1]  # the broadest axis last, the depth first
    scale = SMOOTH * SIDE / WINDOW
    pixels = places[:, :0:-1] * scale + SMOOTH * SIDE / 2
    picture = Image.new("RGB", (SMOOTH * SIDE, SMOOTH * SIDE), "white")
    draw = ImageDraw.Draw(picture)
    for one, other in np.argwhere(np.triu(bonds)):
        draw.line([*pixels[one], *pixels[other]], fill="#909090", width=round(0.12 * scale))
    for atom in np.argsort(places[:, 0]):
        draw.circle(pixels[atom], RADII[kinds[atom]] * scale, COLOURS[kinds[atom]], "#303030", SMOOTH)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))
