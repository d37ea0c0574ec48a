"""Schedules against what their papers state of them."""

import numpy as np
import pytest

from diffusion_jax import schedules


def test_linear_runs_from_first_to_last():
    betas = schedules.linear(1000)
    assert betas.dtype == np.float64 and betas.shape == (1000,)
    assert betas[0] == 1e-4 and betas[-1] == 0.02
    np.testing.assert_allclose(np.diff(betas), (0.02 - 1e-4) / 999, rtol=1e-9)


def test_linear_rescaled_is_linear_at_a_thousand_steps():
    np.testing.assert_array_equal(schedules.linear_rescaled(1000), schedules.linear(1000))


@pytest.mark.parametrize("num_steps", [50, 200, 4000])
def test_linear_rescaled_ends_about_where_a_thousand_steps_end(num_steps):
    """log alpha_bar_T is -10.1 at T = 1000; the rescaled sum of betas is the same, its logarithms nearly so."""
    assert np.sum(schedules.linear_rescaled(num_steps)) == pytest.approx(np.sum(schedules.linear(1000)), rel=1e-12)


def test_linear_rescaled_refuses_betas_above_one():
    assert schedules.linear_rescaled(20)[-1] == 1.0
    with pytest.raises(ValueError, match="num_steps = 19 has beta_T = 1.05 above 1"):
        schedules.linear_rescaled(19)


@pytest.mark.parametrize("num_steps", [100, 1000, 4000])
def test_cosine_alpha_bar_is_the_squared_cosine(num_steps):
    alpha_bar = np.cumprod(1 - schedules.cosine(num_steps))
    t = np.arange(1, num_steps + 1) / num_steps
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(alpha_bar[:-1], f[:-1], rtol=1e-9)


@pytest.mark.parametrize("num_steps", [1000, 4000])
def test_cosine_clips_the_last_beta_alone(num_steps):
    betas = schedules.cosine(num_steps)
    assert np.flatnonzero(betas == 0.999).tolist() == [num_steps - 1]


def test_sigmoid_alpha_bar_is_half_in_the_middle_and_falls_as_the_logistic():
    """By symmetry of start = -end; elsewhere the logistic's own values, shifted and scaled to 1 .. 0."""
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - schedules.sigmoid(1000))])
    assert alpha_bar[500] == pytest.approx(0.5, rel=1e-9)
    logistic = 1 / (1 + np.exp([-3.0, -1.5, 1.5, 3.0]))  # at t / T = 0, 1/4, 3/4, 1
    expected = (logistic - logistic[-1]) / (logistic[0] - logistic[-1])
    np.testing.assert_allclose(alpha_bar[[0, 250, 750]], expected[:-1], rtol=1e-9)
    assert alpha_bar[1000] < 1e-3 * alpha_bar[998]


def test_zero_terminal_snr_keeps_the_first_step_and_leaves_nothing_at_the_last():
    betas = schedules.zero_terminal_snr(schedules.linear(1000))
    assert betas[0] == pytest.approx(1e-4, rel=1e-9) and betas[-1] == 1.0 and np.all(betas[:-1] < 1)
