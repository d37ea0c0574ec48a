"""EMA weights and the optimizer against closed forms."""

import contextlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from diffusion_jax.compose import training
from diffusion_jax.errors import UserError
from diffusion_jax.runs import sharding
from diffusion_jax.training import averages, start
from diffusion_jax.training import state as train_state

RTOL = 2e-5  # 1 - 0.999^n, by which Adam divides, is wrong by so much in float32
ADAM = {"learning_rate": 0.1, "decay": "constant", "warmup_steps": 0, "num_steps": 100, "grad_clip": np.inf}


def steps_of(gradients, **options):
    """Returns the updates that an optimizer makes for a list of scalar gradients."""
    optimizer = train_state.make_optimizer(**ADAM | options)
    params = jnp.zeros(())
    state, updates = optimizer.init(params), []
    for gradient in gradients:
        update, state = optimizer.update(jnp.asarray(gradient), state, params)
        updates.append(float(update))
    return np.array(updates)


def test_ema_is_a_geometric_mean_of_the_past():
    """After n steps: rate^n p_0 + (1 - rate) sum_i rate^(n - i) p_i."""
    rate, path = 0.9, np.array([1.0, 2.0, -1.0, 4.0])
    average = averages.exponential((rate,))
    ema = average.init({"w": jnp.asarray(path[0])})
    for step, value in enumerate(path[1:]):
        ema = average.update(ema, {"w": jnp.asarray(value)}, jnp.asarray(step))
    weights = [rate**3, *((1 - rate) * rate ** np.arange(2, -1, -1))]
    assert float(ema["0.9"]["w"]) == pytest.approx(np.dot(weights, path), rel=1e-6)


def test_a_warmed_up_ema_forgets_its_start_soon():
    """From 1, with parameters 0: after n steps the product of (1 + k) / (10 + k), k < n, which is n! 9! / (n + 9)!."""
    average = averages.exponential((0.9999, 0.9), warmup=True)
    ema = average.init({"w": jnp.ones(())})
    for k in range(20):
        ema = average.update(ema, {"w": jnp.zeros(())}, jnp.asarray(k))
    expected = math.factorial(20) * math.factorial(9) / math.factorial(29)
    assert float(ema["0.9999"]["w"]) == pytest.approx(expected, rel=1e-5)
    kept = average.update({name: {"w": jnp.ones(())} for name in ema}, {"w": jnp.zeros(())}, jnp.asarray(10**6))
    assert float(kept["0.9"]["w"]) == pytest.approx(0.9)


def test_ema_weights_are_no_alias_of_the_parameters():
    """A donated step would overwrite both."""
    params = {"w": jnp.ones(3)}
    ema = averages.exponential((0.9, 0.99)).init(params)
    pointers = {leaf.unsafe_buffer_pointer() for leaf in (params["w"], ema["0.9"]["w"], ema["0.99"]["w"])}
    assert len(pointers) == 3


def test_ema_names_give_the_rate_back():
    for rate in (0.9999, 0.99, 0.999999999, 1 / 3):
        assert float(averages.ema_name(rate)) == rate


def test_adam_moves_by_the_rate_at_first():
    """Bias-corrected, the first step is the sign of the gradient times the learning rate."""
    np.testing.assert_allclose(
        steps_of(
            [
                3.0,
            ]
        ),
        -0.1,
        rtol=RTOL,
    )
    np.testing.assert_allclose(steps_of([-0.02]), 0.1, rtol=RTOL)


def test_warm_up_is_linear_and_starts_at_zero():
    """With a constant gradient Adam's step is the rate itself."""
    np.testing.assert_allclose(steps_of([1.0] * 6, warmup_steps=4), -0.1 * np.array([0, 0.25, 0.5, 0.75, 1, 1]), rtol=RTOL)


def test_cosine_decay_ends_at_zero():
    updates = steps_of([1.0] * 11, decay="cosine", num_steps=10)
    np.testing.assert_allclose(updates, -0.05 * (1 + np.cos(np.pi * np.arange(11) / 10)), rtol=RTOL, atol=1e-7)


def test_clipping_binds_above_the_norm_only():
    """Adam forgets a constant scale, so clip the second of two gradients: it then counts as the first does."""
    assert steps_of([1.0, 100.0], grad_clip=1.0)[1] == pytest.approx(-0.1, rel=RTOL)
    assert steps_of([1.0, 0.5], grad_clip=1.0)[1] == pytest.approx(steps_of([1.0, 0.5])[1], rel=1e-9)
    assert abs(steps_of([1.0, 100.0])[1] + 0.1) > 0.02


@pytest.mark.parametrize(("finite", "weight", "in_a_row"), [(True, 2.0, 0), (False, 1.0, 4)])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counts(finite, weight, in_a_row):
    params, counters = {"w": jnp.ones(())}, {"skipped": jnp.array(7), "skipped_in_a_row": jnp.array(3)}
    opt_state = optax.adam(0.1).init(params)
    state = train_state.TrainState(jnp.array(0), params, {"0.9": params}, opt_state, jnp.ones(2), counters)
    doubled = state._replace(
        params={"w": 2 * jnp.ones(())}, ema={"0.9": {"w": 2 * jnp.ones(())}}, timestep_state=2 * jnp.ones(2)
    )
    after = train_state.advance(state, doubled, jnp.array(finite))
    assert after.step == 1
    assert after.params["w"] == after.ema["0.9"]["w"] == after.timestep_state[0] == weight
    assert after.counters["skipped"] == 7 + (not finite) and after.counters["skipped_in_a_row"] == in_a_row


def test_weights_of_which_none_fits_are_refused():
    state = start.make_state(jax.random.key(0), parts=training.parts(tiny.config_of({})))
    with pytest.raises(UserError, match="train.init_from = 'other' has no array that fits the network"):
        start.with_weights(state, "other", {"head": np.zeros(3)}, {"head": np.zeros(3)})


def test_a_state_that_no_device_holds_is_refused_before_it_is_compiled():
    mesh = sharding.make_mesh()
    for shape, fits in (((8, 8), True), ((2**25, 2**25), False)):
        state = {"w": jax.ShapeDtypeStruct(shape, np.float32)}
        with contextlib.nullcontext() if fits else pytest.raises(UserError, match="take 4,194,304 GiB on each device"):
            start.check_size(state, {"w": sharding.replicated(mesh)})
