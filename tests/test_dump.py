"""Dumps: exactly N images, none drawn twice, and no mixture of settings."""

import json

import numpy as np
import pytest

from diffusion_jax import dump, storage
from diffusion_jax.errors import UserError


def image(number):
    return np.full((4, 4, 1), number, np.uint8)


class Drawer:
    """Draws image i as a constant i, and remembers what it was asked for."""

    def __init__(self, num_images, chunk_size, dies_after=None):
        self.num_images, self.chunk_size, self.dies_after, self.drawn = num_images, chunk_size, dies_after, []

    def __call__(self, first):
        for start in range(first, self.num_images, self.chunk_size):
            if len(self.drawn) == self.dies_after:
                raise KeyboardInterrupt
            self.drawn.append(start)
            yield start, np.stack([image(i) for i in range(start, min(start + self.chunk_size, self.num_images))])


def write(out, drawer, manifest=None):
    return dump.write(
        storage.path(out),
        drawer,
        num_images=drawer.num_images,
        chunk_size=drawer.chunk_size,
        manifest=manifest or {"seed": 0},
        on_progress=lambda done: None,
    )


@pytest.mark.parametrize(("num_images", "chunk_size"), [(10, 4), (8, 4), (3, 4), (1, 1)])
def test_exactly_n_images_in_order(tmp_path, num_images, chunk_size):
    result = write(tmp_path, Drawer(num_images, chunk_size))
    assert result.name == f"samples_{num_images}x4x4x1.npz"
    with np.load(result) as stored:
        assert list(stored) == ["arr_0"]
        np.testing.assert_array_equal(stored["arr_0"], [image(i) for i in range(num_images)])
    assert (tmp_path / "grid.png").exists() and json.loads((tmp_path / "manifest.json").read_text()) == {"seed": 0}


def test_a_killed_dump_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, Drawer(10, 3, dies_after=2))
    assert not list(tmp_path.glob("samples_*"))
    second = Drawer(10, 3)
    with np.load(write(tmp_path, second)) as stored:
        np.testing.assert_array_equal(stored["arr_0"], [image(i) for i in range(10)])
    assert second.drawn == [6, 9]
    third = Drawer(10, 3)
    write(tmp_path, third)
    assert third.drawn == []


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    write(tmp_path, Drawer(2, 2))
    with pytest.raises(UserError, match="holds other images \\(different seed\\); choose another --out"):
        write(tmp_path, Drawer(2, 2), manifest={"seed": 1})
