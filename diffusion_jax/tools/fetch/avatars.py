"""Drawn faces of DiceBear: Node.js draws each from a text, its seed, by the npm packages @dicebear/collection and resvg.

So there are as many as wanted, and the held-out ones are of seeds that training never sees.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import logs, storage
from diffusion_jax.tools.fetch import collection, packages
from diffusion_jax.tools.fetch.collection import Made, Picture

PACKAGES = ("@dicebear/core@9.4.3", "@dicebear/collection@9.4.3", "@resvg/resvg-js@2.6.2")
# The styles that are faces, under CC0 or CC BY, and of so many parts that few seeds draw the same. Others are letters, icons
# or patterns, have a licence of their own, or repeat themselves.
STYLES = ("adventurer", "bigEars", "bigSmile", "croodles", "lorelei", "micah", "miniavs", "notionists", "openPeeps")
STYLES += ("personas", "pixelArt", "thumbs", "toonHead")
# Writes what the styles say of themselves, as one line of JSON, then the pixels of each image, RGBA.
SCRIPT = """
import fs from 'node:fs';
import * as collection from '@dicebear/collection';
import { createAvatar } from '@dicebear/core';
import { Resvg } from '@resvg/resvg-js';
const { styles, seeds, size } = JSON.parse(fs.readFileSync('wanted.json', 'utf8'));
const write = (bytes) => { for (let at = 0; at < bytes.length;) at += fs.writeSync(1, bytes, at); };
write(Buffer.from(JSON.stringify(styles.map((style) => collection[style].meta)) + '\\n'));
seeds.forEach((seed, number) => {
  const svg = createAvatar(collection[styles[number % styles.length]], { seed }).toString();
  const options = { background: 'white', fitTo: { mode: 'width', value: size }, font: { loadSystemFonts: false } };
  write(Buffer.from(new Resvg(svg, options).render().pixels));
});
"""


def make(*, size: int, num_images: int) -> Made:
    """Returns faces with the style as their class; of equal ones the first is kept, so that there may be a few less.

    Raises UserError where npm or node is missing, RunError where they fail.

    Args:
        size: side of the images.
        num_images: to draw, a tenth of them held out.
    """
    num_held_out = num_images // collection.ONE_IN
    seeds = [f"training {number}" for number in range(num_images - num_held_out)]
    seeds += [f"held out {number}" for number in range(num_held_out)]
    with tempfile.TemporaryDirectory() as name:
        folder = storage.path(name)
        about = _installed(folder)
        storage.write_text(folder / "wanted.json", json.dumps({"styles": STYLES, "seeds": seeds, "size": size}))
        storage.write_text(folder / "draw.mjs", SCRIPT)
        metas, pictures = _drawn(name, seeds, size)
    return collection.split("avatars", pictures, lambda picture: picture.name.startswith("held out"), licences(metas), about)


def licences(metas: list[dict[str, Any]]) -> str:
    """Returns who drew each style, and under which licence, as CC BY wants it said."""
    lines = [
        f"{style}: {meta['title']} by {meta['creator']}, {meta['license']['name']} ({meta['license']['url']}); "
        f"{meta.get('source', 'DiceBear')}. Drawn as pixels by DiceBear and resvg."
        for style, meta in zip(STYLES, metas, strict=True)
    ]
    return "\n".join(lines) + "\n"


def _installed(folder: storage.Path) -> dict[str, Any]:
    """Installs the packages in a folder, running no script of theirs; returns their versions and hashes."""
    logs.say("package", f"npm install {' '.join(PACKAGES)} ...")
    storage.write_text(folder / "package.json", "{}")  # or npm would look for one in the folders above
    packages.ask(
        ["npm", "install", "--loglevel=error", "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES], str(folder)
    )
    lock, first = folder / "package-lock.json", "@dicebear/collection"
    with packages.understood(lock.name):
        entries = json.loads(storage.read_text(lock, "what npm install leaves"))["packages"].items()
        found = {path.removeprefix("node_modules/"): entry for path, entry in entries if "integrity" in entry}
        used = {name: f"{entry['version']} {entry['integrity']}" for name, entry in found.items()}
        version = found[first]["version"]
    logs.say("package", f"{first} {version}, {len(used)} packages in all")
    return {"package": first, "version": version, "packages": used}


def _drawn(folder: str, seeds: list[str], size: int) -> tuple[list[dict[str, Any]], list[Picture]]:
    """Returns (what the styles say of themselves, the pictures) as Node.js draws them."""
    with tempfile.TemporaryFile() as said:
        try:
            node = subprocess.Popen(
                ["node", "draw.mjs"], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
            )
        except FileNotFoundError as error:
            raise UserError(packages.missing("node")) from error
        with node:
            try:
                metas = json.loads(node.stdout.readline() or "[]")
                pictures = list(_pictures(node.stdout, seeds, size))
            finally:
                node.kill()
        if len(pictures) < len(seeds):
            said.seek(0)
            reason = said.read().decode(errors="replace").strip().split("\n")
            line = next((line for line in reason if "Error" in line), reason[-1])
            raise RunError(f"node drew {len(pictures):,} of {len(seeds):,} faces, then failed: {line.strip()}.")
    return metas, pictures


def _pictures(stream: BinaryIO, seeds: list[str], size: int) -> Iterator[Picture]:
    for number, seed in enumerate(logs.with_progress(seeds, "images")):
        pixels = np.frombuffer(stream.read(4 * size * size), np.uint8)
        if pixels.size < 4 * size * size:
            return
        yield Picture(seed, STYLES[number % len(STYLES)], pixels.reshape(size, size, 4)[..., :3].copy())
