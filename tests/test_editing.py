"""Editing against closed forms: a joint Gaussian over all pixels, whose conditional law is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import recorded

from diffusion_jax import denoiser, editing, grids, multistep, operators, process, samplers, schedules, sde, streams
from diffusion_jax.errors import UserError

SHAPE = (4, 4, 1)
MASK = np.arange(4)[None, :, None] >= np.array([2, 2, 3, 1])[:, None, None]
CHAIN = process.chain(schedules.linear(1000))
ANCESTRAL = samplers.ancestral(variance="small")
OPERATORS = {
    "known": operators.known(MASK),
    "averaging": operators.averaging(2),
    "blur": operators.gaussian_blur(0.5),
}
EACH = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


def smooth():
    """Returns (mean, covariance, denoiser, an image) of data whose pixels depend on each other."""
    mean, covariance = oracles.smooth(*SHAPE)
    image = np.random.default_rng(0).multivariate_normal(mean, covariance).reshape(1, *SHAPE)
    return mean, covariance, oracles.joint_gaussian(mean, covariance), image


def independent(std):
    """Returns the same of data whose pixels do not."""
    mean, covariance = oracles.smooth(*SHAPE)[0], std**2 * np.eye(16)
    image = (mean + std * np.random.default_rng(0).standard_normal(16)).reshape(1, *SHAPE)
    return mean, covariance, oracles.joint_gaussian(mean, covariance), image


def given(mean, covariance, operator, y, level, x_t, noise_std=0.0):
    """Returns E[x_0 | x_t, y]: y and x_t are one measurement."""
    measure = oracles.matrix(operator.apply, SHAPE)
    both = np.concatenate([measure, float(level.alpha) * np.eye(16)])
    noise = np.repeat([noise_std, float(level.sigma)], [len(measure), 16])
    return oracles.conditional(mean, covariance, both, np.concatenate([np.ravel(y), np.ravel(x_t)]), noise)[0]


def far(found, wanted):
    """Returns the distances of mean and of covariance, relative to the wanted spread."""
    spread = np.trace(wanted[1])
    mean, covariance = (np.linalg.norm(f - w) for f, w in zip(found, wanted, strict=True))
    return mean / np.sqrt(spread), covariance / np.linalg.norm(wanted[1])


def grid_of(num_steps, **jumps):
    times = grids.trailing(CHAIN, num_steps)
    return CHAIN.level(grids.jumps(times, **jumps) if jumps else times)


# ---- measurements


@EACH
def test_what_is_measured_of_a_consistent_prediction_is_y(operator, x64):
    _, _, denoise, image = smooth()
    x_t, level = jax.random.normal(jax.random.key(0), (3, *SHAPE)), CHAIN.level(300)
    found = jax.jit(editing.consistent(denoise, operator.apply(image), operator))(x_t, level)
    np.testing.assert_allclose(operator.apply(found.x_0), np.repeat(operator.apply(image), 3, 0), atol=1e-12)
    np.testing.assert_allclose(level.alpha * found.x_0 + level.sigma * found.eps, x_t, atol=1e-12)


@EACH
def test_a_consistent_prediction_is_exact_where_the_rest_does_not_depend_on_y(operator, x64):
    """For pixels independent and alike, the null space of A does not depend on its range."""
    mean, covariance, denoise, image = independent(oracles.STD)
    x_t, y = jax.random.normal(jax.random.key(0), (1, *SHAPE)), operator.apply(image)
    predict = jax.jit(editing.consistent(denoise, y, operator))
    for t in (10, 300, 990):
        found = predict(x_t, CHAIN.level(t)).x_0
        wanted = given(mean, covariance, operator, y, CHAIN.level(t), x_t)
        np.testing.assert_allclose(np.ravel(found), wanted, atol=1e-8)


@EACH
@pytest.mark.parametrize("of", ["chain", "ve", "rectified_flow"])
def test_pseudoinverse_guidance_is_exact_for_white_data(operator, of, x64):
    """r^2 is then the variance of x_0 given x_t, in any process."""
    mean, covariance, denoise, image = independent(1.0)
    level = {"chain": CHAIN, "ve": process.ve(), "rectified_flow": process.rectified_flow()}[of].level(0.4)
    level = CHAIN.level(400) if of == "chain" else level
    x_t, y = jax.random.normal(jax.random.key(0), (1, *SHAPE)), operator.apply(image) + 0.1
    found = jax.jit(editing.pseudoinverse_guided(denoise, y, operator, noise_std=0.3))(x_t, level)
    wanted = given(mean, covariance, operator, y, level, x_t, 0.3)
    np.testing.assert_allclose(np.ravel(found.x_0), wanted, atol=1e-11)
    np.testing.assert_allclose(level.alpha * found.x_0 + level.sigma * found.eps, x_t, atol=1e-12)


def test_a_limit_outside_of_pseudoinverse_guidance_lets_limited_pixels_lead():
    """And one inside does not: here all of x_0 is limited."""
    x_t, level = jnp.full((1, *SHAPE), 9.0), CHAIN.level(np.array([100]))
    denoise, y = smooth()[2], jnp.zeros((1, *SHAPE))
    assert np.min(denoise(x_t, level).x_0) > 1
    plain = denoiser.clip_x_0(denoise)(x_t, level)
    inside = editing.pseudoinverse_guided(denoiser.clip_x_0(denoise), y, OPERATORS["known"])(x_t, level)
    outside = denoiser.clip_x_0(editing.pseudoinverse_guided(denoise, y, OPERATORS["known"]))(x_t, level)
    np.testing.assert_array_equal(inside.x_0, plain.x_0)
    assert np.mean(outside.x_0 < 0.9) > 0.1


def test_pseudoinverse_guidance_leaves_a_level_without_signal_as_it_is():
    level = process.rectified_flow().level(np.array([1.0, 0.5]))
    x_t, image = jax.random.normal(jax.random.key(0), (2, *SHAPE)), smooth()[3].astype(np.float32)
    plain = oracles.gaussian()(x_t, level)
    found = editing.pseudoinverse_guided(oracles.gaussian(), image, OPERATORS["known"])(x_t, level)
    np.testing.assert_array_equal(found.x_0[0], plain.x_0[0])
    assert np.all(np.isfinite(found.eps)) and np.any(found.x_0[1] != plain.x_0[1])


@EACH
def test_independent_pixels_are_drawn_from_their_conditional_law(operator, x64):
    """Exact but for what 500 ancestral steps leave of the covariance, 3%: half of what 250 leave."""
    mean, covariance, denoise, image = independent(oracles.STD)
    y = operator.apply(image)
    if operator is OPERATORS["blur"]:  # determines the image, which then has no law
        found, rest = oracles.law(editing.consistent(denoise, y, operator), ANCESTRAL, grid_of(10), SHAPE)
        np.testing.assert_allclose(found, np.ravel(image), atol=1e-10)
        np.testing.assert_allclose(rest, 0, atol=1e-12)
        return
    wanted = oracles.conditional(mean, covariance, oracles.matrix(operator.apply, SHAPE), y)
    away = far(oracles.law(editing.consistent(denoise, y, operator), ANCESTRAL, grid_of(500), SHAPE), wanted)
    assert away[0] < 2e-3 and away[1] < 0.04


def test_white_data_are_drawn_given_a_noisy_measurement(x64):
    mean, covariance, denoise, image = independent(1.0)
    operator, y = OPERATORS["averaging"], OPERATORS["averaging"].apply(image) + 0.1
    wanted = oracles.conditional(mean, covariance, oracles.matrix(operator.apply, SHAPE), y, 0.3)
    guided = editing.pseudoinverse_guided(denoise, y, operator, noise_std=0.3)
    coarse, fine = (far(oracles.law(guided, samplers.ddim(), grid_of(num), SHAPE), wanted) for num in (100, 400))
    assert fine[0] < 0.01 and fine[1] < 0.03 and fine[1] < coarse[1] / 2


def test_ddim_with_its_own_eps_draws_dependent_pixels_exactly_in_the_limit(x64):
    """E[x_0 | x_t] is affine, so that the rest is right once x_t says A x_0 = y; eps recomputed keeps its bias."""
    mean, covariance, denoise, image = smooth()
    operator = OPERATORS["known"]
    wanted = oracles.conditional(mean, covariance, oracles.matrix(operator.apply, SHAPE), image * ~MASK)
    errors = {
        (recompute, num): far(
            oracles.law(
                editing.consistent(denoise, image, operator, recompute_eps=recompute), samplers.ddim(), grid_of(num), SHAPE
            ),
            wanted,
        )[0]
        for recompute in (False, True)
        for num in (60, 240, 960)
    }
    assert errors[False, 960] < errors[False, 240] / 2 < errors[False, 60] / 4
    assert errors[True, 960] > 0.9 * errors[True, 60] > 0.1


def test_its_own_eps_fails_with_solvers_of_eps(x64):
    """As `consistent` says. Errors of the mean, which is where x_T = 0 leads."""
    mean, covariance, denoise, image = smooth()
    operator = OPERATORS["known"]
    wanted = oracles.conditional(mean, covariance, oracles.matrix(operator.apply, SHAPE), image * ~MASK)
    solvers = {"ddim": samplers.ddim(), "eps": multistep.dpm_solver(order=2, solves_for="eps")}
    away = {}
    for name, solver in solvers.items():
        for recompute in (False, True):
            changed = editing.consistent(denoise, image, operator, recompute_eps=recompute)
            keys = jax.random.split(jax.random.key(0), 1)
            found = samplers.sample(changed, solver, jnp.zeros((1, *SHAPE)), grid_of(100), keys).x
            away[name, recompute] = np.linalg.norm(np.ravel(found) - wanted[0])
    assert away["ddim", False] < away["ddim", True] / 2
    assert away["eps", False] > 2 * away["eps", True]


def test_posterior_sampling_steps_along_the_gradient_of_the_distance(x64):
    """For an affine denoiser D = m + K x_t it is K^T A^T (A D - y) / |A D - y|."""
    _, _, denoise, image = smooth()
    operator, y = OPERATORS["averaging"], OPERATORS["averaging"].apply(image)
    interval = samplers.Interval(CHAIN.level(500), CHAIN.level(480), jnp.array(0), jnp.array(5))
    x = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    plain, num = samplers.ddim().step(denoise, x, interval, None)
    found, num_evaluations = editing.posterior_sampling(samplers.ddim(), y, operator, scale=0.7).step(
        denoise, x, interval, None
    )
    slope = oracles.matrix(lambda x: denoise(x, interval.t).x_0, SHAPE)
    away = np.reshape(operator.apply(denoise(x, interval.t).x_0) - y, (2, -1))
    direction = away @ oracles.matrix(operator.apply, SHAPE) @ slope / np.linalg.norm(away, axis=1, keepdims=True)
    np.testing.assert_allclose(np.reshape(plain - found, (2, -1)), 0.7 * direction, atol=1e-12)
    assert num_evaluations == num + 1


def test_posterior_sampling_stays_finite_where_y_is_met():
    x, interval = jnp.ones((1, *SHAPE)), samplers.Interval(CHAIN.level(500), CHAIN.level(480), jnp.array(0), jnp.array(0))
    sampler = editing.posterior_sampling(samplers.ddim(), jnp.ones((1, *SHAPE)), OPERATORS["known"], scale=1.0)
    np.testing.assert_array_equal(
        sampler.step(oracles.point(1.0), x, interval, None)[0],
        samplers.ddim().step(oracles.point(1.0), x, interval, None)[0],
    )


# ---- replacement and RePaint


def test_no_two_parts_of_a_step_share_a_draw():
    """The sampler, churn, the known pixels and the corrections each have noise of their own."""
    asked = set()

    def noise(k):
        assert k not in asked
        asked.add(k)
        return jnp.zeros((1, *SHAPE))

    sampler = sde.corrected(samplers.ddim(eta=1), sde.langevin(snr=0.1), num_corrections=2)
    sampler = editing.replaced(samplers.churn(sampler, CHAIN, amount=4), jnp.zeros((1, *SHAPE)), MASK)
    interval = samplers.Interval(CHAIN.level(500), CHAIN.level(480), jnp.array(0), jnp.array(0))
    with jax.disable_jit():
        sampler.step(oracles.point(0.0), jnp.ones((1, *SHAPE)), interval, noise)
    assert len(asked) == 5


def test_known_pixels_are_draws_around_the_image_at_every_level(x64):
    _, _, denoise, image = smooth()
    sampler = editing.replaced(ANCESTRAL, image, MASK)
    mean, covariance = oracles.law(denoise, sampler, jax.tree.map(lambda column: column[:-4], grid_of(10)), SHAPE)
    level, known = process.rows(grid_of(10), 6), ~np.ravel(MASK)
    np.testing.assert_allclose(mean[known], level.alpha * np.ravel(image)[known], atol=1e-12)
    np.testing.assert_allclose(covariance[known][:, known], level.sigma**2 * np.eye(known.sum()), atol=1e-12)


def test_the_bias_of_replacement_falls_with_the_number_of_resamples(x64):
    mean, covariance, denoise, image = smooth()
    wanted = oracles.conditional(mean, covariance, oracles.matrix(OPERATORS["known"].apply, SHAPE), image * ~MASK)
    sampler = editing.replaced(ANCESTRAL, image, MASK)
    away = [
        far(oracles.law(denoise, sampler, grid_of(250, jump_length=10, num_resamples=num), SHAPE), wanted)[0]
        for num in (1, 3, 10)
    ]
    assert away[0] > 1.5 * away[1] > 1.5 * 1.5 * away[2]


def test_a_step_up_in_noise_adds_it_and_costs_nothing(x64):
    """After a jump up the law is that of q(x_t | x_s): mean times alpha_t / alpha_s."""
    _, _, denoise, image = smooth()
    rows, x = CHAIN.level(np.array([300, 500])), jax.random.normal(jax.random.key(0), (1, *SHAPE))
    interval = samplers.Interval(process.rows(rows, 0), process.rows(rows, 1), jnp.array(0), jnp.array(0))
    z = jax.random.normal(jax.random.key(1), x.shape)
    found, num_evaluations = editing.replaced(ANCESTRAL, image, MASK).step(denoise, x, interval, lambda k: z)
    np.testing.assert_allclose(found, process.renoise(x, interval.t, interval.s, z), atol=1e-12)
    assert num_evaluations == 0


G4B = recorded.load("g4b_diffusers")


@pytest.mark.parametrize("key", [key for key in G4B if key.startswith("repaint.ts")])
def test_jumps_are_those_of_diffusers(key):
    """They count T - 1 .. 0 and leave out the data."""
    num, sampled, length, resamples = (int(part[1:]) for part in key.split(".")[2:])
    chain = process.chain(schedules.linear(num))
    times = grids.jumps(grids.leading(chain, sampled), jump_length=length, num_resamples=resamples)
    np.testing.assert_array_equal(times, [*(G4B[key] + 1), 0])


def recorded_images():
    """Returns x_T, the image, its mask (1 is known there, and each channel has its own) and the noises."""
    keys = ("x_T", "repaint.original", "repaint.mask", "noise")
    x_T, image, known, noise = (jnp.moveaxis(jnp.asarray(G4B[key]), -3, -1) for key in keys)
    return x_T, image, 1 - known, noise


@pytest.mark.parametrize("eta", [0, 1])
def test_a_step_of_repaint_is_that_of_diffusers(eta, x64):
    """Their previous step is t - T // n, and one noise serves both parts."""
    (x_T, image, mask, noise), t = recorded_images(), int(G4B[f"repaint.step.eta{eta}.t"])
    levels = CHAIN.level(np.array([t + 1, t + 1 - 50]))
    interval = samplers.Interval(*(process.rows(levels, row) for row in (0, 1)), jnp.array(0), jnp.array(0))
    network = denoiser.make_denoiser(lambda x, t: jnp.tanh(0.8 * x + 0.5 * jnp.sin(0.01 * t[0])), denoiser.EPS)
    network = denoiser.limit_x_0(network, denoiser.clip, recompute_eps=False)
    step = editing.replaced(samplers.ddim(eta=eta), image, mask).step
    found, _ = step(network, x_T, interval, lambda k: noise[0])
    np.testing.assert_allclose(jnp.moveaxis(found, -1, -3), G4B[f"repaint.step.eta{eta}.prev"], rtol=1e-9, atol=1e-11)


