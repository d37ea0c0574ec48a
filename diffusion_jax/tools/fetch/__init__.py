"""A real data set by one command, from a package of Debian, npm or PyPI, or spoken by a program.

    python -m diffusion_jax.tools.fetch sprites --out=data/sprites

asks the package's ordinary client, which checks what it downloads, unpacks the package in memory, and writes:

    sprites.npz         images uint8 [N, H, W, 3] on white, labels int32 [N], label_names, names, captions of emoji:
                        data.source = 'npz'
    sprites_test.npz    the same of a tenth of the images, chosen by their names: data.held_out
    emoji_test.txt      the captions of what is held out, one a line: sample.prompt = '@data/emoji/emoji_test.txt'
    LICENCE.txt         the licence of the images, from the package
    about.json          package, version, SHA-256, counts, classes, command

Images with the same pixels count once. The same command again does nothing where the folder is complete.

Sets:
{sets}
Flags:
    --out           the folder to make
    --size          side of the images of emoji and animated_emoji (32, or 64) and avatars (64, or 32 or 128), in pixels
    --num_images    how many avatars to draw, a tenth of them held out; by default 10,000
    --package       the package's file, where it is on this machine already
"""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from diffusion_jax import errors
from diffusion_jax.compose import command
from diffusion_jax.errors import UserError
from diffusion_jax.runs import logs, storage
from diffusion_jax.tools.fetch import animated_emoji, avatars, emoji, fashion_mnist, openclipart, qm9, spoken_digits, sprites
from diffusion_jax.tools.fetch.collection import Made

ABOUT = "about.json"


class Set(NamedTuple):
    """One row of the help, and what makes the set."""

    make: Callable[..., Made]  # gets the settings that it has
    says: str
    licence: str
    source: str  # client and package
    settings: Mapping[str, tuple[int, Collection[int]]] = {}  # name -> its default, and the values that are allowed
    is_one_package: bool = True  # which `make` also takes as a file


SETS = {
    "sprites": Set(
        sprites.make,
        "5,043 things and creatures of a game, 32 px, 33 classes",
        "GPL",
        "apt-get: crossfire-client-images, 2.6 MB",
    ),
    "emoji": Set(
        emoji.make,
        "3,767 emoji by Google with captions, 32 or 64 px, 10 classes",
        "images Apache-2.0, package MIT",
        "npm: emoji-datasource-google 16.0.0, 74 MB",
        {"size": (32, (32, 64))},
    ),
    "animated_emoji": Set(
        animated_emoji.make,
        "2,109 emoji by Microsoft that move, 6 frames, 32 or 64 px: data.medium = 'videos'",
        "MIT, as the packages say",
        "npm: @lobehub/fluent-emoji-anim-1 to -4 1.0.0, 730 MB",
        {"size": (32, (32, 64))},
        is_one_package=False,
    ),
    "openclipart": Set(
        openclipart.make,
        "5,398 drawings, 64 px, 22 classes",
        "public domain",
        "apt-get: openclipart-png, 131 MB",
    ),
    "fashion_mnist": Set(
        fashion_mnist.make,
        "70,000 grey clothes, 28 px, 10 classes, as IDX files: data.source = 'idx'",
        "MIT (Expat)",
        "apt-get: dataset-fashion-mnist, 31 MB",
    ),
    "qm9": Set(
        qm9.make,
        "130,831 molecules, at most 29 atoms of 5 elements: data.medium = 'molecules'",
        "MIT",
        "pip: qm9pack 1.0.3, 104 MB",
    ),
    "spoken_digits": Set(
        spoken_digits.make,
        "7,555 spoken digits, 8 accents of 8 speakers: data.medium = 'sounds'",
        "GPL-3 the program, not what it says",
        "espeak-ng: apt install espeak-ng",
        is_one_package=False,
    ),
    "avatars": Set(
        avatars.make,
        "any number of drawn faces, 64 px or --size, 13 classes",
        "CC0 or CC BY 4.0, by class",
        "npm and node: @dicebear/collection 9.4.3, @resvg/resvg-js 2.6.2",
        {"size": (64, (32, 64, 128)), "num_images": (10_000, range(100, 200_001))},
        is_one_package=False,
    ),
}


def help_text() -> str:
    """Returns what --help prints."""
    lines = []
    for name, row in SETS.items():
        lines += [f"    {name:<15} {row.says}", f"    {'':<15} {row.licence}; {row.source}"]
    return __doc__.replace("{sets}", "\n".join(lines) + "\n")


