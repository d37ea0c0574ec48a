"""The probability flow's density, where it is known: Gaussian and mixture data with their exact denoisers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import recorded
import scipy.special
import scipy.stats
from test_goldens_samplers import nhwc

from diffusion_jax import likelihood, process, schedules
from diffusion_jax.denoiser import Prediction

PROCESSES = {
    "chain": process.chain(schedules.linear(1000)),
    "sub_vp": process.sub_vp(),
    "vp": process.vp(),
    "ve": process.ve(),
    "rectified flow": process.rectified_flow(),
}
SHAPE = (4, 6, 6, 1)


def measured(denoise, x, *, of="chain", probe="rademacher", num_probes=1, **options):
    """Returns the density at the process's first level, and that level."""
    key = jax.random.key(1)
    draw = {"rademacher": jax.random.rademacher, "normal": jax.random.normal}[probe]
    found = likelihood.log_density(
        denoise,
        x,
        PROCESSES[of],
        probes=draw(key, (num_probes, *x.shape), x.dtype),
        **options,
    )
    return found, PROCESSES[of].level(np.float64(PROCESSES[of].first))


def bits(log_density):
    return likelihood.bits_per_dim(log_density, math.prod(SHAPE[1:]))


@pytest.mark.parametrize("precision", [pytest.param("float32", marks=pytest.mark.slow), "float64"], indirect=True)
@pytest.mark.parametrize("of", PROCESSES)
def test_the_density_of_gaussian_data_is_that_which_its_linear_flow_carries(of, precision):
    """The flow keeps (x - alpha mean) / std of the marginal, and so the density is the prior's, scaled."""
    x = oracles.MEAN + oracles.STD * jax.random.normal(jax.random.key(0), SHAPE)
    found, first = measured(oracles.gaussian(), x, of=of, tolerance=1e-6)
    last = PROCESSES[of].level(np.float64(PROCESSES[of].last))
    std, std_T = (np.hypot(np.float64(level.alpha) * oracles.STD, level.sigma) for level in (first, last))
    x_T = last.alpha * oracles.MEAN + std_T / std * (np.float64(x) - first.alpha * oracles.MEAN)
    exact = (scipy.stats.norm(0, last.sigma).logpdf(x_T) + np.log(std_T / std)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(found.x_T, x_T, rtol=1e-4, atol=1e-4 * last.sigma)
    np.testing.assert_allclose(bits(found.log_density), bits(exact), atol=1e-4)
    assert bool(jnp.all(found.reached_end))


def test_the_density_of_gaussian_data_is_within_a_thousandth_of_a_bit():
    """Of the true one: the prior leaves out what the noisiest level of the chain still shows of the data."""
    x = oracles.MEAN + oracles.STD * jax.random.normal(jax.random.key(0), SHAPE)
    found, first = measured(oracles.gaussian(), x)
    std = np.sqrt(first.alpha**2 * oracles.STD**2 + first.sigma**2)
    exact = scipy.stats.norm(first.alpha * oracles.MEAN, std).logpdf(np.float64(x)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(bits(found.log_density), bits(exact), atol=1e-3)


def test_the_density_of_a_mixture_is_within_a_thousandth_of_a_bit():
    rng = np.random.default_rng(0)
    which = rng.choice(2, SHAPE, p=oracles.WEIGHTS)
    x = jnp.asarray(oracles.MEANS[which] + oracles.STDS[which] * rng.standard_normal(SHAPE), jnp.float32)
    found, first = measured(oracles.mixture(), x)
    alpha, sigma = float(first.alpha), float(first.sigma)
    laws = [
        np.log(weight) + scipy.stats.norm(alpha * mean, np.hypot(alpha * std, sigma)).logpdf(np.float64(x))
        for weight, mean, std in zip(oracles.WEIGHTS, oracles.MEANS, oracles.STDS, strict=True)
    ]
    exact = scipy.special.logsumexp(laws, axis=0).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(bits(found.log_density), bits(exact), atol=1e-3)


def test_signs_are_exact_where_the_jacobian_is_diagonal_and_normal_probes_are_not():
    """Normal probes are right on average: their mean over many is close, and one alone is not."""
    x = oracles.MEAN + oracles.STD * jax.random.normal(jax.random.key(0), SHAPE)
    signs, one, many = (
        np.asarray(bits(measured(oracles.gaussian(), x, probe=probe, num_probes=num)[0].log_density))
        for probe, num in (("rademacher", 1), ("normal", 1), ("normal", 400))
    )
    assert np.max(np.abs(one - signs)) > 0.01
    assert np.max(np.abs(many - signs)) < np.max(np.abs(one - signs)) / 3


def test_a_tighter_tolerance_costs_more_and_gives_more(x64):
    x = oracles.MEAN + oracles.STD * jax.random.normal(jax.random.key(0), SHAPE)
    loose, tight, reference = (measured(oracles.mixture(), x, tolerance=tolerance)[0] for tolerance in (1e-3, 1e-6, 1e-10))
    errors = [np.max(np.abs(bits(each.log_density) - bits(reference.log_density))) for each in (loose, tight)]
    assert errors[1] < errors[0] / 10
    assert np.all(loose.num_evaluations < tight.num_evaluations)


def test_dequantised_values_fill_their_bins_and_the_offset_is_their_width():
    """Uniform data: every byte as likely as any other, 8 bits."""
    x_0 = jnp.arange(256) / 127.5 - 1
    low, high = (likelihood.dequantise(x_0, jnp.full(256, u)) for u in (0.0, 1.0))
    np.testing.assert_allclose(low[1:], high[:-1], atol=1e-6)
    log_density_of_uniform = jnp.full(1, -math.log(256 / 127.5))
    assert float(likelihood.bits_per_dim(log_density_of_uniform, 1)[0]) == pytest.approx(8, abs=1e-6)


def test_real_numbers_have_a_differential_entropy_and_a_trace_that_is_exact():
    assert float(likelihood.bits_per_dim(jnp.full(1, -math.log(4.0)), 2, width=1.0)[0]) == pytest.approx(1)
    jacobian, probes = np.random.default_rng(0).normal(size=(6, 6)), likelihood.basis_probes((3, 2), jnp.float32)
    flat = np.asarray(probes).reshape(6, 6)
    assert probes.shape == (6, 3, 2)
    assert np.mean([v @ jacobian @ v for v in flat]) == pytest.approx(np.trace(jacobian), rel=1e-5)


G5 = recorded.load("g5_score_sde")


def full_covariance(x_t, level):
    """Returns the exact prediction for data N(0, Sigma), Sigma over the values of an image in the order C, H, W."""
    flat = x_t.transpose(0, 3, 1, 2).reshape(len(x_t), -1)
    alpha, sigma = level.alpha[:, None, None], level.sigma[:, None, None]
    variance = alpha**2 * G5["lik.Sigma"] + sigma**2 * jnp.eye(flat.shape[1])
    eps = level.sigma[:, None] * jnp.linalg.solve(variance, flat[..., None])[..., 0]
    eps = nhwc(eps.reshape(len(x_t), x_t.shape[3], *x_t.shape[1:3]))
    x_0 = (x_t - process.expand(level.sigma, x_t) * eps) / process.expand(level.alpha, x_t)
    return Prediction(x_0, eps)


@pytest.mark.parametrize("probe", ["Rademacher", "Gaussian"])
@pytest.mark.parametrize("law", ["gauss", "full"])
@pytest.mark.parametrize("sde", ["vp", "subvp"])
def test_the_density_is_score_sdes(sde, law, probe, x64):
    """The same probes, tighter steps; theirs are of both images together, to 1e-5."""
    of = {"vp": process.vp(), "subvp": process.sub_vp()}[sde]._replace(first=1e-5)
    probes = {"Rademacher": 2 * G5["lik.eps_rademacher01"] - 1.0, "Gaussian": G5["lik.eps_gaussian"]}[probe]
    found = likelihood.log_density(
        {"gauss": oracles.gaussian(), "full": full_covariance}[law],
        nhwc(G5["lik.data"]),
        of,
        probes=nhwc(probes)[None],
        tolerance=1e-7,
    )
    offset = np.log2(127.5) - 7  # theirs is that of data in [-1, 1] with bins of 1 / 128
    got = likelihood.bits_per_dim(found.log_density, 12) - offset
    np.testing.assert_allclose(got, G5[f"lik.{sde}.{law}.{probe}.bpd"], atol=2e-3)
    np.testing.assert_allclose(found.x_T, nhwc(G5[f"lik.{sde}.{law}.{probe}.z"]), atol=2e-3)
