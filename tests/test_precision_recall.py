"""Precision, recall, density and coverage: their definitions, closed forms, and the errors they state."""

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.metrics import figure, precision_recall

NAMES = ["precision", "recall", "density", "coverage"]


def draw(seed, num_images=200, num_features=5, scale=1.0, mean=0.0):
    return np.random.default_rng(seed).normal(mean, scale, (num_images, num_features))


def by_definition(real, generated, k=3, k_density=5):
    """Returns the four as the papers write them, of whole tables of distances."""
    to = np.linalg.norm(real[:, None] - generated[None], axis=-1)  # [N, M]
    among = [np.sort(np.linalg.norm(one[:, None] - one[None], axis=-1), axis=1) for one in (real, generated)]
    in_real, in_generated = to <= among[0][:, k, None], to <= among[1][None, :, k]
    dense = to <= among[0][:, k_density, None]
    density = dense.sum() / (k_density * len(generated))
    return [in_real.any(axis=0).mean(), in_generated.any(axis=1).mean(), density, dense.any(axis=1).mean()]


def values(found):
    return [found[name].value for name in NAMES]


@pytest.mark.parametrize("num_generated", [40, 155, 311])
def test_they_are_what_the_papers_define(num_generated, precision):
    real, generated = draw(0), draw(1, num_generated, scale=1.2, mean=0.3)
    np.testing.assert_allclose(values(precision_recall.figures(real, generated)), by_definition(real, generated), rtol=1e-12)


def test_the_errors_are_those_of_leaving_out_a_tenth_at_a_time():
    real, generated = draw(0), draw(1, 155, scale=1.2)
    found, group = precision_recall.figures(real, generated), figure.groups(155)
    without = [by_definition(real, generated[group != g]) for g in range(figure.NUM_GROUPS)]
    for name, left_out in zip(NAMES, np.transpose(without), strict=True):
        expected = figure.jackknife(found[name].value, left_out).standard_error
        tolerance = 1e-9 if name in ("recall", "coverage") else 0.5  # the others are means, whose error needs no leaving out
        assert found[name].standard_error == pytest.approx(expected, rel=tolerance), name


def test_a_set_is_as_like_itself_as_can_be():
    """Each image lies in its own ball and on the edge of its neighbours' balls: (k + 1) / k of them."""
    real = draw(0).astype(np.float32)
    assert values(precision_recall.figures(real, real)) == pytest.approx([1, 1, 6 / 5, 1], rel=1e-12)


def test_sets_far_apart_have_nothing_in_common():
    found = precision_recall.figures(draw(0), draw(1, mean=100))
    assert [found[name] for name in NAMES] == [figure.Figure(0, 0)] * 4


def test_one_image_over_and_over_is_precise_and_covers_little():
    real = draw(0).astype(np.float32)
    found = precision_recall.figures(real, np.repeat(real[:1], 100, axis=0))
    assert found["precision"].value == 1 and found["recall"].value == 1 / 200
    assert found["coverage"].value < 0.1 and found["coverage"].standard_error == 0


def test_the_errors_cover_the_spread_of_other_draws():
    real = draw(0, 150)
    found = [precision_recall.figures(real, draw(seed, 150, scale=0.9, mean=0.3)) for seed in range(1, 31)]
    for name in NAMES:
        spread = np.std([one[name].value for one in found], ddof=1)
        stated = np.mean([one[name].standard_error for one in found])
        assert spread / 2 < stated < 2 * spread, name


@pytest.mark.parametrize(
    ("real", "generated", "sentence"),
    [
        (draw(0), draw(1, num_features=4), "real images have 5 features and generated ones 4; they must agree."),
        (draw(0, 14), draw(1), "precision and recall need 15 real images or more; there are 14."),
        (draw(0), draw(1, 14), "precision and recall need 15 generated images or more; there are 14."),
        (np.full((30, 5), np.nan), draw(0), "real images hold numbers that are not finite, 150 of 150; all must be finite."),
    ],
)
def test_sets_that_cannot_be_compared_are_one_sentence(real, generated, sentence):
    with pytest.raises(UserError) as raised:
        precision_recall.figures(real, generated)
    assert str(raised.value) == sentence
