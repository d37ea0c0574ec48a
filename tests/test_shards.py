"""The map over image numbers: shared out, continued, and never mixed."""

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.runs import shards, storage

MANIFEST = {"seed": 0}


def squares(first, asked=None):
    """Yields i and i^2 of images `first` to 9, in pieces of 3."""
    for start in range(first, 10, 3):
        numbers = np.arange(start, min(start + 3, 10))
        yield {"number": numbers, "square": np.stack([numbers**2, -numbers], axis=1)}


def by_image(out, make=squares, shard_size=4):
    return shards.by_image(storage.path(out), MANIFEST, 10, shard_size, make, label="test")


def test_every_image_has_its_row_in_order(tmp_path):
    made = by_image(tmp_path)
    assert made.sizes == [4, 4, 2]
    found = shards.read_all(made)
    np.testing.assert_array_equal(found["number"], np.arange(10))
    np.testing.assert_array_equal(found["square"][:, 0], np.arange(10) ** 2)


def test_only_missing_shards_are_made_again_and_each_gap_is_asked_for_once(tmp_path):
    made, firsts = by_image(tmp_path), []
    for name in ("00000000", "00000008_2"):
        (tmp_path / "shards" / f"{name}.npz").unlink()

    def noted(first):
        firsts.append(first)
        return squares(first)

    np.testing.assert_array_equal(shards.read_all(by_image(tmp_path, noted))["number"], np.arange(10))
    assert firsts == [0, 8] and made == by_image(tmp_path, None)


def test_no_more_pieces_are_made_than_the_missing_shard_takes(tmp_path):
    by_image(tmp_path)
    (tmp_path / "shards" / "00000000.npz").unlink()

    def ends(first):
        yield {"number": np.arange(4), "square": np.zeros((4, 2), int)}
        raise AssertionError("a second piece")

    by_image(tmp_path, ends)


@pytest.mark.parametrize(
    "rows",
    [
        {"number": np.arange(4)},
        {"number": np.arange(4), "square": np.zeros((4, 3), int)},
        {"number": np.arange(3), "square": np.zeros((3, 2), int)},
        {"number": np.arange(4.0), "square": np.zeros((4, 2), int)},
        {"number": np.int64(1), "square": np.zeros((4, 2), int)},
        {},
    ],
)
def test_a_shard_unlike_the_first_is_named(tmp_path, rows):
    made = by_image(tmp_path)
    with (tmp_path / "shards" / "00000004.npz").open("wb") as file:
        np.savez(file, **rows)
    with pytest.raises(UserError, match="00000004.npz' does not hold results of this run; remove it"):
        shards.read_all(made)


def test_processes_make_blocks_that_cover_all_shards(monkeypatch):
    monkeypatch.setattr(shards.jax, "process_count", lambda: 3)
    mine = []
    for index in range(3):
        monkeypatch.setattr(shards.jax, "process_index", lambda index=index: index)
        mine.append(shards.my_shards(8))
    assert [number for block in mine for number in block] == list(range(8))
    assert max(map(len, mine)) - min(map(len, mine)) <= 1


def test_consecutive_numbers_form_a_group():
    assert shards.consecutive([1, 2, 5, 7, 8, 9]) == [[1, 2], [5], [7, 8, 9]]
    assert shards.consecutive([]) == []
