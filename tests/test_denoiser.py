"""Parameterizations: whatever a network predicts, the pair (x_0, eps) comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import denoiser, process, schedules

CHAIN = process.chain(schedules.cosine(1000))
PARAMETERIZATIONS = {
    "eps": denoiser.EPS,
    "x_0": denoiser.X_0,
    "v": denoiser.V,
    "velocity": denoiser.VELOCITY,
    "score": denoiser.SCORE,
}


def drawn(row):
    """Returns (x_0, eps, x_t, level) at a row of the chain, or at one row for each image."""
    level = CHAIN.level(row)
    x_0, eps = jax.random.normal(jax.random.key(1), (2, 3, 4, 5, 2))
    return x_0, eps, process.diffuse(x_0, level, eps), level


@pytest.mark.parametrize("row", [1, 500, np.array([1, 300, 990])], ids=["first", "middle", "each its own"])
@pytest.mark.parametrize("predicts", ["eps", "x_0", "v", "velocity", "score"])
def test_an_exact_network_gives_back_x_0_and_eps(predicts, row, x64):
    x_0, eps, x_t, level = drawn(row)
    alpha, sigma = process.expand(level.alpha, x_0), process.expand(level.sigma, x_0)
    known = {"eps": eps, "x_0": x_0, "v": alpha * eps - sigma * x_0, "velocity": eps - x_0, "score": -eps / sigma}
    output = known[predicts]
    got = denoiser.make_denoiser(lambda x, c_noise: output, PARAMETERIZATIONS[predicts])(x_t, level)
    np.testing.assert_allclose(got.x_0, x_0, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got.eps, eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("predicts", ["eps", "x_0", "v", "velocity", "score"])
def test_prediction_explains_x_t(predicts, precision):
    """x_t = alpha x_0 + sigma eps holds for any output, an untrained network's too."""
    _, _, x_t, level = drawn(400)
    got = denoiser.make_denoiser(lambda x, c_noise: jnp.tanh(x), PARAMETERIZATIONS[predicts])(x_t, level)
    np.testing.assert_allclose(process.diffuse(got.x_0, level, got.eps), x_t, atol=precision * 10)


def test_the_network_is_given_c_noise_of_each_image():
    seen = []
    _, _, x_t, level = drawn(np.array([1, 300, 990]))
    denoiser.make_denoiser(lambda x, c_noise: seen.append(c_noise) or x, denoiser.EPS)(x_t, level)
    np.testing.assert_array_equal(seen[0], [0, 299, 989])


def test_a_scalar_level_is_that_of_every_image():
    seen = []
    _, _, x_t, level = drawn(7)
    denoiser.make_denoiser(lambda x, c_noise: seen.append(c_noise) or x, denoiser.EPS)(x_t, level)
    np.testing.assert_array_equal(seen[0], [6, 6, 6])


def test_a_name_instead_of_a_parameterization_is_refused():
    with pytest.raises(ValueError, match="parameterization = 'eps' is not allowed; use denoiser.EPS"):
        denoiser.make_denoiser(lambda x, c_noise: x, "eps")


@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
def test_a_prediction_knows_what_its_network_was_asked_for(predicts, x64):
    """Output = a x_0 + b eps, for any output."""
    _, _, x_t, level = drawn(400)
    got = denoiser.make_denoiser(lambda x, c_noise: jnp.tanh(x), PARAMETERIZATIONS[predicts])(x_t, level)
    a, b = got.coefficients
    np.testing.assert_allclose(a * got.x_0 + b * got.eps, np.tanh(x_t), rtol=1e-9, atol=1e-9)


def test_edms_network_sees_an_input_of_unit_variance_and_c_in_comes_with_its_value():
    """For data of standard deviation sigma_data in a process with alpha = 1: c_in^2 (sigma_data^2 + sigma^2) = 1."""
    seen, level = [], process.ve().level(np.array([0.002, 1.0, 80.0]))
    x_t = jnp.ones((3, 4, 4, 1))
    denoiser.make_denoiser(lambda x, c_noise: seen.append(x) or x, denoiser.edm(sigma_data=0.7))(x_t, level)
    np.testing.assert_allclose(seen[0][:, 0, 0, 0] ** 2 * (0.49 + level.sigma**2), 1, rtol=1e-6)


def test_an_output_of_another_shape_is_refused():
    _, _, x_t, level = drawn(7)
    for learned_variance, expected in ((False, "2"), (True, "4")):
        denoise = denoiser.make_denoiser(lambda x, c_noise: x[..., :1], denoiser.EPS, learned_variance=learned_variance)
        with pytest.raises(ValueError, match=rf"output \[3, 4, 5, 1\] is not allowed; .* must be \[3, 4, 5, {expected}\]"):
            denoise(x_t, level)


def test_clipping_leaves_x_0_in_range_and_still_explains_x_t(precision):
    _, _, x_t, level = drawn(600)
    denoise = denoiser.clip_x_0(denoiser.make_denoiser(lambda x, c_noise: 0 * x, denoiser.EPS))
    got = denoise(x_t, level)
    assert np.max(np.abs(got.x_0)) == 1
    np.testing.assert_allclose(process.diffuse(got.x_0, level, got.eps), x_t, atol=precision * 10)


def test_clipping_does_nothing_inside_the_range(x64):
    x_0, _, x_t, level = drawn(600)
    inside = denoiser.make_denoiser(lambda x, c_noise: jnp.clip(x_0, -1, 1), denoiser.X_0)
    np.testing.assert_allclose(denoiser.clip_x_0(inside)(x_t, level).eps, inside(x_t, level).eps, rtol=1e-9)
