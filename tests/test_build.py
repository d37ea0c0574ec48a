"""The composition root: configs become parts."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import config_of

from diffusion_jax import denoiser, losses, streams
from diffusion_jax.compose import checks, likelihoods, processes, sampling, training
from diffusion_jax.data import codecs
from diffusion_jax.errors import UserError
from diffusion_jax.training import start
from diffusion_jax.training import step as training_step


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["hybrid", pytest.param("vlb", marks=pytest.mark.slow)])
def test_a_learned_variance_is_trained_and_sampled(loss):
    """Two real steps move the variance's half of the last layer; then images are drawn with it."""
    config = config_of({"loss.name": loss, "model.learned_variance": True, "sample.variance": "learned_range"})
    parts = training.parts(config)
    state = jax.jit(lambda key: start.make_state(key, parts=parts))(streams.key(0, "init"))
    before = np.asarray(state.params["conv_out"]["bias"])
    step = jax.jit(lambda state, batch: training_step.train_step(state, batch, parts=parts))
    batch = {"x": np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), dtype=np.uint8), "cond": {}}
    for _ in range(3):  # the first has learning rate 0
        state, metrics = step(state, batch)
    after = np.asarray(state.params["conv_out"]["bias"])
    assert after.shape == (2,) and after[1] != before[1] and np.isfinite(metrics["loss"]) and metrics["skipped"] == 0
    drawn, finite = jax.jit(sampling.make_generate(config))(state.params, 0, jnp.arange(2))
    assert finite.all() and drawn.shape == (2, 8, 8, 1) and np.std(drawn) > 10


def test_the_bound_of_a_network_without_variance_is_that_of_beta():
    """[Ho et al. 2020, table 2, 'L, fixed isotropic Sigma']"""
    config = config_of({"loss.name": "vlb"})
    checks.check(config)
    process = processes.process_of(config)
    x_0, t = jnp.full((3, 8, 8, 1), 0.5), jnp.array([1, 2, 20])
    level, eps = process.level(t), jnp.ones_like(x_0)
    denoise = denoiser.make_denoiser(lambda x_t, c_noise: 0.1 * x_t, denoiser.EPS)
    found, _ = training.parts(config).loss(jnp.array(0), None)(denoise, x_0, level, eps)
    expected = {
        variance: losses.vlb(levels=process.level(np.arange(21)), variance=variance)(denoise, x_0, level, eps)[0]
        for variance in ("small", "large")
    }
    np.testing.assert_array_equal(found, expected["large"])
    assert (found != expected["small"])[1:].all()


@pytest.mark.parametrize(
    ("changes", "platform", "expected"),
    [
        ({}, "cpu", 1),
        ({"train.steps_per_call": 2}, "cpu", 2),
        (
            {"train.num_steps": 1000, "train.log_every": 50, "train.checkpoint_every": 200, "train.sample_every": 100},
            "gpu",
            10,
        ),
        ({"train.num_steps": 1000, "train.log_every": 7, "train.checkpoint_every": 70, "train.sample_every": 70}, "tpu", 1),
        ({"train.num_steps": 64, "train.log_every": 16, "train.checkpoint_every": 32, "train.sample_every": 32}, "tpu", 8),
    ],
)
def test_steps_are_fused_on_accelerators_as_far_as_the_intervals_allow(changes, platform, expected):
    assert training.steps_per_call(config_of(changes), first_step=0, platform=platform) == expected


def test_a_number_of_fused_steps_that_does_not_fit_is_refused():
    config = config_of({"train.steps_per_call": 3})
    with pytest.raises(UserError, match="train.steps_per_call = 3 must divide the steps taken"):
        training.steps_per_call(config, first_step=0, platform="cpu")


