"""How long a training step waits for its images: python benchmarks/input_pipeline.py

Three ways in: CIFAR-10's size kept on the device, the same from a prepared array_record set, both through TFDS, and a folder
of 256-px JPEGs scaled to 64 pixels; the last two read by grain's threads while the step runs. The step is a sleep, since an
accelerator leaves the host free while it computes; what counts is the time between two of them. Images are made up: smooth
noise, which JPEG packs like photographs.

Then what one image costs a processor, read from folders of JPEGs, with data.jpeg_draft and without, and from shards that
tools.shards made of them; `--only=costs` measures that alone. Threads work side by side while Pillow decodes or scales. In
the rest of the time one of them has Python's lock, so that together they read at most about 1 / rest images a second, on any
number of cores. Medians of five turns. Writes benchmarks/input_pipeline.json.
"""

import argparse
import itertools
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from unittest import mock

import jax
import numpy as np
import PIL
from absl import flags
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

from diffusion_jax.compose import inputs, stored
from diffusion_jax.compose.config import Config
from diffusion_jax.data import feed, tar, tfds, transforms
from diffusion_jax.data.sources import Source
from diffusion_jax.runs import sharding, storage
from diffusion_jax.tools import shards

BATCH_SIZE, NUM_IMAGES, NUM_STEPS, NUM_TURNS = 128, 2048, 30, 5
STEPS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # an accelerator's step, from the shortest to a CPU's
ALLOWED = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("waits", "costs"), help="one part; the other stays as it is in the file")
    only, file = parser.parse_args().only, ROOT / "benchmarks" / "input_pipeline.json"
    flags.FLAGS(sys.argv[:1])  # grain asks for parsed flags
    result = json.loads(file.read_text()) if only else {}
    with tempfile.TemporaryDirectory() as folder:
        for part, measured in {"waits": waits, "costs": costs}.items():
            if only in (None, part):
                result[part] = conditions() | {"rows": measured(pathlib.Path(folder))}
                file.write_text(json.dumps(result, indent=2) + "\n")


def conditions() -> dict:
    """Returns what figures were measured on."""
    return {
        "command": f"python {' '.join(['benchmarks/input_pipeline.py', *sys.argv[1:]])}",
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "versions": stored.versions() | {"pillow": PIL.__version__},
    }


