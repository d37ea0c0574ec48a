"""Memorisation: planted copies are found, fresh images are not, and the errors are right."""

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.metrics import memorisation


def draw(seed, num_images=300, num_features=12):
    return np.random.default_rng(seed).normal(size=(num_images, num_features)).astype(np.float32)


TRAIN, HELD_OUT, FRESH = draw(0), draw(1), draw(2)
OWN = memorisation.own_distances(TRAIN)


def by_definition(images, train):
    """Returns (authentic, calibrated distance) of each image, of whole tables of distances."""
    to = np.linalg.norm(images[:, None].astype(np.float64) - train[None], axis=-1)
    among = np.linalg.norm(train[:, None].astype(np.float64) - train[None], axis=-1)
    np.fill_diagonal(among, np.inf)
    ranked = np.sort(to, axis=1)
    return ranked[:, 0] > np.min(among, axis=1)[np.argmin(to, axis=1)], ranked[:, 0] / (0.5 * ranked[:, :50].mean(axis=1))


def planted():
    """Returns fresh images among which are copies (numbers 10 to 14) and near copies (20 to 24), and what they copy."""
    generated, of = FRESH.copy(), np.array([3, 50, 120, 200, 299])
    generated[10:15] = TRAIN[of]
    generated[20:25] = TRAIN[of - 1] + 1e-3 * draw(3, 5)
    return generated, of


def test_they_are_what_the_papers_define(precision):
    found = memorisation.closeness(FRESH, TRAIN, OWN)
    is_authentic, calibrated = by_definition(FRESH, TRAIN)
    np.testing.assert_array_equal(found.is_authentic, is_authentic)
    np.testing.assert_allclose(found.calibrated, calibrated, rtol=1e-6)
    figures = memorisation.figures(found)
    assert figures["authenticity"].value == pytest.approx(is_authentic.mean())
    assert figures["calibrated_distance"].value == pytest.approx(calibrated.mean(), rel=1e-6)


def test_planted_copies_are_the_worst_cases():
    generated, of = planted()
    found = memorisation.closeness(generated, TRAIN, OWN)
    numbers, of_train = memorisation.worst(found, 10)
    np.testing.assert_array_equal(numbers[:5], np.arange(10, 15))  # the copies themselves, at a distance of 0
    np.testing.assert_array_equal(of_train[:5], of)
    assert set(numbers[5:]) == set(range(20, 25)) and set(of_train[5:]) == set(of - 1)
    assert not np.any(found.is_authentic[numbers]) and np.all(found.calibrated[numbers] < 0.01)


def test_copies_lower_every_figure_against_the_control():
    generated, _ = planted()
    generated[100:200] = TRAIN[:100]
    found, control = (memorisation.figures(memorisation.closeness(x, TRAIN, OWN)) for x in (generated, HELD_OUT))
    assert found["copies"].value == pytest.approx(control["copies"].value + 110 / 300, abs=0.02)
    for name in ("authenticity", "calibrated_distance"):
        error = np.hypot(found[name].standard_error, control[name].standard_error)
        assert control[name].value - found[name].value > 5 * error


def test_a_fresh_draw_is_flagged_no_more_than_the_control():
    found, control = (memorisation.figures(memorisation.closeness(x, TRAIN, OWN)) for x in (FRESH, HELD_OUT))
    for name in found:
        error = np.hypot(found[name].standard_error, control[name].standard_error)
        assert abs(found[name].value - control[name].value) < 3 * error + 1e-12, name


def test_the_errors_cover_the_spread_of_other_draws():
    few = draw(0, 300, 6)
    own = memorisation.own_distances(few)
    found = [memorisation.figures(memorisation.closeness(draw(seed, 150, 6), few, own)) for seed in range(1, 31)]
    for name in found[0]:
        spread = np.std([one[name].value for one in found], ddof=1)
        stated = np.mean([one[name].standard_error for one in found])
        assert spread / 2 < stated < 2 * spread, name


def test_images_are_compared_by_their_pixels_and_shown_beside_what_they_repeat():
    rng = np.random.default_rng(0)
    train, images = rng.integers(0, 256, (60, 4, 4, 3), np.uint8), rng.integers(0, 256, (20, 4, 4, 3), np.uint8)
    images[7] = train[33]
    found = memorisation.closeness(images, train, memorisation.own_distances(train))
    shown = memorisation.pictures(images, train, found, 3)
    assert shown.shape == (6, 4, 4, 3) and shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[0], images[7])
    np.testing.assert_array_equal(shown[1], train[33])
    np.testing.assert_array_equal(shown[3], train[found.indices[memorisation.worst(found, 2)[0][1]]])


def test_a_training_set_of_one_image_many_times_has_no_distances_but_is_measured():
    train = np.zeros((60, 3), np.float32)
    found = memorisation.closeness(np.array([[0, 0, 0], [3, 4, 0]], np.float32), train, memorisation.own_distances(train))
    np.testing.assert_allclose(found.calibrated, [0, 2], rtol=1e-6)
    np.testing.assert_array_equal(found.is_authentic, [False, True])


@pytest.mark.parametrize(
    ("images", "train", "sentence"),
    [
        (FRESH[:, :4], TRAIN, "images have 4 numbers and training images 12; they must agree."),
        (FRESH, TRAIN[:1], "the training set has one image; memorisation needs two or more."),
        (np.full((2, 12), np.inf), TRAIN, "images hold numbers that are not finite, 24 of 24; all must be finite."),
    ],
)
def test_sets_that_cannot_be_compared_are_one_sentence(images, train, sentence):
    with pytest.raises(UserError) as raised:
        memorisation.closeness(images, train, OWN)
    assert str(raised.value) == sentence
