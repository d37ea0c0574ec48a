"""Microsoft's animated emoji, as LobeHub publishes them: WebP files in four npm packages."""

import io
import re

from diffusion_jax.data import videos
from diffusion_jax.runs import logs
from diffusion_jax.tools.fetch import collection, packages
from diffusion_jax.tools.fetch.collection import Made, Picture
from diffusion_jax.tools.fetch.packages import Package

PACKAGES, TRIED = tuple(f"@lobehub/fluent-emoji-anim-{part}" for part in (1, 2, 3, 4)), "1.0.0"
README = "README.md"
NUM_FRAMES = 6
TONES = re.compile("-1f3f[b-f]")  # of skin, in a name


def make(*, size: int) -> Made:
    """Returns the emoji that move as videos of `NUM_FRAMES` frames, named by their code points.

    The skin tones of one emoji are all held out, or none.

    Args:
        size: side of the frames, shrunk by area from 256 pixels.
    """
    found, licences, used = [], [], {}
    for name in PACKAGES:
        got = packages.of_npm(name, tried=TRIED)
        with packages.understood(got.file):
            moving, licence = _unpacked(got, size)
        logs.say("unpacked", f"{len(moving):,} emoji that move")
        found += moving
        licences.append(f"{name}: {licence}\n")
        used[name] = f"{got.version} {got.sha256}"
    about = {"package": PACKAGES[0], "version": TRIED, "packages": used}
    ordered = sorted(found, key=lambda video: video.name)
    return collection.split(
        "animated_emoji", ordered, lambda video: collection.is_held_out(TONES.sub("", video.name)), "".join(licences), about
    )


def _unpacked(got: Package, size: int) -> tuple[list[Picture], str]:
    """Returns a package's videos and what its README says of the licence."""
    moving, licence = [], ""
    for path, content in got.files(lambda path: path.endswith(".webp") or path == README):
        if path == README:
            said = (line for line in content.decode().splitlines() if line.startswith(("Copyright", "This project is")))
            licence = " ".join(said)
        elif not videos.is_still(file := io.BytesIO(content)):
            pixels = videos.read(file, shape=(NUM_FRAMES, size, size, 3))
            moving.append(Picture(path.rpartition("/")[2].removesuffix(".webp"), "emoji", pixels))
    return moving, licence
