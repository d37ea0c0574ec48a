"""Schedules and the coefficients that follow from them, against recorded reference implementations (g1)."""

import re

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import recorded

from diffusion_jax import process, schedules
from diffusion_jax.compose import choices

G1 = recorded.load("g1_schedules")

BETAS = {
    **{
        f"{name}_T{T}.": choices.SCHEDULES[name](T)
        for name in ("linear", "cosine")
        for T in (100, 1000, 4000)
        if (name, T) != ("cosine", 100)
    },
    "ho.quad_T1000_0.0001_0.02": schedules.scaled_linear(1000),
    "ho.linear_T1000_0.0001_0.02": schedules.linear(1000),
    "ho.warmup10_T1000_0.0001_0.02": choices.SCHEDULES["warmup10"](1000),
    "ho.warmup50_T1000_0.0001_0.02": choices.SCHEDULES["warmup50"](1000),
    "ho.const_T1000_0.0001_0.02": schedules.constant(1000),
    "ho.jsd_T1000": schedules.jsd(1000),
    "ho.jsd_T10": schedules.jsd(10),
    "ztsnr.linear_T1000.betas_in": schedules.linear(1000),
    "ztsnr.scaled_linear_T1000.betas_in": G1["ztsnr.scaled_linear_T1000.betas_in"],
    "ztsnr.linear_T1000.betas_out": schedules.zero_terminal_snr(G1["ztsnr.linear_T1000.betas_in"]),
    "ztsnr.scaled_linear_T1000.betas_out": schedules.zero_terminal_snr(G1["ztsnr.scaled_linear_T1000.betas_in"]),
    "diffusers.linear_T1000_0.0001_0.02.": schedules.linear(1000),
    "diffusers.scaled_linear_T1000_0.0001_0.02.": schedules.scaled_linear(1000),
    "diffusers.squaredcos_cap_v2_T1000_0.0001_0.02.": schedules.cosine(1000),
    "diffusers.sigmoid_T1000_0.0001_0.02.": schedules.sigmoid_beta(1000),
}


def derived(betas, field):
    """Returns a coefficient table of the one-step chain, from our levels and our posterior."""
    levels = oracles.rows_of(betas)
    rows = np.arange(1, len(betas) + 1)
    t, s = process.rows(levels, rows), process.rows(levels, rows - 1)
    one, zero = jnp.ones((len(betas), 1, 1, 1)), jnp.zeros((len(betas), 1, 1, 1))
    first = process.log_variance(process.rows(levels, 2), process.rows(levels, 1), "small")
    return {
        "betas": lambda: betas,
        "alphas_cumprod": lambda: t.alpha**2,
        "alphas_cumprod_prev": lambda: s.alpha**2,
        "alphas_cumprod_next": lambda: jnp.append(t.alpha[1:] ** 2, 0),
        "sqrt_alphas_cumprod": lambda: t.alpha,
        "sqrt_one_minus_alphas_cumprod": lambda: t.sigma,
        "log_one_minus_alphas_cumprod": lambda: 2 * jnp.log(t.sigma),
        "sqrt_recip_alphas_cumprod": lambda: 1 / t.alpha,
        "sqrt_recipm1_alphas_cumprod": lambda: t.sigma / t.alpha,
        "posterior_variance": lambda: jnp.exp(process.log_variance(t, s, "small")),
        "posterior_log_variance_clipped": lambda: jnp.maximum(process.log_variance(t, s, "small"), first),
        "posterior_mean_coef1": lambda: jnp.ravel(process.posterior(one, zero, t, s).mean),
        "posterior_mean_coef2": lambda: jnp.ravel(process.posterior(zero, one, t, s).mean),
    }[field]()


def find(key):
    """Returns (our betas, field) for a key."""
    plain = key.removesuffix("__f32")
    prefix = max((name for name in BETAS if plain.startswith(name)), key=len)
    return BETAS[prefix], plain[len(prefix) :] or "betas"


FLOAT64 = [key for key in G1 if not key.endswith("__f32") and G1[key].dtype == np.float64]
FLOAT32 = [key for key in G1 if key not in FLOAT64]


@pytest.mark.parametrize("key", FLOAT64)
def test_float64(key, x64):
    """To the references' 1e-12; what is 1 - alpha_bar there loses 1e-16 / beta_1, up to 2e-11 for 4000 steps."""
    betas, field = find(key)
    coarse = re.search("ztsnr|posterior|sqrt_one|log_one|recipm1", key)
    np.testing.assert_allclose(derived(betas, field), G1[key], rtol=1e-9 if coarse else 1e-12, atol=1e-15)


@pytest.mark.parametrize("key", FLOAT32)
def test_float32(key):
    """Ten times the distance of the references' own float32 from their float64: 5.5e-6 of the largest value."""
    betas, field = find(key)
    np.testing.assert_allclose(derived(betas, field), G1[key], rtol=5e-5, atol=5.5e-5 * np.max(G1[key]))


@pytest.mark.parametrize("name", ["linear_T1000", "cosine_T1000", "cosine_T4000"])
@pytest.mark.parametrize(
    "field", ["posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"]
)
def test_our_float32_is_within_1e5_of_float64(name, field):
    """Relative; of a logarithm that is 1e-5 absolute, since it is the variance that matters."""
    tolerance = {"rtol": 0, "atol": 1e-5} if "log" in field else {"rtol": 1e-5}
    np.testing.assert_allclose(derived(BETAS[f"{name}."], field), G1[f"{name}.{field}"], **tolerance)
