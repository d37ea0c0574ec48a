"""Images out of the file that tools.compress wrote, byte by byte as they were.

    python -m diffusion_jax.tools.decompress --workdir=runs/digits_vdm --file=digits.bits --out=again.npz

The settings of the chain are in the file; the weights must be the same, and the network's numbers must agree to their last
bits: take the same versions and the same kind of machine. A checksum tells whether they did.

Flags:
    --workdir    of the run; a folder or gs://
    --file       what tools.compress wrote
    --out        the .npz file to write, with arr_0, uint8 [N, H, W, C]
"""

import json
import math
import sys
import zlib
from typing import Any

import numpy as np

from diffusion_jax import bits_back, errors, model
from diffusion_jax.ans import Stack
from diffusion_jax.compose import checks, command, stored
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import dump, logs, storage
from diffusion_jax.tools import compress


def run(workdir: storage.Path, file: storage.Path, out: storage.Path) -> int:
    """Writes the images of a file; returns the exit code, 0."""
    head, content = read(file)
    settings = head["sample"] | {"times": tuple(head["sample"]["times"])}
    config = stored.read_config(workdir)
    with errors.of(f"flag --file = {str(file)!r} does not fit the run in {str(workdir)!r}: "):
        config = config.with_values("sample", **settings)
        checks.check(config)
        trained = model.restore(workdir, config)
    if (own := compress.weights_of(trained)) != head["weights"]:
        raise UserError(
            f"flag --file = {str(file)!r} is of other weights, {head['weights']}; those of {str(workdir)!r} are {own}."
        )
    shape = tuple(head["images"])
    stack, coder = Stack.of_bytes(content, math.prod(shape[1:])), compress.make_coder(trained)
    images = np.empty(shape, np.uint8)
    for number in logs.with_progress(range(shape[0])[::-1], "images"):
        images[number] = bits_back.pop(stack, *coder).reshape(shape[1:])
    if zlib.crc32(images.tobytes()) != head["crc32"]:
        raise RunError(
            f"the images in {str(file)!r} do not come out as they were: the network's numbers differ here in their last "
            "bits; decompress with the versions and on the kind of machine that compressed them."
        )
    with storage.writing(out) as opened:
        dump.write_npz(opened, [images], shape, None)
    logs.say("done", f"{shape[0]:,} images, as they were: {out}")
    return 0


def read(file: storage.Path) -> tuple[dict[str, Any], bytes]:
    """Returns what a file says of its images, and the stack; UserError where it is not whole."""
    try:
        whole = storage.read_bytes(file)
    except OSError as error:
        raise UserError(f"flag --file = {str(file)!r} cannot be read ({error}).") from error
    checked, checksum = whole[: -compress.NUM_CHECKED], whole[-compress.NUM_CHECKED :]
    line, _, content = checked.partition(b"\n")
    if zlib.crc32(checked) != int.from_bytes(checksum, "little") or not line.startswith(b'{"bits_back":'):
        raise UserError(f"flag --file = {str(file)!r} is damaged, or not what tools.compress writes.")
    head = json.loads(line)
    if head["bits_back"] != compress.FORMAT:
        raise UserError(f"flag --file = {str(file)!r} has format {head['bits_back']}; this version reads {compress.FORMAT}.")
    return head, content


@command.program(__doc__)
def main(argv: list[str]) -> int:
    """Decompresses; the exit code is 0, 2 for bad input, 1 for a failure."""
    flags, _ = command.parse(argv, {"workdir": "", "file": "", "out": ""}, fields=())
    wanted = {"workdir": "the folder of a run", "file": "what tools.compress wrote", "out": "the .npz file to write"}
    command.check_given(flags, wanted)
    return run(*(storage.path(flags[name]) for name in ("workdir", "file", "out")))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
