"""How images reach the devices, in an order that is a function of (seed, step): nothing needs saving to resume."""

import functools
import itertools
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from diffusion_jax import errors, streams
from diffusion_jax.data import sources
from diffusion_jax.data.sources import Source, UnreadableError
from diffusion_jax.errors import UserError
from diffusion_jax.runs import sharding

Records = dict[str, Any]  # {"x": stored data [N, ...], "cond": pytree of arrays [N, ...], maybe empty}
Batch = Records  # and "valid", bool [B], where a host reads while the devices work: whether each record could be read
NUM_AHEAD = 2  # batches that wait whole: putting one together takes tens of milliseconds


class Feed(NamedTuple):
    """What a training step reads: arrays that stay on the devices, and what the host sends for each step."""

    store: Any  # pytree of arrays; empty where the host sends whole batches
    items: Iterator[Any]  # what the host sends for each step; after a record that it could not read, nothing is valid
    batch: Callable[[Any, Any], Batch]  # (store, item) -> batch; may be traced
    failure: Callable[[], UserError | None] = lambda: None  # the error of the first record that this host could not read


def make_feed(
    source: Source,
    records: Records | None,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    part: int = 0,
    num_parts: int = 1,
) -> Feed:
    """Returns the batches of steps `first_step`, `first_step` + 1, ...: the same whichever way they come.

    Raises UserError where grain is needed and missing, or image 0 cannot be read.

    Args:
        records: the same, read: then the devices keep them and the host sends indices; or None: then grain reads batches
            while the devices work.
        batch_size: B over all hosts.
        seed: decides the order, together with the step.
        part: which of `num_parts` equal parts of each batch is this host's own.
    """
    order = make_order(source.num_images, batch_size=batch_size, seed=seed)
    own = slice(part * batch_size // num_parts, (part + 1) * batch_size // num_parts)
    if records is None:
        return _stream(source, order, own, first_step)
    numbers = (order(step)[own].astype(np.int32) for step in itertools.count(first_step))
    return Feed(records, numbers, lambda store, item: jax.tree.map(lambda column: column[item], store))


def on_devices(fed: Feed, mesh: Mesh, *, steps_per_call: int) -> Feed:
    """Returns a feed whose items are global arrays, those of the steps of one call stacked."""
    items = fed.items if steps_per_call == 1 else stacked(fed.items, steps_per_call)
    where = sharding.batched(mesh, axis=0 if steps_per_call == 1 else 1)
    return fed._replace(items=(sharding.put_local_part(item, where) for item in items))


def held_out_batches(source: Source, *, batch_size: int, **batching) -> Batch:
    """Returns the batches of one epoch, stacked, at least one; arguments as for `make_feed`. # [k, B, ...]"""
    fed = make_feed(source, read(source), first_step=0, batch_size=batch_size, **batching)
    return fed.batch(fed.store, next(stacked(fed.items, max(1, source.num_images // batch_size))))


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


def read(
    source: Source, numbers: Sequence[int] | None = None, on_progress: Callable[[int], None] = lambda done: None
) -> Records:
    """Returns records of a source, read by many threads; UserError where some cannot be read, which names them. # [N, ...]

    Args:
        numbers: which, [N]; None for all.
        on_progress: gets how many have been read.
    """
    numbers = range(source.num_images) if numbers is None else numbers
    records, failures = {}, []
    with futures.ThreadPoolExecutor(sources.NUM_THREADS) as pool:
        for i, record in enumerate(pool.map(functools.partial(sources.attempted, source.read), numbers)):
            if isinstance(record, UnreadableError):
                failures.append(record)
            else:
                records = records or jax.tree.map(functools.partial(_column, len(numbers)), record)
                for column, value in zip(jax.tree.leaves(records), jax.tree.leaves(record), strict=True):
                    column[i] = value
            on_progress(i + 1)
    if failures:
        listed = sources.by_reason(failures, len(numbers))
        advice = "mend or remove them, or set data.skip_broken = True to leave them out."
        raise failures[0] if len(failures) == 1 else UserError(f"{listed}; {advice}")
    return records


def _column(num_records: int, value: Any) -> np.ndarray:
    """Returns room for one leaf of so many records."""
    return np.empty((num_records, *np.shape(value)), np.asarray(value).dtype)


def import_grain() -> types.ModuleType:
    """Returns grain, which only data sets read while training need; UserError where it is not installed."""
    return errors.needed(
        "grain",
        "config field data.device_cache_gib is smaller than the data set. Reading while training needs grain: "
        "pip install grain, or set a larger one.",
    )


def _stream(source: Source, order: Callable[[int], np.ndarray], own: slice, first_step: int) -> Feed:
    """Returns a host's own part of every batch, read ahead of time by grain's threads."""
    grain = import_grain()
    size, failures = own.stop - own.start, {}
    nothing = {**jax.tree.map(np.zeros_like, source.read(0)), "valid": np.False_}

    def read(position: int) -> Records:
        step, place = divmod(position, size)
        try:
            return {**source.read(order(step)[own.start + place]), "valid": np.True_}
        except UserError as error:
            failures[position] = error
            return nothing

    options = grain.ReadOptions(num_threads=sources.NUM_THREADS, prefetch_buffer_size=2 * size)
    records = grain.MapDataset.range(first_step * size, 2**62).map(read).to_iter_dataset(options)
    batches = iter(grain.experimental.ThreadPrefetchIterDataset(records.batch(size), prefetch_buffer_size=NUM_AHEAD))
    return Feed(
        {},
        _valid_until_a_failure(batches),
        lambda store, item: item,
        lambda: failures[min(list(failures))] if failures else None,
    )


def _valid_until_a_failure(batches: Any) -> Iterator[Batch]:
    """Yields the items of a grain iterator, and ends its threads at the end."""
    is_whole = True
    try:
        for batch in batches:
            is_whole = is_whole and bool(np.all(batch["valid"]))
            yield {**batch, "valid": batch["valid"] & is_whole}
    finally:
        batches.close()


def stacked(iterator: Iterator[Any], num_steps: int) -> Iterator[Any]:
    """Yields the items of `num_steps` steps as one, stacked along a new first axis."""
    while True:
        group = [next(iterator) for _ in range(num_steps)]
        yield jax.tree.map(lambda *leaves: np.stack(leaves), *group)
