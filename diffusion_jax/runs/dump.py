"""Dumps: exactly N images, in shards that a rerun continues, then one .npz with a manifest and a picture."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import jax
import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.runs import arrays, pictures, sharding, storage

NUM_PICTURED = 64


def write(
    out: storage.Path,
    draw: Callable[[int], Iterator[np.ndarray]],
    *,
    num_images: int,
    shard_size: int,
    manifest: Mapping[str, Any],
    labels: np.ndarray | None = None,
    on_progress: Callable[[int], None],
) -> storage.Path:
    """Writes images to shards/, samples_NxHxWxC.npz (arr_0, labels as arr_1), grid.png and manifest.json; returns the .npz.

    Args:
        out: the folder.
        draw: number of the first image -> uint8 [B, H, W, C] from there on, in pieces of any size, `num_images` in all.
        num_images: N.
        shard_size: images in each shard, but for the last.
        manifest: what made the images; a folder that holds others is refused.
        labels: of the images, int [N], or None.
        on_progress: gets the number of images drawn so far.

    Raises:
        UserError: where the folder holds other images, or a damaged shard.
    """
    storage.make_dir(out)
    claim(out, manifest)
    shards = [out / "shards" / f"{start:08d}.npz" for start in range(0, num_images, shard_size)]
    for run in _runs([i for i in own(len(shards)) if not shards[i].exists()]):
        pieces = _counted(draw(run[0] * shard_size), run[0] * shard_size, on_progress)
        for i, drawn in zip(run, regrouped(pieces, shard_size), strict=False):  # what is drawn may go on behind the run
            with storage.writing(shards[i]) as file:
                np.savez(file, drawn)
    sharding.wait_for_all("shards")
    sizes = [min(shard_size, num_images - start) for start in range(0, num_images, shard_size)]
    first = _images(shards[0], sizes[0])
    few = -(-NUM_PICTURED // shard_size)
    pictured = [_images(shard, size, first.shape[1:]) for shard, size in zip(shards[:few], sizes, strict=False)]
    pictured = np.concatenate(pictured)[:NUM_PICTURED]
    result = out / f"samples_{'x'.join(map(str, (num_images, *pictured.shape[1:])))}.npz"
    if not sharding.is_first():
        return result
    with storage.writing(result) as file:
        write_npz(file, shards, sizes, (num_images, *pictured.shape[1:]), labels)
    storage.write_bytes(out / "grid.png", pictures.encode_png(pictures.grid(pictured)))
    return result


def own(num_shards: int) -> list[int]:
    """Returns the shards that this process makes: a block of them, which it needs nobody to agree on."""
    return np.array_split(np.arange(num_shards), jax.process_count())[jax.process_index()].tolist()


def _runs(numbers: list[int]) -> list[list[int]]:
    """Returns rising numbers in groups without gaps."""
    gaps = np.flatnonzero(np.diff(numbers) > 1) + 1
    return [group.tolist() for group in np.split(numbers, gaps) if group.size]


def _counted(pieces: Iterable[np.ndarray], done: int, on_progress: Callable[[int], None]) -> Iterator[np.ndarray]:
    for piece in pieces:
        done += len(piece)
        on_progress(done)
        yield piece


def regrouped(pieces: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yields the same rows in pieces of `size`, the last one perhaps shorter."""
    held = None
    for piece in pieces:
        held = piece if held is None else np.concatenate([held, piece])
        while len(held) >= size:
            yield held[:size]
            held = held[size:]
    if held is not None and len(held):
        yield held


def write_npz(
    file: BinaryIO, shards: list[storage.Path], sizes: list[int], shape: tuple[int, ...], labels: np.ndarray | None
) -> None:
    """Writes what np.savez would write of all shards together, holding one of them at a time.

    Args:
        file: to write into.
        shards: of the images, in order.
        sizes: images in each.
        shape: of all images, (N, H, W, C).
        labels: int [N], or None.
    """
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array_header_1_0(entry, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for shard, size in zip(shards, sizes, strict=True):
                entry.write(_images(shard, size, shape[1:]).tobytes())
        if labels is not None:
            with archive.open("arr_1.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(labels))


def _images(shard: storage.Path, num: int, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Returns a shard's images. # uint8 [num, *shape]

    Raises:
        UserError: where it has others.
    """
    found = decode(shard).get("arr_0")
    if found is None or found.dtype != np.uint8 or found.ndim != 4 or found.shape != (num, *(shape or found.shape[1:])):
        raise UserError(f"shard {str(shard)!r} holds something else; remove it, and the same command makes it again.")
    return found


def decode(shard: storage.Path) -> dict[str, np.ndarray]:
    """Returns a shard's arrays.

    Raises:
        UserError: where it is damaged.
    """
    try:
        return arrays.read_npz(io.BytesIO(shard.read_bytes()))
    except Exception as error:  # zipfile and NumPy have a dozen names for what a damaged file is
        raise UserError(
            f"shard {str(shard)!r} is damaged ({type(error).__name__}); remove it, and the same command makes it again."
        ) from error


def digest(manifest: Mapping[str, Any]) -> str:
    """Returns eight letters that tell this manifest from others."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:8]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested mapping as {"section.field": value}."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def claim(out: storage.Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest into a folder.

    Raises:
        UserError: where it has another, and so holds other results.
    """
    file = out / "manifest.json"
    if not file.exists() and sharding.is_first():
        storage.write_text(file, json.dumps(manifest, indent=2) + "\n")
    sharding.wait_for_all("manifest")
    try:
        stored = flatten(json.loads(file.read_text()))
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"file {str(file)!r} is damaged ({type(error).__name__}); choose another --out.") from error
    new = flatten(json.loads(json.dumps(manifest)))
    if differences := [name for name in sorted({*stored, *new}) if stored.get(name) != new.get(name)]:
        raise UserError(
            f"folder {str(out)!r} holds other results (different {', '.join(differences)}); choose another --out."
        )
