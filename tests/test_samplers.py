"""Samplers against data whose exact denoiser is known, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from diffusion_jax import denoiser, grids, multistep, process, samplers, schedules, streams

SAMPLERS = {
    "ancestral small": samplers.ancestral(variance="small"),
    "ancestral large": samplers.ancestral(variance="large"),
    "ddim": samplers.ddim(),
    "ddim eta 0.5": samplers.ddim(eta=0.5),
    "ddim eta 1": samplers.ddim(eta=1.0),
}
NAMES = pytest.mark.parametrize("name", SAMPLERS)


def grid_of(num_sampled, betas=None, grid=grids.trailing):
    betas = schedules.linear(1000) if betas is None else betas
    chain = process.chain(betas)
    return chain.level(grid(chain, num_sampled))


def sample(denoise, sampler, x_T, grid, keys, **options):
    """Returns what `samplers.sample` does, as one program."""
    return jax.jit(lambda x_T, grid, keys: samplers.sample(denoise, sampler, x_T, grid, keys, **options))(x_T, grid, keys)


def draw(name, denoise, grid, shape=(4, 8, 8, 1), seed=0, **options):
    """Returns `Samples` of one sampler on a grid, compiled."""
    keys = streams.keys(seed, "sampler", jnp.arange(shape[0]))
    x_T = jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(streams.keys(seed, "x_T", jnp.arange(shape[0])))
    return sample(denoise, SAMPLERS[name], x_T, grid, keys, **options)


@NAMES
@pytest.mark.parametrize("num_sampled", [1, 17])
@pytest.mark.parametrize("grid", [grids.trailing, grids.ddim_quadratic])
def test_data_of_one_image_is_drawn_exactly_on_any_grid(name, num_sampled, grid, x64):
    x_0 = jax.random.uniform(jax.random.key(3), (8, 8, 1), minval=-1)
    got = draw(name, oracles.point(x_0), grid_of(num_sampled, grid=grid))
    np.testing.assert_allclose(got.x, jnp.broadcast_to(x_0, got.x.shape), atol=1e-12)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("ddim eta")) for name in SAMPLERS]
)
def test_gaussian_data_is_drawn_with_its_mean_and_spread(name, optimized):
    """1000 steps, 65,536 values: standard errors are 0.002 of the mean, 0.0014 of the spread; tolerances 4 and 5 of them,
    the spread's with the 1/T that a thousand steps leave."""
    x = draw(name, oracles.gaussian(), grid_of(1000), shape=(64, 32, 32, 1)).x
    assert np.mean(x) == pytest.approx(oracles.MEAN, abs=0.008)
    assert np.std(x) == pytest.approx(oracles.STD, abs=0.008)
    third = np.mean((np.asarray(x, np.float64) - np.mean(x)) ** 3) / np.std(x) ** 3
    assert third == pytest.approx(0, abs=4 * np.sqrt(6 / x.size))


def test_ddim_follows_the_flow_that_maps_quantiles_to_quantiles(x64):
    """For Gaussian data the probability flow keeps (x - alpha mean) / std of the marginal; Euler's error falls as 1 / S."""
    errors = []
    for num_sampled in (250, 500, 1000):
        grid = grid_of(num_sampled)
        x_T = jnp.linspace(-2, 2, 9).reshape(9, 1, 1, 1)
        keys = streams.keys(0, "sampler", jnp.arange(9))
        got = sample(oracles.gaussian(), samplers.ddim(), x_T, grid, keys).x
        spread = jnp.sqrt(grid.alpha[0] ** 2 * oracles.STD**2 + grid.sigma[0] ** 2)
        exact = oracles.MEAN + oracles.STD * (x_T - grid.alpha[0] * oracles.MEAN) / spread
        errors.append(np.max(np.abs(got - exact)))
    slopes = np.diff(np.log(errors)) / np.log(2)
    np.testing.assert_allclose(slopes, -1, atol=0.15)


