"""Feeding: the same batches whichever way they come, in an order that needs nothing saved."""

import itertools
import sys

import jax
import numpy as np
import pytest

from diffusion_jax.data import feed, sources
from diffusion_jax.errors import UserError


def batches(num, *, source=None, resident=True, steps_per_call=1, **options):
    """Returns the first batches of a feed."""
    options = {"batch_size": 8, "seed": 0, "first_step": 0, "with_labels": True} | options
    source = source or sources.digits()
    fed = feed.make_feed(source, feed.read_all(source) if resident else None, **options)
    items = fed.items if steps_per_call == 1 else feed.stacked(fed.items, steps_per_call)
    return [fed.batch(fed.store, item) for item in itertools.islice(items, num)]


def assert_equal(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize("first_step", [0, 300])
def test_a_resident_set_and_a_streamed_one_give_the_same_batches(first_step):
    """300 steps of 8 are beyond the first epoch of 1,797 images."""
    resident, streamed = (batches(30, resident=resident, first_step=first_step) for resident in (True, False))
    assert_equal(resident, streamed)


def test_a_resident_set_sends_indices_alone():
    source = sources.digits()
    fed = feed.make_feed(source, feed.read_all(source), batch_size=8, seed=0, first_step=0, with_labels=False)
    item = next(fed.items)
    assert item.shape == (8,) and item.dtype == np.int32 and fed.store["image"].shape == (1797, 8, 8, 1)


def test_a_broken_file_of_a_streamed_set_is_named():
    def read(number):
        raise UserError(f"image file '{number}.png' cannot be read")

    with pytest.raises(UserError, match=r"image file '\d+.png' cannot be read"):
        batches(1, source=sources.Source(100, read), resident=False)


def test_a_streamed_set_without_grain_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(
        UserError, match="config field data.device_cache_gib is smaller than the data set, .* pip install grain"
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
    assert_equal(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), whole)


def test_labels_come_with_their_images():
    source = sources.digits()
    stored = feed.read_all(source)
    [batch] = batches(1, source=source, batch_size=50, first_step=2)
    for image, label in zip(batch["image"], batch["cond"]["label"], strict=True):
        [found] = np.flatnonzero(np.all(stored["image"] == image, axis=(1, 2, 3)))[:1]
        assert stored["label"][found] == label
    assert batches(1, with_labels=False)[0]["cond"] == {}


@pytest.mark.parametrize("resident", [True, False])
def test_stacked_batches_are_the_same_batches(resident):
    alone = batches(6, resident=resident)
    stacked = batches(2, resident=resident, steps_per_call=3)
    together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *stacked)
    assert_equal(together, jax.tree.map(lambda *leaves: np.stack(leaves), *alone))