def test_undoing_a_step_is_that_of_diffusers(x64):
    (x, image, mask, noise), t = recorded_images(), int(G4B["repaint.undo.t"])
    for k in range(5):
        levels = CHAIN.level(np.array([t + k, t + 1 + k]))
        interval = samplers.Interval(*(process.rows(levels, row) for row in (0, 1)), jnp.array(0), jnp.array(0))
        x, _ = editing.replaced(ANCESTRAL, image, mask).step(oracles.gaussian(), x, interval, lambda _, k=k: noise[k])
    np.testing.assert_allclose(jnp.moveaxis(x, -1, -3), G4B["repaint.undo.out"], rtol=1e-9)


# ---- from an image


def images(num=3):
    return oracles.MEAN + oracles.STD * jax.random.normal(jax.random.key(5), (num, 8, 8, 1))


def edited(sampler, noise, keys, strength, image=None):
    image = images() if image is None else image
    edit = functools.partial(editing.from_image, oracles.gaussian(), sampler, strength=strength)
    return jax.jit(lambda: edit(image, noise, grid_of(20), keys))()


def test_strength_goes_from_the_image_to_sampling_from_noise():
    noise, keys = jax.random.normal(jax.random.key(0), (3, 8, 8, 1)), streams.keys(0, "sampler", jnp.arange(3))
    none, little, half, full = (edited(ANCESTRAL, noise, keys, strength) for strength in (0, 0.05, 0.5, 1.0))
    np.testing.assert_array_equal(none.x, images())
    assert [int(found.num_evaluations) for found in (none, little, half, full)] == [0, 1, 10, 20]
    sampled = samplers.sample(oracles.gaussian(), ANCESTRAL, noise, grid_of(20), keys)
    np.testing.assert_allclose(full.x, sampled.x, atol=0.02)  # alpha_T is 0.006
    away = [float(jnp.mean((found.x - images()) ** 2)) for found in (none, little, half, full)]
    assert away == sorted(away)


