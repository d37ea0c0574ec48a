"""Dumps: exactly N images, none drawn twice, and no mixture of settings."""

import json
import zipfile

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.runs import dump, shards, storage


def image(number):
    return np.full((4, 4, 1), number, np.uint8)


class Drawer:
    """Draws image i as a constant i, in chunks, and remembers where they began."""

    def __init__(self, num_images, chunk_size, dies_after=None):
        self.num_images, self.chunk_size, self.dies_after, self.drawn = num_images, chunk_size, dies_after, []

    def __call__(self, first):
        for start in range(first, self.num_images, self.chunk_size):
            if len(self.drawn) == self.dies_after:
                raise KeyboardInterrupt
            self.drawn.append(start)
            yield np.stack([image(i) for i in range(start, min(start + self.chunk_size, self.num_images))])


def write(out, drawer, *, shard_size=4, manifest=None, labels=None):
    return dump.write(
        storage.path(out),
        drawer,
        num_images=drawer.num_images,
        shard_size=shard_size,
        manifest=manifest or {"seed": 0},
        labels=labels,
    )


@pytest.mark.parametrize(
    ("num_images", "chunk_size", "shard_size"), [(10, 4, 3), (8, 4, 8), (3, 4, 9), (1, 1, 1), (90, 7, 80)]
)
def test_exactly_n_images_in_order(tmp_path, num_images, chunk_size, shard_size):
    result = write(tmp_path, Drawer(num_images, chunk_size), shard_size=shard_size)
    assert result.name == f"samples_{num_images}x4x4x1.npz"
    with np.load(result) as stored:
        assert list(stored) == ["arr_0"]
        np.testing.assert_array_equal(stored["arr_0"], [image(i) for i in range(num_images)])
    assert (tmp_path / "grid.png").exists() and json.loads((tmp_path / "manifest.json").read_text()) == {"seed": 0}
    sizes = [len(shards.decode(shard)["arr_0"]) for shard in sorted((tmp_path / "shards").iterdir())]
    assert sum(sizes) == num_images and set(sizes[:-1]) <= {shard_size}


def test_the_file_is_what_numpy_would_write(tmp_path):
    """Which is what the evaluators of guided-diffusion and others open, some by reading the header of arr_0.npy alone."""
    labels = np.arange(10) % 3
    result = write(tmp_path / "dump", Drawer(10, 4), labels=labels)
    np.savez(tmp_path / "plain.npz", np.stack([image(i) for i in range(10)]), labels)
    assert result.read_bytes() == (tmp_path / "plain.npz").read_bytes()
    with zipfile.ZipFile(result) as archive, archive.open("arr_0.npy") as entry:
        assert np.lib.format.read_magic(entry) == (1, 0)
        assert np.lib.format.read_array_header_1_0(entry) == ((10, 4, 4, 1), False, np.dtype(np.uint8))


def test_a_killed_dump_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, Drawer(10, 3, dies_after=2))
    assert not list(tmp_path.glob("samples_*"))
    second = Drawer(10, 3)
    with np.load(write(tmp_path, second)) as stored:
        np.testing.assert_array_equal(stored["arr_0"], [image(i) for i in range(10)])
    assert second.drawn == [4, 7]
    third = Drawer(10, 3)
    write(tmp_path, third)
    assert third.drawn == []


def test_only_what_is_missing_is_drawn(tmp_path):
    write(tmp_path, Drawer(20, 1), shard_size=4)
    for start in (4, 8, 16):
        (tmp_path / "shards" / f"{start:08d}.npz").unlink()
    again = Drawer(20, 1)
    with np.load(write(tmp_path, again, shard_size=4)) as stored:
        np.testing.assert_array_equal(stored["arr_0"], [image(i) for i in range(20)])
    assert again.drawn == [*range(4, 12), *range(16, 20)]


def test_more_images_or_fewer_are_made_of_the_shards_there_are(tmp_path):
    write(tmp_path, Drawer(10, 1), shard_size=4)
    more, fewer = Drawer(15, 1), Drawer(7, 1)
    for drawer, drawn in ((more, range(8, 15)), (fewer, range(4, 7))):  # the last shard was shorter, and is so again
        with np.load(write(tmp_path, drawer, shard_size=4)) as stored:
            np.testing.assert_array_equal(stored["arr_0"], [image(i) for i in range(drawer.num_images)])
        assert drawer.drawn == list(drawn)
    assert (tmp_path / "samples_10x4x4x1.npz").exists()


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    write(tmp_path, Drawer(2, 2))
    with pytest.raises(UserError, match="holds other results \\(different seed\\); choose another --out"):
        write(tmp_path, Drawer(2, 2), manifest={"seed": 1})


@pytest.mark.parametrize("content", [b"", b"not a shard"])
def test_a_damaged_shard_is_named(tmp_path, content):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, Drawer(10, 4, dies_after=1))
    (tmp_path / "shards" / "00000000.npz").write_bytes(content)
    with pytest.raises(UserError, match="00000000.npz' is damaged .*remove it, and the same command makes it again"):
        write(tmp_path, Drawer(10, 4))
    assert not list(tmp_path.glob("samples_*"))


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_manifest_is_named(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match="manifest.json' is damaged"):
        write(tmp_path, Drawer(2, 2))
