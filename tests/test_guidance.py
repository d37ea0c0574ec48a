"""Guidance: closed forms of a mixture with known classes, identities, recorded runs of guided-diffusion and diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import recorded
import test_goldens_samplers as chains

from diffusion_jax import denoiser, guidance, process, samplers, schedules

G4A, G9 = recorded.load("g4a_openai_samplers"), recorded.load("g9_training_utils")
PROCESS = process.chain(schedules.linear(1000))
LEVELS = [1, 20, 300, 999]


def x_of(num_images=6):
    return jax.random.normal(jax.random.key(0), (num_images, 1, 1, 1))


def of_class(label):
    return oracles.gaussian(oracles.MEANS[label], oracles.STDS[label])


def log_prob_of(label):
    """Returns log p(label | x_t) of the mixture, exact; images are one value."""

    def log_prob(x_t, level):
        x, alpha, sigma = x_t.reshape(-1, 1), jnp.reshape(level.alpha, (-1, 1)), jnp.reshape(level.sigma, (-1, 1))
        variance = (alpha * oracles.STDS) ** 2 + sigma**2
        logits = jnp.log(oracles.WEIGHTS) - jnp.log(variance) / 2 - (x - alpha * oracles.MEANS) ** 2 / (2 * variance)
        return jax.nn.log_softmax(logits)[:, label]

    return log_prob


def interleaved(x_t, level):
    """Returns what one network says of class 1 (even rows) and of no class (odd rows)."""
    rows = np.arange(len(x_t)).reshape(-1, 1, 1, 1) % 2 == 0
    return jax.tree.map(
        lambda one, other: jnp.where(rows, one, other), of_class(1)(x_t, level), oracles.mixture()(x_t, level)
    )


@pytest.mark.parametrize("t", LEVELS)
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_the_score_is_on_the_line_through_both(t, scale, x64):
    x, level = x_of().astype(float), PROCESS.level(t)
    guided = guidance.classifier_free(of_class(1), interleaved, scale=scale)(x, level)
    worse = guidance.autoguidance(of_class(1), oracles.mixture(), scale=scale)(x, level)
    better, other = of_class(1)(x, level), oracles.mixture()(x, level)
    for name in ("x_0", "eps"):
        wanted = getattr(other, name) + scale * (getattr(better, name) - getattr(other, name))
        np.testing.assert_allclose(getattr(guided, name), wanted, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(getattr(worse, name), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", LEVELS)
def test_an_exact_classifier_makes_the_denoiser_of_all_that_of_a_class(t, x64):
    """Bayes' rule."""
    x, level = x_of().astype(float), PROCESS.level(t)
    guided = guidance.classifier(oracles.mixture(), log_prob_of(0), scale=1.0)(x, level)
    wanted = of_class(0)(x, level)
    np.testing.assert_allclose(guided.x_0, wanted.x_0, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(guided.eps, wanted.eps, rtol=1e-8, atol=1e-8)


def test_a_level_for_each_image(x64):
    x, levels = x_of(4).astype(float), PROCESS.level(np.array(LEVELS))
    guided = guidance.classifier_free(of_class(1), interleaved, scale=2.0)(x, levels)
    one = [
        guidance.classifier_free(of_class(1), interleaved, scale=2.0)(x[i : i + 1], PROCESS.level(LEVELS[i]))
        for i in range(4)
    ]
    np.testing.assert_allclose(guided.x_0, np.concatenate([each.x_0 for each in one]), rtol=1e-9)


@pytest.mark.parametrize(
    "unguided",
    [
        guidance.classifier_free(of_class(1), interleaved, scale=1.0),
        guidance.autoguidance(of_class(1), oracles.mixture(), scale=1),
        guidance.autoguidance(of_class(1), oracles.mixture(), scale=np.float32(1)),
        guidance.classifier(of_class(1), log_prob_of(0), scale=0),
        guidance.universal(of_class(1), lambda x_0: jnp.sum(x_0, (1, 2, 3)), scale=0.0),
    ],
)
def test_without_guidance_samples_are_the_same_bit_for_bit(unguided):
    grid, x = PROCESS.level(np.array([1000, 500, 100, 0])), x_of(4)
    keys = jax.random.split(jax.random.key(1), 4)
    one, other = (samplers.sample(each, samplers.ddim(eta=0.5), x, grid, keys).x for each in (of_class(1), unguided))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("times", [(0.5, 0.25), ([0.5, 0.9], [0.25, 0.1])], ids=["one", "each"])
def test_both_networks_are_told_two_levels(times):
    """The velocity is label times t, plus r: 3 t + r with the label, 1 t + r without, 5 t + r at the scale 2."""
    flow = process.rectified_flow(c_noise_scale=1.0)
    t, r = (flow.level(jnp.array(time)) for time in times)

    def of_label(label):
        return denoiser.make_denoiser(lambda x, c_noise: label * c_noise[:, :1] + c_noise[:, 1:] + 0 * x, denoiser.VELOCITY)

    both = of_label(jnp.array([[3.0], [1.0], [3.0], [1.0]]))
    found = guidance.classifier_free(of_label(3.0), both, scale=2.0)(jnp.ones((2, 3)), process.jump(t, r))
    expected = jnp.broadcast_to(5 * t.sigma + r.sigma, 2)[:, None]
    np.testing.assert_allclose(found.eps - found.x_0, expected + jnp.zeros((2, 3)), rtol=1e-5)


def test_outside_the_interval_there_is_one_evaluation_of_one_batch():
    sizes = []

    def network(x_t, c_noise):
        jax.debug.callback(lambda size: sizes.append(int(size)), len(x_t), ordered=True)
        return jnp.zeros_like(x_t)

    denoise = denoiser.make_denoiser(network, denoiser.V)
    scale = guidance.interval(2.0, low=0.5, high=5.0)
    guided = guidance.classifier_free(denoise, denoise, scale=scale)
    grid = PROCESS.level(np.array([1000, 400, 200, 50, 0]))
    ratio = (grid.sigma / grid.alpha)[:-1]
    samplers.sample(guided, samplers.ddim(), x_of(2), grid, jax.random.split(jax.random.key(1), 2)).x.block_until_ready()
    jax.effects_barrier()
    assert sizes == [4 if 0.5 < each <= 5 else 2 for each in ratio]
    assert {2, 4} == set(sizes)


def test_pairs_of_conditions_lie_in_turn():
    found = guidance.paired({"label": jnp.array([3, 4])}, {"label": jnp.array([9, 8])})
    np.testing.assert_array_equal(found["label"], [3, 9, 4, 8])


def test_any_function_of_x_0_is_lowered(x64):
    """A quadratic one, of a Gaussian whose x_0 is linear in x_t: the chain rule by hand."""
    x, level = x_of().astype(float), PROCESS.level(300)
    found = guidance.universal(oracles.gaussian(), lambda x_0: jnp.sum((x_0 - 1) ** 2, (1, 2, 3)), scale=0.7)(x, level)
    plain = oracles.gaussian()(x, level)
    slope = level.alpha * oracles.STD**2 / (level.alpha**2 * oracles.STD**2 + level.sigma**2)
    delta = -0.7 * level.sigma**2 / level.alpha * slope * 2 * (plain.x_0 - 1)
    np.testing.assert_allclose(found.x_0, plain.x_0 + delta, rtol=1e-6)
    np.testing.assert_allclose(level.alpha * found.x_0 + level.sigma * found.eps, x, rtol=1e-6)


@pytest.mark.parametrize("parameterization", [denoiser.EPS, denoiser.V])
def test_rescaling_is_diffusers(parameterization, x64):
    better, worse = (jnp.asarray(G9[f"cfg.{name}"]) for name in ("cond", "uncond"))
    level, x = PROCESS.level(300), jnp.zeros_like(better)
    one, other = (denoiser.make_denoiser(lambda *_, out=out: out, parameterization) for out in (better, worse))
    for fraction, name in ((0.0, "guided"), (0.7, "rescaled")):
        rule = guidance.rescaled(fraction=fraction)
        found = guidance.autoguidance(one, other, scale=7.5, extrapolate=rule)(x, level)
        a, b = found.coefficients
        np.testing.assert_allclose(a * found.x_0 + b * found.eps, G9[f"cfg.{name}"], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(level.alpha * found.x_0 + level.sigma * found.eps, x, atol=1e-9)


def test_projected_guidance_adds_nothing_along_x_0():
    better = denoiser.Prediction(jax.random.normal(jax.random.key(0), (3, 4, 4, 1)), jnp.zeros(()))
    worse = denoiser.Prediction(jax.random.normal(jax.random.key(1), (3, 4, 4, 1)), jnp.zeros(()))
    level, scale = PROCESS.level(300), jnp.asarray(4.0)
    across = guidance.projected()(better, worse, scale, level)
    np.testing.assert_allclose(jnp.sum(across * better.x_0, (1, 2, 3)), np.zeros(3), atol=1e-4)
    limited = guidance.projected(parallel=1.0, max_norm=0.1)(better, worse, scale, level)
    np.testing.assert_allclose(jnp.sqrt(jnp.sum(limited**2, (1, 2, 3))), 0.3 * np.ones(3), rtol=1e-5)
    whole = guidance.projected(parallel=1.0)(better, worse, scale, level)
    np.testing.assert_allclose(whole, guidance.linear(better, worse, scale, level), rtol=1e-5, atol=1e-5)


def recorded_log_prob(x_t, level):
    """Returns what has the recorded gradient k (y_0 - x) / (1 + q t)."""
    return -1.7 / 2 * jnp.sum((0.4 - x_t) ** 2, (1, 2, 3)) / (1 + 0.01 * level.c_noise)


@recorded.once
def guided_run(key):
    """Returns (states, x_0 predictions) of a run with classifier guidance, by its key without the last part."""
    _, kind, spec, name, variance = key.split(".")[:5]
    betas, variance = schedules.linear(1000), variance.removeprefix("FIXED_").lower()
    levels = oracles.rows_of(betas)
    dtype, grid = levels.alpha.dtype, process.rows(levels, chains.rows_of(spec if kind == "p" else f"ddim{spec}", 1000))
    network = chains.network_of(name, betas, variance=variance)
    denoise = denoiser.make_denoiser(network, denoiser.EPS, learned_variance="learned" in variance)
    denoise = denoiser.clip_x_0(denoise)
    if kind == "p":
        sampler = guidance.ancestral_toward(recorded_log_prob, scale=1.0, variance=variance)
    else:
        denoise = guidance.classifier(denoise, recorded_log_prob, scale=1.0)
        sampler = samplers.ddim(eta=float(key.partition(".eta")[2]))
    x_T, noises = (chains.nhwc(G4A[part]).astype(dtype) for part in ("x_T", "noise"))
    return chains.chain(denoise, sampler, x_T, grid, noises)


GUIDED = [key for key in G4A if key.startswith(("cg.p.", "cg.ddim."))]


@pytest.mark.parametrize("key", [key for key in GUIDED if not key.endswith("__f32")])
def test_guided_diffusions_runs_in_float64(key, x64):
    chains.compare(guided_run(key.rsplit(".", 1)[0]), key, G4A, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("key", [key for key in GUIDED if key.endswith("__f32")])
def test_guided_diffusions_runs_in_float32(key):
    """The tolerance of the unguided runs."""
    chains.compare(guided_run(key.rsplit(".", 1)[0]), key, G4A, rtol=0, atol=2.9e-4 * np.max(np.abs(G4A[key])))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: guidance.classifier_free(of_class(1), interleaved, scale=-1.0), "scale = -1.0 is not allowed"),
        (lambda: guidance.autoguidance(of_class(1), of_class(0), scale="2"), "scale = '2' is not allowed"),
        (lambda: guidance.interval(2.0, low=3.0, high=1.0), "low = 3.0 with high = 1.0 are not allowed"),
        (lambda: guidance.ancestral_toward(log_prob_of(1), scale=-2, variance="small"), "scale = -2 is not allowed"),
        (lambda: guidance.rescaled(fraction=2), "fraction = 2 is not allowed"),
        (lambda: guidance.projected(parallel=-0.5), "parallel = -0.5 is not allowed"),
        (lambda: guidance.projected(parallel=[0.5]), r"parallel = \[0.5\] is not allowed"),
        (
            lambda: guidance.universal(of_class(1), jnp.sum, scale=1.0)(x_of(), PROCESS.level(300)),
            "loss gives .*; it must be one number for each image",
        ),
        (lambda: guidance.classifier(3, log_prob_of(0), scale=1.0), "denoise = 3 is not a function"),
    ],
)
def test_what_does_not_fit_is_said(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