def test_an_image_depends_on_seed_and_number_alone():
    """The same numbers in another order and another batch; and another seed changes everything."""
    config = config_of({"sample.num_steps": 5, "sample.clip": "none"})
    params = jax.jit(processes.network(config).init)(streams.key(0, "init"))
    draw = jax.jit(lambda *arguments: sampling.make_generate(config)(*arguments)[0])
    one, two = draw(params, 0, jnp.array([3, 1, 2])), draw(params, 0, jnp.array([1, 2, 3]))
    difference = np.abs(np.asarray(one, int) - np.asarray(two, int)[[2, 0, 1]])
    assert np.max(difference) <= 1 and np.mean(difference > 0) < 1e-3
    assert np.mean(draw(params, 1, jnp.array([3, 1, 2])) != one) > 0.9


@pytest.mark.parametrize(
    ("dtype", "precision", "of_sampling", "of_likelihood"),
    [
        ("float32", "default", {"DEFAULT"}, {"HIGHEST"}),
        ("float32", "high", {"HIGH"}, {"HIGHEST"}),
        ("bfloat16", "highest", {"DEFAULT"}, {"DEFAULT"}),
    ],
)
def test_likelihoods_are_computed_at_the_highest_precision(dtype, precision, of_sampling, of_likelihood):
    """As the traced programs say of each convolution; the type of a bfloat16 network has the last word."""
    config = config_of({"model.dtype": dtype, "model.precision": precision})
    params = jax.eval_shape(processes.network(config).init, jax.random.key(0))
    batch = {"x": np.zeros((2, 8, 8, 1), np.uint8), "cond": {}}
    generate, measure = sampling.make_generate(config), likelihoods.likelihood_of(config)
    programs = {
        "sampling": jax.make_jaxpr(generate)(params, 0, np.arange(2)),
        "likelihood": jax.make_jaxpr(measure)(params, 0, np.arange(2), batch),
    }
    found = {
        name: {
            precision.name
            for equation in equations(program.jaxpr)
            if equation.primitive.name == "conv_general_dilated"
            for precision in equation.params["precision"]
        }
        for name, program in programs.items()
    }
    assert found == {"sampling": of_sampling, "likelihood": of_likelihood}


