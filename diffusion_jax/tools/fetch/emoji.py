"""Google's emoji, from the npm package emoji-datasource-google."""

import json
from typing import Any

from diffusion_jax.tools.fetch import collection, packages
from diffusion_jax.tools.fetch.collection import Made, Picture

PACKAGE, TRIED = "emoji-datasource-google", "16.0.0"
FOLDER, TABLE, LICENCE, README = "img/google/64/", "emoji.json", "LICENSE", "README.md"


def make(*, size: int, package: str = "") -> Made:
    """Returns the emoji, named by their code points; their classes are Unicode's categories.

    Args:
        size: side of the images, shrunk by area from 64 pixels.
        package: the package's file, where it is here already.
    """
    got = packages.of_npm(PACKAGE, tried=TRIED, given=package)
    files = dict(got.files(lambda path: path.startswith(FOLDER) or path in (TABLE, LICENCE, README)))
    with packages.understood(got.file):
        kinds = categories(json.loads(files[TABLE]))
        images = {path.removeprefix(FOLDER): png for path, png in files.items() if path.startswith(FOLDER)}
        found = [
            Picture(name.removesuffix(".png"), kinds[name], collection.fitted(collection.on_white(png), size))
            for name, png in images.items()
        ]
        licence = f"{_of_images(files[README].decode())}\n\nThe package:\n\n{files[LICENCE].decode()}"
        return collection.made("emoji", found, licence, got.about())


def categories(table: list[dict[str, Any]]) -> dict[str, str]:
    """Returns {name of an image file: category} of an emoji.json, skin tones included."""
    entries = [(entry, entry["category"]) for entry in table]
    entries += [(tone, kind) for entry, kind in entries for tone in entry.get("skin_variations", {}).values()]
    return {entry["image"]: kind for entry, kind in entries}


def _of_images(readme: str) -> str:
    """Returns what the package says of the licence of Google's images."""
    return "\n".join(line.lstrip("* ") for line in readme.splitlines() if "Noto images" in line)
