"""The fast solvers: order, weak order, distribution, cost and limits, against data whose exact denoiser is known."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import recorded
import scipy.stats

from diffusion_jax import denoiser, grids, multistep, process, samplers, schedules, streams

VP, VE, RECTIFIED = process.vp(), process.ve(), process.rectified_flow()
CHAIN = schedules.linear(1000)
X_T = np.linspace(-2, 2, 9)
G4C = recorded.load("g4c_dpm_solver")
FAMILIES = {"dpm_solver": multistep.dpm_solver, "singlestep": multistep.dpm_solver_singlestep, "unipc": multistep.unipc}

SOLVERS = {
    f"{name} {order} {solves_for}": make(order=order, solves_for=solves_for, lower_order_final=False)
    for name, make in FAMILIES.items()
    for order in (1, 2, 3)
    for solves_for in ("x_0", "eps")
    if order > 1 or name == "unipc"  # order 1 of the others is DDIM, see below
}
FLOW = {
    "ddim": samplers.ddim(),
    "heun": samplers.heun(),
    "lms 3": multistep.lms(order=3),
    "runge_kutta_2": samplers.runge_kutta_2(VP, stage=0.6),
    "unipc 2 bh1": multistep.unipc(order=2, lower_order_final=False, variant="bh1"),
    **SOLVERS,
}  # those that follow the probability flow
CHURNED = {
    "churned ddim": samplers.churn(samplers.ddim(), VP, amount=20.0),
    "churned heun": samplers.churn(samplers.heun(), VP, amount=20.0),
}
NOISY = {
    "ancestral small": samplers.ancestral(variance="small"),
    "ancestral large": samplers.ancestral(variance="large"),
    "ddim eta 0.5": samplers.ddim(eta=0.5),
    "ddim eta 1": samplers.ddim(eta=1.0),
    "sde_dpm_solver": multistep.dpm_solver_sde(),
    "sde_dpm_solver 3": multistep.dpm_solver_sde(order=3),
    "sde_dpm_solver 2 singlestep": multistep.dpm_solver_sde_singlestep(lower_order_final=False),
    "ancestral 2s": samplers.ancestral_2s(),
}
ALL = FLOW | NOISY | CHURNED
SOME = [name for name in ALL if " 2 " not in name]  # order 2 is order 3 with a prediction less
FIRST_ORDER = {"churned ddim", "ddim", "ancestral small", "ancestral large", "ddim eta 0.5", "ddim eta 1"}
TWICE = {"heun", "runge_kutta_2", "churned heun", "ancestral 2s"}  # that ask twice a step


def log_snr_grid(num_sampled, noisy=-10.0, clean=6.0):
    """Returns variance-preserving levels evenly spaced in log-SNR; the last is far from the data."""
    log_snr = np.linspace(noisy, clean, num_sampled + 1)
    alpha, sigma = (np.exp(-np.logaddexp(0, sign * log_snr) / 2) for sign in (-1, 1))
    return process.make_level(alpha, sigma, log_snr, log_snr)


def chain_grid(num_sampled, betas=CHAIN):
    chain = process.chain(betas)
    return chain.level(grids.trailing(chain, num_sampled))


def column(values):
    return jnp.asarray(values, jax.dtypes.canonicalize_dtype(np.float64)).reshape(-1, 1, 1, 1)


MIXTURE, GAUSSIAN = oracles.mixture(), oracles.gaussian()


def of_channels(*denoisers):
    """Returns the denoiser of images each of whose channels has a law of its own."""

    def denoise(x_t, level):
        of_each = zip(denoisers, jnp.split(x_t, len(denoisers), axis=-1), strict=True)
        return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *[each(x, level) for each, x in of_each])

    return denoise


def sampling(denoise, sampler, **options):
    """Returns (x_T, grid) -> `Samples`, to be compiled; were the grid a constant, programs would grow with it."""

    def run(x_T, grid):
        keys = streams.keys(0, "sampler", jnp.arange(len(x_T)))
        return samplers.sample(denoise, sampler, x_T, grid, keys, **options)

    return run


@functools.cache
def compiled(denoise, sampler, **options):
    return jax.jit(sampling(denoise, sampler, **options))


def draw(denoise, sampler, x_T, grid, **options):
    return compiled(denoise, sampler, **options)(x_T, grid)


def flow_error(sampler, grid):
    """Returns the largest error of the mixture's flow from nine values spread over its law at the first level."""
    first, last = process.rows(grid, 0), process.rows(grid, len(grid.alpha) - 1)
    x_T = column(X_T * first.sigma)
    return np.max(np.abs(np.ravel(draw(MIXTURE, sampler, x_T, grid).x) - oracles.carried(x_T, first, last)))


