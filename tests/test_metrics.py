"""Figures of sets whose distance is known, and whether their errors are those that repeated draws show."""

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.metrics import compare, figure, frechet, inception_score, kernel, sliced

DISTANCES = {
    "frechet": lambda one, two: frechet.frechet_distance(one, frechet.of_features(two)),
    "kernel": lambda generated, real: kernel.distance_to(real)(generated),
}
DISTANCES |= {"sliced": sliced.sliced_wasserstein}


def normal(seed, num, width=8, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, (num, width)).astype(np.float32)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (np.ones(60), np.full(60, 4.0)),
        (np.logspace(0, -18, 60), np.logspace(-1, -19, 60)),
        (np.r_[np.ones(30), np.zeros(30)], np.r_[np.zeros(15), np.ones(45)]),
        (np.r_[np.ones(30), np.zeros(30)], np.r_[np.ones(30), np.zeros(30)]),
        (np.zeros(60), np.ones(60)),
    ],
    ids=["whole", "nearly singular", "of two spaces", "the same, singular", "one point"],
)
def test_frechet_distance_of_covariances_with_common_axes(one, two):
    axes, _ = np.linalg.qr(normal(0, 60, 60).astype(np.float64))
    covariances = [(axes * variances) @ axes.T for variances in (one, two)]
    gaussians = [frechet.gaussian(np.full(60, mean), each) for mean, each in zip((0, 0.5), covariances, strict=True)]
    found = frechet.distance(*gaussians)
    exact = 60 * 0.25 + np.sum((np.sqrt(one) - np.sqrt(two)) ** 2)
    np.testing.assert_allclose(found, exact, rtol=1e-11)


def test_moments_of_parts_add_up():
    features = normal(0, 100) + 5
    whole, parts = frechet.moments(features), [frechet.moments(part) for part in np.split(features, [1, 30, 31])]
    found = frechet.total(parts)
    assert found.num_images == 100
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, whole.covariance, rtol=1e-10, atol=1e-12)


def test_moments_of_values_far_from_zero_do_not_cancel():
    """In float32, or as E f^2 - (E f)^2, nothing would be left of this variance."""
    features = 1e4 + 1e-2 * np.random.default_rng(0).normal(size=(5000, 2))
    np.testing.assert_allclose(np.diag(frechet.moments(features).covariance), 1e-4, rtol=0.1)


def test_sliced_wasserstein_of_a_shift_is_three_times_its_square():
    real, shift = normal(0, 500, 64), np.linspace(0, 1, 64, dtype=np.float32)
    found = sliced.sliced_wasserstein(real + shift, real).value
    np.testing.assert_allclose(found, 3 * np.sum(shift**2), rtol=0.1)  # the mean over 1,000 directions, not over all


def test_sliced_wasserstein_couples_sets_of_two_sizes_exactly():
    """Each image several times is the same distribution."""
    one, two = normal(0, 40), normal(1, 60)
    many = sliced.sliced_wasserstein(np.repeat(one, 3, axis=0), np.repeat(two, 2, axis=0)).value
    np.testing.assert_allclose(sliced.sliced_wasserstein(one, two).value, many, rtol=1e-5)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_set_is_not_far_from_itself(name):
    real = normal(0, 200)
    assert abs(DISTANCES[name](real, real).value) < (0.1 if name == "kernel" else 1e-5)  # unbiased: pairs of one image count


@pytest.mark.parametrize("name", DISTANCES)
def test_the_standard_error_is_the_spread_of_repeated_draws(name):
    real = normal(0, 400)
    drawn = [DISTANCES[name](normal(seed, 200, mean=0.3), real) for seed in range(1, 31)]
    spread = np.std([each.value for each in drawn], ddof=1)
    errors = np.mean([each.standard_error for each in drawn])
    assert 0.6 * spread < errors < 1.6 * spread


def test_kernel_distance_of_equal_distributions_is_zero_within_its_error():
    drawn = [kernel.distance_to(normal(seed + 50, 400))(normal(seed, 200)) for seed in range(1, 21)]
    mean, spread = np.mean([each.value for each in drawn]), np.std([each.value for each in drawn])
    assert abs(mean) < 3 * spread / np.sqrt(20)


def test_inception_score_is_the_number_of_classes_where_each_image_is_sure():
    logits = 50.0 * np.eye(7)[np.arange(70) % 7]
    np.testing.assert_allclose(inception_score.inception_score(logits).value, 7, rtol=1e-9)
    np.testing.assert_allclose(inception_score.inception_score(np.zeros((70, 7))).value, 1, rtol=1e-9)


