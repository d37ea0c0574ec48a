"""What is made for each image by its number: in shards, which processes share out and which a rerun continues."""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax import errors
from diffusion_jax.errors import UserError
from diffusion_jax.runs import arrays, logs, sharding, storage

MOST_SHOWN = 4  # settings that differ

Rows = dict[str, np.ndarray]  # a row for each image


class Shards(NamedTuple):
    """Files of images 0, 1, ..., in order."""

    files: list[storage.Path]
    sizes: list[int]  # images in each


def by_image(
    out: storage.Path,
    manifest: Mapping[str, Any],
    num_images: int,
    shard_size: int,
    make: Callable[[int], Iterable[Rows]],
    *,
    label: str,
) -> Shards:
    """Returns the shards of a folder, after making those that are missing; all processes have to ask.

    Raises UserError where the folder holds the results of another manifest.

    Args:
        manifest: what the results depend on.
        num_images: N.
        shard_size: images in each shard, but for the last.
        make: number of an image -> what is made for it and for those after it, in pieces of any size, N - number in all.
        label: of the lines that say how many are made.
    """
    storage.make_dir(out)
    check_or_write_manifest(out, manifest)
    starts = range(0, num_images, shard_size)
    sizes = [min(shard_size, num_images - start) for start in starts]
    files = [out / "shards" / _name(start, size, shard_size) for start, size in zip(starts, sizes, strict=True)]
    on_progress = logs.progress_by_shard(label, num_images, shard_size)
    for run in consecutive([i for i in my_shards(len(files)) if not files[i].exists()]):
        pieces = _counted(make(starts[run[0]]), starts[run[0]], on_progress)
        for i, rows in zip(run, rechunk(pieces, shard_size), strict=False):  # the pieces may go on behind the run
            with storage.writing(files[i]) as file:
                np.savez(file, **rows)
    sharding.wait_for_all("shards")
    return Shards(files, sizes)


def _name(start: int, size: int, shard_size: int) -> str:
    """Returns a shard's file name; a last one that is shorter has another, so that more images may follow some day."""
    return f"{start:08d}.npz" if size == shard_size else f"{start:08d}_{size}.npz"


def my_shards(num_shards: int) -> list[int]:
    """Returns the shards that this process makes: a block of them, on which the processes need not agree."""
    return np.array_split(np.arange(num_shards), jax.process_count())[jax.process_index()].tolist()


def consecutive(numbers: list[int]) -> list[list[int]]:
    """Returns rising numbers in groups without gaps."""
    gaps = np.flatnonzero(np.diff(numbers) > 1) + 1
    return [group.tolist() for group in np.split(numbers, gaps) if group.size]


def _counted(pieces: Iterable[Rows], done: int, on_progress: Callable[[int], None]) -> Iterator[Rows]:
    for piece in pieces:
        done += _num_rows(piece)
        on_progress(done)
        yield piece


def rechunk(pieces: Iterable[Rows], size: int) -> Iterator[Rows]:
    """Yields the same rows in pieces of `size`. The last piece may be shorter."""
    held: Rows = {}
    for piece in pieces:
        held = {name: np.concatenate([held[name], rows]) if held else rows for name, rows in piece.items()}
        while _num_rows(held) >= size:
            yield {name: rows[:size] for name, rows in held.items()}
            held = {name: rows[size:] for name, rows in held.items()}
    if held and _num_rows(held):
        yield held


def _num_rows(piece: Rows) -> int:
    return len(next(iter(piece.values())))


def read(shards: Shards, fits: Callable[[Rows], bool] = lambda rows: True) -> Iterator[Rows]:
    """Yields the arrays of each shard, one shard in memory at a time.

    Raises UserError where a shard is damaged, or holds something else.

    Args:
        fits: whether arrays are what the caller expects; all must have the names, types and shapes of the first shard's.
    """
    expected = None
    for file, size in zip(*shards, strict=True):
        found = decode(file)
        shapes = {name: (column.dtype, column.shape[1:]) for name, column in found.items()}
        expected = expected or shapes
        has_rows = all(column.ndim and len(column) == size for column in found.values())
        if not found or not has_rows or shapes != expected or not fits(found):
            raise UserError(
                f"shard {str(file)!r} does not hold results of this run; remove it, and the same command makes it again."
            )
        yield found


def read_all(shards: Shards) -> Rows:
    """Returns the arrays of all shards together; errors as for `read`. # {name: [N, ...]}"""
    parts = list(read(shards))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def decode(shard: storage.Path) -> Rows:
    """Returns a shard's arrays; UserError where it is damaged."""
    try:
        return arrays.read_npz(io.BytesIO(storage.read_bytes(shard)))
    except Exception as error:  # zipfile and NumPy have a dozen names for what a damaged file is
        raise UserError(
            f"shard {str(shard)!r} is damaged ({type(error).__name__}); remove it, and the same command makes it again."
        ) from error


def digest(manifest: Mapping[str, Any]) -> str:
    """Returns eight letters that identify this manifest."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:8]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested mapping as {"section.field": value}."""
    flat = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def check_or_write_manifest(out: storage.Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest into a folder that has none; UserError where it has another, and so holds other results."""
    file = out / "manifest.json"
    if not file.exists() and sharding.is_first():
        storage.write_text(file, json.dumps(manifest, indent=2) + "\n")
    sharding.wait_for_all("manifest")
    text = storage.read_text(file, "a folder of results")
    try:
        stored = flatten(json.loads(text))
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"file {str(file)!r} is damaged ({type(error).__name__}); choose another --out.") from error
    new = flatten(json.loads(json.dumps(manifest)))
    if differences := [name for name in sorted({*stored, *new}) if stored.get(name) != new.get(name)]:
        shown = errors.some(differences, MOST_SHOWN)
        raise UserError(f"folder {str(out)!r} holds other results (different {shown}); choose another --out.")