def slope(error_of):
    """Returns d log error / d log S, over two doublings of S."""
    few, many = error_of(192), error_of(768)
    assert many > 1e-9  # above rounding: it is the method that is measured
    return math.log(many / few) / math.log(4)


def order_of(name):
    """Theory: the polynomial through k predictions leaves h^(k + 1) a step; UniPC's corrector has one more."""
    if name in SOLVERS:
        family, order, _ = name.split()
        return int(order) + (family == "unipc")
    return {"ddim": 1, "heun": 2, "lms 3": 3, "runge_kutta_2": 2, "unipc 2 bh1": 3}[name]


@pytest.mark.parametrize("name", FLOW)
def test_errors_of_the_flow_fall_with_the_order_of_the_solver(name, x64):
    """At log-SNR -10 x_0 hardly moves, so that the first steps, which have few predictions, cost no order."""
    measured = slope(lambda num_sampled: flow_error(FLOW[name], log_snr_grid(num_sampled)))
    assert measured == pytest.approx(-order_of(name), abs=0.2)


@pytest.mark.parametrize("name", ["heun", "dpm_solver 2 x_0"])
@pytest.mark.parametrize("levels", ["vp", "ve", "rectified flow"])
def test_the_order_is_the_same_in_any_process_and_time(name, levels, x64):
    """Grids even in t, but for VE, where that is sigma: there in log sigma. They stop well before the data;
    rectified flow starts without signal."""
    of, times = {
        "vp": (VP, functools.partial(np.linspace, 1, 0.02)),
        "ve": (VE, functools.partial(np.geomspace, 80, 0.1)),
        "rectified flow": (RECTIFIED, functools.partial(np.linspace, 1, 0.2)),
    }[levels]
    measured = slope(lambda num_sampled: flow_error(FLOW[name], of.level(times(num_sampled + 1))))
    assert measured == pytest.approx(-order_of(name), abs=0.2)


@pytest.mark.parametrize("solves_for", ["x_0", "eps"])
@pytest.mark.parametrize("make", [multistep.dpm_solver, multistep.dpm_solver_singlestep])
def test_order_1_is_ddim(make, solves_for, x64):
    x_T, grid = column(X_T), chain_grid(20)
    one, two = (draw(MIXTURE, s, x_T, grid).x for s in (make(order=1, solves_for=solves_for), samplers.ddim()))
    np.testing.assert_allclose(one, two, atol=1e-12)


@pytest.mark.parametrize("make", FAMILIES.values())
def test_low_orders_at_the_end_leave_order_2_of_3(make, x64):
    """A last step of order 1 has an error h^2 of its own, and hands it on to no other."""
    measured = slope(lambda num_sampled: flow_error(make(order=3), log_snr_grid(num_sampled)))
    assert measured == pytest.approx(-2, abs=0.2)


def blocks_of(num_steps, order):
    """Returns how many evaluations each block of the singlestep solver has, on a grid that ends before the data."""
    sampler = multistep.dpm_solver_singlestep(order=order)
    weights = np.asarray(sampler.init(column([0.0]), log_snr_grid(num_steps)).plan.weights)
    num_known = np.count_nonzero(weights, axis=1)  # in a block the first step knows one prediction, the next two, ...
    return np.diff(np.append(np.flatnonzero(num_known == 1), num_steps)).tolist()


@pytest.mark.parametrize("key", [key for key in G4C if key.startswith("orders.") and not key.endswith("t_outer")])
def test_blocks_are_those_of_dpm_solver_fast(key):
    """Where an even number of steps has blocks of 2 alone there, ours ends with 1, 1, as diffusers' does; without
    `lower_order_final` it has them too."""
    num_steps, order = (int(number) for number in re.findall(r"\d+", key))
    theirs = G4C[key].tolist()
    assert blocks_of(num_steps, order) == ([*theirs[:-1], 1, 1] if order == 2 and num_steps % 2 == 0 else theirs)