def run(name: str, out: storage.Path, *, package: str = "", **settings: int) -> dict[str, Any]:
    """Returns what about.json says of a set, after writing it where it is not complete yet.

    Raises UserError for an unknown set or setting, a missing client, or a folder of something else.

    Args:
        name: of `SETS`.
        out: the folder.
        package: file of the package; "" to get it.
        settings: of this set: `size`, `num_images`; 0 for the default.
    """
    if name not in SETS:
        raise UserError(f"set {name!r} is unknown; {errors.it(name, SETS)} must be {', '.join(SETS)}.")
    if package and not SETS[name].is_one_package:
        raise UserError(f"flag --package does nothing for the set {name!r}, which is not of one package.")
    chosen = _settled(name, settings)
    if found := _complete(out, wanted := {"set": name, **chosen}):
        logs.say("complete", f"{out} has {summary(found)} already")
        return found
    logs.say("set", f"{name}: {SETS[name].says}; {SETS[name].source}")
    made = SETS[name].make(**chosen, **({"package": package} if package else {}))
    about = wanted | made.about
    flags = "".join(f" --{key}={value}" for key, value in chosen.items())
    about |= {"licence": SETS[name].licence, "command": f"python -m diffusion_jax.tools.fetch {name} --out={out}{flags}"}
    about["files"] = {file: len(content) for file, content in made.files.items()}
    storage.make_dir(out)
    for file, content in made.files.items():
        storage.write_bytes(out / file, content)
    storage.write_text(out / ABOUT, json.dumps(about, indent=2) + "\n")  # last: it says that the rest is there
    logs.say("done", f"{summary(about)} in {out}")
    return about


def summary(about: Mapping[str, Any]) -> str:
    """Returns what a set is in a few words."""
    classes = len(about["classes"])
    return f"{about['num_training']:,} to train with, {about['num_held_out']:,} held out, {classes} classes"


def _settled(name: str, settings: Mapping[str, int]) -> dict[str, int]:
    """Returns every setting of a set with its value; UserError for one that it does not have, or that is not allowed."""
    allowed = SETS[name].settings
    for key, value in settings.items():
        if value and key not in allowed:
            raise UserError(f"flag --{key} = {value} does nothing for the set {name!r}.")
        if value and value not in (values := allowed[key][1]):
            said = f"{values[0]} to {values[-1]}" if isinstance(values, range) else " or ".join(map(str, values))
            raise UserError(f"flag --{key} = {value} is not allowed for the set {name!r}; it must be {said}.")
    return {key: settings.get(key) or default for key, (default, _) in allowed.items()}


def _complete(out: storage.Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Returns about.json where a folder has all of a set, {} where it is to be made; UserError where it has another."""
    storage.check_folder(out)
    if not (out / ABOUT).exists():
        return {}
    text = storage.read_text(out / ABOUT, "the folder of a set")
    try:
        found = json.loads(text)
        said = {key: found[key] for key in wanted}
        files = {str(out / name): int(size) for name, size in found["files"].items()}
        summary(found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{str(out / ABOUT)!r} is not of a set that was fetched; choose another --out.") from error
    if said != wanted:
        listed = ", ".join(f"{key} {value}" for key, value in said.items())
        raise UserError(f"folder {str(out)!r} holds another set ({listed}); choose another --out.")
    sizes = {name: storage.path(name).stat().length for name in files if storage.path(name).exists()}
    return found if files and sizes == files else {}


@command.program(help_text())
def main(argv: list[str]) -> int:
    """Fetches a set; the exit code is 0, 2 for bad input, 1 for a failure."""
    if len(argv) > 1 and not argv[1].startswith("-"):
        argv = [argv[0], f"--name={argv[1]}", *argv[2:]]
    numbers = {"size": "0", "num_images": "0"}
    flags, _ = command.parse(argv, {"name": "", "out": "", "package": "", **numbers}, fields=())
    if not flags["name"] or not flags["out"]:
        raise UserError(f"the set or flag --out is missing: fetch NAME --out=DIR, where NAME is {', '.join(SETS)}.")
    settings = {name: command.whole_number(flags, name, low=0) for name in numbers}
    run(flags["name"], storage.path(flags["out"]), package=flags["package"], **settings)
    return 0