def test_groups_are_of_equal_size():
    assert np.bincount(figure.groups(95)).tolist() == [9, 10] * 5


def test_floor_and_matched_figure_are_of_equally_many_images():
    """Where the images are real ones, all three figures are alike; where they are not, only the floor stays low."""
    real = {"features": normal(0, 300)}
    others = {"features": normal(1, 100)}
    same = compare.compare({"features": normal(2, 200)}, real, others)["frechet_distance"]
    far = compare.compare({"features": normal(2, 200, mean=1.0)}, real, others)["frechet_distance"]
    assert same.value.value < same.matched.value and 0.5 < same.matched.value / same.floor.value < 2
    assert far.floor == same.floor and far.matched.value > 10 * far.floor.value


def test_without_other_real_images_the_floor_is_of_two_parts_of_them():
    real = {"features": normal(0, 300)}
    found = compare.compare({"features": normal(1, 200)}, real)["sliced_wasserstein"]
    assert found.floor.value > 0 and 0.3 < found.matched.value / found.floor.value < 3


def test_statistics_give_the_frechet_distance_alone():
    real, generated = normal(0, 300), {"features": normal(1, 200)}
    found = compare.compare_with_statistics(generated, {"features": (np.mean(real, axis=0), np.cov(real, rowvar=False))})
    assert found.keys() == {"frechet_distance"}
    of_images = frechet.frechet_distance(generated["features"], frechet.of_features(real))
    np.testing.assert_allclose(found["frechet_distance"].value, of_images, rtol=1e-4)


BAD = {
    "few": ([normal(0, 19), normal(1, 50)], "the generated images are 19; figures need at least 20"),
    "few real": (
        [normal(0, 30), normal(1, 39)],
        "the real images are 39; to be split for the floor they must be at least 40",
    ),
    "NaN": (
        [np.r_[normal(0, 28), np.full((2, 8), np.nan)], normal(1, 50)],
        "features of 2 of the 30 generated images are not",
    ),
    "whole numbers": ([np.ones((30, 8), np.uint8), normal(1, 50)], r"uint8\[30, 8\]; they must be floating point \[30, D\]"),
    "axes": ([normal(0, 30)[..., None], normal(1, 50)], r"float32\[30, 8, 1\]; they must be"),
    "width": ([normal(0, 30), normal(1, 50, width=9)], "have {'features': 8}, the real ones {'features': 9}"),
}


@pytest.mark.parametrize("name", BAD)
def test_sets_that_give_no_figure_are_refused(name):
    sets, sentence = BAD[name]
    with pytest.raises(UserError, match=sentence):
        compare.compare(*({"features": each} for each in sets))


def test_half_precision_is_computed_in_single():
    one, two = normal(0, 50).astype(np.float16), normal(1, 60).astype(np.float16)
    found = compare.compare({"features": one}, {"features": two})
    same = compare.compare({"features": one.astype(np.float32)}, {"features": two.astype(np.float32)})
    assert found == same and np.isfinite(found["kernel_distance"].value).all()


def test_few_images_for_the_width_of_a_feature_are_said():
    [sentence] = compare.warnings(5000, 1280, has_floor=True)
    assert "read the kernel distance and the floor" in sentence
    assert "floor" not in compare.warnings(5000, 1280, has_floor=False)[0]
    assert not compare.warnings(20_000, 1280, has_floor=True)


def test_the_order_of_the_images_has_no_part():
    """Data sets are often in the order of their classes."""
    real, generated = np.r_[normal(0, 100), normal(1, 200, mean=2)], np.r_[normal(2, 40, mean=2), normal(3, 20)]
    others = np.r_[normal(4, 60), normal(5, 120, mean=2)]
    found = compare.compare({"features": generated}, {"features": real}, {"features": others})
    assert found["frechet_distance"].floor.value < 3  # with the first 60 of them it is above 10
    mixed = compare.compare({"features": generated[::-1]}, {"features": real}, {"features": others})
    np.testing.assert_allclose(mixed["frechet_distance"].value, found["frechet_distance"].value, rtol=1e-5)
    for name in ("kernel_distance", "coverage"):
        assert 0.5 < mixed[name].value.standard_error / found[name].value.standard_error < 2
