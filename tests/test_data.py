"""Data: what is read, and an order that needs nothing saved."""

import itertools

import numpy as np
import pytest

from diffusion_jax import data
from diffusion_jax.errors import UserError


def test_digits_are_seventeen_grey_levels_over_the_whole_range():
    source = data.digits()
    assert source.images.shape == (1797, 8, 8, 1) and source.images.dtype == np.uint8
    np.testing.assert_array_equal(np.unique(source.images), np.round(np.arange(17) * 255 / 16))
    assert sorted(np.unique(source.labels)) == list(range(10))


def test_npz_gives_back_what_was_stored(tmp_path):
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    np.savez(tmp_path / "set.npz", images=images, labels=[3, 1])
    source = data.npz(path=str(tmp_path / "set.npz"))
    np.testing.assert_array_equal(source.images, images)
    np.testing.assert_array_equal(source.labels, [3, 1])
    np.savez(tmp_path / "grey.npz", arr_0=images[..., 0])
    assert data.npz(path=str(tmp_path / "grey.npz")).images.shape == (2, 4, 4, 1)


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"images": np.zeros((2, 4, 4, 3))}, r"float64 \[2, 4, 4, 3\]"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, r"uint8 \[0, 4, 4, 3\]"),
        ({"pictures": np.zeros((2, 4, 4, 3), np.uint8)}, "no such array"),
    ],
)
def test_npz_of_something_else_is_refused(tmp_path, arrays, found):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UserError, match=found):
        data.npz(path=str(tmp_path / "set.npz"))


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "npy", "objects", "folder"])
def test_npz_that_cannot_be_read_is_named(tmp_path, kind):
    file = tmp_path / "set.npz"
    np.savez(file, images=np.zeros((2, 4, 4, 3), np.uint8))
    whole = file.read_bytes()
    if kind == "text":
        file.write_text("images")
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "truncated":
        file.write_bytes(whole[: len(whole) // 2])
    elif kind == "npy":
        with file.open("wb") as opened:
            np.save(opened, np.zeros(3))
    elif kind == "objects":
        np.savez(file, images=np.array([{}, None], object))
    else:
        file = tmp_path
    with pytest.raises(UserError, match="cannot be read as an .npz file of arrays|is not a file"):
        data.npz(path=str(file))


@pytest.mark.parametrize("path", ["", "nowhere.npz"])
def test_npz_that_is_missing_is_named(path):
    with pytest.raises(UserError, match=f"data.path = '{path}' is not a file"):
        data.npz(path=path)


@pytest.fixture
def prepared(tmp_path):
    """A folder with 'cifar10:3.0.2' prepared from made-up images: the real set's features, array_record."""
    datasets = pytest.importorskip("tensorflow_datasets")
    tensorflow = pytest.importorskip("tensorflow")
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    records = {"id": [f"train_{i}" for i in range(7)], "image": images, "label": np.arange(7)}
    datasets.dataset_builders.store_as_tfds_dataset(
        name="cifar10",
        version="3.0.2",
        features=datasets.builder("cifar10:3.0.2", data_dir=str(tmp_path / "none")).info.features,
        split_datasets={"train": tensorflow.data.Dataset.from_tensor_slices(records)},
        data_dir=str(tmp_path),
        file_format="array_record",
        disable_shuffling=True,
    )
    return tmp_path, images


def test_tfds_sets_are_read_by_name(prepared):
    folder, images = prepared
    source = data.tfds(name="cifar10:3.0.2", path=str(folder))
    order = np.argsort(source.labels)
    np.testing.assert_array_equal(source.labels[order], np.arange(7))
    np.testing.assert_array_equal(source.images[order], images)


def test_a_set_that_cannot_be_downloaded_is_said_at_once(tmp_path, monkeypatch):
    def no_network(*arguments):
        raise OSError("Name or service not known")

    monkeypatch.setattr(data.socket, "getaddrinfo", no_network)
    with pytest.raises(UserError, match="'cifar10:3.0.2' is not prepared in .* and there is no network to download it"):
        data.tfds(name="cifar10:3.0.2", path=str(tmp_path))


def test_a_set_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match="config field data.name = 'cifar11' is no set that TFDS knows"):
        data.tfds(name="cifar11", path=str(tmp_path))


def test_a_shape_that_differs_from_the_config_says_what_to_set():
    with pytest.raises(UserError, match=r"set data.image_size = \(8, 8\) and data.channels = 1"):
        data.check_shape(data.digits(), (8, 8, 3))


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 4), (10, 10), (3, 8)])
def test_every_epoch_shows_every_image_once(num_images, batch_size):
    order = data.make_order(num_images, batch_size=batch_size, seed=0)
    shown = np.concatenate([order(step) for step in range(2 * num_images)])
    epochs = shown[: len(shown) // num_images * num_images].reshape(-1, num_images)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(np.arange(num_images), epochs.shape))
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_order_is_a_function_of_seed_and_step():
    one, two = (data.make_order(100, batch_size=7, seed=1) for _ in range(2))
    np.testing.assert_array_equal(one(55), [two(step) for step in range(56)][-1])
    assert not np.array_equal(one(55), data.make_order(100, batch_size=7, seed=2)(55))


def test_hosts_share_a_batch():
    source = data.digits()
    options = {"batch_size": 8, "seed": 0, "first_step": 3}
    [whole] = itertools.islice(data.batches(source, **options), 1)
    parts = [next(data.batches(source, **options, part=part, num_parts=4)) for part in range(4)]
    np.testing.assert_array_equal(np.concatenate([part["image"] for part in parts]), whole["image"])


def test_labels_come_with_their_images():
    source = data.digits()
    batch = next(data.batches(source, batch_size=50, seed=0, first_step=2, with_labels=True))
    for image, label in zip(batch["image"], batch["cond"]["label"], strict=True):
        [found] = np.flatnonzero(np.all(source.images == image, axis=(1, 2, 3)))[:1]
        assert source.labels[found] == label


def test_labels_beyond_the_networks_are_refused():
    with pytest.raises(UserError, match="model.num_classes = 5 does not fit the labels, which are 0 to 9"):
        data.check_labels(data.digits(), 5)
    data.check_labels(data.digits(), 0)


def test_stacked_batches_are_the_same_batches():
    source = data.digits()
    options = {"batch_size": 8, "seed": 0, "first_step": 0}
    alone = list(itertools.islice(data.batches(source, **options), 6))
    stacked = list(itertools.islice(data.stacked(data.batches(source, **options), 3), 2))
    np.testing.assert_array_equal(
        np.concatenate([group["image"] for group in stacked]), np.stack([batch["image"] for batch in alone])
    )
