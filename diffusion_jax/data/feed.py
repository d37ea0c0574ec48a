"""How images reach the devices, in an order that is a function of (seed, step): nothing needs saving to resume."""

import functools
import itertools
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax import streams
from diffusion_jax.data.sources import Source
from diffusion_jax.errors import UserError

Batch = dict[str, Any]  # {"image": uint8 [B, H, W, C], "cond": conditions, a pytree, maybe empty}
Records = dict[str, np.ndarray]  # {"image": uint8 [..., H, W, C], "label": int32 [...]}
NUM_THREADS = 16  # that read and decode files; Pillow and TFDS release the interpreter while they do
NUM_AHEAD = 2  # batches that wait whole: putting one together takes tens of milliseconds


class Feed(NamedTuple):
    """What a training step reads: arrays that stay on the devices, and what the host sends for each step."""

    store: Any  # pytree of arrays; empty where the host sends whole batches
    items: Iterator[Any]
    batch: Callable[[Any, Any], Batch]  # (store, item) -> batch; may be traced


def make_feed(
    source: Source,
    records: Records | None,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    with_labels: bool,
    part: int = 0,
    num_parts: int = 1,
) -> Feed:
    """Returns the batches of steps `first_step`, `first_step` + 1, ...: the same whichever way they come.

    Args:
        source: the images.
        records: the same, read: then the devices keep them and the host sends indices; or None: then grain reads batches
            while the devices work.
        batch_size: B over all hosts.
        seed: decides the order, together with the step.
        first_step: where to begin.
        with_labels: whether "cond" has the labels.
        part: which of `num_parts` equal parts of each batch is this host's own.
        num_parts: the number of hosts.

    Raises:
        UserError: where grain is needed and missing; by the items, where an image cannot be read.
    """
    order = make_order(source.num_images, batch_size=batch_size, seed=seed)
    own = slice(part * batch_size // num_parts, (part + 1) * batch_size // num_parts)
    if records is None:
        return Feed({}, _stream(source, order, own, first_step), lambda _, chosen: as_batch(chosen, with_labels))
    numbers = (order(step)[own].astype(np.int32) for step in itertools.count(first_step))
    return Feed(
        records, numbers, lambda store, item: as_batch(jax.tree.map(lambda column: column[item], store), with_labels)
    )


def as_batch(records: Records, with_labels: bool) -> Batch:
    """Returns records as a training step takes them."""
    return {"image": records["image"], "cond": {"label": records["label"]} if with_labels else {}}


def make_order(num_images: int, *, batch_size: int, seed: int) -> Callable[[int], np.ndarray]:
    """Returns step -> the indices of its batch, [B]: every epoch is a permutation of its own, and no image is left out."""

    @functools.lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, streams.STREAMS["data"], epoch)).permutation(num_images)

    @functools.lru_cache(maxsize=4)  # asked for every image of a batch
    def indices(step: int) -> np.ndarray:
        epochs, offsets = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), num_images)
        return np.concatenate([permutation(epoch)[offsets[epochs == epoch]] for epoch in np.unique(epochs).tolist()])

    return indices


def read_all(source: Source, on_progress: Callable[[int], None] = lambda done: None) -> Records:
    """Returns all images of a source, see `read`."""
    return read(source, range(source.num_images), on_progress)


def read(source: Source, numbers: Sequence[int], on_progress: Callable[[int], None] = lambda done: None) -> Records:
    """Returns images of a source, read by many threads. # image uint8 [N, H, W, C], label int32 [N]

    Args:
        source: the images.
        numbers: which, [N].
        on_progress: gets how many have been read.
    """
    shape = source.read(numbers[0])[0].shape
    images, labels = np.empty((len(numbers), *shape), np.uint8), np.empty(len(numbers), np.int32)
    with futures.ThreadPoolExecutor(NUM_THREADS) as pool:
        for i, (image, label) in enumerate(pool.map(source.read, numbers)):
            images[i], labels[i] = image, label
            on_progress(i + 1)
    return {"image": images, "label": labels}


def import_grain() -> types.ModuleType:
    """Returns the package, which nothing needs but a set that is read while training.

    Raises:
        UserError: where it is not installed.
    """
    try:
        import grain
    except ImportError as error:
        raise UserError(
            "config field data.device_cache_gib is smaller than the data set, and reading that while training needs grain: "
            "pip install grain, or set a larger one."
        ) from error
    return grain


def _stream(source: Source, order: Callable[[int], np.ndarray], own: slice, first_step: int) -> Iterator[Records]:
    """Returns a host's own part of every batch, read ahead of time by grain's threads."""
    grain = import_grain()
    size = own.stop - own.start

    def read(position: int) -> dict[str, Any]:
        step, place = divmod(position, size)
        image, label = source.read(order(step)[own.start + place])
        return {"image": image, "label": np.int32(label)}

    options = grain.ReadOptions(num_threads=NUM_THREADS, prefetch_buffer_size=2 * size)
    images = grain.MapDataset.range(first_step * size, 2**62).map(read).to_iter_dataset(options)
    return _closed(iter(grain.experimental.ThreadPrefetchIterDataset(images.batch(size), prefetch_buffer_size=NUM_AHEAD)))


def _closed(iterator: Any) -> Iterator[Records]:
    """Yields what an iterator of grain's gives, and ends its threads when nobody wants more."""
    try:
        yield from iterator
    finally:
        iterator.close()


def stacked(iterator: Iterator[Any], num_steps: int) -> Iterator[Any]:
    """Yields the items of `num_steps` steps as one, stacked along a new first axis."""
    while True:
        group = [next(iterator) for _ in range(num_steps)]
        yield jax.tree.map(lambda *leaves: np.stack(leaves), *group)