def waits(root: pathlib.Path) -> list[dict]:
    """Returns what training waits for, in each of three ways in."""
    record_set = array_record(root / "tfds")
    photographs = inputs.source(jpegs(root / "jpegs", size=256, num_images=NUM_IMAGES // 4))
    return [
        row("on the device, 32 px", record_set, feed.read(record_set)),
        row("array_record through grain, 32 px", record_set, None),
        row("a folder of 256-px JPEGs to 64 px", photographs, None),
    ]


def row(name: str, source: Source, records: feed.Records | None) -> dict:
    """Returns what one way in costs: the wait at each length of a step, and the processor's time for an image."""
    cpu_s, images_per_s = cost(source, records)
    waits = {}
    for step_s in reversed(STEPS_S):
        waits[step_s] = waited(source, records, step_s) / step_s
        print(f"{name}: a step of {1e3 * step_s:g} ms waits {100 * waits[step_s]:.1f}% of it", flush=True)
    enough = [step_s for step_s, share in sorted(waits.items()) if share < ALLOWED]
    return {
        "source": name,
        "images_per_s": images_per_s,
        "cpu_s_per_image": cpu_s,
        "wait_by_step_s": waits,
        "shortest_step_s_below_2_percent": enough[0] if enough else None,
        "cores_for_10_ms_steps": cpu_s * BATCH_SIZE / 0.01,
    }


def batches(source: Source, records: feed.Records | None):
    """Yields batches, or what the device needs to look them up, as they lie on the device."""
    fed = feed.make_feed(source, records, batch_size=BATCH_SIZE, seed=0, first_step=0)
    where = sharding.batched(sharding.make_mesh())
    return (jax.block_until_ready(sharding.put_local_part(item, where)) for item in fed.items)


def cost(source: Source, records: feed.Records | None) -> tuple[float, float]:
    """Returns (seconds of all processors for an image, images a second) at full speed."""
    items = batches(source, records)
    for _ in itertools.islice(items, 5):
        pass
    start, cpu = time.perf_counter(), time.process_time()
    for _ in itertools.islice(items, NUM_STEPS):
        pass
    num_images = NUM_STEPS * BATCH_SIZE
    return (time.process_time() - cpu) / num_images, num_images / (time.perf_counter() - start)


def waited(source: Source, records: feed.Records | None, step_s: float) -> float:
    """Returns the median seconds between the end of one step and the beginning of the next."""
    items, waits = batches(source, records), []
    for _ in range(NUM_STEPS):
        start = time.perf_counter()
        next(items)
        waits.append(time.perf_counter() - start)
        time.sleep(step_s)
    return statistics.median(waits[NUM_STEPS // 2 :])  # behind what was read ahead


def made_up(size: int, number: int) -> np.ndarray:
    """Returns a smooth image, uint8 [size, size, 3]."""
    coarse = np.random.default_rng(number).integers(0, 256, (size // 8, size // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def array_record(folder: pathlib.Path) -> Source:
    """Returns a prepared set with the features of cifar10."""
    import tensorflow as tf
    import tensorflow_datasets

    records = {"id": [str(i) for i in range(NUM_IMAGES)], "image": [made_up(32, i) for i in range(NUM_IMAGES)]}
    records["label"] = np.zeros(NUM_IMAGES, np.int64)
    tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
        name="cifar10",
        version="3.0.2",
        features=tensorflow_datasets.builder("cifar10:3.0.2", data_dir=str(folder / "none")).info.features,
        split_datasets={"train": tf.data.Dataset.from_tensor_slices(records)},
        data_dir=str(folder),
        file_format="array_record",
        disable_shuffling=True,
    )
    source = tfds.source(name="cifar10:3.0.2", path=str(folder), split="train")
    return transforms.resized(source, image_shape=(32, 32, 3), center_crop=0, resize=False, num_classes=0)


def jpegs(folder: pathlib.Path, *, size: int, num_images: int, to: int = 64) -> Config:
    """Returns a config with a folder of JPEGs, scaled as the configs of large images do."""
    folder.mkdir()
    for i in range(num_images):
        Image.fromarray(made_up(size, i)).save(folder / f"{i:05d}.jpg", quality=90)
    return Config().with_values("data", source="folder", path=str(folder), held_out="", image_size=(to, to), resize=True)


def costs(root: pathlib.Path) -> list[dict]:
    """Returns the seconds of a processor for an image, in all and those in which it has Python's lock, for some sources."""
    found = {}
    for size, to, num_images in ((256, 64, 200), (256, 256, 200), (1024, 64, 50)):
        folder = root / f"{size}_{to}"
        config = jpegs(folder, size=size, num_images=num_images, to=to)
        found[f"JPEG of {size} px to {to}"] = inputs.source(config)
        if size > to:
            found[f"JPEG of {size} px to {to}, jpeg_draft"] = inputs.source(config.with_values("data", jpeg_draft=True))
        if size == 256:
            shards.run(config, storage.path(root / f"shards_{to}"), num_shards=2)
            found[f"shards, PNG of {to} px"] = tar.source(path=str(root / f"shards_{to}"))
    turns = {name: [] for name in found}
    for _, (name, source) in itertools.product(range(1 + NUM_TURNS), found.items()):
        turns[name].append(cost_of_an_image(source))
        print(f"{name}: {1e3 * turns[name][-1][0]:.2f} ms, {1e3 * turns[name][-1][1]:.2f} of them with the lock", flush=True)
    medians = {name: [statistics.median(column) for column in zip(*each[1:], strict=True)] for name, each in turns.items()}
    return [{"source": name, "cpu_s": all_s, "with_lock_s": lock_s} for name, (all_s, lock_s) in medians.items()]


def cost_of_an_image(source: Source) -> tuple[float, float]:
    """Returns the seconds of this thread for an image: (in all, but for what Pillow does without Python's lock)."""
    free_s, make_decoder, resize = [0.0], Image._getdecoder, Image.Image.resize

    def timed(function: Callable) -> Callable:
        def call(*arguments):
            start = time.thread_time()
            try:
                return function(*arguments)
            finally:
                free_s[0] += time.thread_time() - start

        return call

    def decoder(*arguments):
        real = make_decoder(*arguments)
        names = {name: getattr(real, name) for name in ("cleanup", "pulls_fd", "setfd", "setimage")}
        return types.SimpleNamespace(**names, decode=timed(real.decode))

    with mock.patch.object(Image, "_getdecoder", decoder), mock.patch.object(Image.Image, "resize", timed(resize)):
        start = time.thread_time()
        for number in range(source.num_images):
            source.read(number)
        all_s = time.thread_time() - start
    return all_s / source.num_images, (all_s - free_s[0]) / source.num_images


if __name__ == "__main__":
    main()
