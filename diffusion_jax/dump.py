"""Dumps: exactly N images, in shards that a rerun continues, then one .npz with a manifest and a picture."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from diffusion_jax import images, schema, storage
from diffusion_jax.errors import UserError

NUM_PICTURED = 64


def write(
    out: storage.Path,
    chunks: Callable[[int], Iterator[tuple[int, np.ndarray]]],
    *,
    num_images: int,
    chunk_size: int,
    manifest: Mapping[str, Any],
    labels: np.ndarray | None = None,
    on_progress: Callable[[int], None],
) -> storage.Path:
    """Writes images to shards/, samples_NxHxWxC.npz (arr_0, labels as arr_1), grid.png and manifest.json; returns the .npz.

    Args:
        out: the folder.
        chunks: first image -> the chunks from there on, as (number of its first image, uint8 [B, H, W, C]).
        num_images: N.
        chunk_size: B of every chunk but the last; each is one shard.
        manifest: what made the images; a folder that holds others is refused.
        labels: of the images, int [N], or None.
        on_progress: gets the number of images written so far.

    Raises:
        UserError: where the folder holds other images.
    """
    storage.make_dir(out)
    _claim(out, manifest)
    shards = [out / "shards" / f"{start:08d}.npz" for start in range(0, num_images, chunk_size)]
    present = next((i for i, shard in enumerate(shards) if not shard.exists()), len(shards))
    if present < len(shards):
        for start, drawn in chunks(present * chunk_size):
            storage.write_bytes(shards[start // chunk_size], encode(drawn))
            on_progress(start + len(drawn))
    drawn = np.concatenate([decode(shard) for shard in shards])
    result = out / f"samples_{'x'.join(map(str, drawn.shape))}.npz"
    storage.write_bytes(result, encode(drawn, labels))
    pictured = drawn[:NUM_PICTURED]
    columns = int(np.ceil(np.sqrt(len(pictured))))
    storage.write_bytes(out / "grid.png", images.encode_png(images.grid(pictured, num_columns=columns)))
    return result


def encode(drawn: np.ndarray, labels: np.ndarray | None = None) -> bytes:
    """Returns an .npz file's bytes with the images as arr_0 and, if there are any, their labels as arr_1."""
    file = io.BytesIO()
    np.savez(file, drawn, *([] if labels is None else [labels]))
    return file.getvalue()


def decode(file: storage.Path) -> np.ndarray:
    """Returns arr_0 of an .npz file."""
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
        return stored["arr_0"]


def _claim(out: storage.Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest, or checks that the folder's own is the same."""
    file = out / "manifest.json"
    if not file.exists():
        storage.write_text(file, json.dumps(manifest, indent=2) + "\n")
        return
    stored, new = (schema.flatten(json.loads(text)) for text in (file.read_text(), json.dumps(manifest)))
    if differences := [name for name in sorted({*stored, *new}) if stored.get(name) != new.get(name)]:
        raise UserError(
            f"folder {str(out)!r} holds other images (different {', '.join(differences)}); choose another --out."
        )
