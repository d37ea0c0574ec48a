"""Pictures with a name and a class each: on white, of one size, distinct, split in two, as .npz files."""

import collections
import hashlib
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from diffusion_jax.runs import pictures

MOST_PIXELS = 2**24  # of a picture
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
ONE_IN = 10  # that is held out


class Picture(NamedTuple):
    """One image of a set."""

    name: str  # that no other has
    kind: str  # its class
    pixels: np.ndarray  # uint8 [H, W, 3], of a video [F, H, W, 3]
    caption: str = ""  # where the pictures of a set have some


class Made(NamedTuple):
    """What a set puts into its folder."""

    files: dict[str, bytes]  # name -> content
    about: dict[str, Any]  # for about.json


def on_white(content: bytes) -> Image.Image:
    """Returns the picture of a PNG file on white, in RGB; one of `UNREADABLE` where it is damaged or too large."""
    width, height = (int.from_bytes(content[start : start + 4]) for start in (16, 20))  # of a PNG's first chunk
    if not content.startswith(b"\x89PNG\r\n\x1a\n") or width * height > MOST_PIXELS:
        raise ValueError(f"it is not a PNG file of at most {MOST_PIXELS:,} pixels")
    with Image.open(io.BytesIO(content), formats=("PNG",)) as stored:
        return pictures.on_white(stored)


def fitted(image: Image.Image, size: int) -> np.ndarray:
    """Returns a picture in the middle of a white square, shrunk by area where it is larger. # uint8 [size, size, 3]"""
    scale = size / max(image.size)
    if scale < 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BOX)
    square = Image.new("RGB", (size, size), "white")
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return np.asarray(square)


def is_held_out(name: str) -> bool:
    """Returns whether an image of this name is held out, as one in `ONE_IN` is; the name alone decides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % ONE_IN == 0


def made(set_name: str, pictures: Sequence[Picture], licence: str, about: dict[str, Any]) -> Made:
    """Returns the files of a set: the .npz to train with, that of what is held out, and the licence.

    Of pictures with the same pixels the first by name stays, before the set is split: none is on both sides.
    """
    ordered = sorted(pictures, key=lambda picture: picture.name)
    return split(set_name, ordered, lambda picture: is_held_out(picture.name), licence, about)


def split(
    set_name: str,
    pictures: Sequence[Picture],
    is_apart: Callable[[Picture], bool],
    licence: str,
    about: dict[str, Any],
) -> Made:
    """Returns the files of a set, as `made`, of pictures in their order. ValueError where a part or the licence is empty.

    Args:
        is_apart: whether a picture is held out.
    """
    distinct: dict[bytes, Picture] = {}
    for picture in pictures:
        distinct.setdefault(picture.pixels.tobytes(), picture)
    held_out = [picture for picture in distinct.values() if is_apart(picture)]
    training = [picture for picture in distinct.values() if not is_apart(picture)]
    if not training or not held_out or not licence:
        raise ValueError(f"{len(training)} images to train with, {len(held_out)} held out, licence {licence[:20]!r}")
    classes = dict(sorted(collections.Counter(picture.kind for picture in distinct.values()).items()))
    names, num_duplicates = list(classes), len(pictures) - len(distinct)
    files = {
        f"{set_name}.npz": _npz(training, names),
        f"{set_name}_test.npz": _npz(held_out, names),
        "LICENCE.txt": licence.encode(),
    }
    if training[0].caption:
        files[f"{set_name}_test.txt"] = "".join(f"{picture.caption}\n" for picture in held_out).encode()
    counts = {"num_training": len(training), "num_held_out": len(held_out), "num_duplicates": num_duplicates}
    return Made(files, {**about, **counts, "image_shape": list(training[0].pixels.shape), "classes": classes})


def _npz(pictures: Sequence[Picture], class_names: Sequence[str]) -> bytes:
    file, number = io.BytesIO(), {name: label for label, name in enumerate(class_names)}
    captions = np.array([picture.caption for picture in pictures], np.str_)
    np.savez_compressed(
        file,
        images=np.stack([picture.pixels for picture in pictures]),
        labels=np.array([number[picture.kind] for picture in pictures], np.int32),
        label_names=np.array(class_names, np.str_),
        names=np.array([picture.name for picture in pictures], np.str_),
        **({"captions": captions} if captions[0] else {}),
    )
    return file.getvalue()
