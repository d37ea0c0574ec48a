import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax import autoencoding, grids, process, samplers
from diffusion_jax.autoencoding import Coder
from diffusion_jax.denoiser import Prediction
from diffusion_jax.process import Gaussian

LEVEL = dj.process.vp().level(jnp.zeros(3))
X_0 = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
EPS = jax.random.normal(jax.random.key(1), X_0.shape)


def coder_of(mean, log_variance, *, decode=lambda z: jnp.zeros((len(z), 4, 4, 2)) + z.mean()):
    return Coder(lambda x: Gaussian(mean, log_variance), decode)


def test_a_latent_is_drawn_with_the_first_of_epss_values():
    seen = []
    law = jnp.full((3, 2, 2, 3), 0.5), jnp.full((3, 2, 2, 3), 2 * jnp.log(3.0))
    autoencoding.reconstruction()(coder_of(*law, decode=lambda z: seen.append(z) or X_0), X_0, LEVEL, EPS)
    np.testing.assert_allclose(seen[0].reshape(3, 12), 0.5 + 3 * EPS.reshape(3, 32)[:, :12], rtol=1e-6)


def test_the_terms_are_those_of_closed_forms():
    """Errors of 0.2 everywhere; a latent N(1, e) in each of 12 places, whose KL is (1 + e - 1 - 1) / 2."""
    law = jnp.ones((3, 2, 2, 3)), jnp.ones((3, 2, 2, 3))
    loss = autoencoding.reconstruction(kl_weight=0.1)
    losses, terms = loss(coder_of(*law, decode=lambda z: X_0 + 0.2), X_0, LEVEL, EPS)
    kl = 12 * (np.e - 1) / 2 / 32
    np.testing.assert_allclose(terms["l1"], 0.2, rtol=1e-5)
    np.testing.assert_allclose(terms["psnr"], 20, rtol=1e-5)
    np.testing.assert_allclose(terms["kl"], kl, rtol=1e-5)
    np.testing.assert_allclose(losses, 0.2 + 0.1 * kl, rtol=1e-5)


def test_of_a_point_the_divergence_is_that_of_the_mean_and_has_a_finite_gradient():
    def mean_loss(mean):
        coder = coder_of(mean, jnp.full_like(mean, -jnp.inf))
        losses, terms = autoencoding.reconstruction(kl_weight=1.0)(coder, X_0, LEVEL, EPS)
        return jnp.mean(losses), terms["kl"]

    gradient, kl = jax.grad(mean_loss, has_aux=True)(jnp.full((3, 2, 2, 3), 2.0))
    np.testing.assert_allclose(kl, 12 * 2 / 32, rtol=1e-6)
    assert np.all(np.isfinite(gradient))


def test_the_perceptual_distance_sees_directions_of_features_alone():
    def features(x):
        return [x, 3 * x]

    x, y = X_0, jnp.flip(X_0, axis=-1)
    np.testing.assert_allclose(autoencoding.perceptual_distance(features, x, 5 * x), 0, atol=1e-5)
    squares = 2 - 2 * jnp.sum(x * y, axis=-1) / jnp.sum(x**2, axis=-1)  # of two vectors of length 1
    found = autoencoding.perceptual_distance(features, x, y)
    np.testing.assert_allclose(found, 2 * jnp.mean(squares, axis=(1, 2)), rtol=1e-4)


@pytest.mark.parametrize("predicted", ["edges", "colours"])
def test_the_perceptual_term_is_added_with_its_weight(predicted):
    features = {"edges": lambda x: [x[:, 1:] - x[:, :-1]], "colours": lambda x: [x]}[predicted]
    coder = coder_of(jnp.ones((3, 1, 1, 1)), jnp.zeros((3, 1, 1, 1)), decode=lambda z: -X_0)
    of = [
        autoencoding.reconstruction(kl_weight=0, perceptual_weight=w, features=features)(coder, X_0, LEVEL, EPS)
        for w in (0.0, 0.25)
    ]
    np.testing.assert_allclose(of[1][0] - of[0][0], 0.25 * 4, rtol=1e-4)  # opposite vectors: |2 u|^2
    assert "perceptual" not in of[0][1]


