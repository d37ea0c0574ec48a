"""The sprites of Crossfire, a game of 1992: what is 32 x 32 pixels in the Debian package of its client's images."""

from collections.abc import Iterator

import numpy as np

from diffusion_jax.tools.fetch import collection, packages
from diffusion_jax.tools.fetch.collection import Made, Picture

PACKAGE, TRIED = "crossfire-client-images", "1.70.0-2"
IMAGES = "usr/share/games/crossfire-client/crossfire.base"
LICENCE = f"usr/share/doc/{PACKAGE}/copyright"
SIZE = 32
MOST_OF_A_HEAD = 512  # bytes


def make(*, package: str = "") -> Made:
    """Returns the sprites; their classes are the folders of the game's archive: monster, wall, spell, ..."""
    got = packages.of_apt(PACKAGE, tried=TRIED, given=package)
    files = dict(got.files({IMAGES, LICENCE}.__contains__))
    with packages.understood(got.file):
        found = [Picture(name, kind_of(name), pixels) for name, pixels in _images(files[IMAGES])]
        return collection.made("sprites", found, files[LICENCE].decode(), got.about())


def records(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields (name, PNG file) of each record of a crossfire.base: a line 'IMAGE <bytes> <name>', then the PNG file.

    Raises ValueError where that is not so.
    """
    start = 0
    while start < len(content):
        end = content.find(b"\n", start, start + MOST_OF_A_HEAD)
        words = content[start:end].decode("ascii", "replace").split(" ")
        if end < 0 or len(words) != 3 or words[0] != "IMAGE" or not words[1].isdecimal():
            raise ValueError(f"byte {start:,} does not begin a record 'IMAGE <bytes> <name>'")
        start = end + 1 + int(words[1])
        if start > len(content):
            raise ValueError(f"the record {words[2]!r} is cut short")
        yield words[2], content[end + 1 : start]


def kind_of(name: str) -> str:
    """Returns the class of a sprite: 'monster' of './arch/monster/giant/bk.111'."""
    parts = name.split("/")
    return parts[2] if len(parts) > 3 else "."


def _images(content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    for name, png in records(content):
        image = collection.on_white(png)
        if image.size == (SIZE, SIZE):
            yield name, collection.fitted(image, SIZE)