def intervals(grid):
    index = jnp.arange(len(grid.alpha) - 1)
    return samplers.Interval(process.rows(grid, index), process.rows(grid, index + 1), index, index[::-1])


@functools.cache
def derivatives(sampler):
    """Returns (x_T, noise of each step, grid) -> the derivatives of the last x by x_T and by each noise."""

    def end(x_T, noises, grid):
        def step(state, scanned):
            interval, z = scanned
            return sampler.step(GAUSSIAN, state, interval, lambda k: z.reshape(1, 1, 1, 1))[0], None

        state, _ = jax.lax.scan(step, sampler.init(x_T.reshape(1, 1, 1, 1), grid), (intervals(grid), noises))
        return jnp.sum(sampler.x_of(state))

    return jax.jit(jax.grad(end, argnums=(0, 1)))


def law_after(sampler, grid):
    """Returns d x / d x_T and the variance from the sampler's own noises, for Gaussian data: exact, since all is linear."""
    by_x_T, by_noise = derivatives(sampler)(jnp.zeros(()), jnp.zeros(len(grid.alpha) - 1), grid)
    return float(by_x_T), float(jnp.sum(by_noise**2))


def gaussian_variance(level):
    return float(level.alpha**2 * oracles.STD**2 + level.sigma**2)


@pytest.mark.parametrize("name", NOISY | CHURNED)
def test_variances_fall_to_the_marginals_with_the_weak_order(name, x64):
    """Frozen x_0 leaves a variance of order h^2 a step; extrapolated to the middle, or Heun's after exact churning, h^3."""

    def error(num_sampled):
        grid = log_snr_grid(num_sampled)
        keep, variance = law_after(ALL[name], grid)
        first, last = (gaussian_variance(process.rows(grid, row)) for row in (0, num_sampled))
        return abs(keep**2 * first + variance - last)

    assert slope(error) == pytest.approx(-1 if name in FIRST_ORDER else -2, abs=0.2)


@pytest.mark.parametrize("name", ["ancestral small", "ancestral large", "ddim eta 1", "sde_dpm_solver"])
def test_means_given_the_start_are_exact_in_any_number_of_steps(name, x64):
    """E[x_0 | x_t] is a martingale of the reverse process, so that neither freezing nor extrapolating it shifts a mean."""
    for num_sampled in (1, 2, 7):
        grid = log_snr_grid(num_sampled, noisy=-3.0, clean=3.0)
        t, s = process.rows(grid, 0), process.rows(grid, num_sampled)
        covariance = t.alpha * s.alpha * oracles.STD**2 + t.alpha / s.alpha * s.sigma**2
        assert law_after(ALL[name], grid)[0] == pytest.approx(float(covariance) / gaussian_variance(t), rel=1e-12)


LAWS = [([1.0], [oracles.MEAN], [oracles.STD]), (oracles.WEIGHTS, oracles.MEANS, oracles.STDS)]
NUM = 20_000
BOTH_LAWS = of_channels(GAUSSIAN, MIXTURE)


@functools.cache
def true_draws(row):
    weights, means, stds = (np.asarray(part) for part in LAWS[row])
    rng = np.random.default_rng(5)
    which = rng.choice(len(weights), NUM, p=weights)
    return means[which] + stds[which] * rng.standard_normal(NUM)