@pytest.mark.parametrize("num_sampled", [5, 1000])
def test_ddim_with_eta_one_is_ancestral(num_sampled, x64):
    one, two = (draw(name, oracles.gaussian(), grid_of(num_sampled)).x for name in ("ddim eta 1", "ancestral small"))
    np.testing.assert_allclose(one, two, atol=1e-12)


def test_ddim_without_noise_ignores_the_keys():
    x_T = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    a, b = (
        samplers.sample(oracles.gaussian(), samplers.ddim(), x_T, grid_of(10), streams.keys(s, "sampler", jnp.arange(2)))
        for s in (0, 1)
    )
    np.testing.assert_array_equal(a.x, b.x)


@NAMES
def test_the_last_step_adds_no_noise(name, precision):
    """From the same state, steps to level 0 with different noises end in the same place: the predicted x_0."""
    grid = grid_of(3)
    interval = samplers.Interval(process.rows(grid, 2), process.rows(grid, 3), jnp.array(2), jnp.array(0))
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 1))
    state = SAMPLERS[name].init(x, grid)
    ends = [
        SAMPLERS[name].step(
            oracles.gaussian(), state, interval, lambda k, seed=seed: jax.random.normal(jax.random.key(seed), x.shape)
        )[0]
        for seed in (1, 2)
    ]
    np.testing.assert_array_equal(*ends)
    np.testing.assert_allclose(ends[0], oracles.gaussian()(x, interval.t).x_0, rtol=precision, atol=precision)


@NAMES
def test_an_image_does_not_depend_on_its_batch(name, x64):
    """Image 2 of 4 is image 2 of 3, to rounding: its noises come from its own key."""
    few, many = (draw(name, oracles.gaussian(), grid_of(20), shape=(num, 8, 8, 1)).x for num in (3, 4))
    np.testing.assert_allclose(few, many[:3], atol=1e-12)
    assert np.min(np.std(np.asarray(many), axis=0)) > 0


def test_the_step_can_be_held_against_stored_noises(x64):
    """x_s = mean + std z with z given: what comparisons with recorded chains rest on."""
    grid = grid_of(10)
    interval = samplers.Interval(process.rows(grid, 4), process.rows(grid, 5), jnp.array(4), jnp.array(5))
    x, z = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 1))
    sampler = SAMPLERS["ancestral small"]
    got = sampler.step(oracles.gaussian(), sampler.init(x, grid), interval, lambda k: z)[0]
    law = process.posterior(oracles.gaussian()(x, interval.t).x_0, x, interval.t, interval.s)
    np.testing.assert_allclose((got - law.mean) / jnp.exp(law.log_variance / 2), z, rtol=1e-10)


@NAMES
def test_evaluations_are_counted(name):
    assert draw(name, oracles.gaussian(), grid_of(7)).num_evaluations == 7


def test_the_denoiser_is_traced_once_for_any_number_of_steps():
    traced = []

    def denoise(x_t, level):
        traced.append(level.alpha.shape)
        return oracles.gaussian()(x_t, level)

    draw("ancestral small", denoise, grid_of(100))
    assert traced == [()]


