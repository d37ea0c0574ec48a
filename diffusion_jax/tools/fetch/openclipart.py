"""Drawings of the Open Clip Art Library, from the Debian package openclipart-png."""

from diffusion_jax.runs import logs
from diffusion_jax.tools.fetch import collection, packages
from diffusion_jax.tools.fetch.collection import Made, Picture

PACKAGE, TRIED = "openclipart-png", "1:0.18+dfsg-19"
FOLDER, LICENCE = "usr/share/openclipart/png/", f"usr/share/doc/{PACKAGE}/copyright"
ALIKE = "shapes/stars/"  # rings of a star's points, 1,378 times
SIZE, SMALLEST = 64, 48  # pixels; smaller ones would be mostly margin, as none is enlarged
NUM_IMAGES = 5522  # of the version that was tried, for the progress


def make(*, package: str = "") -> Made:
    """Returns the drawings, whole, in squares; their classes are the library's folders: animals, food, people, ..."""
    got = packages.of_apt(PACKAGE, tried=TRIED, given=package)
    found, licence, left_out = [], "", 0
    progress = logs.Progress("images", total=NUM_IMAGES)
    for path, content in got.files(lambda path: path == LICENCE or is_drawing(path)):
        if path == LICENCE:
            licence = content.decode(errors="replace")
            continue
        try:
            image = collection.on_white(content)
        except collection.UNREADABLE:
            image = None
        if image is None or max(image.size) < SMALLEST:
            left_out += 1
            continue
        name = path.removeprefix(FOLDER)
        found.append(Picture(name.removesuffix(".png"), name.split("/")[0], collection.fitted(image, SIZE)))
        progress.update(len(found))
    logs.clear_progress()
    logs.say("left out", f"{left_out} drawings that are damaged, smaller than {SMALLEST} px, or too large")
    with packages.understood(got.file):
        return collection.made("openclipart", found, licence, {**got.about(), "num_left_out": left_out})


def is_drawing(path: str) -> bool:
    """Returns whether a path of the package is that of a drawing to take."""
    name = path.removeprefix(FOLDER)
    return path.startswith(FOLDER) and name.endswith(".png") and "/" in name and not name.startswith(ALIKE)
