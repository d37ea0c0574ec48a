"""Draws and grids of t."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax import build, timesteps
from diffusion_jax.errors import UserError

DRAWS = {"uniform": timesteps.uniform, "stratified": timesteps.stratified}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_uniform_over_1_to_T(name):
    """Chi-squared over 20 values from 64,000 draws; the limit is passed by chance once in a million."""
    drawn = DRAWS[name](20)
    keys = jax.random.split(jax.random.key(0), 1000)
    t, weight = jax.vmap(lambda key: drawn.draw(drawn.init(), key, 64))(keys)
    counts = np.bincount(np.ravel(t), minlength=21)
    assert counts[0] == 0 and len(counts) == 21 and np.all(weight == 1)
    assert np.sum((counts[1:] - 3200) ** 2 / 3200) < 66


def test_every_place_of_a_batch_is_uniform():
    """Image 0 must not always get the least noise: 2,000 draws for each of four places, the limit as above for 20 values."""
    for name in DRAWS:
        drawn = DRAWS[name](20)
        t = jax.vmap(lambda key, drawn=drawn: drawn.draw((), key, 4)[0])(jax.random.split(jax.random.key(1), 2000))
        for place in np.asarray(t).T:
            assert np.sum((np.bincount(place, minlength=21)[1:] - 100) ** 2 / 100) < 66


def seen(losses, history=2):
    """Returns the draws by second moment, and their state when each t has always had the same loss."""
    drawn = timesteps.loss_second_moment(len(losses), history=history)
    state = drawn.init()
    for _ in range(history):
        state = drawn.update(state, jnp.arange(len(losses)) + 1, jnp.asarray(losses))
    return drawn, state


def test_draws_by_second_moment_are_in_proportion_and_weighted_back():
    """Losses 1, 2, ..., 20: frequencies follow them, and the weighted mean of any function of t stays that of uniform t."""
    losses = np.arange(1.0, 21.0)
    drawn, state = seen(losses)
    keys = jax.random.split(jax.random.key(0), 1000)
    t, weight = jax.vmap(lambda key: drawn.draw(state, key, 64))(keys)
    expected = 0.999 * losses / losses.sum() + 0.001 / 20
    counts = np.bincount(np.ravel(t), minlength=21)[1:]
    assert np.sum((counts - 64_000 * expected) ** 2 / (64_000 * expected)) < 66
    np.testing.assert_allclose(np.asarray(weight)[t == 20], 1 / (20 * expected[-1]), rtol=1e-5)
    for function in (lambda t: t, lambda t: (t % 3) == 0):
        uniform = np.mean(function(np.arange(1, 21)))
        assert np.mean(weight * function(t)) == pytest.approx(uniform, rel=0.02)


def test_the_weighted_loss_hardly_varies_where_losses_are_as_expected():
    """That is what the draws are for: each weighted loss is then the mean loss itself, but for the uniform share."""
    losses = np.geomspace(0.01, 100, 50)
    drawn, state = seen(losses)
    t, weight = drawn.draw(state, jax.random.key(0), 64)
    np.testing.assert_allclose(weight * losses[t - 1], np.mean(losses), rtol=0.2)


def test_draws_are_uniform_until_every_t_was_seen_often_enough():
    drawn = timesteps.loss_second_moment(20)
    state = drawn.init()
    for _ in range(9):
        state = drawn.update(state, jnp.arange(20) + 1, jnp.arange(1.0, 21.0))
    state = drawn.update(state, jnp.arange(19) + 1, jnp.arange(1.0, 20.0))
    t, weight = drawn.draw(state, jax.random.key(0), 20)
    assert sorted(t.tolist()) == list(range(1, 21))
    np.testing.assert_allclose(weight, 1, rtol=1e-6)


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.tuples(st.integers(1, 4), st.floats(0, 8, width=32)), min_size=1, max_size=12))
def test_a_batch_is_remembered_as_if_it_came_one_by_one(batch):
    drawn = timesteps.loss_second_moment(4, history=3)
    t, losses = (np.array(column) for column in zip(*batch, strict=True))
    together = drawn.update(drawn.init(), jnp.asarray(t), jnp.asarray(losses))
    for row in range(4):
        expected = losses[t == row + 1][-3:]
        assert int(together.num_seen[row]) == np.sum(t == row + 1)
        kept = np.sort(np.asarray(together.losses[row]))[::-1]
        np.testing.assert_allclose(kept, np.sort(np.pad(expected, (0, 3 - len(expected))))[::-1], rtol=1e-6)


def test_stratified_draws_fall_one_into_each_part():
    drawn = timesteps.stratified(1000)
    for seed in range(5):
        t, _ = drawn.draw((), jax.random.key(seed), 50)
        gaps = np.diff(np.sort(np.asarray(t)))
        assert np.all((gaps == 20) | (gaps == 19) | (gaps == 21)), gaps


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


@given(
    st.sampled_from(["trailing", "leading", "linspace", "iddpm"]),
    st.integers(1, 4000).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T))),
)
def test_grids_fall_strictly_to_0_in_exactly_S_steps(name, sizes):
    num_steps, num_sampled = sizes
    rows = build.GRIDS[name](num_steps, num_sampled)
    assert len(rows) == num_sampled + 1 and rows[-1] == 0 and rows[0] <= num_steps
    assert np.all(np.diff(rows) < 0)
    if num_sampled > 1 and name != "leading":
        assert rows[0] == num_steps


@pytest.mark.parametrize("name", sorted(build.GRIDS.keys() - {"ddim_quadratic"}))
def test_all_steps_are_all_rows(name):
    np.testing.assert_array_equal(build.GRIDS[name](1000, 1000), np.arange(1000, -1, -1))


def test_trailing_is_the_published_list():
    """Lin et al. 2023, table 2, for S = 10, one more than their 0-based 999, 899, ..., 99."""
    np.testing.assert_array_equal(timesteps.trailing(1000, 10), np.arange(1000, -1, -100))


@pytest.mark.parametrize(("num_sampled", "num_visited"), [(50, 49), (100, 96), (1000, 688), (10, 10)])
def test_ddim_quadratic_ends_at_four_fifths_and_visits_no_row_twice(num_sampled, num_visited):
    """The numbers of distinct timesteps that the authors' formula gives at T = 1000."""
    rows = timesteps.ddim_quadratic(1000, num_sampled)
    assert rows[0] == 801 and rows[-2] == 1 and len(rows) == num_visited + 1
    assert np.all(np.diff(rows) < 0)


@pytest.mark.parametrize("name", ["trailing", "leading", "linspace", "ddim_quadratic"])
@pytest.mark.parametrize("num_sampled", [0, 11])
def test_a_grid_of_more_steps_than_the_process_is_refused(name, num_sampled):
    with pytest.raises(UserError, match=f"a grid of {num_sampled} steps is not allowed; it must have 1 to 10"):
        build.GRIDS[name](10, num_sampled)


def test_a_stride_that_does_not_exist_and_a_section_that_is_too_small_are_refused():
    with pytest.raises(UserError, match="grid 'ddim_uniform' cannot take 300 of 1000 steps with one stride"):
        timesteps.ddim_uniform(1000, 300)
    with pytest.raises(UserError, match=r"sections = \(10, 60\): a section of 50 steps cannot give 60"):
        timesteps.iddpm(100, (10, 60))
