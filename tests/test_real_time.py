"""Processes in real-valued time against closed forms, their defining equations and their tables."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.integrate

from diffusion_jax import process, schedules

CHAIN = schedules.cosine(50)
SMOOTH = {"vp": process.vp(), "sub_vp": process.sub_vp(), "ve": process.ve(), "rectified flow": process.rectified_flow()}
TABLES = ["log_alpha", "log_snr"]


def interpolated(of="log_alpha"):
    return process.chain(CHAIN, interpolation=of)


def made(name):
    """Returns a process by name, or the chain with what is linear in t."""
    return SMOOTH[name] if name in SMOOTH else interpolated(name)


def inner_times(of, num=101):
    """Returns times from the first to just below the last, where a process may leave no signal."""
    return np.geomspace(of.first, 0.99 * of.last, num)


def log_snr(of, t):
    with jax.enable_x64(True):
        return of.level(t).log_snr


@pytest.mark.parametrize("name", SMOOTH)
def test_traced_functions_are_the_hosts(name, precision):
    """In float32 to 1e-5: log-SNRs up to 14 are rounded, and then doubled in the exponent."""
    of, tolerance = SMOOTH[name], {"rtol": 1e-5, "atol": 1e-5} if precision > 1e-9 else {"rtol": 1e-12, "atol": 1e-13}
    t = inner_times(of)
    traced, exact = jax.jit(of.level)(jnp.asarray(t)), of.level(t)
    for column in ("alpha", "sigma", "log_snr", "c_noise"):
        assert isinstance(getattr(exact, column), np.ndarray)
        np.testing.assert_allclose(getattr(traced, column), getattr(exact, column), **tolerance, err_msg=column)
    time = of.time(log_snr(of, t))
    assert isinstance(time, np.ndarray) and time.dtype == np.float64
    np.testing.assert_allclose(jax.jit(of.time)(jnp.asarray(log_snr(of, t))), time, **tolerance)


@pytest.mark.parametrize("name", [*SMOOTH, *TABLES])
def test_the_clock_reads_t_off_the_log_snr(name):
    """To what rounding of the log-SNR leaves: the flattest clock, the VP SDE's at 0.001, loses three digits."""
    of = made(name)
    t = inner_times(of)
    np.testing.assert_allclose(of.time(log_snr(of, t)), t, rtol=1e-10)
    assert np.all(np.diff(log_snr(of, t)) < 0)


@pytest.mark.parametrize("of", TABLES)
def test_a_chain_reads_its_clock_down_to_the_data(of):
    t, chain = np.array([0, 1e-3, 0.25, 0.9, 1]), interpolated(of)
    np.testing.assert_allclose(chain.time(log_snr(chain, t)), t, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize(("beta_min", "beta_max"), [(0.1, 20.0), (0.5, 5.0)])
def test_vp_solves_its_equation(beta_min, beta_max, x64):
    """dx = -beta x / 2 dt + sqrt(beta) dw, beta(t) linear: mean and variance by their own equations, to 1e-10."""

    def slope(t, moments):
        beta = beta_min + t * (beta_max - beta_min)
        return [-beta * moments[0] / 2, beta * (1 - moments[1])]

    t = np.linspace(0.01, 1, 21)
    found = scipy.integrate.solve_ivp(slope, (0, 1), [1.0, 0.0], t_eval=t, method="DOP853", rtol=1e-12, atol=1e-14)
    of = process.vp(beta_min=beta_min, beta_max=beta_max)
    np.testing.assert_allclose(of.level(t).alpha, found.y[0], rtol=1e-10)
    np.testing.assert_allclose(of.level(t).sigma ** 2, found.y[1], rtol=1e-10)


def test_sub_vp_solves_its_equation(x64):
    """g^2 = beta (1 - exp(-2 integral of beta)) instead of beta: the variance by its own equation, to 1e-9."""

    def slope(t, variance):
        beta, total = 0.1 + t * 19.9, 0.1 * t + 19.9 * t**2 / 2
        return beta * (-np.expm1(-2 * total) - variance)

    t = np.linspace(0.01, 1, 21)
    found = scipy.integrate.solve_ivp(slope, (0, 1), [0.0], t_eval=t, method="DOP853", rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(SMOOTH["sub_vp"].level(t).sigma ** 2, found.y[0], rtol=1e-9)
    np.testing.assert_array_equal(SMOOTH["sub_vp"].level(t).alpha, SMOOTH["vp"].level(t).alpha)


def test_vp_is_the_limit_of_ho_et_als_chain_with_the_same_c_noise(x64):
    """Four times the steps, a quarter of the difference; at T = 1000 c_noise goes from 0 to 999."""
    differences = []
    for num_steps in (1000, 4000):
        levels = oracles.rows_of(schedules.linear_rescaled(num_steps))
        t = np.arange(0.1, 1.01, 0.1)
        row = np.round(t * num_steps).astype(int)
        differences.append(np.max(np.abs(SMOOTH["vp"].level(t).alpha - levels.alpha[row])))
    assert differences[1] < 1e-3 and differences[0] / differences[1] == pytest.approx(4, abs=0.1)
    assert SMOOTH["vp"].level(1.0).c_noise == 999


def test_ve_has_all_of_the_signal_and_c_noise_is_a_quarter_of_log_sigma(x64):
    of, t = process.ve(sigma_min=0.01, sigma_max=50.0), np.geomspace(0.01, 50, 7)
    levels = of.level(t)
    np.testing.assert_array_equal(levels.alpha, 1)
    np.testing.assert_array_equal(levels.sigma, t)
    np.testing.assert_allclose(np.exp(4 * levels.c_noise), t, rtol=1e-13)
    assert (of.first, of.last) == (0.01, 50.0)


@pytest.mark.parametrize("make", [process.ve, process.ve_sde])
def test_an_exploding_process_that_does_not_explode_is_refused(make):
    with pytest.raises(ValueError, match="sigma_min = 5 must be above 0 and below sigma_max = 1"):
        make(sigma_min=5, sigma_max=1)


def test_rectified_flow_is_straight_from_the_data_to_noise(precision):
    """x_t is the mean of its ends, weighted: nothing of the image at t = 1, nothing of the noise at t = 0."""
    levels = SMOOTH["rectified flow"].level(np.array([1, 0.5, 0]))
    x_0, eps = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 1))
    noise, middle, data = (process.diffuse(x_0, process.rows(levels, row), eps) for row in range(3))
    np.testing.assert_array_equal(noise, eps)
    np.testing.assert_array_equal(data, x_0)
    np.testing.assert_allclose(middle, (x_0 + eps) / 2, rtol=precision, atol=precision)
    assert levels.log_snr.tolist() == [-np.inf, 0, np.inf] and not np.any(levels.log_snr_lo)
    assert levels.c_noise.tolist() == [1000, 500, 0]