DRAWN = [*sorted(FLOW.keys() - {"runge_kutta_2", "unipc 2 bh1"}), "ddim eta 1", "sde_dpm_solver", "churned heun"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in SOME)) for name in DRAWN])
def test_the_distribution_is_the_datas(name):
    """20,000 values of each law. False alarms, were the seed not fixed: mean and variance, 4 standard errors, 6e-5 each;
    two-sample Kolmogorov-Smirnov 1e-4. What the steps leave is at most two standard errors, 2% of the variance."""
    grid = VP.level(grids.log_snr(VP, 500 if name in FIRST_ORDER else 120))
    x_T = jax.random.normal(jax.random.key(1), (20, 25, 40, 2))
    drawn = np.asarray(draw(BOTH_LAWS, ALL[name], x_T, grid).x, np.float64)
    for row, law in enumerate(LAWS):
        weights, means, stds = (np.asarray(part) for part in law)
        x, mean = np.ravel(drawn[..., row]), np.sum(weights * means)
        away = means - mean
        variance = np.sum(weights * (stds**2 + away**2))
        fourth = np.sum(weights * (3 * stds**4 + 6 * stds**2 * away**2 + away**4))
        assert np.mean(x) == pytest.approx(mean, abs=4 * math.sqrt(variance / NUM))
        assert np.var(x) == pytest.approx(variance, abs=4 * math.sqrt((fourth - variance**2) / NUM))
        assert scipy.stats.ks_2samp(x, true_draws(row)).pvalue > 1e-4


def counted(denoise, calls):
    def asked(x_t, level):
        jax.debug.callback(lambda: calls.append(1))
        return denoise(x_t, level)

    return asked


@functools.cache
def ten_steps(name):
    """Returns `Samples` with every state of ten steps to the data, and how often the denoiser was really asked.

    The first channel is of the mixture, the second of data that is one image.
    """
    calls, denoise = [], of_channels(MIXTURE, oracles.point(column([0.4])))
    got = draw(counted(denoise, calls), ALL[name], column(X_T).repeat(2, axis=-1), chain_grid(10), num_traced=10)
    jax.effects_barrier()
    return got, len(calls)


@pytest.mark.parametrize("name", SOME)
def test_evaluations_are_those_reported_and_one_a_step_but_for_those_that_ask_twice(name, x64):
    got, num_calls = ten_steps(name)
    assert num_calls == got.num_evaluations == (19 if name in TWICE else 10)


def test_heun_asks_twice_at_the_last_step_too_where_it_does_not_lead_to_the_data():
    assert draw(GAUSSIAN, samplers.heun(), column(X_T), log_snr_grid(7)).num_evaluations == 14


@pytest.mark.parametrize("to_data", [False, True])
def test_adaptive_steps_report_the_evaluations_of_the_slowest_image_and_one_for_the_data(to_data, x64):
    calls, grid = [], VP.level(grids.ends(VP)[: 3 if to_data else 2])
    got = draw(counted(MIXTURE, calls), samplers.adaptive(VP), column(X_T), grid, num_traced=1 + to_data)
    jax.effects_barrier()
    assert len(calls) == got.num_evaluations > 50
    if to_data:
        np.testing.assert_allclose(got.x, MIXTURE(got.trace[0], process.rows(grid, 1)).x_0, atol=1e-12)


@pytest.mark.parametrize("name", ["dpm_solver 3 x_0", "singlestep 3 x_0", "unipc 3 x_0", "sde_dpm_solver", "churned heun"])
def test_neither_program_nor_memory_grow_with_the_steps(name):
    """But for the columns of the grid, of its indices and of the solver's weights, 32 at most: less than the images that
    one more state would be."""
    run, x_T = jax.jit(sampling(GAUSSIAN, ALL[name])), jnp.zeros((9, 32, 32, 1))
    few, many = (run.lower(x_T, chain_grid(num_sampled)).compile() for num_sampled in (10, 200))
    assert few.as_text().count(" = ") == many.as_text().count(" = ")
    grown = many.memory_analysis().temp_size_in_bytes - few.memory_analysis().temp_size_in_bytes
    assert grown <= 190 * 32 * 4 < x_T.nbytes


def draws_inside_cond(jaxpr, inside=False):
    """Returns for each draw of random bits in a program whether it is in a branch."""
    found = []
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        found += [inside] * (name == "random_bits")
        for part in jax.tree.leaves(equation.params, is_leaf=lambda part: hasattr(part, "jaxpr")):
            part = getattr(part, "jaxpr", part)
            found += draws_inside_cond(part, inside or name == "cond") if hasattr(part, "eqns") else []
    return found


