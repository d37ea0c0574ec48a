"""Draws and grids of t."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_jax import grids, process, schedules, timesteps
from diffusion_jax.compose import choices
from diffusion_jax.errors import UserError

WHOLE = ["ddim_uniform", "iddpm", "leading", "leading_offset", "linspace", "trailing"]  # grids of the rows of a chain
DRAWS = {"uniform": timesteps.uniform, "stratified": timesteps.stratified}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_uniform_over_1_to_T(name):
    """Chi-squared over 20 values from 64,000 draws; the limit is passed by chance once in a million."""
    drawn = DRAWS[name](20)
    keys = jax.random.split(jax.random.key(0), 1000)
    t, weight = jax.jit(jax.vmap(lambda key: drawn.draw(drawn.init(), key, 64)))(keys)
    counts = np.bincount(np.ravel(t), minlength=21)
    assert counts[0] == 0 and len(counts) == 21 and np.all(weight == 1)
    assert np.sum((counts[1:] - 3200) ** 2 / 3200) < 66


def test_every_place_of_a_batch_is_uniform():
    """Image 0 must not always get the least noise: 2,000 draws for each of four places, the limit as above for 20 values."""
    for name in DRAWS:
        drawn = DRAWS[name](20)
        draw = jax.jit(jax.vmap(lambda key, drawn=drawn: drawn.draw((), key, 4)[0]))
        t = draw(jax.random.split(jax.random.key(1), 2000))
        for place in np.asarray(t).T:
            assert np.sum((np.bincount(place, minlength=21)[1:] - 100) ** 2 / 100) < 66


@pytest.mark.parametrize(
    "drawn",
    [
        timesteps.uniform(1000),
        timesteps.stratified(1000),
        timesteps.loss_second_moment(1000),
        timesteps.from_quantiles(timesteps.log_normal, stratified=False),
        timesteps.pairs(timesteps.from_quantiles(timesteps.logit_normal, stratified=True), equal_share=0.75),
    ],
)
def test_a_quarter_of_the_draws_is_in_each_quartile(drawn):
    """Of 64,000; the limit is 4.5 standard errors of independent draws."""
    keys = jax.random.split(jax.random.key(0), 1000)
    t = jax.jit(jax.vmap(lambda key: drawn.draw(drawn.init(), key, 64)[0]))(keys).reshape(64_000, -1)[:, 0]
    quartile = np.searchsorted(drawn.quantile(jnp.array([0.25, 0.5, 0.75])), t, side="right")
    np.testing.assert_allclose(np.bincount(quartile), 16_000, atol=493)


def chain(num_steps):
    return process.chain(schedules.constant(num_steps))


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
    t, weight = jax.jit(jax.vmap(lambda key: drawn.draw(state, key, 64)))(keys)
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


@pytest.mark.slow
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
    rows = choices.GRIDS[name](chain(num_steps), num_sampled)
    assert len(rows) == num_sampled + 1 and rows[-1] == 0 and rows[0] <= num_steps
    assert np.all(np.diff(rows) < 0)
    if num_sampled > 1 and name != "leading":
        assert rows[0] == num_steps


@pytest.mark.parametrize("name", WHOLE)
def test_all_steps_are_all_rows(name):
    np.testing.assert_array_equal(choices.GRIDS[name](chain(1000), 1000), np.arange(1000, -1, -1))


def test_trailing_is_the_published_list():
    """Lin et al. 2023, table 2, for S = 10, one more than their 0-based 999, 899, ..., 99."""
    np.testing.assert_array_equal(grids.trailing(chain(1000), 10), np.arange(1000, -1, -100))


@pytest.mark.parametrize(("num_sampled", "num_visited"), [(50, 49), (100, 96), (1000, 688), (10, 10)])
def test_ddim_quadratic_ends_at_four_fifths_and_visits_no_row_twice(num_sampled, num_visited):
    """The numbers of distinct timesteps that the authors' formula gives at T = 1000."""
    rows = grids.ddim_quadratic(chain(1000), num_sampled)
    assert rows[0] == 801 and rows[-2] == 1 and len(rows) == num_visited + 1
    assert np.all(np.diff(rows) < 0)


@pytest.mark.parametrize("name", ["trailing", "leading", "linspace", "ddim_quadratic"])
@pytest.mark.parametrize("num_sampled", [0, 11])
def test_a_grid_of_more_steps_than_the_process_is_refused(name, num_sampled):
    with pytest.raises(UserError, match=f"a grid of {num_sampled} steps is not allowed; it must have 1 to 10"):
        choices.GRIDS[name](chain(10), num_sampled)


@pytest.mark.parametrize("num_steps", [0, -3])
@pytest.mark.parametrize("name", sorted(choices.GRIDS.keys() - {"explicit"}))
def test_a_grid_without_steps_is_refused(name, num_steps):
    of_chains_alone = {*WHOLE, "ddim_quadratic"} - {"trailing"}
    for of in [chain(10)] if name in of_chains_alone else [chain(10), process.vp()]:
        with pytest.raises(UserError, match=f"a grid of {num_steps} steps is not allowed|cannot give {num_steps}"):
            choices.GRIDS[name](of, num_steps)