def test_one_noise_and_several_keys_are_stochastic_reconstruction():
    """From one x_t: near the image where there was little noise, and each draw another."""
    image, noise = images(1).repeat(200, 0), jax.random.normal(jax.random.key(0), (1, 8, 8, 1)).repeat(200, 0)
    keys = streams.keys(0, "sampler", jnp.arange(200))
    found = edited(ANCESTRAL, noise, keys, 0.2, image).x
    level = process.rows(grid_of(20), 16)
    x_t, signal = process.diffuse(image, level, noise), level.alpha**2 * oracles.STD**2
    wanted = oracles.gaussian()(x_t, level).x_0[0]
    std = oracles.STD * level.sigma / np.sqrt(signal + level.sigma**2)
    np.testing.assert_allclose(np.mean(found, 0), wanted, atol=4.5 * std / np.sqrt(200) + 0.02)
    assert 0.5 * std < np.mean(np.std(found, 0)) < 1.1 * std  # four steps leave too little of it


def test_mixed_images_end_at_the_two():
    noise, weights = jax.random.normal(jax.random.key(0), (1, 8, 8, 1)), jnp.array([0.0, 0.4, 1.0])
    pair, keys = (images()[:1], images()[1:2]), streams.keys(0, "sampler", jnp.arange(3))

    def mixed(strength):
        return editing.mixed(
            oracles.gaussian(), samplers.ddim(), pair, (noise, noise), weights, grid_of(20), keys, strength=strength
        )

    np.testing.assert_allclose(mixed(0).x[1], 0.6 * pair[0][0] + 0.4 * pair[1][0], atol=1e-6)
    alone = edited(samplers.ddim(), noise, keys[:1], 0.5, pair[1])
    np.testing.assert_allclose(mixed(0.5).x[2], alone.x[0], atol=1e-6)


