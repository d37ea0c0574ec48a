"""Draws and grids of t."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_jax import timesteps

DRAWS = {"uniform": timesteps.uniform, "stratified": timesteps.stratified}
GRIDS = {"trailing": timesteps.trailing, "quadratic": timesteps.quadratic}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_uniform_over_1_to_T(name):
    """Chi-squared over 20 values from 64,000 draws; the limit is passed by chance once in a million."""
    drawn = DRAWS[name](20)
    keys = jax.random.split(jax.random.key(0), 1000)
    t, weight = jax.vmap(lambda key: drawn.draw(drawn.init(), key, 64))(keys)
    counts = np.bincount(np.ravel(t), minlength=21)
    assert counts[0] == 0 and len(counts) == 21 and np.all(weight == 1)
    assert np.sum((counts[1:] - 3200) ** 2 / 3200) < 66


def test_stratified_draws_fall_one_into_each_part():
    drawn = timesteps.stratified(1000)
    t, _ = drawn.draw((), jax.random.key(5), 50)
    np.testing.assert_array_equal((np.asarray(t) - 1) // 20, np.arange(50))


def test_stratified_draws_vary_less_than_uniform_ones():
    means = {}
    for name, make in DRAWS.items():
        draw = make(1000).draw
        t = jnp.stack([draw((), key, 64)[0] for key in jax.random.split(jax.random.key(0), 200)])
        means[name] = np.std(np.mean(np.asarray(t), axis=1))
    assert means["stratified"] < means["uniform"] / 5


@pytest.mark.parametrize("name", DRAWS)
def test_plain_draws_learn_nothing(name):
    drawn = DRAWS[name](10)
    assert drawn.update(drawn.init(), jnp.ones(4), jnp.ones(4)) == ()


@given(st.sampled_from(sorted(GRIDS)), st.integers(1, 4000).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T))))
def test_grids_fall_strictly_from_T_to_0_in_exactly_S_steps(name, sizes):
    num_steps, num_sampled = sizes
    rows = GRIDS[name](num_steps, num_sampled)
    assert len(rows) == num_sampled + 1 and rows[0] == num_steps and rows[-1] == 0
    assert np.all(np.diff(rows) < 0)


@pytest.mark.parametrize("name", GRIDS)
def test_all_steps_are_all_rows(name):
    np.testing.assert_array_equal(GRIDS[name](1000, 1000), np.arange(1000, -1, -1))


def test_trailing_is_the_published_list():
    """Lin et al. 2023, table 2, for S = 10, one more than their 0-based 999, 899, ..., 99."""
    np.testing.assert_array_equal(timesteps.trailing(1000, 10), np.arange(1000, -1, -100))


def test_quadratic_takes_more_steps_near_the_image():
    steps = -np.diff(timesteps.quadratic(1000, 20))
    assert np.all(np.diff(steps) <= 0)