@pytest.mark.parametrize(("num_sampled", "num_traced"), [(10, 5), (10, 3), (7, 7), (10, 1), (10, 0)])
def test_trace_keeps_states_evenly_spaced_and_the_last(num_sampled, num_traced):
    x_0 = jnp.zeros((8, 8, 1))
    alphas = grid_of(num_sampled).alpha
    # With x_T = 1 and data 0, DDIM's state after step i is sigma_i / sigma_0 everywhere.
    x_T = jnp.ones((1, 8, 8, 1))
    grid = grid_of(num_sampled)
    keys = streams.keys(0, "sampler", jnp.arange(1))
    got = sample(oracles.point(x_0), samplers.ddim(), x_T, grid, keys, num_traced=num_traced)
    assert got.trace.shape == (num_traced, 1, 8, 8, 1) and len(alphas) == num_sampled + 1
    expected = np.asarray(grid.sigma[1:] / grid.sigma[0])[
        [-(-(j + 1) * num_sampled // num_traced) - 1 for j in range(num_traced)]
    ]
    np.testing.assert_allclose(got.trace[:, 0, 0, 0, 0], expected, atol=1e-5)
    if num_traced:
        np.testing.assert_array_equal(got.trace[-1], got.x)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: samplers.ddim(eta=3.0), "eta = 3.0 is not allowed; it must be from 0 to 1"),
        (
            lambda: samplers.ancestral(variance="fixed"),
            "variance = 'fixed' is unknown; known: small, large, learned, learned_range",
        ),
        (
            lambda: draw("ddim", oracles.gaussian(), grid_of(3), num_traced=5),
            "num_traced = 5 is not allowed; it must be a whole number from 0 to 3",
        ),
    ],
)
def test_bad_arguments_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


