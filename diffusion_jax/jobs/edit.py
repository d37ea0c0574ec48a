"""Editing images: python main.py --mode=edit --workdir=<workdir> --config.edit.images=<file or folder> [--out=<folder>].

The same command continues one that was stopped, and gives the same bytes.
"""

import functools
import json
from collections.abc import Sequence

import numpy as np

from diffusion_jax import model
from diffusion_jax.compose import edits, given, inputs, sampling, stored
from diffusion_jax.compose.config import Config
from diffusion_jax.data.feed import Batch
from diffusion_jax.runs import logs, pictures, sharding, shards, storage

MOST_PICTURED = 32  # images in edit.png
MOST_BYTES = 300_000  # of edit.png, if an image more than one is in it


def run(config: Config, workdir: storage.Path, out: storage.Path | None = None) -> int:
    """Edits the images that the section `edit` names; returns the exit code, 0.

    It writes images/ (PNG, under the names of those given), edit.png (given, mask, result), edit.json (what it took) and
    manifest.json into `out`, by default a folder of the workdir. The config is checked by `checks.check`.
    """
    config = edits.settled(stored.agreed_config(workdir, config))
    names, batch = given.read(config)
    given.check_apart(config, out or workdir)
    trained = model.with_guide(model.restore(workdir, config))
    manifest = {**model.manifest_of_images(trained), "edit": edits.made_from(config, batch)}
    out = out or workdir / "edits" / f"{config.edit.task}_step_{trained.step:07d}_{shards.digest(manifest)}"
    inputs.check_apart(config, out)
    logs.say(
        "editing",
        f"{len(names):,} images by {config.edit.task}, which takes the sampler {config.sample.sampler}, into {out}",
    )
    logs.say("warning", *sampling.warnings(config))
    num_images, size = len(names), config.sample.shard_size
    make = functools.partial(model.edited, trained, batch)
    found = shards.read_all(shards.by_image(out, manifest, num_images, size, make, label="edit"))
    if sharding.is_first():
        _write(out, names, batch, found["edited"])
        evaluations = int(found["num_evaluations"][0])
        result = {"num_evaluations": evaluations, "images": names, "made_from": manifest}
        storage.write_text(out / "edit.json", json.dumps(result, indent=2) + "\n")
        logs.say("done", f"{evaluations:,} evaluations an image; {out / 'images'}, and a picture in {out / 'edit.png'}")
    return 0


def _write(out: storage.Path, names: Sequence[str], batch: Batch, edited: np.ndarray) -> None:
    """Writes each image, and a picture of the first ones."""
    for name, image in zip(names, edited, strict=True):
        storage.write_bytes(out / "images" / f"{name}.png", pictures.encode_png(image))
    num = min(len(names), MOST_PICTURED)
    while len(picture := _picture(batch, edited, num)) > MOST_BYTES and num > 1:
        num //= 2
    storage.write_bytes(out / "edit.png", picture)


def _picture(batch: Batch, edited: np.ndarray, num: int) -> bytes:
    """Returns a PNG of the first images: each given, with its mask if it has one, and edited."""
    if "other" in batch:
        return _picture_of_rows(batch, edited, num)
    columns = [batch["x"], batch["mask"].astype(np.uint8) * 255] if "mask" in batch else [batch["x"]]
    tiles = np.stack([_enlarged(rows[:num], edited.shape[1:]) for rows in (*columns, edited)], axis=1)
    num_columns = tiles.shape[1] * max(1, round(np.sqrt(num / tiles.shape[1])))
    return pictures.encode_png(pictures.grid(tiles.reshape(-1, *edited.shape[1:]), num_columns=num_columns))


def _picture_of_rows(batch: Batch, edited: np.ndarray, num: int) -> bytes:
    """Returns a PNG with a row for each pair, between the two images that are given, of so many images or one row."""
    starts = np.flatnonzero(batch["weight"] == 0)
    rows = edited.reshape(len(starts), -1, *edited.shape[1:])
    tiles = np.concatenate([batch["x"][starts, None], rows, batch["other"][starts, None]], axis=1)
    tiles = tiles[: max(1, num // rows.shape[1])]
    return pictures.encode_png(pictures.grid(tiles.reshape(-1, *edited.shape[1:]), num_columns=tiles.shape[1]))


def _enlarged(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns images in a shape (H, W, C), of which their sides are a fraction, and their channels all or one."""
    factors = [wanted // found for wanted, found in zip(shape, images.shape[1:], strict=True)]
    return np.kron(images, np.ones((1, *factors), np.uint8))