@pytest.mark.parametrize("name", ALL)
def test_noise_is_drawn_only_where_it_is_used(name):
    """The flow's programs have no draw; churn's is in a branch, which a step without churn does not take."""
    program = jax.make_jaxpr(sampling(GAUSSIAN, ALL[name]))(column(np.ones(3)), chain_grid(5)).jaxpr
    assert draws_inside_cond(program) == ([] if name in FLOW else [name in CHURNED])


@pytest.mark.parametrize("limits", [{"amount": 0.0}, {"amount": 20.0, "low": 1e9}, {"amount": 20.0, "high": 1e-9}])
def test_churn_of_nothing_changes_nothing(limits):
    churned = samplers.churn(samplers.heun(), VP, **limits)
    one, two = (draw(MIXTURE, sampler, column(np.ones(3)), chain_grid(9)) for sampler in (churned, samplers.heun()))
    np.testing.assert_array_equal(one.x, two.x)


def test_churn_goes_up_by_its_share_and_at_most_to_the_square_root_of_two(x64):
    """sigma / alpha of the level that the denoiser is asked about, over that of the grid."""
    grid = log_snr_grid(10)
    for amount, expected in ((2.0, 1.2), (100.0, math.sqrt(2))):
        asked = []

        def denoise(x_t, level, asked=asked):
            jax.debug.callback(lambda kappa: asked.append(float(kappa)), level.sigma / level.alpha, ordered=True)
            return GAUSSIAN(x_t, level)

        draw(denoise, samplers.churn(samplers.ddim(), VP, amount=amount), column([0.0]), grid)
        jax.effects_barrier()
        np.testing.assert_allclose(asked / (grid.sigma / grid.alpha)[:-1], expected, rtol=1e-9)


@pytest.mark.parametrize("name", [name for name in SOME if name not in CHURNED and name != "lms 3"])
def test_the_step_to_the_data_is_the_last_prediction_of_x_0(name, x64):
    """UniPC for eps takes its x_0 from eps and the corrected point, where no one asks: in ten steps it is 0.1 off."""
    got, grid = ten_steps(name)[0], chain_grid(10)
    predicted = MIXTURE(got.trace[-2][..., :1], process.rows(grid, 9)).x_0
    close = name.startswith("unipc") and name.endswith("eps")
    np.testing.assert_allclose(got.x[..., :1], predicted, atol=0.15 if close else 1e-12)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpm_solver 3 x_0", "singlestep 3 eps", "unipc 3 x_0", "sde_dpm_solver"])
def test_a_grid_that_ends_before_the_data_stops_there(name, x64):
    """It is the longer grid's state before its last step: nothing more is done."""
    short = draw(MIXTURE, ALL[name], column(X_T), process.rows(chain_grid(10), np.arange(10))).x
    np.testing.assert_allclose(short, ten_steps(name)[0].trace[-2][..., :1], atol=1e-12)


@pytest.mark.parametrize("name", SOME)
def test_data_of_one_image_is_drawn_exactly(name, x64):
    np.testing.assert_allclose(ten_steps(name)[0].x[..., 1], 0.4, atol=1e-12)


@pytest.mark.parametrize("name", ["heun", "singlestep 3 x_0", "unipc 3 eps"])
def test_data_of_one_image_is_drawn_exactly_in_one_step(name, x64):
    got = draw(oracles.point(column([0.4])), ALL[name], column(X_T), chain_grid(1)).x
    np.testing.assert_allclose(got, 0.4, atol=1e-12)


WITHOUT_SIGNAL = {  # for x_0: no eps can be known there
    **{f"{name} {order}": make(order=order) for name, make in FAMILIES.items() for order in (1, 2, 3)},
    **{name: ALL[name] for name in ("ddim", "heun", "ddim eta 1", "sde_dpm_solver", "churned heun")},
}


@pytest.mark.parametrize("sampler", WITHOUT_SIGNAL.values(), ids=WITHOUT_SIGNAL)
def test_levels_without_signal_are_a_start(sampler):
    """A schedule of zero terminal SNR, and a network that is right about v."""

    def network(x_t, c_noise):
        level = process.rows(levels, jnp.asarray(c_noise, jnp.int32) + 1)
        truth = MIXTURE(x_t, level)
        return process.expand(level.alpha, x_t) * truth.eps - process.expand(level.sigma, x_t) * truth.x_0

    levels = oracles.rows_of(schedules.zero_terminal_snr(CHAIN))
    assert levels.alpha[-1] == 0
    grid = process.rows(levels, np.round(np.linspace(1000, 0, 31)).astype(int))
    x = draw(denoiser.make_denoiser(network, denoiser.V), sampler, column(X_T), grid).x
    assert np.all(np.isfinite(x)) and np.max(np.abs(x)) < 2


