"""The images of a data set as a run sees them, in the files that evaluators read.

    python -m diffusion_jax.tools.reference_stats --config=configs/cifar10.py --out=cifar10.npz
    python -m diffusion_jax.tools.reference_stats --config=configs/cifar10.py --out=cifar10_png --to=png

writes the mean and the covariance of their features, which pytorch-fid, EDM and guided-diffusion read where the features are
Inception's (--config.evaluate.features=inception), and which --config.evaluate.reference=cifar10.npz takes here.

Flags:
    --config     a file of configs/; --config.<field>=<value> changes a field
    --workdir    of a run, instead of --config
    --out        the file to write; for --to=png a folder
    --split      training (the default) or held_out
    --dump       a dump, an .npz file or a folder of images, instead of the data set
    --to         statistics (the default); images, an .npz file with arr_0; or png, a file for each image
"""

import itertools
import sys

from diffusion_jax.compose import checks, command, evaluating
from diffusion_jax.compose.choices import MEDIA
from diffusion_jax.compose.config import Config
from diffusion_jax.compose.evaluating import Images
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import compare, frechet
from diffusion_jax.runs import dump, logs, pictures, statistics, storage
from diffusion_jax.runs.statistics import Statistics

FLAGS = {"workdir": "", "out": "", "split": "training", "dump": "", "to": "statistics"}


def run(config: Config, out: storage.Path, *, split: str = "training", to: str = "statistics") -> int:
    """Writes the images of a set, or of `evaluate.dump`, in one form; returns the exit code, 0."""
    if config.evaluate.dump:
        images = evaluating.of_file(config, "dump")
    else:
        images = evaluating.of_data_set(config.with_values("evaluate", num_real=0), split)
    if to == "png" and config.data.medium != "images":
        raise UserError(f"{config.show('data.medium')} is not written as PNG; use --to=images for an .npz file.")
    if images.num_images < compare.FEWEST:
        raise UserError(f"the images are {images.num_images}; a reference needs at least {compare.FEWEST}.")
    WRITERS[to](config, images, out)
    logs.say("done", f"{images.num_images:,} images of {images.made_from.get('split', config.evaluate.dump)}: {out}")
    return 0


def _write_statistics(config: Config, images: Images, out: storage.Path) -> None:
    """Writes mean and covariance, in one pass over the images that holds a piece of them at a time."""
    network = evaluating.extractor(config)
    progress, done, sums = logs.Progress("images", total=images.num_images), 0, {}
    for piece in images.pieces(0):
        for name, rows in network.extract(piece).items():
            if name in statistics.KEYS:
                sums[name] = frechet.total([*([sums[name]] if name in sums else []), frechet.moments(rows)])
        done += len(piece)
        progress.update(done)
    logs.clear_progress()
    moments = {name: (part.mean, part.covariance) for name, part in sums.items()}
    made_from = {"features": network.description, "images": images.made_from}
    statistics.write(out, Statistics(moments, made_from))


def _write_images(config: Config, images: Images, out: storage.Path) -> None:
    with storage.writing(out) as file:
        dtype = MEDIA[config.data.medium].dtype
        dump.write_npz(file, images.pieces(0), (images.num_images, *images.shape), None, dtype)


def _write_png(config: Config, images: Images, out: storage.Path) -> None:
    """Writes 000000.png, 000001.png, ...; a file that is there is written again with the same bytes."""
    digits = max(6, len(str(images.num_images)))
    names = [f"{number:0{digits}d}.png" for number in range(images.num_images)]
    command.make_out(out, set(names))
    for name, image in zip(names, itertools.chain.from_iterable(images.pieces(0)), strict=True):
        storage.write_bytes(out / name, pictures.encode_png(image))


WRITERS = {"statistics": _write_statistics, "images": _write_images, "png": _write_png}


@command.program(__doc__)
def main(argv: list[str]) -> int:
    """Writes the file; the exit code is 0, 2 for bad input, 1 for a failure."""
    flags, changes = command.parse(argv, FLAGS)
    command.check_one_of(flags, "split", evaluating.SPLITS)
    command.check_one_of(flags, "to", WRITERS)
    if flags["dump"] and not storage.path(flags["dump"]).exists():
        raise UserError(f"flag --dump = {flags['dump']!r} does not exist; it must be an .npz file or a folder of images.")
    command.check_given(flags, {"out": "the .npz file to write, or for --to=png a folder"})
    is_fit = flags["to"] == "png" or flags["out"].endswith(".npz")
    command.check_allowed(flags, "out", is_fit, "an .npz file, or for --to=png a folder")
    storage.check_folder(storage.path(flags["out"]).parent)
    config = command.config_of(flags, changes, flags["workdir"])
    config = config.with_values("evaluate", dump=flags["dump"] or config.evaluate.dump)
    checks.check(config)
    return run(config, storage.path(flags["out"]), split=flags["split"], to=flags["to"])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
