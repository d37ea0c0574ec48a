"""The integrator against closed forms, image by image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import ode


def test_growth_and_rotation_are_exact_to_the_tolerance(x64):
    """dy/dt = rate y for two rates, and a rotation: each image with steps of its own."""
    rates = jnp.array([-1.0, 3.0])
    got = ode.integrate(lambda t, y: rates[:, None] * y, jnp.ones((2, 4)), 0.0, 2.0, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(got.y, np.exp(2 * rates)[:, None] * np.ones((2, 4)), rtol=1e-7)
    turned = ode.integrate(
        lambda t, y: {"x": -y["v"], "v": y["x"]},
        {"x": jnp.ones((1, 2)), "v": jnp.zeros((1, 2))},
        0.0,
        7.0,
        rtol=1e-9,
        atol=1e-9,
    )
    np.testing.assert_allclose(turned.y["x"], np.full((1, 2), np.cos(7.0)), atol=1e-7)
    assert bool(jnp.all(got.reached_end)) and bool(jnp.all(turned.reached_end))


def test_time_reaches_the_slope(x64):
    """dy/dt = 5 t^4, which a method of fifth order integrates exactly whatever the step."""
    got = ode.integrate(lambda t, y: 5 * t[:, None] ** 4, jnp.zeros((3, 1)), 0.0, 2.0, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(got.y, 32.0, rtol=1e-13)


def test_float64_is_exact_after_float32_too():
    """JAX keeps the float32 form of a NumPy array that a program used, and would take it again in float64."""

    def integral():
        return ode.integrate(lambda t, y: 5 * t[:, None] ** 4 + 0 * y, jnp.zeros((1, 1)), 0.0, 2.0, rtol=1e-8, atol=1e-10).y

    assert jax.jit(integral)().dtype == jnp.float32
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(lambda: integral())(), 32.0, rtol=1e-13)


def test_the_error_falls_as_fifth_order_promises(x64):
    """Ten thousand times the accuracy for about 10^(4/5) = 6.3 times the steps."""
    got = [
        ode.integrate(lambda t, y: jnp.cos(t)[:, None] * y, jnp.ones((1, 1)), 0.0, 20.0, rtol=rtol, atol=1e-12)
        for rtol in (1e-4, 1e-8)
    ]
    errors = [abs(float(each.y[0, 0]) - np.exp(np.sin(20.0))) for each in got]
    assert errors[1] < 1e-3 * errors[0] and errors[1] < 1e-6
    assert 3 < int(got[1].num_evaluations[0]) / int(got[0].num_evaluations[0]) < 10


def test_an_image_takes_the_steps_that_it_takes_alone(x64):
    """A stiff neighbour costs nothing but waiting."""
    rates = jnp.array([1.0, 50.0])

    def solve(rates):
        return ode.integrate(
            lambda t, y: -rates[:, None] * (y - jnp.sin(t)[:, None]),
            jnp.ones((len(rates), 2)),
            0.0,
            3.0,
            rtol=1e-6,
            atol=1e-8,
        )

    together, alone = solve(rates), solve(rates[:1])
    np.testing.assert_allclose(together.y[:1], alone.y, rtol=1e-12)
    assert together.num_evaluations[0] == alone.num_evaluations[0] < together.num_evaluations[1]


def test_too_few_steps_are_told():
    got = ode.integrate(lambda t, y: -1000 * y, jnp.ones((1, 1)), 0.0, 1.0, rtol=1e-6, atol=1e-9, max_steps=3)
    assert not bool(got.reached_end[0]) and int(got.num_evaluations[0]) == 19


@pytest.mark.parametrize(
    "tolerances", [{"rtol": -1.0, "atol": 1e-5}, {"rtol": 1e-5, "atol": 0.0}, {"rtol": np.nan, "atol": 1}]
)
def test_a_tolerance_that_no_step_can_have_is_refused(tolerances):
    with pytest.raises(ValueError, match="tolerance = (-1.0|0.0|nan) is not allowed; it must be above 0"):
        ode.integrate(lambda t, y: y, jnp.ones((1, 1)), 0.0, 1.0, **tolerances)


def test_it_runs_under_jit():
    got = jax.jit(lambda y: ode.integrate(lambda t, y: y, y, 0.0, 1.0, rtol=1e-5, atol=1e-5).y)(jnp.ones((2, 3)))
    assert float(got[0, 0]) == pytest.approx(np.e, rel=1e-4)


def test_a_step_that_goes_astray_is_tried_again_shorter(x64):
    """dy/dt = -300 y^(3/2) from 1: the first step lands below 0, where the root is not a number. y = 1 / (1 + 150 t)^2."""
    got = ode.integrate(lambda t, y: -300 * y * jnp.sqrt(y), jnp.ones((1, 1)), 0.0, 1.0, rtol=1e-8, atol=1e-12)
    assert bool(got.reached_end[0])
    np.testing.assert_allclose(got.y, 1 / 151**2, rtol=1e-5)