def test_a_stride_that_does_not_exist_and_a_section_that_is_too_small_are_refused():
    with pytest.raises(UserError, match="grid 'ddim_uniform' cannot take 300 of 1000 steps with one stride"):
        grids.ddim_uniform(chain(1000), 300)
    with pytest.raises(UserError, match=r"sections = \(10, 60\): a section of 50 steps cannot give 60"):
        grids.iddpm(chain(100), (10, 60))


PROCESSES = {
    "vp": process.vp(),
    "ve": process.ve(),
    "rectified flow": process.rectified_flow()._replace(last=0.999),  # where there is some signal
    "log_alpha": process.chain(schedules.linear(1000)),
    "log_snr": process.chain(schedules.linear(1000), interpolation="log_snr"),
}


def kappa(of, t):
    with jax.enable_x64(True):
        level = of.level(t)
        return level.sigma / level.alpha


EVEN_IN = {  # grid -> the quantity of which its times before 0 are evenly spaced
    "uniform": lambda of, t: t,
    "quadratic": lambda of, t: np.sqrt(t),
    "log_snr": lambda of, t: np.log(kappa(of, t)),
    "karras": lambda of, t: kappa(of, t) ** (1 / 7),
    "polyexponential": lambda of, t: np.maximum(np.log(kappa(of, t) / kappa(of, of.first)), 0) ** (1 / 3),
}


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("grid", EVEN_IN)
def test_real_valued_grids_are_even_in_what_they_promise_and_end_at_the_data(grid, name):
    """To the clock's rounding: between whole t of a chain it is a table's."""
    of = PROCESSES[name]
    times = getattr(grids, grid)(of, 12, **({"rho": 3} if grid == "polyexponential" else {}))
    assert len(times) == 13 and times.dtype == np.float64 and np.all(np.diff(times) < 0)
    np.testing.assert_allclose(times[[0, -2, -1]], [of.last, of.first, 0], rtol=1e-14)
    marks = EVEN_IN[grid](of, times[:-1])
    np.testing.assert_allclose(marks, np.linspace(marks[0], marks[-1], 12), rtol=1e-8)


