"""Images in fewer bits: a lossless file of the length that a trained chain's variational bound promises.

    python -m diffusion_jax.tools.compress --workdir=runs/digits_vdm --images=digits.npz --out=digits.bits
    python -m diffusion_jax.tools.decompress --workdir=runs/digits_vdm --file=digits.bits --out=again.npz

Each image takes an evaluation of the network for each step of the chain, as does each that is decompressed. The bound of the
same settings is that of --mode=likelihood. Many images should share a file: its first ones pay for bits that are borrowed.
Decompress with the same weights, versions and kind of machine: elsewhere a network's numbers differ in their last bits,
after which nothing can be decoded.

Flags:
    --workdir    of the run; a folder or gs://
    --images     an .npz file of uint8 images, or a folder of images; all of the size of the model's
    --out        the file to write
    --config.sample.<field>  the chain: grid, num_steps, variance, clip, ...; the file keeps them
"""

import functools
import json
import sys
import zlib
from collections.abc import Sequence

import jax
import numpy as np

from diffusion_jax import ans, bits_back, model
from diffusion_jax.compose import checks, command, evaluating, likelihoods, processes, stored
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError
from diffusion_jax.runs import compiling, logs, sharding, storage

FORMAT, NUM_CHECKED = 1, 4  # bytes of the checksum at the end
SETTINGS = (
    "clip",
    "ema_rate",
    "grid",
    "interpolation",
    "last_level",
    "num_steps",
    "rho",
    "sampler",
    "step",
    "times",
    "variance",
)
Coder = tuple[bits_back.Chain, bits_back.Law]


def run(workdir: storage.Path, config: Config, images: str, out: storage.Path) -> int:
    """Writes the images of a file or a folder into one file; returns the exit code, 0."""
    config = stored.agreed_config(workdir, config)
    likelihoods.chain_of(config)  # its settings fit together
    given = evaluating.of_file(config.with_values("evaluate", dump=images, features="pixels"), "dump")
    wanted = processes.image_shape(config)
    if given.shape != wanted:
        raise UserError(f"flag --images = {images!r} holds images of {list(given.shape)}; the model's are {list(wanted)}.")
    trained, pixels = model.restore(workdir, config), given.read(range(given.num_images))
    stack = pushed(pixels, make_coder(trained))
    settings = {name: getattr(trained.config.sample, name) for name in SETTINGS} | {"step": trained.step}
    head = {"bits_back": FORMAT, "images": pixels.shape, "sample": settings, "weights": weights_of(trained)}
    head |= {"crc32": zlib.crc32(pixels.tobytes())}
    whole = json.dumps(head, separators=(",", ":")).encode() + b"\n" + stack.to_bytes()
    storage.write_bytes(out, whole + zlib.crc32(whole).to_bytes(NUM_CHECKED, "little"))
    num_bytes = len(whole) + NUM_CHECKED
    fixed = num_bytes - stack.num_bits() / 8  # the bits borrowed, the heads and the first line
    rate, fixed_rate = (8 * part / pixels.size for part in (num_bytes, fixed))
    logs.say("done", f"{num_bytes:,} bytes, {rate:.4f} bits per dimension, {fixed_rate:.4f} of them for any images: {out}")
    return 0


def make_coder(trained: model.Model) -> Coder:
    """Returns what `bits_back.push` and `pop` take of a model; UserError where it has no chain."""
    grid, law_of = likelihoods.chain_of(trained.config)
    options = compiling.options(sharding.local_mesh(), deterministic=True)
    jitted = functools.partial(jax.jit(law_of, compiler_options=options), trained.params)
    num_steps, shape = len(grid.alpha) - 1, (1, *processes.image_shape(trained.config))

    def law(i: int, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = jax.device_get(jitted(x.astype(np.float32).reshape(shape), np.int32(num_steps - i)))
        return found.mean.astype(np.float64).ravel(), np.exp(found.log_variance.astype(np.float64).ravel() / 2)

    return bits_back.chain(grid), law


def pushed(images: Sequence[np.ndarray], coder: Coder) -> ans.Stack:
    """Returns a stack with images, the first at the bottom. # uint8 [N, H, W, C]"""
    stack = ans.Stack(images[0].size)
    for image in logs.with_progress(images, "images"):
        bits_back.push(stack, image.ravel(), *coder)
    return stack


def weights_of(trained: model.Model) -> str:
    """Returns letters that identify a model's weights."""
    return model.provenance(trained)["weights_sha256"][:16]


@command.program(__doc__)
def main(argv: list[str]) -> int:
    """Compresses; the exit code is 0, 2 for bad input, 1 for a failure."""
    flags, changes = command.parse(argv, {"workdir": "", "images": "", "out": ""})
    wanted = {"workdir": "the folder of a run", "images": "an .npz file or a folder of images", "out": "the file to write"}
    command.check_given(flags, wanted)
    config = command.config_of(flags, changes, flags["workdir"])
    checks.check(config)
    if not storage.path(flags["images"]).exists():
        raise UserError(
            f"flag --images = {flags['images']!r} does not exist; it must be an .npz file or a folder of images."
        )
    return run(storage.path(flags["workdir"]), config, flags["images"], storage.path(flags["out"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
