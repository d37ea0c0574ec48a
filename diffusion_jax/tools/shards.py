"""A data set in shards: for sets larger than a disk, and for images that are larger than the network's.

    python -m diffusion_jax.tools.shards --config=configs/celebahq256.py --out=gs://BUCKET/celebahq --num_shards=64

reads the training set of a config, cropped and scaled as the config says, and writes:

    00000-of-00064.tar   images as PNG files, with the pixels and in the order of the set, and the class of each, NAME.cls;
                         where model.text is set the caption of each too, NAME.txt
    index.npz            where every image is, and the names of the classes; last, so that it says that the rest is there

A run with the same config and --config.data.source=tar --config.data.path=gs://BUCKET/celebahq then has the same batches.

Flags:
    --config      a file of configs/; --config.<field>=<value> changes a field
    --out         the folder to make, on this machine or in an object store
    --num_shards  how many files; some hundreds of MB each are convenient
    --split       training (the default) or held_out
"""

import io
import sys
import tarfile
from collections.abc import Iterator
from concurrent import futures
from typing import BinaryIO

from diffusion_jax.compose import checks, command, evaluating, inputs, processes
from diffusion_jax.compose.config import Config
from diffusion_jax.data import feed, sources, tar
from diffusion_jax.data.sources import Source
from diffusion_jax.data.tar import Member
from diffusion_jax.errors import UserError
from diffusion_jax.runs import logs, pictures, storage

FLAGS = {"out": "", "num_shards": "", "split": "training"}
AT_ONCE = 256  # images in memory


def run(config: Config, out: storage.Path, *, num_shards: int, split: str = "training") -> int:
    """Writes a set in shards; returns the exit code, 0.

    Raises UserError where the set cannot be stored so, or the folder has other files.

    Args:
        config: names the set, and the shape of its images.
        out: the folder.
        num_shards: how many files, at most one for each image.
        split: 'training' or 'held_out'.
    """
    processes.check_images(config)
    if config.data.condition == "paired" or config.data.channels not in (1, 3):
        fields = f"data.channels = {config.data.channels}, data.condition = {config.data.condition!r}"
        raise UserError(f"config fields {fields} do not fit shards; they hold one image of 1 or 3 channels each.")
    inputs.check_apart(config, out)
    num_classes = inputs.num_stored_classes(config)
    source = inputs.of_split(config.with_values("model", num_classes=num_classes), split)
    if not 1 <= num_shards <= source.num_images:
        raise UserError(f"flag --num_shards = {num_shards} is not allowed; it must be from 1 to {source.num_images:,}.")
    names = [f"{number:05d}-of-{num_shards:05d}.tar" for number in range(num_shards)]
    command.make_out(out, names)
    members, progress = [], logs.Progress("images", total=source.num_images)
    for number, name in enumerate(names):
        own = range(*(part * source.num_images // num_shards for part in (number, number + 1)))
        with storage.writing(out / name) as file:
            members.append(_write(file, source, own))
        progress.update(own.stop)
    logs.clear_progress()
    tar.write_index(out, tar.index(names, members, source.class_names if num_classes else ()))
    logs.say("done", f"{source.num_images:,} images in {num_shards:,} shards: {out}")
    return 0


def _write(file: BinaryIO, source: Source, numbers: range) -> list[Member]:
    """Writes a shard, of the same bytes every time; returns where its images are."""
    members = []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number, png, label in _packed(source, numbers):
            caption = source.captions[number] if source.captions else None
            members.append(Member(file.tell() + tar.BLOCK, len(png), label, caption))
            _add(archive, f"{number:09d}.png", png)
            if label is not None:
                _add(archive, f"{number:09d}.cls", str(label).encode())
            if caption is not None:
                _add(archive, f"{number:09d}.txt", caption.encode("utf-8", "replace"))
    return members


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _packed(source: Source, numbers: range) -> Iterator[tuple[int, bytes, int | None]]:
    """Yields the number of each image, its PNG file, and its class where it has one."""
    with futures.ThreadPoolExecutor(sources.NUM_THREADS) as pool:
        for start in range(0, len(numbers), AT_ONCE):
            some = numbers[start : start + AT_ONCE]
            records = feed.read(source, some)
            labels = records["cond"]["label"].tolist() if "label" in records["cond"] else [None] * len(some)
            yield from zip(some, pool.map(pictures.encode_png, records["x"]), labels, strict=True)


@command.program(__doc__)
def main(argv: list[str]) -> int:
    """Writes the shards; the exit code is 0, 2 for bad input, 1 for a failure."""
    flags, changes = command.parse(argv, FLAGS)
    command.check_one_of(flags, "split", evaluating.SPLITS)
    command.check_given(flags, {"out": "the folder to make"})
    num_shards = command.whole_number(flags, "num_shards")
    config = command.config_of(flags, changes)
    checks.check(config)
    return run(config, storage.path(flags["out"]), num_shards=num_shards, split=flags["split"])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
