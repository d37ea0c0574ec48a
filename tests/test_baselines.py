"""The models of examples/baselines.py: their densities are what they say, and one loop trains them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import baselines

DATA = np.random.default_rng(0).normal([0.5, -1.0], [0.3, 0.6], (500, 2)).astype(np.float32)


@pytest.mark.slow
def test_the_density_of_a_trained_flow_integrates_to_one_and_is_that_of_what_it_draws():
    flow = baselines.flow(2, width=8, num_couplings=3)
    params = baselines.train(flow, DATA, num_steps=800, batch_size=32)
    axis = np.linspace(-6, 6, 241)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    mass = np.exp(np.asarray(jax.jit(flow.log_density)(params, jax.random.key(0), grid), np.float64)) * 0.05**2
    assert np.sum(mass) == pytest.approx(1, abs=2e-3)
    drawn, mean = np.asarray(flow.sample(params, jax.random.key(1), 20_000)), mass @ grid
    np.testing.assert_allclose(np.mean(drawn, axis=0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), (grid - mean).T * mass @ (grid - mean), atol=0.03)
    np.testing.assert_allclose(mean, [0.5, -1.0], atol=0.2)  # it began at 0


def test_the_bound_of_a_vae_is_below_a_known_density_by_the_divergence_of_its_encoder():
    """A decoder that says nothing of z: p(x) = N(0, 1) and p(z | x) = N(0, 1), while q(z | x) = N(0.7, 1)."""
    vae = baselines.vae(1, width=2, num_latents=1, num_draws=1000)
    params = jax.tree.map(jnp.zeros_like, jax.eval_shape(vae.init, jax.random.key(0)))
    params["encoder"]["params"]["Dense_2"]["bias"] = jnp.array([0.7, 0.0])
    x, log_p = np.full((20_000, 1), 1.3), -0.5 * (1.3**2 + math.log(2 * math.pi))
    assert -jax.jit(vae.loss)(params, jax.random.key(0), x) == pytest.approx(log_p - 0.7**2 / 2, abs=0.02)
    assert np.mean(jax.jit(vae.log_density)(params, jax.random.key(1), x[:50])) == pytest.approx(log_p, abs=0.02)


@pytest.mark.slow
def test_a_gan_learns_where_the_data_are():
    gan = baselines.gan(2, width=16, num_latents=2)
    params = baselines.train(gan, DATA, num_steps=600, batch_size=32)
    drawn = np.asarray(gan.sample(params, jax.random.key(1), 1000))
    np.testing.assert_allclose(np.mean(drawn, axis=0), [0.5, -1.0], atol=0.2)
