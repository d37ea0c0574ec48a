"""The learned noise schedule: its shape, the gradients of its two parts, and a run that trains one and draws from it."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.special
import tiny

import diffusion_jax as dj
import main
from diffusion_jax import learned_schedule, losses
from diffusion_jax.compose import checks
from diffusion_jax.errors import UserError

T = (np.arange(1000) + 0.5) / 1000  # a quadrature
LEARNED = {"process.kind": "learned", "loss.name": "vdm", "model.fourier_exponents": (7,), "sample.grid": "linspace"}


def params_of(seed, ends=(6.0, -5.0)):
    """Returns parameters of a schedule that is far from linear."""
    params = learned_schedule.init(ends)
    key = jax.random.key(seed)
    moved = {name: x + 2 * jax.random.normal(key, x.shape, x.dtype) for name, x in params["monotone"].items()}
    return params | {"monotone": moved}


def test_a_schedule_falls_from_end_to_end_whatever_its_parameters():
    for seed in range(3):
        found = learned_schedule.knots(params_of(seed))
        np.testing.assert_allclose([found[0], found[-1]], [6, -5], atol=1e-4)
        assert np.all(np.diff(found) < 0)
    even = np.linspace(13.3, -5, 257)
    np.testing.assert_allclose(learned_schedule.knots(learned_schedule.init((13.3, 4.0, -5.0))), even, atol=0.5)


def test_a_chain_of_it_has_its_log_snr_at_even_times(x64):
    knots = learned_schedule.knots(params_of(0))
    of = learned_schedule.chain(knots, 2 * 256 + 1)
    rows = of.level(np.arange(1, 514))
    np.testing.assert_allclose(rows.log_snr[::2], knots, rtol=1e-9)
    np.testing.assert_allclose(
        of.level(np.array([1.5, 512.25])).log_snr, np.interp([1.5, 512.25], np.arange(1, 514), rows.log_snr)
    )
    np.testing.assert_allclose(of.level(np.arange(1, 514)).c_noise, 1000 * (13.3 - rows.log_snr) / 18.3, rtol=1e-9)
    exact = learned_schedule.level_of(jnp.asarray(rows.log_snr))
    np.testing.assert_allclose([exact.alpha, exact.sigma], [rows.alpha, rows.sigma], rtol=1e-9)


def test_the_inside_follows_the_second_moment_and_the_ends_the_bound(x64):
    """For a loss that is a function of the log-SNR alone, by a quadrature over t, against derivatives of E[l^2] and E[l]."""

    def error(log_snr):
        return 1 + jnp.sin(log_snr) ** 2 + jnp.exp(log_snr / 8)

    def loss(params, t):
        moment = learned_schedule.moment(params, t)
        steps = moment.slope * error(moment.level.log_snr)
        return steps, jax.lax.stop_gradient(steps) ** 2 * moment.log_slope

    def steps_of(params, t):
        (first, last), share = params["ends"], lambda t: learned_schedule.share(params["monotone"], t)
        found, slope = jax.jvp(share, (t,), (jnp.ones_like(t),))
        return (first - last) * slope * error(first + (last - first) * found)

    params = params_of(1)

    @jax.jit
    def gradients(params):
        found = [jax.grad(lambda params, k=k: jnp.mean(loss(params, jnp.asarray(T))[k]))(params) for k in (0, 1)]
        return found + [
            jax.grad(lambda params, n=n: jnp.mean(steps_of(params, jnp.asarray(T)) ** n))(params) for n in (1, 2)
        ]

    of_steps, of_square, expected_of_steps, expected = gradients(params)
    for name, gradient in of_square["monotone"].items():
        np.testing.assert_allclose(gradient, expected["monotone"][name], rtol=1e-3, atol=1e-3)
        assert np.max(np.abs(gradient)) > 1
        np.testing.assert_array_equal(of_steps["monotone"][name], 0)
    np.testing.assert_array_equal(of_square["ends"], 0)
    np.testing.assert_allclose(of_steps["ends"], expected_of_steps["ends"], rtol=1e-4)


def test_the_bound_of_gaussian_data_is_known_and_so_is_its_gradient_by_the_ends(x64):
    """Whatever lies between the ends: I(x_0; x_t), whose derivative by the log-SNR is the error of eps / 2. To 3%."""
    x_0 = oracles.MEAN + oracles.STD * jax.random.normal(jax.random.key(0), (500, 8, 8, 1))
    eps, t = jax.random.normal(jax.random.key(1), x_0.shape), (jnp.arange(500) + 0.5) / 500

    def steps_of(params):
        found, terms = losses.vdm()(oracles.gaussian(), x_0, learned_schedule.moment(params, t), eps)
        return jnp.mean(terms["steps"]), jnp.mean(found) - sum(jnp.mean(terms[name]) for name in ("decoder", "prior"))

    ends = np.array([6.0, -5.0])
    share = scipy.special.expit(ends + np.log(oracles.STD**2))  # 1 - Var(x_0 | x_t) / Var(x_0), and the error of eps
    information = -np.log2(1 - share) / 2
    value_and_grad = jax.jit(jax.value_and_grad(steps_of, has_aux=True))
    for seed in (0, 1):
        (steps, rest), gradient = value_and_grad(params_of(seed, ends))
        np.testing.assert_allclose(steps, information[0] - information[1], rtol=0.03)
        np.testing.assert_allclose(rest, steps, rtol=1e-9)  # the schedule's own part of the loss is a gradient alone
        expected = share * [1, -1] / (2 * np.log(2))
        np.testing.assert_allclose(gradient["ends"], expected, rtol=0.03, atol=0.01)
        assert all(np.all(x == 0) for x in gradient["monotone"].values())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"loss.name": "simple"}, "loss.name = 'simple' does not fit config field process.kind = 'learned'; 'vdm' and"),
        ({"process.kind": "discrete"}, "loss.name = 'vdm' does not fit config field process.kind = 'discrete'; 'vdm' and"),
        ({"loss.timesteps": "loss_second_moment"}, "counts levels, and process.kind is 'learned'"),
        ({"process.num_steps": 1}, "process.num_steps = 1 is not allowed; a learned schedule has at least 2"),
        ({"process.log_snr": (5.0, 13.3)}, "a tuple of 2 or more numbers from 80 to -80 that fall"),
    ],
)
def test_what_does_not_fit_is_said(changes, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        checks.check(tiny.config_of(LEARNED | changes))


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_bytes_and_draws_by_the_schedule_that_it_learned(tmp_path, one_device):
    """By the command alone. The ends have moved with the weights, and so has what is recorded of the images."""
    flags = [f"--config.{name}={value}" for name, value in LEARNED.items()]
    runs = [["main.py", *tiny.flags(tmp_path / name, num_steps=4, ema_rates=(0.5,)), *flags] for name in "ab"]
    assert main.main(runs[0]) == 0
    for num_steps in (2, 4):
        assert main.main([*runs[1], f"--config.train.num_steps={num_steps}"]) == 0
    one, other = (dj.load(tmp_path / name) for name in "ab")
    assert all(map(np.array_equal, jax.tree.leaves(one.params), jax.tree.leaves(other.params)))
    knots = one.config.process.log_snr
    assert len(knots) == 257 and knots == learned_schedule.knots(one.params["schedule"])
    assert knots[0] != 13.3 and knots[-1] != -5
    guided = dj.load(tmp_path / "a", guide=2)  # by an earlier checkpoint, with a schedule of its own
    assert guided.guide.config.process.log_snr != knots == guided.config.process.log_snr

    ask = [f"--workdir={tmp_path / 'a'}", f"--out={tmp_path / 'out'}", "--config.sample.num_images=5"]
    assert main.main(["main.py", "--mode=sample", *ask]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["process"]["log_snr"] == list(knots)
    ask = [f"--workdir={tmp_path / 'a'}", f"--out={tmp_path / 'bits'}", "--config.likelihood.num_images=5"]
    assert main.main(["main.py", "--mode=likelihood", *ask, "--config.likelihood.kind=continuous"]) == 0
    assert json.loads((tmp_path / "bits" / "continuous.json").read_text())["continuous_bits_per_dim"] > 0
