"""Parameterizations: whatever a network predicts, the pair (x_0, eps) comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from diffusion_jax import denoiser, process, schedules, sde

CHAIN = process.chain(schedules.cosine(1000))
PARAMETERIZATIONS = {
    "eps": denoiser.EPS,
    "x_0": denoiser.X_0,
    "v": denoiser.V,
    "velocity": denoiser.VELOCITY,
    "score": denoiser.SCORE,
}


def drawn(row):
    """Returns (x_0, eps, x_t, level) at a row of the chain, or at one row for each image."""
    level = CHAIN.level(row)
    x_0, eps = jax.random.normal(jax.random.key(1), (2, 3, 4, 5, 2))
    return x_0, eps, process.diffuse(x_0, level, eps), level


@pytest.mark.parametrize("row", [1, 500, np.array([1, 300, 990])], ids=["first", "middle", "each its own"])
@pytest.mark.parametrize("predicts", ["eps", "x_0", "v", "velocity", "score"])
def test_an_exact_network_gives_back_x_0_and_eps(predicts, row, x64):
    x_0, eps, x_t, level = drawn(row)
    alpha, sigma = process.expand(level.alpha, x_0), process.expand(level.sigma, x_0)
    known = {"eps": eps, "x_0": x_0, "v": alpha * eps - sigma * x_0, "velocity": eps - x_0, "score": -eps / sigma}
    output = known[predicts]
    got = denoiser.make_denoiser(lambda x, c_noise: output, PARAMETERIZATIONS[predicts])(x_t, level)
    np.testing.assert_allclose(got.x_0, x_0, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got.eps, eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("predicts", ["eps", "x_0", "v", "velocity", "score"])
def test_prediction_explains_x_t(predicts, precision):
    """x_t = alpha x_0 + sigma eps holds for any output, an untrained network's too."""
    _, _, x_t, level = drawn(400)
    got = denoiser.make_denoiser(lambda x, c_noise: jnp.tanh(x), PARAMETERIZATIONS[predicts])(x_t, level)
    np.testing.assert_allclose(process.diffuse(got.x_0, level, got.eps), x_t, atol=precision * 10)


def test_the_network_is_given_c_noise_of_each_image():
    seen = []
    _, _, x_t, level = drawn(np.array([1, 300, 990]))
    denoiser.make_denoiser(lambda x, c_noise: seen.append(c_noise) or x, denoiser.EPS)(x_t, level)
    np.testing.assert_array_equal(seen[0], [0, 299, 989])


def test_a_scalar_level_is_that_of_every_image():
    seen = []
    _, _, x_t, level = drawn(7)
    denoiser.make_denoiser(lambda x, c_noise: seen.append(c_noise) or x, denoiser.EPS)(x_t, level)
    np.testing.assert_array_equal(seen[0], [6, 6, 6])


def test_a_name_instead_of_a_parameterization_is_refused():
    with pytest.raises(ValueError, match="parameterization = 'eps' is not allowed; use denoiser.EPS"):
        denoiser.make_denoiser(lambda x, c_noise: x, "eps")


@pytest.mark.parametrize("predicts", PARAMETERIZATIONS)
def test_a_prediction_knows_what_its_network_was_asked_for(predicts, x64):
    """Output = a x_0 + b eps, for any output."""
    _, _, x_t, level = drawn(400)
    got = denoiser.make_denoiser(lambda x, c_noise: jnp.tanh(x), PARAMETERIZATIONS[predicts])(x_t, level)
    a, b = got.coefficients
    np.testing.assert_allclose(a * got.x_0 + b * got.eps, np.tanh(x_t), rtol=1e-9, atol=1e-9)


def test_edms_network_sees_an_input_of_unit_variance_and_c_in_comes_with_its_value():
    """For data of standard deviation sigma_data in a process with alpha = 1: c_in^2 (sigma_data^2 + sigma^2) = 1."""
    seen, level = [], process.ve().level(np.array([0.002, 1.0, 80.0]))
    x_t = jnp.ones((3, 4, 4, 1))
    denoiser.make_denoiser(lambda x, c_noise: seen.append(x) or x, denoiser.edm(sigma_data=0.7))(x_t, level)
    np.testing.assert_allclose(seen[0][:, 0, 0, 0] ** 2 * (0.49 + level.sigma**2), 1, rtol=1e-6)


def test_an_output_of_another_shape_is_refused():
    _, _, x_t, level = drawn(7)
    for learned_variance, expected in ((False, "2"), (True, "4")):
        denoise = denoiser.make_denoiser(lambda x, c_noise: x[..., :1], denoiser.EPS, learned_variance=learned_variance)
        with pytest.raises(ValueError, match=rf"output \[3, 4, 5, 1\] is not allowed; .* must be \[3, 4, 5, {expected}\]"):
            denoise(x_t, level)