def errors_of(decode, x=X_0, turns=(0, 1, 3)):
    return autoencoding.equivariance_error(decode, x, x, jnp.array(turns))


def test_of_an_equivariant_codec_the_error_of_small_turned_images_is_the_plain_one():
    """Latents are the image, and decoding adds 0.2; where it adds something of the place, a turn is seen."""
    np.testing.assert_allclose(errors_of(lambda z: z + 0.2), 0.2, rtol=1e-5)
    slope = jnp.arange(2.0)[:, None, None]
    np.testing.assert_allclose(errors_of(lambda z: z + slope), 0.5, rtol=1e-5)

    def shifted(z):  # to the right: equivariant to nothing, but the latents say how the image was turned
        return jnp.roll(z, 1, axis=2)

    small = X_0.reshape(3, 2, 2, 2, 2, 2).mean((2, 4))
    across, down = (jnp.mean(jnp.abs(small - jnp.roll(small, 1, axis)), (1, 2, 3)) for axis in (2, 1))
    np.testing.assert_allclose(errors_of(shifted), jnp.stack([across[0], down[1], down[2]]), rtol=1e-5)


def test_images_that_are_no_squares_are_turned_by_half_a_circle_alone():
    x = X_0[:, :, :2]
    seen = []
    errors_of(lambda z: seen.append(z) or z, x, (1, 2, 3))
    small = x.reshape(3, 2, 2, 1, 2, 2).mean((2, 4))
    np.testing.assert_allclose(seen[0], jnp.stack([small[0], small[1, ::-1, ::-1], small[2, ::-1, ::-1]]), rtol=1e-6)


def test_the_equivariance_term_is_added_with_its_weight_in_all_turns():
    x, seen = jnp.tile(X_0, (20, 1, 1, 1)), []
    eps = jax.random.normal(jax.random.key(2), x.shape)
    coder = Coder(lambda x: Gaussian(x, jnp.full_like(x, -jnp.inf)), lambda z: seen.append(z) or z + 0.2)
    losses, terms = autoencoding.reconstruction(kl_weight=0, equivariance_weight=0.5)(coder, x, LEVEL, eps)
    np.testing.assert_allclose(terms["equivariance"], 0.2, rtol=1e-5)
    np.testing.assert_allclose(losses, 0.3, rtol=1e-5)
    assert len(np.unique(np.round(seen[1][::3], 4), axis=0)) == 4  # of one image


def test_sampling_latents_of_a_linear_autoencoder_draws_the_law_of_the_data(x64):
    """Gaussian data on a plane in 5 dimensions, whose principal axes are the latents: the flow stretches noise."""
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(5, 2)))
    centre, std = rng.normal(size=5), np.array([2.0, 0.5])
    of = process.vp()

    def denoise(z_t, level):
        """The posterior mean of a Gaussian latent."""
        alpha, sigma = process.expand(level.alpha, z_t), process.expand(level.sigma, z_t)
        total = alpha**2 * std**2 + sigma**2
        z_0 = alpha * std**2 / total * z_t
        return Prediction(z_0, (z_t - alpha * z_0) / sigma)

    grid = of.level(grids.uniform(of, 2000))
    noise = jax.random.normal(jax.random.key(0), (50, 2), jnp.float64)
    z_T = process.prior(process.rows(grid, 0), noise)
    latents = samplers.sample(denoise, samplers.ddim(), z_T, grid, jax.random.split(jax.random.key(1), 50)).x
    alpha, sigma = (np.float64(column[0]) for column in (grid.alpha, grid.sigma))
    stretched = z_T * std / np.sqrt(alpha**2 * std**2 + sigma**2)  # where the flow of a Gaussian leads
    np.testing.assert_allclose(latents @ axes.T + centre, stretched @ axes.T + centre, atol=5e-3)