def test_latents_are_those_of_the_flow_and_give_the_image_back(x64):
    """The flow keeps the place of a value in the law of its level; the image stands for x at the least noisy level."""
    image, grid = images().astype(np.float64), grid_of(200)
    latents = editing.inverted(oracles.gaussian(), samplers.heun(), image, grid)
    low, high = (process.rows(grid, row) for row in (199, 0))
    low_std, high_std = (np.hypot(level.alpha * oracles.STD, level.sigma) for level in (low, high))
    wanted = high.alpha * oracles.MEAN + high_std * (image - low.alpha * oracles.MEAN) / low_std
    np.testing.assert_allclose(latents.x, wanted, atol=5e-3)
    back = samplers.sample(oracles.gaussian(), samplers.heun(), latents.x, grid, jax.random.split(jax.random.key(0), 3))
    np.testing.assert_allclose(back.x, image, atol=5e-3)
    assert latents.num_evaluations == 2 * 199


def test_interpolation_goes_from_one_image_to_the_other(x64):
    pair, weights = (images()[:1].astype(float), images()[1:2].astype(float)), jnp.linspace(0, 1, 5)
    found = editing.interpolated(oracles.gaussian(), samplers.heun(), pair, weights, grid_of(50))
    np.testing.assert_allclose(found.x[np.array([0, 4])], jnp.concatenate(pair), atol=0.05)  # what 50 steps leave
    steps = np.linalg.norm(np.diff(np.reshape(found.x, (5, -1)), axis=0), axis=1)
    assert found.num_evaluations == 2 * 49 + 2 * 50 - 1 and np.ptp(steps) < 0.2 * np.mean(steps)