def equations(jaxpr):
    """Yields every equation of a program, those inside others too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize(
    "changes",
    [
        {"process.num_steps": 20, "process.schedule": "linear"},
        {"process.schedule": "jsd"},
        {"process.zero_terminal_snr": True},
        {"process.kind": "rectified_flow", "loss.time_density": "uniform"},
    ],
)
@pytest.mark.parametrize("predicts", ["eps", "score"])
def test_eps_is_refused_where_no_signal_is_left(predicts, changes):
    name, value = next(iter(changes.items()))
    with pytest.raises(UserError, match=f"predicts = '{predicts}' is impossible with .*{name} = {value!r}.*: x_T is"):
        training.parts(config_of(changes | {"predicts": predicts}))
    training.parts(config_of(changes | {"predicts": "v"}))


def test_fused_steps_meet_every_interval_after_a_stop_in_between():
    config = config_of(
        {"train.num_steps": 107, "train.log_every": 10, "train.checkpoint_every": 10, "train.sample_every": 10}
    )
    assert training.steps_per_call(config, first_step=7, platform="gpu") == 1


@pytest.mark.parametrize(
    ("sampler", "num_steps", "doubted"),
    [("ddim", 19, True), ("ddim", 20, False), ("ancestral", 99, True), ("ancestral", 100, False)],
)
def test_too_few_steps_are_doubted_aloud(sampler, num_steps, doubted):
    config = config_of({"process.num_steps": 1000, "sample.sampler": sampler, "sample.num_steps": num_steps})
    doubts = sampling.warnings(config)
    assert len(doubts) == doubted and all(f"sample.num_steps: {num_steps} steps are few" in doubt for doubt in doubts)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sample.grid": "explicit", "sample.times": (1000, 500, 0)}, "sample.times: 2 steps are few for DDIM"),
        ({"sample.grid": "explicit", "sample.times": tuple(range(300, -1, -1))}, "the first level still holds signal"),
        ({"process.schedule": "linear_raw", "process.num_steps": 100}, r"\(signal-to-noise ratio 0\.57\)"),
    ],
)
def test_what_begins_too_late_is_doubted_aloud(changes, sentence):
    defaults = {"process.num_steps": 1000, "sample.sampler": "ddim", "sample.num_steps": 50}
    [doubt] = sampling.warnings(config_of(defaults | changes))
    assert re.search(sentence, doubt)


def test_many_given_times_are_not_few():
    times = tuple(range(1000, -1, -5))
    changes = {"sample.grid": "explicit", "sample.times": times, "sample.num_steps": 5, "sample.strip": 8}
    assert sampling.warnings(config_of({"process.num_steps": 1000, "sample.sampler": "ddim", **changes})) == []


@pytest.mark.parametrize(("rescaled", "last"), [(False, 3999), (True, 999.75)])
def test_the_c_noise_that_the_network_gets(rescaled, last):
    """0-based t, or 1000 t / T [Nichol & Dhariwal 2021's code: rescale_timesteps]."""
    config = config_of({"process.num_steps": 4000, "process.rescale_c_noise": rescaled})
    condition = processes.process_of(config).level(np.arange(4001)).c_noise
    np.testing.assert_allclose(condition[1:], np.linspace(0, last, 4000), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sample.num_steps": 21}, "a grid of 21 steps is not allowed; it must have 1 to 20"),
        ({"sample.grid": "linspace", "sample.last_level": "min_noise", "sample.num_steps": 20}, "a grid of 21 steps"),
        (
            {"process.kind": "vp", "sample.grid": "leading"},
            "this grid counts the rows of a discrete process; use 'trailing'",
        ),
    ],
)
def test_a_grid_that_does_not_fit_the_process_is_a_sentence(changes, sentence):
    with pytest.raises(UserError, match=f"config field sample.* does not fit the process: {sentence}"):
        checks.check(config_of(changes))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["discrete", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("rectified_flow", "ve", "vp"))]
)
def test_every_process_has_the_likelihood_of_its_probability_flow(kind):
    """A network that always answers x_0 = 0 makes of any image a linear flow: x_T = sigma_T / sigma_first x."""
    changes = {"process.kind": kind, "predicts": "x_0", "likelihood.kind": "pf_ode", "likelihood.tolerance": 1e-6}
    config = config_of(changes | ({"loss.time_density": "log_normal"} if kind == "ve" else {}))
    shapes = jax.eval_shape(processes.network(config).init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    found = jax.jit(likelihoods.likelihood_of(config))(params, 0, np.arange(3), {"x": x, "cond": {}})
    of = processes.process_of(config)
    ratio = float(of.level(np.float64(of.last)).sigma / of.level(np.float64(of.first)).sigma)
    x_T = ratio * (x / 127.5 - 1)  # but for where in its bin each value lies, which moves the mean square by a little
    last = float(of.level(np.float64(of.last)).sigma)
    nats = (x_T / last) ** 2 / 2 + np.log(2 * np.pi * last**2) / 2 - np.log(ratio)
    expected = np.mean(nats, axis=(1, 2, 3)) / np.log(2) + np.log2(127.5)
    np.testing.assert_allclose(found["bits"], expected, rtol=0.02)
    assert np.all(found["reached_end"])


@pytest.mark.parametrize("kind", ["bound", pytest.param("pf_ode", marks=pytest.mark.slow)])
def test_a_likelihood_is_of_what_the_codec_makes_of_images(kind, monkeypatch):
    """Bytes that count from 1 under a codec that knows it are the images themselves."""
    config = config_of({"likelihood.kind": kind, "likelihood.tolerance": 1e-2, "predicts": "x_0"})
    params = jax.jit(processes.network(config).init)(jax.random.key(0))
    x = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)

    def measured(images):
        found = jax.jit(likelihoods.likelihood_of(config))(params, 0, np.arange(2), {"x": images, "cond": {}})
        return found["total" if kind == "bound" else "bits"]

    plain, from_one = measured(x), codecs.Codec(lambda images: codecs.from_uint8(images - 1), codecs.to_uint8, (8, 8, 1))
    monkeypatch.setattr("diffusion_jax.compose.coding.codec", lambda config: from_one)
    np.testing.assert_array_equal(measured(x + 1), plain)