@pytest.mark.parametrize(("name", "expected"), [("ddim", -1), ("heun", -3)])
def test_an_image_goes_up_to_noise_and_comes_back(name, expected, x64):
    """Inversion. Euler's errors add up both ways; of Heun's the leading ones, h^3 and (-h)^3, undo each other."""
    x = column(X_T / 2)

    def error(num_sampled):
        down = log_snr_grid(num_sampled)
        noise = draw(MIXTURE, FLOW[name], x, process.rows(down, np.arange(num_sampled, -1, -1))).x
        return np.max(np.abs(draw(MIXTURE, FLOW[name], noise, down).x - x))

    assert slope(error) == pytest.approx(expected, abs=0.2)


PROCESSES = {"chain": process.chain(CHAIN), "vp": VP, "ve": VE, "rectified flow": RECTIFIED}


@pytest.mark.parametrize("name", PROCESSES)
def test_adaptive_steps_end_where_the_law_says(name, x64):
    """Within 100 times the tolerance of a step; rectified flow from t = 1, where there is no signal. In one step of the grid
    and in several, which are of the same flow, and back up again."""
    of = PROCESSES[name]
    sampler = samplers.adaptive(of, tolerance=1e-7)
    for times in (grids.ends(of)[:-1], grids.quadratic(of, 4)[:-1]):
        grid = of.level(times)
        first, last = process.rows(grid, 0), process.rows(grid, len(times) - 1)
        x_T = column(X_T * first.sigma)
        got = draw(MIXTURE, sampler, x_T, grid)
        np.testing.assert_allclose(np.ravel(got.x), oracles.carried(x_T, first, last), atol=1e-5)
    again = draw(MIXTURE, sampler, got.x, of.level(grids.ends(of)[1::-1]))
    np.testing.assert_allclose(again.x / first.sigma, x_T / first.sigma, atol=1e-4)


def test_adaptive_steps_that_do_not_arrive_are_nan(x64):
    """A tolerance that a thousand steps do not reach."""
    got = draw(MIXTURE, samplers.adaptive(VP, tolerance=1e-25), column(X_T), VP.level(grids.ends(VP)))
    assert np.all(np.isnan(got.x))


@pytest.mark.parametrize("make", FAMILIES.values())
def test_bad_arguments_are_refused(make):
    with pytest.raises(ValueError, match="order = 4 is not allowed; it must be a whole number from 1 to 3"):
        make(order=4)
    with pytest.raises(ValueError, match="solves_for = 'v' is unknown; known: x_0, eps"):
        make(solves_for="v")
    with pytest.raises(ValueError, match="variant = 'bh3' is unknown; known: bh1, bh2"):
        multistep.unipc(variant="bh3")


@pytest.mark.parametrize("make", [multistep.lms, functools.partial(multistep.unipc, solves_for="eps")])
def test_a_solver_of_eps_refuses_a_grid_that_begins_without_signal(make):
    of, keys = process.rectified_flow(), jax.random.split(jax.random.key(0), len(X_T))
    grid = of.level(grids.trailing(of, 4))
    with pytest.raises(
        ValueError, match="a first level without signal is impossible for a solver of eps; set solves_for = 'x_0'"
    ):
        samplers.sample(MIXTURE, make(), column(X_T), grid, keys)


@pytest.mark.parametrize("name", SOME)
def test_the_gradient_by_the_start_is_finite(name):
    """What guidance by a loss of the image needs; at first steps there is nothing to remember, and nothing to divide by."""
    grid = chain_grid(5)
    run = sampling(GAUSSIAN, ALL[name])
    by_start = jax.jit(jax.grad(lambda x_T, grid: jnp.sum(run(x_T, grid).x)))(column(X_T), grid)
    assert np.all(np.isfinite(by_start)) and np.any(by_start != 0)