def test_slerp_walks_an_arc_evenly(x64):
    one, other = (jax.random.normal(jax.random.key(seed), (1, 4, 4, 1)) for seed in (0, 1))
    one, other = one / jnp.linalg.norm(one), other / jnp.linalg.norm(other)
    points = np.asarray(editing.slerp(one, other, jnp.linspace(0, 1, 6))).reshape(6, 16)
    np.testing.assert_allclose(points[[0, 5]], np.reshape(np.stack([one, other]), (2, 16)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-12)
    angles = np.arccos(np.sum(points[1:] * points[:-1], axis=1))
    np.testing.assert_allclose(angles, np.arccos(np.sum(np.ravel(one) * np.ravel(other))) / 5, atol=1e-7)
    np.testing.assert_allclose(editing.slerp(one, 3 * one, jnp.array([0.5]))[0], 2 * one[0], atol=1e-12)


def test_a_canvas_is_free_beside_the_image():
    canvas, mask = editing.padded(images(), top=2, right=4)
    assert canvas.shape == (3, 10, 12, 1) and mask.shape == (10, 12, 1)
    np.testing.assert_array_equal(canvas[:, 2:, :8], images())
    assert np.all(np.asarray(mask)[:2]) and np.all(np.asarray(mask)[:, 8:]) and not np.any(np.asarray(mask)[2:, :8])


def sampled(wrap, sampler=ANCESTRAL, shape=(2, 4, 4, 1)):
    """Samples two images with a denoiser, or with a sampler, that `wrap` makes."""
    keys = streams.keys(0, "sampler", jnp.arange(2))
    changed = wrap(oracles.gaussian(), sampler)
    denoise, sampler = (oracles.gaussian(), changed) if isinstance(changed, samplers.Sampler) else (changed, sampler)
    return samplers.sample(denoise, sampler, jnp.zeros(shape), grid_of(3), keys)


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (
            lambda: sampled(lambda denoise, _: editing.consistent(denoise, jnp.zeros((2, 4, 4, 1)), OPERATORS["averaging"])),
            r"y of \[2, 4, 4, 1\] is not allowed; it must be \[2, 2, 2, 1\], of images of \[2, 4, 4, 1\].",
        ),
        (
            lambda: sampled(lambda denoise, _: editing.consistent(denoise, images(2), OPERATORS["known"])),
            r"y of \[2, 8, 8, 1\] is not allowed; it must be \[2, 4, 4, 1\]",
        ),
        (
            lambda: sampled(lambda _, sampler: editing.replaced(sampler, images(2), MASK)),
            r"image of \[2, 8, 8, 1\] is not allowed; for images of \[2, 4, 4, 1\] it must be the same.",
        ),
        (
            lambda: sampled(lambda _, sampler: editing.replaced(sampler, images(2), MASK), shape=(2, 8, 8, 1)),
            r"mask of \[4, 4, 1\] does not fit images of \[2, 8, 8, 1\]; it must be \[8, 8, 1\] or \[2, 8, 8, 1\].",
        ),
        (
            lambda: editing.replaced(multistep.unipc(), images(2), MASK),
            "replaced is impossible with a solver that remembers earlier",
        ),
        (lambda: editing.replaced(ANCESTRAL, images(2), 3 * MASK), "mask of values 0 to 3 is not allowed; 1 is free"),
        (
            lambda: editing.pseudoinverse_guided(oracles.gaussian(), images(), OPERATORS["known"], noise_std=-1),
            "noise_std = -1 is not allowed; it must be at least 0.",
        ),
        (lambda: edited(ANCESTRAL, images(), None, 1.5), "strength = 1.5 is not allowed; it must be from 0 to 1."),
        (lambda: edited(ANCESTRAL, images(), None, "half"), "strength = 'half' is not allowed"),
        (lambda: editing.padded(images(), left=-1), "left = -1 is not allowed; it must be a whole number from 0 on."),
        (lambda: editing.slerp(images(1), images(1), 0.5), r"weights of \[\] are not allowed; they must be \[N\]"),
        (lambda: grid_of(10, jump_length=0, num_resamples=2), "jump_length = 0 is not allowed; it must be a whole number"),
    ],
)
def test_what_does_not_fit_is_one_sentence(run, sentence):
    with pytest.raises(UserError, match=sentence):
        run()


def test_evaluations_are_counted():
    """RePaint's steps up cost nothing; each step of posterior sampling costs one more."""
    image = jnp.zeros((2, 4, 4, 1))
    posterior = sampled(lambda _, sampler: editing.posterior_sampling(sampler, image, OPERATORS["known"], scale=1.0))
    assert posterior.num_evaluations == 6
    keys, grid = streams.keys(0, "sampler", jnp.arange(2)), grid_of(20, jump_length=5, num_resamples=2)
    repainted = samplers.sample(oracles.gaussian(), editing.replaced(ANCESTRAL, image, MASK), image, grid, keys)
    assert repainted.num_evaluations == np.sum(np.diff(grid.sigma) < 0) == 20 + 15