def test_karras_levels_are_eq_5_for_any_rho():
    """sigma_i of EDM, i from 0 to N - 1, and 0."""
    sigma_min, sigma_max, num = 0.002, 80.0, 18
    for rho in (7.0, 3.0):
        sigmas = [
            (sigma_max ** (1 / rho) + i / (num - 1) * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
            for i in range(num)
        ]
        np.testing.assert_allclose(grids.karras(process.ve(), num, rho=rho), [*sigmas, 0], rtol=1e-12)


@pytest.mark.parametrize(("grid", "rho"), [(grids.polyexponential, 7.0), (grids.karras, 1e-3)])
def test_a_rho_that_leaves_no_room_between_levels_is_refused(grid, rho):
    with np.errstate(all="ignore"), pytest.raises(UserError, match="of 1000 steps some would be of no length; take fewer"):
        grid(process.vp(), 1000, rho=rho)


@pytest.mark.parametrize("name", ["vp", "ve", "rectified flow"])
def test_trailing_times_are_even_down_to_the_data(name):
    """The step to the data is as long as the others: the first time of the process plays no part."""
    times = grids.trailing(PROCESSES[name], 7)
    assert times[0] == PROCESSES[name].last and times[-1] == 0 and len(times) == 8
    np.testing.assert_allclose(np.diff(times), -PROCESSES[name].last / 7, rtol=1e-12)


def test_trailing_times_of_a_chain_are_rounded_to_its_rows():
    np.testing.assert_array_equal(grids.trailing(PROCESSES["log_snr"], 7), np.round(np.linspace(1000, 0, 8)))


@pytest.mark.parametrize("grid", ["trailing", *EVEN_IN])
def test_one_step_goes_from_the_last_time_to_the_data(grid):
    for of in PROCESSES.values():
        np.testing.assert_allclose(getattr(grids, grid)(of, 1), [of.last, 0], rtol=1e-14)


@pytest.mark.parametrize("grid", [grids.log_snr, grids.karras, grids.polyexponential])
@pytest.mark.parametrize(
    "of",
    [
        process.rectified_flow(),
        process.chain(schedules.zero_terminal_snr(schedules.linear(50))),
    ],
)
def test_grids_in_log_snr_are_refused_where_there_is_no_signal(grid, of):
    with pytest.raises(UserError, match="are impossible without signal at T; use 'trailing'"):
        grid(of, 10)


@pytest.mark.parametrize("times", [(80.0, 3.0, 0.002), (80.0, 3.0, 0.002, 0.0), (5.0, 0.0), (2, 1)])
def test_explicit_times_are_taken_as_they_are(times):
    found = grids.explicit(process.ve(), times)
    assert found.dtype == np.float64 and tuple(found) == times


@pytest.mark.parametrize(
    "times", [(), (1.0,), (0.0,), (1.0, 1.0), (1.0, 2.0), (81.0, 1.0), (1.0, 0.001), (1.0, -1.0), (1.0, np.nan), (1.0, 0, 0)]
)
def test_explicit_times_that_do_not_fall_or_leave_the_process_are_refused(times):
    with pytest.raises(
        UserError, match=r"times = .* are not a valid grid: two or more must fall, from at most 80 to at least 0.002"
    ):
        grids.explicit(process.ve(), times)


REAL_DRAWS = {
    "uniform_time": (functools.partial(timesteps.uniform_time, first=1e-5, last=1.0), scipy.stats.uniform(1e-5, 1 - 1e-5)),
    "log_uniform": (functools.partial(timesteps.log_uniform, first=0.01, last=50.0), scipy.stats.loguniform(0.01, 50)),
    "log_normal": (timesteps.log_normal, scipy.stats.lognorm(1.2, scale=np.exp(-1.2))),
    "logit_normal": (functools.partial(timesteps.logit_normal, mean=0.5, std=0.7), None),
}


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("name", REAL_DRAWS)
def test_real_valued_draws_have_their_distribution(name, spread):
    """Kolmogorov-Smirnov with 20,000 independent draws; of spread batches of 8, 20,000 first places, so that no two are of
    one batch. False alarm 1e-4, were the key not fixed."""
    time_of, law = REAL_DRAWS[name]
    drawn = timesteps.from_quantiles(time_of, stratified=spread)
    keys = jax.random.split(jax.random.key(2), 20_000)
    t, weight = jax.jit(jax.vmap(lambda key: drawn.draw(drawn.init(), key, 8 if spread else 1)))(keys)
    t = np.asarray(t[:, 0], np.float64)
    t, law = (np.log(t / (1 - t)), scipy.stats.norm(0.5, 0.7)) if law is None else (t, law)
    assert np.all(weight == 1) and scipy.stats.ks_1samp(t, law.cdf).pvalue > 1e-4


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_spread_draws_have_one_in_every_part(batch_size):
    """The parts of the unit interval, of which time is any increasing function."""
    drawn = timesteps.from_quantiles(functools.partial(timesteps.uniform_time, first=2.0, last=4.0), stratified=True)
    for seed in range(5):
        t, _ = drawn.draw((), jax.random.key(seed), batch_size)
        part = np.floor((np.asarray(t) - 2) / 2 * batch_size)
        assert sorted(part) == list(range(batch_size))


@pytest.mark.parametrize("name", REAL_DRAWS)
def test_the_ends_of_the_unit_interval_are_times_too(name):
    """A uniform draw may be 0 exactly: no time is infinite or leaves its interval for that."""
    time_of, _ = REAL_DRAWS[name]
    drawn = timesteps.from_quantiles(lambda u: (u, time_of(u)), stratified=False)
    (u, t), _ = drawn.draw((), jax.random.key(0), 4096)
    assert np.all((u > 0) & (u < 1)) and np.all(np.isfinite(t)) and np.all(t > 0)
    ends = np.asarray(time_of(jnp.array([1e-6, 1 - 1e-6])))
    assert np.all(np.isfinite(ends)) and 0 < ends[0] < np.min(t) <= np.max(t) < ends[1]


@pytest.mark.parametrize("spread", [False, True])
def test_pairs_are_the_larger_and_the_smaller_of_two_independent_draws(spread):
    """Of uniform draws E[max] = 2/3, E[min] = 1/3, E[max min] = 1/4; of 20,000 four standard errors are 0.01."""
    draws = timesteps.from_quantiles(lambda u: u, stratified=spread)
    pair, weight = timesteps.pairs(draws, equal_share=0.0).draw((), jax.random.key(0), 20_000)
    assert pair.shape == (20_000, 2) and weight.shape == (20_000,)
    np.testing.assert_allclose(jnp.mean(pair, axis=0), [2 / 3, 1 / 3], atol=0.01)
    assert float(jnp.mean(pair[:, 0] * pair[:, 1])) == pytest.approx(1 / 4, abs=0.01)
    some, _ = timesteps.pairs(draws, equal_share=0.75).draw((), jax.random.key(0), 20_000)
    assert float(jnp.mean(some[:, 0] == some[:, 1])) == pytest.approx(0.75, abs=0.0125)
    assert jnp.all(some[:, 0] >= some[:, 1])


def test_real_valued_draws_learn_nothing():
    drawn = timesteps.from_quantiles(timesteps.log_normal, stratified=True)
    assert drawn.update(drawn.init(), jnp.ones(4), jnp.ones(4)) == ()