TABLE = oracles.rows_of(schedules.linear(1000))
WRONG = {  # an argument of `sample` -> its value, and what is said
    "a name": ({"sampler": "ddim"}, "sampler = 'ddim' is not a Sampler"),
    "a sampler not made yet": ({"sampler": samplers.ddim}, "is not a Sampler; use one such as samplers.ddim"),
    "rows": ({"grid": np.array([1000, 667, 333, 0])}, r"grid must be a Level with S \+ 1 rows"),
    "one level": ({"grid": process.rows(TABLE, [500])}, "the grid is not allowed; it must have two levels or more"),
    "a level twice": ({"grid": process.rows(TABLE, [1000, 500, 500, 0])}, "each different from the one before"),
    "the data twice": ({"grid": process.rows(TABLE, [1000, 0, 0])}, "each different from the one before"),
    "few digits": ({"x_T": jnp.zeros((4, 8, 8, 1), jnp.bfloat16)}, "x_T of bfloat16 is not allowed on a grid of float32"),
    "few digits in both": (
        {"x_T": jnp.zeros((4, 8, 8, 1), jnp.bfloat16), "grid": jax.tree.map(lambda c: c.astype(jnp.bfloat16), grid_of(3))},
        "x_T of bfloat16 is not allowed on a grid of bfloat16; both need float32 or more",
    ),
    "one key": ({"keys": jax.random.key(0)}, r"keys of \[\] for 4 images are not allowed; every image needs its own"),
    "a key too few": ({"keys": jax.random.split(jax.random.key(0), 3)}, r"keys of \[3\] for 4 images"),
    "an old key": ({"keys": jax.random.PRNGKey(0)}, r"keys of \[2\] for 4 images"),
    "numbers": ({"keys": jnp.arange(4)}, r"keys of \[4\] for 4 images"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_sampled_from_is_refused(name):
    wrong, sentence = WRONG[name]
    keys = streams.keys(0, "sampler", jnp.arange(4))
    right = {"sampler": samplers.ddim(), "x_T": jnp.zeros((4, 8, 8, 1)), "grid": grid_of(3), "keys": keys}
    with pytest.raises(ValueError, match=sentence):
        samplers.sample(oracles.gaussian(), **right | wrong)


def test_keys_of_the_old_kind_draw_the_same():
    x_T, old = jnp.zeros((2, 4, 4, 1)), jax.random.split(jax.random.PRNGKey(0), 2)
    sampler = samplers.ddim(eta=1.0)
    one, two = (
        samplers.sample(oracles.gaussian(), sampler, x_T, grid_of(3), keys) for keys in (old, jax.random.wrap_key_data(old))
    )
    np.testing.assert_array_equal(one.x, two.x)


def test_the_gradient_through_a_learned_variance_is_finite():
    def network(x_t, condition):
        return jnp.concatenate([0.3 * x_t, jnp.sin(x_t)], axis=-1)

    denoise = denoiser.make_denoiser(network, denoiser.EPS, learned_variance=True)
    sampler, keys = samplers.ancestral(variance="learned_range"), streams.keys(0, "sampler", jnp.arange(2))
    grid = grid_of(5)
    by_x_T = jax.jit(jax.grad(lambda x_T: jnp.sum(samplers.sample(denoise, sampler, x_T, grid, keys).x)))(
        jnp.ones((2, 4, 4, 1))
    )
    assert np.all(np.isfinite(by_x_T)) and np.any(by_x_T != 0)


def test_a_learned_variance_needs_a_network_that_has_one():
    with pytest.raises(ValueError, match="variance = 'learned_range' needs a network that predicts one"):
        samplers.sample(
            oracles.gaussian(),
            samplers.ancestral(variance="learned_range"),
            jnp.zeros((1, 8, 8, 1)),
            grid_of(3),
            streams.keys(0, "sampler", jnp.arange(1)),
        )


def test_a_grid_may_go_down_and_up_again(x64, optimized):
    """RePaint's way: DDIM down to a level, `renoise` up, and down: the marginal of Gaussian data is kept."""
    chain = process.chain(schedules.linear(1000))
    down, up = chain.level(np.arange(1000, 399, -1)), chain.level(np.array([400, 700]))
    keys, x_T = streams.keys(0, "sampler", jnp.arange(1)), jax.random.normal(jax.random.key(0), (1, 64, 64, 4))
    x = sample(oracles.gaussian(), samplers.ddim(), x_T, down, keys).x
    x = process.renoise(x, process.rows(up, 0), process.rows(up, 1), jax.random.normal(jax.random.key(1), x.shape))
    x = sample(oracles.gaussian(), samplers.ddim(), x, chain.level(np.arange(700, -1, -1)), keys).x
    assert np.mean(x) == pytest.approx(oracles.MEAN, abs=0.02) and np.std(x) == pytest.approx(oracles.STD, abs=0.02)
    there_and_back = chain.level(np.array([1000, 500, 750, 0]))
    assert np.all(np.isfinite(sample(oracles.gaussian(), samplers.ddim(), x_T, there_and_back, keys).x))


def test_renoising_composes_with_diffusing(x64):
    """A draw from q(x_s | x_0), renoised to t, is one from q(x_t | x_0): alpha_t, and sigma_t^2 from two draws."""
    for of in (process.vp(), process.ve(), process.rectified_flow()):
        s, t = (of.level(np.float64(0.3 * of.last)), of.level(np.float64(0.9 * of.last)))
        one, zero = jnp.ones((1, 1)), jnp.zeros((1, 1))
        keep, std = process.renoise(one, s, t, zero), process.renoise(zero, s, t, one)
        np.testing.assert_allclose(keep * s.alpha, t.alpha, rtol=1e-12)
        np.testing.assert_allclose((keep * s.sigma) ** 2 + std**2, t.sigma**2, rtol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), pytest.param((2, 7, 2), marks=pytest.mark.slow), (2, 3, 4, 5, 1)])
def test_data_need_not_be_images(shape, x64):
    """Vectors, sequences and volumes, by samplers that draw, remember and integrate."""
    of = process.vp()
    grid, keys = of.level(grids.uniform(of, 6)), streams.keys(0, "sampler", jnp.arange(shape[0]))
    x_0 = jax.random.uniform(jax.random.key(3), shape, minval=-1)
    x_T = jax.random.normal(jax.random.key(0), shape)
    denoise = denoiser.limit_x_0(oracles.point(x_0), denoiser.dynamic_threshold)
    for sampler in (samplers.ancestral(variance="small"), multistep.unipc(), samplers.adaptive(of)):
        np.testing.assert_allclose(sample(denoise, sampler, x_T, grid, keys).x, x_0, atol=1e-9)
