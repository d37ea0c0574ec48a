"""Google's emoji, from the npm package emoji-datasource-google."""

import json
from collections.abc import Iterator
from typing import Any

from diffusion_jax.tools.fetch import collection, packages
from diffusion_jax.tools.fetch.collection import Made, Picture

PACKAGE, TRIED = "emoji-datasource-google", "16.0.0"
TONES = {"1F3FB": "light", "1F3FC": "medium light", "1F3FD": "medium", "1F3FE": "medium dark", "1F3FF": "dark"}
FOLDER, TABLE, LICENCE, README = "img/google/64/", "emoji.json", "LICENSE", "README.md"


def make(*, size: int, package: str = "") -> Made:
    """Returns the emoji, named by their code points, with captions; their classes are Unicode's categories.

    Args:
        size: side of the images, shrunk by area from 64 pixels.
        package: the package's file, where it is here already.
    """
    got = packages.of_npm(PACKAGE, tried=TRIED, given=package)
    files = dict(got.files(lambda path: path.startswith(FOLDER) or path in (TABLE, LICENCE, README)))
    with packages.understood(got.file):
        table = json.loads(files[TABLE])
        kinds, texts = categories(table), captions(table)
        images = {path.removeprefix(FOLDER): png for path, png in files.items() if path.startswith(FOLDER)}
        found = [
            Picture(name.removesuffix(".png"), kinds[name], collection.fitted(collection.on_white(png), size), texts[name])
            for name, png in images.items()
        ]
        licence = f"{_of_images(files[README].decode())}\n\nThe package:\n\n{files[LICENCE].decode()}"
        return collection.made("emoji", found, licence, got.about())


def categories(table: list[dict[str, Any]]) -> dict[str, str]:
    """Returns {name of an image file: category} of an emoji.json, skin tones included."""
    return {name: entry["category"] for name, entry, _ in _entries(table)}


def captions(table: list[dict[str, Any]]) -> dict[str, str]:
    """Returns {name of an image file: caption} of an emoji.json: the names that it has, its sub-category, and skin tones.

    As 'blue heart, heart' or 'ok hand, ok hand sign, hand fingers partial, dark skin'.
    """
    found = {}
    for name, entry, tones in _entries(table):
        said = [*entry["short_names"], entry["name"], entry["subcategory"], *(f"{TONES[tone]} skin" for tone in tones)]
        words = [" ".join(each.lower().replace("_", " ").replace("-", " ").split()) for each in said]
        found[name] = ", ".join(dict.fromkeys(words))
    return found


def _entries(table: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Yields (name of an image file, its entry, its skin tones)."""
    for entry in table:
        yield entry["image"], entry, []
        for tones, variation in entry.get("skin_variations", {}).items():
            yield variation["image"], entry, tones.split("-")


def _of_images(readme: str) -> str:
    """Returns what the package says of the licence of Google's images."""
    return "\n".join(line.lstrip("* ") for line in readme.splitlines() if "Noto images" in line)
