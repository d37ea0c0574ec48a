"""Nearest neighbours and balls, against definitions written out in NumPy."""

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.metrics import neighbours

RNG = np.random.default_rng(0)
POINTS, OTHERS = RNG.normal(3, 1, (150, 7)), RNG.normal(3, 1, (130, 7))


def distances(points, others):
    return np.sqrt(np.sum((points[:, None].astype(np.float64) - others[None]) ** 2, axis=-1))


@pytest.fixture(params=[64, 2048], ids=["several blocks", "one block"])
def blocks(request, monkeypatch):
    monkeypatch.setattr(neighbours, "MOST_ROWS", request.param)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_nearest_are_found_in_order(dtype, blocks, precision):
    points, others = POINTS.astype(dtype), OTHERS.astype(dtype)
    found, expected = neighbours.nearest(points, others, 4), distances(points, others)
    np.testing.assert_array_equal(found.indices, np.argsort(expected, axis=1)[:, :4])
    np.testing.assert_allclose(found.distances, np.sort(expected, axis=1)[:, :4], rtol=1e-6)


def test_a_point_is_not_its_own_neighbour_but_its_double_is(blocks):
    points = np.concatenate([OTHERS, OTHERS[:1]])
    found = neighbours.nearest(points, points, 1, own=np.arange(len(points)))
    assert (found.indices[0, 0], found.indices[-1, 0]) == (len(points) - 1, 0)
    assert found.distances[0, 0] == found.distances[-1, 0] == 0
    assert np.all(found.indices[:, 0] != np.arange(len(points)))


def test_of_equally_near_points_the_first_come_first(blocks):
    found = neighbours.nearest(np.zeros((3, 2), np.float32), np.ones((100, 2), np.float32), 4)
    np.testing.assert_array_equal(found.indices, np.tile(np.arange(4), (3, 1)))


def test_where_there_are_too_few_neighbours_none_is_made_up():
    found = neighbours.nearest(OTHERS[:3], OTHERS[:3], 4, own=np.arange(3))
    np.testing.assert_array_equal(found.indices[:, 2:], -1)
    assert np.all(np.isinf(found.distances[:, 2:])) and np.all(np.isfinite(found.distances[:, :2]))


def test_near_duplicates_far_from_the_centre_have_their_true_distance(blocks):
    """Where |x|^2 is 10^5 and a squared distance 10^-6, float32 has nothing left of the difference."""
    others = (RNG.normal(size=(130, 64)) + np.where(np.arange(130) % 2, 40, -40)[:, None]).astype(np.float32)
    points = others[:20].copy()
    points[:, 5] += np.float32(1e-3)
    found = neighbours.nearest(points, others, 1)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(20))
    np.testing.assert_allclose(found.distances[:, 0], np.abs(points - others[:20])[:, 5], rtol=1e-12)


def test_the_nearest_of_many_near_duplicates_is_the_nearest():
    """float32 sees them all at the same place, and does not know their order."""
    others = (RNG.normal(size=(130, 64)) + np.where(np.arange(130) % 2, 40, -40)[:, None]).astype(np.float32)
    others[100:107] = others[0]
    others[100:107, 5] += np.float32(1e-3) * np.array([7, 4, 3, 1, 6, 2, 5], np.float32)
    found = neighbours.nearest(others[:1], others, 4, own=np.array([0]))
    np.testing.assert_array_equal(found.indices[0], [103, 105, 102, 101])


def test_what_all_points_have_in_common_costs_no_digits():
    points, others = ((one + 1e4).astype(np.float32) for one in (POINTS, OTHERS))
    found = neighbours.nearest(points, others, 4)
    np.testing.assert_array_equal(found.indices, np.argsort(distances(points, others), axis=1)[:, :4])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_balls_are_counted(dtype, blocks, precision):
    points, others, radii = POINTS.astype(dtype), OTHERS.astype(dtype), RNG.uniform(1, 4, (130, 3))
    radii[::3, 1] = -1
    expected = np.sum(distances(points, others)[:, :, None] <= radii, axis=1)
    np.testing.assert_array_equal(neighbours.num_inside(points, others, radii), expected)


def test_a_point_on_a_balls_edge_is_inside(blocks):
    """The radius is a distance to the very point that is asked about, over and over."""
    points, others = POINTS.astype(np.float32), OTHERS.astype(np.float32)
    radii = neighbours.nearest(others, points, 3).distances
    counts = neighbours.num_inside(points, others, radii)
    np.testing.assert_array_equal(np.sum(counts, axis=0), [130, 260, 390])
    np.testing.assert_array_equal(
        np.sum(neighbours.num_inside(points, others, np.nextafter(radii, 0)), axis=0), [0, 130, 260]
    )


def test_a_ball_of_no_size_holds_its_centre_and_a_negative_one_nothing():
    points = OTHERS.astype(np.float32)
    counts = neighbours.num_inside(points, points, np.tile([0.0, -1.0], (len(points), 1)))
    np.testing.assert_array_equal(counts, np.tile([1, 0], (len(points), 1)))


def test_images_are_rows_of_exact_numbers():
    images = RNG.integers(0, 256, (5, 4, 4, 3), np.uint8)
    np.testing.assert_array_equal(neighbours.flat("images", images), images.reshape(5, -1))
    assert neighbours.flat("images", images).dtype == np.float32


@pytest.mark.parametrize("points", [np.zeros(3), np.zeros((0, 4)), np.array([[0.0, np.nan]]), np.array([[np.inf, 0.0]])])
def test_what_is_no_set_of_points_is_one_sentence(points):
    with pytest.raises(UserError, match=r"^real images (have the shape|hold numbers that are not finite, 1 of 2;)[^.]*\.$"):
        neighbours.flat("real images", points)