@pytest.mark.parametrize("of", TABLES)
def test_a_chain_between_its_levels_is_its_table_at_whole_t(of, precision):
    """Bit for bit: as whole numbers, as real ones, and traced."""
    levels, t = interpolated(of).level(np.arange(51)), np.arange(51.0)
    got = interpolated(of).level(t)
    for one, two, three in zip(levels, got, jax.jit(interpolated(of).level)(jnp.asarray(t)), strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
    assert got.sigma[0] == 0 and (interpolated(of).first, interpolated(of).last) == (1.0, 50.0)


@pytest.mark.parametrize("of", TABLES)
def test_a_chain_is_linear_between_its_levels_in_what_was_said(of, x64):
    """Second differences vanish to rounding, and those of the other quantity do not; below level 1 it is log alpha."""
    found = interpolated(of)
    quantities = {"log_alpha": lambda t: np.log(found.level(t).alpha), "log_snr": lambda t: log_snr(found, t)}
    for t in (np.linspace(7, 8, 6), np.linspace(49, 50, 6)):
        bent = {name: np.max(np.abs(np.diff(quantity(t), 2))) for name, quantity in quantities.items()}
        assert bent.pop(of) < 1e-11 and min(bent.values()) > 1e-5
    assert np.max(np.abs(np.diff(np.log(found.level(np.linspace(0, 1, 6)).alpha), 2))) < 1e-15


@pytest.mark.parametrize("of", TABLES)
def test_c_noise_between_rows_lies_between_theirs(of, x64):
    t = np.linspace(1, 50, 99)
    np.testing.assert_allclose(interpolated(of).level(t).c_noise, t - 1, atol=1e-13)


@pytest.mark.parametrize("name", [*SMOOTH, *TABLES])
def test_grids_keep_log_snr_as_a_pair(name):
    """In float32, where one column alone would keep 1e-7: the sum is within 2^-47 of float64."""
    t = inner_times(made(name))
    levels = made(name).level(t)
    assert levels.log_snr.dtype == levels.log_snr_lo.dtype == np.float32
    pair = np.float64(levels.log_snr) + np.float64(levels.log_snr_lo)
    np.testing.assert_allclose(pair, log_snr(made(name), t), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", SMOOTH)
def test_traced_levels_are_the_grids(name, x64):
    """And those of a log-SNR are those of its time."""
    of = SMOOTH[name]
    t = inner_times(of)
    grid, levels = of.level(t), jax.jit(lambda t: of.level(t))(jnp.asarray(t))
    again = jax.jit(lambda log_snr: process.level_of_log_snr(of, log_snr))(levels.log_snr)
    for one, two, three in zip(grid, levels, again, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(three, one, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", [*SMOOTH, *TABLES])
def test_the_posterior_of_any_two_times_keeps_the_marginal_and_composes(name, x64):
    """x_s drawn given x_t has the law of x_s given x_0; through a time u between them it has the same law as at once."""

    def law(t, s):
        """Returns the coefficients of x_0 and of x_t, and the variance."""
        of_x_0, of_x_t = process.posterior(one, zero, t, s), process.posterior(zero, one, t, s)
        return *(float(part.mean[0, 0, 0, 0]) for part in (of_x_0, of_x_t)), float(np.exp(of_x_0.log_variance))

    one, zero = jnp.ones((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1))
    of, rng = made(name), np.random.default_rng(0)
    for _ in range(10):
        s, u, t = (of.level(time) for time in np.sort(np.exp(rng.uniform(np.log(of.first), np.log(0.99 * of.last), 3))))
        of_x_0, of_x_t, variance = law(t, s)
        np.testing.assert_allclose(of_x_0 + of_x_t * t.alpha, s.alpha, rtol=1e-10)
        np.testing.assert_allclose(of_x_t**2 * t.sigma**2 + variance, s.sigma**2, rtol=1e-10)
        (up_0, up_t, up_variance), (down_0, down_u, down_variance) = law(t, u), law(u, s)
        np.testing.assert_allclose(down_0 + down_u * up_0, of_x_0, rtol=1e-9)
        np.testing.assert_allclose(down_u * up_t, of_x_t, rtol=1e-9)
        np.testing.assert_allclose(down_u**2 * up_variance + down_variance, variance, rtol=1e-9)
