"""Parameterizations: whatever a network predicts, the pair (x_0, eps) comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import denoiser, process, schedules

LEVELS = schedules.cosine(1000)


def drawn(row):
    """Returns (x_0, eps, x_t, level) for a row of the table, or one row for each image."""
    level = process.at(process.from_betas(LEVELS), row)
    x_0, eps = jax.random.normal(jax.random.key(1), (2, 3, 4, 5, 2))
    return x_0, eps, process.diffuse(x_0, level, eps), level


@pytest.mark.parametrize("row", [1, 500, np.array([1, 300, 990])], ids=["first", "middle", "each its own"])
@pytest.mark.parametrize("predicts", ["eps", "x_0", "v", "velocity", "score"])
def test_an_exact_network_gives_back_x_0_and_eps(predicts, row, x64):
    x_0, eps, x_t, level = drawn(row)
    alpha, sigma = process.expand(level.alpha, x_0), process.expand(level.sigma, x_0)
    known = {"eps": eps, "x_0": x_0, "v": alpha * eps - sigma * x_0, "velocity": eps - x_0, "score": -eps / sigma}
    output = known[predicts]
    got = denoiser.make_denoiser(lambda x, condition: output, predicts=predicts)(x_t, level)
    np.testing.assert_allclose(got.x_0, x_0, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got.eps, eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("predicts", ["eps", "x_0", "v", "velocity", "score"])
def test_prediction_explains_x_t(predicts, precision):
    """x_t = alpha x_0 + sigma eps holds for any output, an untrained network's too."""
    _, _, x_t, level = drawn(400)
    got = denoiser.make_denoiser(lambda x, condition: jnp.tanh(x), predicts=predicts)(x_t, level)
    np.testing.assert_allclose(process.diffuse(got.x_0, level, got.eps), x_t, atol=precision * 10)


def test_the_network_is_told_the_condition_of_each_image():
    told = []
    _, _, x_t, level = drawn(np.array([1, 300, 990]))
    denoiser.make_denoiser(lambda x, condition: told.append(condition) or x, predicts="eps")(x_t, level)
    np.testing.assert_array_equal(told[0], [0, 299, 989])


def test_a_scalar_level_is_told_to_every_image():
    told = []
    _, _, x_t, level = drawn(7)
    denoiser.make_denoiser(lambda x, condition: told.append(condition) or x, predicts="eps")(x_t, level)
    np.testing.assert_array_equal(told[0], [6, 6, 6])


def test_an_unknown_parameterization_lists_the_known_ones():
    _, _, x_t, level = drawn(7)
    with pytest.raises(ValueError, match="predicts = 'epsilon' is unknown; known: eps, x_0, v, velocity, score"):
        denoiser.make_denoiser(lambda x, condition: x, predicts="epsilon")(x_t, level)


def test_an_output_of_another_shape_is_refused():
    _, _, x_t, level = drawn(7)
    for learned_variance, expected in ((False, "2"), (True, "4")):
        denoise = denoiser.make_denoiser(lambda x, condition: x[..., :1], predicts="eps", learned_variance=learned_variance)
        with pytest.raises(ValueError, match=rf"output \[3, 4, 5, 1\] is not allowed; .* must be \[3, 4, 5, {expected}\]"):
            denoise(x_t, level)


def test_clipping_leaves_x_0_in_range_and_still_explains_x_t(precision):
    _, _, x_t, level = drawn(600)
    denoise = denoiser.clip_x_0(denoiser.make_denoiser(lambda x, condition: 0 * x, predicts="eps"))
    got = denoise(x_t, level)
    assert np.max(np.abs(got.x_0)) == 1
    np.testing.assert_allclose(process.diffuse(got.x_0, level, got.eps), x_t, atol=precision * 10)


def test_clipping_does_nothing_inside_the_range(x64):
    x_0, _, x_t, level = drawn(600)
    inside = denoiser.make_denoiser(lambda x, condition: jnp.clip(x_0, -1, 1), predicts="x_0")
    np.testing.assert_allclose(denoiser.clip_x_0(inside)(x_t, level).eps, inside(x_t, level).eps, rtol=1e-9)
