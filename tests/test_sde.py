"""Predictors and correctors against score_sde's recorded updates and chains (g5), closed forms and exact laws."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import recorded
import tiny

from diffusion_jax import grids, process, samplers, sde
from diffusion_jax.compose import checks, choices, sampling
from diffusion_jax.denoiser import Prediction
from diffusion_jax.errors import UserError
from diffusion_jax.process import Level
from diffusion_jax.samplers import Interval

G5 = recorded.load("g5_score_sde")
SNR = 0.16
RECORDED = {"vp": process.vp(), "subvp": process.sub_vp(), "ve": process.ve_sde(sigma_min=0.01, sigma_max=50.0)}


def nhwc(x):
    return jnp.moveaxis(jnp.asarray(x), -3, -1)


def in_their_time(name, t):
    """Returns the time of ours that is t of score_sde's, and how fast it goes."""
    if name != "ve":
        return t, 1.0
    sigma = 0.01 * 5000.0**t
    return sigma, sigma * np.log(5000.0)


@pytest.mark.parametrize("name", RECORDED)
def test_marginals_drift_and_diffusion_are_score_sdes(name, x64):
    t, speed = in_their_time(name, G5["t"])
    np.testing.assert_allclose(RECORDED[name].level(t).sigma, G5[f"{name}.marginal_prob.std"], rtol=1e-10)
    drift, variance = jax.vmap(lambda time: sde.drift_and_variance(RECORDED[name], time))(jnp.asarray(t))
    found = (drift * speed)[:, None, None, None] * G5["x"]
    np.testing.assert_allclose(found, G5[f"{name}.sde.drift"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jnp.sqrt(variance * speed), G5[f"{name}.sde.diffusion"], rtol=1e-9)


def gaussian_score(name, t):
    """Returns (x, level) -> the score of Gaussian data at time t, as a denoiser that reads no noise level off the level."""
    at = RECORDED[name].level(in_their_time(name, t)[0])

    def denoise(x, level):
        alpha, sigma = (process.expand(jnp.asarray(column), x) for column in (at.alpha, at.sigma))
        score = -(x - alpha * oracles.MEAN) / ((alpha * oracles.STD) ** 2 + sigma**2)
        return Prediction(x, -process.expand(level.sigma, x) * score)  # no sampler here asks for x_0 but the ancestral one

    return denoise


def with_x_0(denoise):
    """Returns the denoiser with the x_0 that belongs to its eps."""

    def predict(x, level):
        eps = denoise(x, level).eps
        return Prediction((x - process.expand(level.sigma, x) * eps) / process.expand(level.alpha, x), eps)

    return predict


def their_chain(name, num_steps) -> Level:
    """Returns the levels of score_sde's discretisation, [num_steps + 1]."""
    if name == "vp":
        return oracles.rows_of(np.linspace(0.1, 20, num_steps) / num_steps)
    sigma = np.concatenate([[0], np.geomspace(0.01, 50, num_steps)])
    with np.errstate(divide="ignore"):
        return process.make_level(np.ones_like(sigma), sigma, -2 * np.log(sigma), sigma)


def interval(levels, row, remaining=1):
    t, s = (process.rows(levels, jnp.asarray(index)) for index in (row, row - 1))
    return Interval(t, s, jnp.asarray(0), jnp.asarray(remaining))


PREDICTORS = {
    "rd": lambda name: sde.reverse_diffusion(),
    "anc": lambda name: samplers.ancestral(variance="large" if name == "vp" else "small"),
}


@pytest.mark.parametrize(("name", "predictor"), [(name, predictor) for name in ("vp", "ve") for predictor in PREDICTORS])
def test_one_step_of_a_predictor_is_score_sdes(name, predictor, x64):
    """Of two images at two times, in the discretisation of 1,000 steps."""
    levels = their_chain(name, 1000)
    for image, t in enumerate(G5["pc.t"]):
        step = PREDICTORS[predictor](name).step
        x, z = (nhwc(G5[key][..., image, :, :, :])[..., None, :, :, :] for key in ("pc.x", "pc.noise"))
        at, denoise = interval(levels, int(t * 999) + 1), with_x_0(gaussian_score(name, t))
        for key, noise in {"x": z[0], "x_mean": 0 * z[0]}.items():
            found, num_evaluations = step(denoise, x, at, lambda k, noise=noise: noise)
            np.testing.assert_allclose(found[0], nhwc(G5[f"pc.{name}.{predictor}.{key}"])[image], rtol=1e-9, atol=1e-12)
            assert num_evaluations == 1


@pytest.mark.parametrize("name", RECORDED)
def test_one_step_of_euler_maruyama_is_score_sdes(name, x64):
    """Where it goes in a thousandth of their time; that of 've' is the logarithm of ours, so that there the step is equal to
    O(dt^2) alone."""
    of = RECORDED[name]
    for image, t in enumerate(G5["pc.t"]):
        levels = of.level(np.array([in_their_time(name, each)[0] for each in (t - 1e-3, t)]))
        x, z = (nhwc(G5[key][..., image, :, :, :])[..., None, :, :, :] for key in ("pc.x", "pc.noise"))
        found, _ = sde.euler_maruyama(of).step(gaussian_score(name, t), x, interval(levels, 1), lambda k, z=z: z[0])
        tolerance = {"rtol": 0.01, "atol": 0.01} if name == "ve" else {"rtol": 1e-9, "atol": 1e-9}
        np.testing.assert_allclose(found[0], nhwc(G5[f"pc.{name}.em.x"])[image], **tolerance)


def test_euler_maruyama_refuses_a_process_that_ends_in_noise_alone():
    with pytest.raises(ValueError, match="a process without signal at its last level is not allowed"):
        sde.euler_maruyama(process.rectified_flow())


@pytest.mark.parametrize("name", ["vp", "ve"])
@pytest.mark.parametrize("corrector", ["langevin", "ald"])
def test_two_corrections_are_score_sdes(name, corrector, x64):
    """Theirs are of images at two times, whose norms 'batch' averages; sigma is that of their real-valued time."""
    t = G5["pc.t"]
    at = interval(their_chain(name, 1000), (t * 999).astype(int) + 1)
    sigma = jnp.asarray(RECORDED[name].level(in_their_time(name, t)[0]).sigma)
    at, x = at._replace(t=at.t._replace(sigma=sigma)), nhwc(G5["pc.x"])
    correct = {"langevin": sde.langevin(snr=SNR, norms="batch"), "ald": sde.annealed_langevin(snr=SNR)}[corrector]
    for z in nhwc(G5["pc.noise"][:2]):
        x = correct(gaussian_score(name, t), x, at, z)
    np.testing.assert_allclose(x, nhwc(G5[f"pc.{name}.{corrector}.x"]), rtol=1e-9)


@pytest.mark.parametrize("name", ["vp", "ve"])
@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("corrector", ["none", "langevin"])
def test_a_chain_of_40_steps_is_score_sdes(name, predictor, corrector, x64):
    """A corrector's draw comes before the predictor's. The network is asked at their times, 1 to 0.001."""
    levels, draws = their_chain(name, 40), iter(nhwc(G5["pc.noise"]))
    sampler, x = PREDICTORS[predictor](name), next(draws) * (50 if name == "ve" else 1)
    if corrector == "langevin":
        sampler = sde.corrected(sampler, sde.langevin(snr=SNR, norms="batch"))
    for row, t in zip(range(40, 0, -1), np.linspace(1, 1e-3, 40), strict=True):
        drawn = {3: next(draws)} if corrector == "langevin" else {}
        drawn[0] = next(draws)
        x, num_evaluations = sampler.step(with_x_0(gaussian_score(name, t)), x, interval(levels, row), drawn.get)
        assert num_evaluations == len(drawn)
    np.testing.assert_allclose(x, nhwc(G5[f"pcs.{name}.{predictor}.{corrector}"]), rtol=1e-8)


NOISE = jax.random.normal(jax.random.key(0), (64, 8, 8, 1))


def drawn(sampler, noise=NOISE):
    of = RECORDED["vp"]
    grid = of.level(grids.uniform(of, 20))
    keys = jax.random.split(jax.random.key(1), max(len(noise), len(NOISE)))[: len(noise)]
    return samplers.sample(oracles.gaussian(), sampler, process.prior(process.rows(grid, 0), noise), grid, keys)


@pytest.mark.parametrize("corrector", choices.CORRECTORS)
def test_corrections_bring_the_spread_nearer_to_the_datas(corrector):
    """Twenty steps of a predictor leave a spread wrong by 0.08; corrections at the same levels mend half of it or more."""
    many = jax.random.normal(jax.random.key(0), (1024, 8, 8, 1))
    alone = drawn(sde.reverse_diffusion(), many)
    make = choices.CORRECTORS[corrector]
    corrected = drawn(make(sde.reverse_diffusion(), correction_snr=0.3, num_corrections=5), many)
    errors = [abs(float(jnp.std(found.x)) - oracles.STD) for found in (alone, corrected)]
    assert errors[1] < 0.5 * errors[0]
    assert (int(alone.num_evaluations), int(corrected.num_evaluations)) == (20, 120)


def test_an_image_does_not_depend_on_its_batch_unless_norms_are_averaged_over_it():
    for corrector, is_alone in {"langevin": True, "annealed_langevin": True, "langevin_batch": False}.items():
        sampler = choices.CORRECTORS[corrector](samplers.ddim(), correction_snr=SNR, num_corrections=1)
        whole, part = drawn(sampler).x[:3], drawn(sampler, NOISE[:3]).x
        assert np.allclose(whole, part, rtol=1e-4, atol=1e-5) == is_alone


def test_the_command_line_composes_a_predictor_with_a_corrector():
    settings = {"sample.corrector": "langevin", "sample.num_corrections": 2, "sample.correction_snr": 0.1}
    config = tiny.config_of({**settings, "sample.sampler": "reverse_diffusion", "process.kind": "sub_vp", "predicts": "v"})
    checks.check(config)
    keys = jax.random.split(jax.random.key(0), 2)
    found = sampling.make_solve(config)(oracles.gaussian(), NOISE[:2], keys, 0)
    assert int(found.num_evaluations) == 3 * 3 and np.all(np.isfinite(found.x))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sample.sampler": "unipc"}, "'langevin' does not fit sample.sampler = 'unipc', which remembers earlier steps"),
        ({"sample.num_corrections": 0}, "sample.num_corrections = 0"),
        ({"sample.sampler": "euler_maruyama"}, "sample.sampler = 'euler_maruyama' needs a process in real time"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        checks.check(tiny.config_of({"sample.corrector": "langevin", **changes}))
