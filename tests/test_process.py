"""The two-level posterior against closed forms in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax import process, schedules

SCHEDULES = {
    "linear": schedules.linear(1000),
    "cosine": schedules.cosine(1000),
    "cosine4000": schedules.cosine(4000),
}


def ho_posterior(betas):
    """Ho et al.'s eq. 6-7 in terms of betas: coefficients of x_0 and x_t, and the variance, at t = 1 .. T."""
    alphas = 1 - betas
    alpha_bar = np.cumprod(alphas)
    before = np.concatenate([[1.0], alpha_bar[:-1]])
    of_x_0 = np.sqrt(before) * betas / (1 - alpha_bar)
    of_x_t = np.sqrt(alphas) * (1 - before) / (1 - alpha_bar)
    return of_x_0, of_x_t, (1 - before) / (1 - alpha_bar) * betas


def neighbours(betas):
    levels = oracles.rows_of(betas)
    rows = np.arange(1, len(betas) + 1)
    return process.rows(levels, rows), process.rows(levels, rows - 1)


def images_of(values):
    return jnp.broadcast_to(jnp.asarray(values, jax.dtypes.canonicalize_dtype(np.float64)), (values.shape[0], 1, 1, 1))


@pytest.mark.parametrize("name", SCHEDULES)
def test_posterior_of_neighbours_is_ho_et_als(name, precision):
    betas = SCHEDULES[name]
    t, s = neighbours(betas)
    one, zero = np.ones((len(betas), 1, 1, 1)), np.zeros((len(betas), 1, 1, 1))
    of_x_0, of_x_t, variance = ho_posterior(betas)
    # In float32 the 1e-5; in float64 what 1 - alpha_bar loses in the formula that this is compared with.
    rtol = 1e-5 if precision > 1e-9 else 1e-10
    got = process.posterior(images_of(one), images_of(zero), t, s)
    np.testing.assert_allclose(np.ravel(got.mean), of_x_0, rtol=rtol)
    np.testing.assert_allclose(np.exp(got.log_variance), variance, rtol=rtol)
    np.testing.assert_allclose(np.ravel(process.posterior(images_of(zero), images_of(one), t, s).mean), of_x_t, rtol=rtol)


@pytest.mark.parametrize("name", SCHEDULES)
def test_large_variance_of_neighbours_is_beta(name, precision):
    t, s = neighbours(SCHEDULES[name])
    rtol = 1e-5 if precision > 1e-9 else 1e-10
    np.testing.assert_allclose(np.exp(process.log_variance(t, s, "large")), SCHEDULES[name], rtol=rtol)


