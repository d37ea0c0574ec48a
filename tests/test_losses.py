"""L_simple: zero for a perfect network, and of known size for a silent one."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from diffusion_jax import denoiser, losses, process, schedules
from diffusion_jax.compose import choices

LEVELS = oracles.rows_of(schedules.cosine(1000))
PREDICTS = pytest.mark.parametrize("predicts", ["eps", "x_0", "v"])


def noise(x_0):
    return jax.random.normal(jax.random.key(0), x_0.shape)


def loss_of(network, predicts, x_0, t):
    denoise = denoiser.make_denoiser(network, choices.PARAMETERIZATIONS[predicts])
    return losses.simple()(denoise, x_0, process.rows(LEVELS, t), noise(x_0))[0]


@PREDICTS
def test_a_perfect_network_has_no_loss(predicts):
    """Data that is one image: x_t tells the noise, so the best network makes no error."""
    x_0 = jnp.full((3, 4, 4, 1), 0.25)
    t = np.array([1, 400, 999])
    level = process.rows(LEVELS, t)
    alpha, sigma = process.expand(level.alpha, x_0), process.expand(level.sigma, x_0)

    def network(x_t, c_noise):
        eps = (x_t - alpha * x_0) / sigma
        return {"eps": eps, "x_0": x_0, "v": alpha * eps - sigma * x_0}[predicts]

    np.testing.assert_allclose(loss_of(network, predicts, x_0, t), 0, atol=1e-6)


@PREDICTS
def test_a_silent_network_pays_the_square_of_its_target(predicts):
    """E eps^2 = 1, x_0^2 = 0.25, E v^2 = alpha^2 + sigma^2 x_0^2; 65,536 values an image, so 4 standard errors are 0.022."""
    x_0 = jnp.full((3, 256, 256, 1), 0.5)
    t = np.array([10, 500, 990])
    level = process.rows(LEVELS, t)
    expected = {"eps": np.ones(3), "x_0": np.full(3, 0.25), "v": level.alpha**2 + 0.25 * level.sigma**2}[predicts]
    np.testing.assert_allclose(loss_of(lambda x_t, c_noise: 0 * x_t, predicts, x_0, t), expected, atol=0.023)


def test_each_image_has_its_own_loss():
    x_0 = jnp.zeros((2, 4, 4, 1))
    wrong = jnp.array([0.0, 2.0]).reshape(2, 1, 1, 1)
    got = loss_of(lambda x_t, c_noise: wrong + 0 * x_t, "x_0", x_0, np.array([300, 300]))
    np.testing.assert_allclose(got, [0, 4], atol=1e-5)


WEIGHTINGS = {
    "min_snr": (losses.min_snr, lambda snr: np.minimum(snr, 5)),
    "p2": (losses.p2, lambda snr: snr / (1 + snr)),
    "truncated_snr": (losses.truncated_snr, lambda snr: np.maximum(snr, 1)),
}


@pytest.mark.parametrize("predicts", ["eps", "x_0", "v", "velocity", "score"])
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_weighting_is_the_weight_of_the_error_of_x_0_whatever_is_predicted(name, predicts):
    """A network that is wrong by 0.1 in x_0, and says so in its own terms, pays 0.01 times the weight."""
    x_0 = jnp.full((3, 4, 4, 1), 0.25)
    t = np.array([50, 500, 900])
    level = process.rows(LEVELS, t)
    weighting, expected = WEIGHTINGS[name]

    def network(x_t, c_noise):
        alpha, sigma = process.expand(level.alpha, x_0), process.expand(level.sigma, x_0)
        a, b = choices.PARAMETERIZATIONS[predicts].coefficients(level)
        wrong = x_0 + 0.1
        return process.expand(a, x_0) * wrong + process.expand(b, x_0) * (x_t - alpha * wrong) / sigma

    denoise = denoiser.make_denoiser(network, choices.PARAMETERIZATIONS[predicts])
    got = losses.simple(weighting=weighting)(denoise, x_0, level, noise(x_0))[0]
    snr = np.float64(level.alpha) ** 2 / np.float64(level.sigma) ** 2
    np.testing.assert_allclose(got, 0.01 * expected(snr), rtol=2e-3)


def wrong_by(of_x_0, of_variance):
    """Returns a denoiser whose x_0 and variance output are off by two numbers."""

    def denoise(x_t, level):
        x_0 = jnp.full(x_t.shape, 0.25 + of_x_0)
        alpha, sigma = process.expand(level.alpha, x_t), process.expand(level.sigma, x_t)
        coefficients = denoiser.EPS.coefficients(level)
        return denoiser.Prediction(x_0, (x_t - alpha * x_0) / sigma, coefficients, jnp.full(x_t.shape, of_variance))

    return denoise


def gradient_of(loss, of_x_0=0.1, of_variance=0.2):
    x_0, level = jnp.full((3, 4, 4, 1), 0.25), process.rows(LEVELS, np.array([1, 300, 900]))

    def total(of_x_0, of_variance):
        return jnp.sum(loss(wrong_by(of_x_0, of_variance), x_0, level, noise(x_0))[0])

    return jax.grad(total, argnums=(0, 1))(of_x_0, of_variance)


def test_in_the_hybrid_loss_the_bound_moves_the_variance_alone():
    of_simple = gradient_of(losses.simple())
    of_bound = gradient_of(losses.vlb(levels=LEVELS, variance="learned_range"))
    of_hybrid = gradient_of(losses.hybrid(levels=LEVELS))
    assert of_simple[1] == 0 and of_bound[0] != 0
    np.testing.assert_allclose(of_hybrid, [of_simple[0], 0.001 * of_bound[1]], rtol=1e-4)


def test_the_bound_is_least_for_the_posterior_itself():
    """Right mean, and the variance's output at -1, which is 'small': the posterior's own."""
    x_0, level = jnp.full((2, 4, 4, 1), 0.25), process.rows(LEVELS, np.array([300, 900]))

    def bits(of_x_0, of_variance):
        loss = losses.vlb(levels=LEVELS, variance="learned_range")
        return np.asarray(loss(wrong_by(of_x_0, of_variance), x_0, level, noise(x_0))[0])

    np.testing.assert_allclose(bits(0.0, -1.0), 0, atol=1e-3)
    assert np.all(bits(0.5, -1.0) > 1e-3) and np.all(bits(0.0, 0.0) > 0)


def test_a_prediction_that_no_network_made_has_no_loss():
    x_0 = jnp.zeros((1, 4, 4, 1))
    with pytest.raises(ValueError, match="this loss needs the predictions of a network; use denoiser.make_denoiser"):
        losses.simple()(oracles.gaussian(), x_0, process.rows(LEVELS, [5]), noise(x_0))


def test_a_classifier_that_knows_nothing_pays_log_k_and_one_that_is_sure_pays_nothing():
    x_0, label = jnp.zeros((3, 4, 4, 1)), jnp.arange(3)
    level = process.rows(LEVELS, np.array([1, 400, 999]))
    for logits, expected in ((jnp.zeros(10), np.log(10)), (100 * jnp.eye(10)[label], 0)):
        log_prob = denoiser.make_log_prob(
            lambda x_t, c_noise, logits=logits: jax.nn.log_softmax(jnp.broadcast_to(logits, (3, 10)))[label, label]
        )
        got, _ = losses.cross_entropy()(log_prob, x_0, level, noise(x_0))
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_a_classifier_sees_variance_1_in_processes_that_explode_and_x_t_in_those_that_preserve_it():
    """Its log p is the square of its input here, so that the gradient in x_t is 2 x_t / (alpha^2 + sigma^2)."""
    x_t = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    log_prob = denoiser.make_log_prob(lambda x, c_noise: jnp.sum(x**2, axis=(1, 2, 3)))
    gradient = jax.grad(lambda x_t, level: jnp.sum(log_prob(x_t, level)))
    preserving, exploding = process.rows(LEVELS, 500), process.ve().level(7.0)
    np.testing.assert_allclose(gradient(x_t, preserving), 2 * x_t, rtol=1e-6)
    np.testing.assert_allclose(gradient(x_t, exploding), 2 * x_t / 50, rtol=1e-6)