def test_clipping_leaves_x_0_in_range_and_still_explains_x_t(precision):
    _, _, x_t, level = drawn(600)
    denoise = denoiser.clip_x_0(denoiser.make_denoiser(lambda x, c_noise: 0 * x, denoiser.EPS))
    got = denoise(x_t, level)
    assert np.max(np.abs(got.x_0)) == 1
    np.testing.assert_allclose(process.diffuse(got.x_0, level, got.eps), x_t, atol=precision * 10)


def test_clipping_does_nothing_inside_the_range(x64):
    x_0, _, x_t, level = drawn(600)
    inside = denoiser.make_denoiser(lambda x, c_noise: jnp.clip(x_0, -1, 1), denoiser.X_0)
    np.testing.assert_allclose(denoiser.clip_x_0(inside)(x_t, level).eps, inside(x_t, level).eps, rtol=1e-9)


X, KEYS = jnp.ones((2, 4, 4, 1)), jax.random.split(jax.random.key(0), 2)
TWO, THREE, GRID = (CHAIN.level(np.array(t)) for t in ([1, 500], [1, 500, 900], [1000, 500, 0]))
DENOISE = dj.make_denoiser(lambda x_t, c_noise: 0 * x_t, dj.EPS)
WRONG = {  # what somebody may well call, and what is said
    "uint8 to uint8": (
        lambda: dj.to_uint8(X.astype(np.uint8)),
        r"to_uint8 takes .* in \[-1, 1\]; found uint8\[2, 4, 4, 1\]",
    ),
    "floats from uint8": (lambda: dj.from_uint8(X), r"from_uint8 takes arrays of uint8; found float32\[2, 4, 4, 1\]"),
    "a list from uint8": (lambda: dj.from_uint8([[0, 255]]), r"found \[\[0, 255\]\]"),
    "a float of steps": (lambda: dj.linear(1e3), "num_steps = 1000.0 is not allowed; .* whole number from 1 on: write 1000"),
    "a text of steps": (lambda: dj.cosine("1000"), "num_steps = '1000' is not allowed; it must be a whole number"),
    "no steps": (lambda: dj.linear_rescaled(0), "num_steps = 0 is not allowed"),
    "a name for betas": (lambda: dj.chain("linear"), r"betas = 'linear' are not allowed; use numbers \[T\], such as linear"),
    "a function for betas": (lambda: dj.chain(dj.cosine), "betas = cosine are not allowed"),
    "interpolation": (lambda: dj.chain([0.1], interpolation="snr"), "interpolation = 'snr' is unknown; known: log_alpha"),
    "a name for a time": (lambda: CHAIN.level("last"), "times or rows .*'last'.* must be numbers"),
    "a row for a real time": (lambda: process.vp().level(500), "times 500 to 500 are not in the process's, 0 to 1"),
    "more than noise": (lambda: process.rectified_flow().level(1.5), "times 1.5 to 1.5 are not in the process's, 0 to 1"),
    "a process and steps": (lambda: dj.trailing(50, CHAIN), "process = 50 is not a Process; use one such as chain"),
    "betas for a process": (lambda: dj.trailing(dj.cosine(9), 9), r"process = float64\[9\] is not a Process"),
    "a float of a grid": (lambda: dj.trailing(CHAIN, 50.0), "num_steps = 50.0 is not allowed; .* whole number: write 50"),
    "raw pixels": (lambda: dj.diffuse(X.astype(np.uint8), TWO, X), "an array of uint8 is not allowed; from_uint8 makes"),
    "eps and level": (lambda: dj.diffuse(X, X, TWO), r"level = float32\[2, 4, 4, 1\] is not a Level; process.level"),
    "levels of others": (lambda: dj.diffuse(X, THREE, X), r"levels of \[3\] do not fit an array of \[2, 4, 4, 1\]"),
    "one eps for all": (lambda: dj.diffuse(X, TWO, X[:1]), r"eps of \[1, 4, 4, 1\] is not allowed; it must be as x_0"),
    "t for a level": (lambda: dj.posterior(X, X, 500, 499), "t = 500 is not a Level"),
    "a process for a level": (lambda: dj.prior(CHAIN, X), r"level = Process\(...\) is not a Level"),
    "a shape for noise": (lambda: dj.prior(CHAIN.level(9), (2, 4, 4, 1)), r"\(2, 4, 4, 1\) is not allowed; .* an array"),
    "rows of a process": (lambda: dj.rows(CHAIN, 3), r"levels = Process\(...\) is not a Level"),
    "rows of one level": (lambda: dj.rows(CHAIN.level(3), 0), "a single level has no rows"),
    "parameters": (lambda: dj.make_denoiser({}, dj.EPS), "network = {} is not a function"),
    "nothing": (lambda: dj.make_denoiser(lambda *_: None, dj.EPS)(X, TWO), "output of type NoneType is not allowed"),
    "two outputs": (lambda: dj.make_denoiser(lambda *both: both, dj.EPS)(X, TWO), "output of type tuple is not allowed"),
    "a denoiser of t": (lambda: DENOISE(X, 500), "level = 500 is not a Level"),
    "a denoiser of others": (lambda: DENOISE(X, THREE), r"levels of \[3\] do not fit"),
    "a denoiser of pixels": (lambda: DENOISE(X.astype(np.uint8), TWO), "an array of uint8 is not allowed"),
    "a clipped image": (lambda: dj.clip_x_0(X), r"denoise = float32\[2, 4, 4, 1\] is not a function"),
    "a clipped network": (lambda: dj.clip_x_0(lambda x, c: x)(X, TWO), "denoiser gives .*, not a Prediction; make_denoiser"),
    "a classifier's logits": (
        lambda: denoiser.make_log_prob(lambda x, c: jnp.zeros((2, 10)))(X, TWO),
        r"output float32\[2, 10\] must be one number for each image, \[2\]",
    ),
    "a classifier's name": (lambda: denoiser.make_log_prob("cat"), "network = 'cat' is not a function"),
    "a limit": (lambda: denoiser.limit_x_0(DENOISE, 1.0), "limit = 1.0 is not a function"),
    "a weighting": (lambda: dj.simple(weighting="min_snr"), "weighting = 'min_snr' is not a function SNR -> weight"),
    "a key for noise": (lambda: dj.simple()(DENOISE, X, TWO, KEYS[0]), r"eps of \[\] is not allowed; it must be as x_0"),
    "a loss of a network": (lambda: dj.simple()(lambda x, c: x, X, TWO, X), "gives .*, not a Prediction"),
    "a loss at t": (lambda: dj.simple()(DENOISE, X, np.arange(2), X), r"level = int64\[2\] is not a Level"),
    "a variance": (lambda: dj.losses.vlb(levels=GRID, variance="fixed"), "variance = 'fixed' is unknown"),
    "a text of eta": (lambda: dj.ddim(eta="0"), "eta = '0' is not allowed"),
    "a sampled network": (lambda: dj.sample(lambda x, c: x, dj.ddim(), X, GRID, KEYS), "gives .*, not a Prediction"),
    "a sampled shape": (lambda: dj.sample(DENOISE, dj.ddim(), (2, 4, 4, 1), GRID, KEYS), "must be an array"),
    "a seed for keys": (lambda: dj.sample(DENOISE, dj.ddim(), X, GRID, 0), r"keys = 0 are not .*jax.random.split\(key, 2\)"),
    "a churned name": (lambda: dj.samplers.churn("heun", CHAIN, amount=1), "sampler = 'heun' is not a Sampler"),
    "a churned memory": (lambda: dj.samplers.churn(dj.unipc(), CHAIN, amount=1), "churn is impossible with a solver"),
    "a corrected memory": (lambda: sde.corrected(dj.unipc(), len), "corrected is impossible with a solver that remembers"),
    "a chain's derivative": (lambda: dj.samplers.runge_kutta_2(CHAIN), "a chain, of rows at whole t, is not allowed"),
    "a chain's drift": (lambda: sde.euler_maruyama(CHAIN), "a chain, of rows at whole t, is not allowed"),
    "a chain's mean flow": (lambda: dj.distillation.mean_flow(CHAIN), "use a process in real-valued time, such as vp"),
    "an adaptive grid": (lambda: dj.samplers.adaptive(GRID), r"process = Level\(...\) is not a Process"),
    "a bound of a process": (lambda: dj.likelihood.bound(DENOISE, X, CHAIN, len, variance="small"), "grid must be a Level"),
    "a bound's noise": (lambda: dj.likelihood.bound(DENOISE, X, GRID, X, variance="small"), "noise = .* is not a function"),
    "probes": (lambda: dj.likelihood.log_density(DENOISE, X, CHAIN, probes=X), r"probes of .* they must be \[K, \*\[2, 4,"),
    "a density of bytes": (
        lambda: dj.likelihood.log_density(DENOISE, X.astype(np.uint8), CHAIN, probes=X[None]),
        "an array of uint8 is not allowed",
    ),
    "a stream": (lambda: dj.streams.key(0, "xT"), "stream = 'xT' is unknown; known: init, train, data, x_T"),
    "a seed": (lambda: dj.streams.key(2**32, "x_T"), "seed = 4294967296 is not allowed; it must be a whole number from 0"),
    "how many keys": (lambda: dj.streams.keys(0, "x_T", 4), r"indices of \[\] are not allowed; they must be \[B\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_of_the_library_is_a_sentence(name):
    call, sentence = WRONG[name]
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value).split("\n-----")[0]