@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    rows=st.tuples(st.integers(1, 1000), st.integers(0, 999)).filter(lambda r: r[1] < r[0]),
)
@settings(max_examples=50, deadline=None)
def test_posterior_of_any_two_levels_keeps_the_marginal(name, rows):
    """If x_t ~ q(x_t | x_0), then a draw from q(x_s | x_t, x_0) is one from q(x_s | x_0)."""
    with jax.enable_x64(True):
        levels = oracles.rows_of(SCHEDULES[name])
        t, s = process.rows(levels, rows[0]), process.rows(levels, rows[1])
        one, zero = jnp.ones((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1))
        of_x_0, of_x_t = process.posterior(one, zero, t, s), process.posterior(zero, one, t, s)
        np.testing.assert_allclose(of_x_0.mean + of_x_t.mean * t.alpha, s.alpha * one, rtol=1e-9)
        variance = of_x_t.mean**2 * t.sigma**2 + jnp.exp(of_x_0.log_variance)
        np.testing.assert_allclose(variance, s.sigma**2 * one, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", SCHEDULES)
def test_strided_coefficients_in_float32_are_within_1e5_of_float64(name):
    """Means and variances of 200 pairs of levels, any distance apart."""

    def coefficients():
        levels = oracles.rows_of(SCHEDULES[name])
        pairs = np.sort(np.random.default_rng(0).choice(len(SCHEDULES[name]), (200, 2), replace=False), axis=1) + 1
        pairs[:20, 0] = 0
        s, t = process.rows(levels, pairs[:, 0]), process.rows(levels, pairs[:, 1])
        one, zero = images_of(np.ones((200, 1, 1, 1))), images_of(np.zeros((200, 1, 1, 1)))
        variances = [np.exp(process.log_variance(t, s, kind)) for kind in ("small", "large")]
        return [process.posterior(one, zero, t, s).mean, process.posterior(zero, one, t, s).mean, *variances]

    coarse = coefficients()
    with jax.enable_x64(True):
        exact = coefficients()
    for got, expected in zip(coarse, exact, strict=True):
        assert expected.dtype == np.float64
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_level_zero_gives_x_0_exactly(precision):
    levels = oracles.rows_of(SCHEDULES["linear"])
    x_0, x_t = jax.random.normal(jax.random.key(0), (2, 7, 4, 4, 3))
    for row in (1, 500, 1000):
        got = process.posterior(x_0, x_t, process.rows(levels, row), process.rows(levels, 0))
        np.testing.assert_array_equal(got.mean, x_0)
        assert np.exp(got.log_variance) == 0


def test_zero_terminal_snr_needs_signal_before_T():
    for betas, sentence in ((schedules.constant(10**5), "where nothing is left before T"), ([0.1], "two betas or more")):
        with pytest.raises(ValueError, match=f"zero_terminal_snr .*{sentence}"):
            schedules.zero_terminal_snr(np.array(betas))


def test_zero_terminal_snr_is_finite(precision):
    levels = oracles.rows_of(np.append(schedules.linear(999), 1.0))
    assert levels.alpha[-1] == 0 and levels.log_snr[-1] == -np.inf
    x_0, x_t = jax.random.normal(jax.random.key(0), (2, 7, 4, 4, 3))
    t, s = process.rows(levels, 1000), process.rows(levels, 999)
    got = process.posterior(x_0, x_t, t, s)
    np.testing.assert_allclose(got.mean, s.alpha * x_0, rtol=precision)
    np.testing.assert_allclose(got.log_variance, 2 * np.log(s.sigma), rtol=1e-5)


def test_log_snr_is_a_pair_because_one_float32_is_not_enough():
    """The same differences from one float32 column alone are wrong by far more than 1e-5."""
    betas = SCHEDULES["linear"]
    t, s = neighbours(betas)
    alone = -np.expm1(np.asarray(t.log_snr[1:] - s.log_snr[1:], np.float64))
    paired = -np.expm1(np.asarray(process.log_snr_gap(t, s)[1:], np.float64))
    alpha_bar = np.cumprod(1 - betas)
    exact = betas[1:] / (1 - alpha_bar[1:])
    assert np.max(np.abs(paired / exact - 1)) < 2e-6 < 1e-5 < np.max(np.abs(alone / exact - 1))


def test_diffuse_takes_one_level_for_all_or_one_for_each(precision):
    levels = oracles.rows_of(SCHEDULES["cosine"])
    x_0, eps = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))
    each = process.diffuse(x_0, process.rows(levels, np.array([5, 500, 5])), eps)
    for i, row in enumerate((5, 500, 5)):
        level = process.rows(levels, row)
        np.testing.assert_array_equal(process.diffuse(x_0, level, eps)[i], each[i])
        np.testing.assert_allclose(each[i], level.alpha * x_0[i] + level.sigma * eps[i], rtol=precision, atol=precision)


def test_c_noise_is_t_minus_one_by_default():
    assert oracles.rows_of(SCHEDULES["linear"]).c_noise[[1, 1000]].tolist() == [0, 999]
    given = oracles.rows_of(SCHEDULES["linear"], c_noise=np.linspace(0, 1, 1001))
    assert given.c_noise[1000] == 1


@pytest.mark.parametrize("beta", [0.0, -0.1, 1.1, np.nan])
def test_betas_outside_their_range_are_refused(beta):
    with pytest.raises(ValueError, match=r"betas must lie in \(0, 1\)"):
        oracles.rows_of(np.array([0.1, beta]))


@pytest.mark.parametrize("betas", [0.1, [], [[0.1, 0.2]]])
def test_betas_of_another_shape_are_refused(betas):
    with pytest.raises(ValueError, match=r"betas of \[.*\] are not allowed; they must be \[T\]"):
        oracles.rows_of(betas)


def test_c_noise_for_each_beta_is_one_too_few():
    with pytest.raises(ValueError, match=r"c_noise of \[2\] is not allowed; it must be \[3\], of the rows 0 to T"):
        oracles.rows_of([0.1, 0.2], c_noise=[0, 1])


def test_only_the_last_beta_may_be_one():
    with pytest.raises(ValueError, match="the last may be 1"):
        oracles.rows_of(np.array([0.1, 1.0, 0.1]))


@pytest.mark.parametrize("rows", [-1, 1001, np.array([3, 2000])])
def test_a_row_that_there_is_not_is_refused(rows):
    with pytest.raises(ValueError, match="are not all in levels 0 to 1000"):
        process.rows(oracles.rows_of(SCHEDULES["linear"]), rows)


@pytest.mark.parametrize("t", [3.5, -1.0, np.array([0.0, 2.5]), np.nan, jnp.array([1.0, 2.001])])
def test_a_chain_has_no_level_outside_its_times(t):
    """Whole t are rows, which are refused too; traced t cannot be."""
    with pytest.raises(ValueError, match=r"times .* to .* are not all in the chain's, 0 to 2\."):
        process.chain(np.array([0.1, 0.2])).level(t)
