"""Feeding: the same batches whichever way they come, in an order that needs nothing saved."""

import itertools
import sys

import jax
import numpy as np
import pytest
import tiny

from diffusion_jax.data import feed, sources
from diffusion_jax.errors import UserError


def batches(num, *, source=None, resident=True, steps_per_call=1, **options):
    """Returns the first batches of a feed."""
    options = {"batch_size": 8, "seed": 0, "first_step": 0} | options
    source = source or tiny.digits_source(num_classes=10)
    fed = feed.make_feed(source, feed.read(source) if resident else None, **options)
    items = fed.items if steps_per_call == 1 else feed.stacked(fed.items, steps_per_call)
    return [fed.batch(fed.store, item) for item in itertools.islice(items, num)]


def without_valid(batch):
    return {name: column for name, column in batch.items() if name != "valid"}


def assert_equal(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize("first_step", [0, 300])
def test_a_resident_set_and_a_streamed_one_give_the_same_batches(first_step):
    """300 steps of 8 are beyond the first epoch of 1,797 images."""
    resident, streamed = (batches(30, resident=resident, first_step=first_step) for resident in (True, False))
    assert all(batch["valid"].all() for batch in streamed)
    assert_equal(resident, [without_valid(batch) for batch in streamed])


def test_a_resident_set_sends_indices_alone():
    source = sources.digits()
    fed = feed.make_feed(source, feed.read(source), batch_size=8, seed=0, first_step=0)
    item = next(fed.items)
    assert item.shape == (8,) and item.dtype == np.int32 and fed.store["x"].shape == (1797, 8, 8, 1)


def test_nothing_is_valid_after_a_record_that_cannot_be_read_and_the_feed_says_which():
    order, digits = feed.make_order(100, batch_size=8, seed=0), sources.digits()

    def read(number):
        if number in (order(2)[5], order(4)[0]):
            raise UserError(f"image file '{number}.png' cannot be read")
        return digits.read(number)

    fed = feed.make_feed(sources.Source(100, read), None, batch_size=8, seed=0, first_step=0)
    found = list(itertools.islice(fed.items, 6))
    assert [bool(batch["valid"].all()) for batch in found] == [True, True, False, False, False, False]
    assert not any(batch["valid"].any() for batch in found[3:])
    np.testing.assert_array_equal(found[1]["x"], [digits.read(number)["x"] for number in order(1)])
    assert f"'{order(2)[5]}.png' cannot be read" in str(fed.failure())


def test_a_set_whose_first_image_cannot_be_read_is_refused():
    def read(number):
        raise UserError(f"image file '{number}.png' cannot be read")

    with pytest.raises(UserError, match=r"image file '0.png' cannot be read"):
        batches(1, source=sources.Source(100, read), resident=False)


def test_a_feed_that_has_read_everything_has_no_failure():
    source = sources.digits()
    for records in (feed.read(source), None):
        fed = feed.make_feed(source, records, batch_size=8, seed=0, first_step=0)
        next(fed.items)
        assert fed.failure() is None


def test_a_streamed_set_without_grain_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(
        UserError, match="config field data.device_cache_gib is smaller than the data set. .* pip install grain"
    ):
        batches(1, resident=False)


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 4), (10, 10), (3, 8)])
def test_every_epoch_shows_every_image_once(num_images, batch_size):
    order = feed.make_order(num_images, batch_size=batch_size, seed=0)
    shown = np.concatenate([order(step) for step in range(2 * num_images)])
    epochs = shown[: len(shown) // num_images * num_images].reshape(-1, num_images)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(np.arange(num_images), epochs.shape))
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_order_is_a_function_of_seed_and_step():
    one, two = (feed.make_order(100, batch_size=7, seed=1) for _ in range(2))
    np.testing.assert_array_equal(one(55), [two(step) for step in range(56)][-1])
    assert not np.array_equal(one(55), feed.make_order(100, batch_size=7, seed=2)(55))


@pytest.mark.parametrize("resident", [True, False])
def test_hosts_share_a_batch(resident):
    [whole] = batches(1, first_step=3)
    parts = [batches(1, first_step=3, resident=resident, part=part, num_parts=4)[0] for part in range(4)]
    assert_equal(without_valid(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)), whole)


def test_labels_come_with_their_images():
    stored = feed.read(sources.digits())
    [batch] = batches(1, batch_size=50, first_step=2)
    for image, label in zip(batch["x"], batch["cond"]["label"], strict=True):
        [found] = np.flatnonzero(np.all(stored["x"] == image, axis=(1, 2, 3)))[:1]
        assert stored["cond"]["label"][found] == label
    assert batches(1, source=tiny.digits_source())[0]["cond"] == {}


@pytest.mark.parametrize("resident", [True, False])
def test_stacked_batches_are_the_same_batches(resident):
    alone = batches(6, resident=resident)
    stacked = batches(2, resident=resident, steps_per_call=3)
    together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *stacked)
    assert_equal(together, jax.tree.map(lambda *leaves: np.stack(leaves), *alone))
