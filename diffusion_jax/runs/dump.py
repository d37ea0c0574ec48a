"""Dumps: exactly N images, in shards that a rerun continues, then one .npz with a manifest and a picture."""

import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from diffusion_jax.runs import pictures, sharding, shards, storage

BESIDE_IN_A_ROW = 4


class Look(NamedTuple):
    """What the arrays of a dump are, and how people look at them."""

    dtype: DTypeLike = np.uint8
    num_axes: int = 4  # of all together, [N, H, W, C]
    grid: Callable[..., np.ndarray] = pictures.grid  # arrays -> a picture of them
    num_pictured: int = 64  # in grid.png
    write_one: Callable[[np.ndarray], bytes] | None = None  # array -> a file, such as .wav, of each that is in grid.png
    suffix: str = ""  # of these files, which are named by their number


IMAGES = Look()


def write(
    out: storage.Path,
    generate: Callable[[int], Iterable[np.ndarray]],
    *,
    num_images: int,
    shard_size: int,
    manifest: Mapping[str, Any],
    labels: np.ndarray | None = None,
    look: Look = IMAGES,
    beside: Sequence[np.ndarray] = (),
) -> storage.Path:
    """Writes images to shards/, samples_NxHxWxC.npz (arr_0, labels as arr_1), grid.png and manifest.json; returns the .npz.

    Where images belong beside the first ones, there is cond.png too.

    Raises UserError where the folder holds other images, or a damaged shard.

    Args:
        generate: number of the first image -> images from there on, uint8 [B, H, W, C], or other arrays, in pieces of any
            size, `num_images` in all.
        shard_size: images in each shard, but for the last.
        manifest: what made the images; a folder that holds others is refused.
        labels: of the images, int [N], or None.
        look: what the images are, and how they are pictured.
        beside: what to show to the left of the first images, and maybe to the right, uint8 [n, H, W, C] each.
    """
    made = shards.by_image(
        out,
        manifest,
        num_images,
        shard_size,
        lambda first: ({"arr_0": images} for images in generate(first)),
        label="sample",
    )
    few = itertools.islice(_images(made, look), -(-look.num_pictured // shard_size))
    pictured = np.concatenate(list(few))[: look.num_pictured]
    shape = (num_images, *pictured.shape[1:])
    result = out / f"samples_{'x'.join(map(str, shape))}.npz"
    if not sharding.is_first():
        return result
    with storage.writing(result) as file:
        write_npz(file, _images(made, look), shape, labels, look.dtype)
    _write_pictures(out, pictured, look.grid, beside)
    for number, one in enumerate(pictured if look.write_one else ()):
        storage.write_bytes(out / f"{number:03d}{look.suffix}", look.write_one(one))
    return result


def _write_pictures(
    out: storage.Path, pictured: np.ndarray, grid: Callable[..., np.ndarray], beside: Sequence[np.ndarray]
) -> None:
    """Writes grid.png, and cond.png where something belongs beside the first images."""
    storage.write_bytes(out / "grid.png", pictures.encode_png(grid(pictured)))
    if beside:
        left, *right = beside
        rows = np.stack([left, pictured[: len(left)], *right], axis=1)
        num_columns = rows.shape[1] * BESIDE_IN_A_ROW
        picture = grid(rows.reshape(-1, *rows.shape[2:]), num_columns=num_columns)
        storage.write_bytes(out / "cond.png", pictures.encode_png(picture))


def _images(made: shards.Shards, look: Look) -> Iterator[np.ndarray]:
    """Yields the images of each shard. # of the type, [n, ...]"""

    def are_images(rows: shards.Rows) -> bool:
        return "arr_0" in rows and rows["arr_0"].dtype == look.dtype and rows["arr_0"].ndim == look.num_axes

    return (rows["arr_0"] for rows in shards.read(made, are_images))


def write_npz(
    file: BinaryIO,
    pieces: Iterable[np.ndarray],
    shape: tuple[int, ...],
    labels: np.ndarray | None,
    dtype: DTypeLike = np.uint8,
) -> None:
    """Writes what np.savez would write of all images together, holding one piece at a time.

    Args:
        pieces: the images, in order, uint8 [n, H, W, C], or other arrays.
        shape: of all images, (N, H, W, C).
        labels: int [N], or None.
        dtype: of the pieces.
    """
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array_header_1_0(
                entry, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
            )
            for images in pieces:
                entry.write(images.tobytes())
        if labels is not None:
            with archive.open("arr_1.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(labels))
