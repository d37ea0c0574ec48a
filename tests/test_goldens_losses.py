"""Losses, p(x_s | x_t), averages, Adam: against recorded reference implementations (g3, g9, g10)."""

import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import recorded
from test_goldens_samplers import nchw, network_of, nhwc, rows_of, x_previous

from diffusion_jax import denoiser, losses, process, samplers, schedules, timesteps
from diffusion_jax.compose import choices
from diffusion_jax.training import averages
from diffusion_jax.training import state as train_state

G3, G9, G10 = (recorded.load(name) for name in ("g3_losses", "g9_training_utils", "g10_ho_tf"))
PREDICTS = {
    "EPSILON": "eps",
    "START_X": "x_0",
    "PREVIOUS_X": "x_previous",
    "eps": "eps",
    "xstart": "x_0",
    "xprev": "x_previous",
}
KINDS = {"fixed_small": "small", "fixed_large": "large", "fixedsmall": "small", "fixedlarge": "large"}


def setting(mean, variance, levels, clip=False):
    """Returns (kind of variance, denoiser) by the references' names."""
    kind = KINDS.get(variance.lower(), variance.lower())
    network = network_of("tanh", np.ones(1), variance=kind, previous=PREDICTS[mean] == "x_previous")
    predicts = x_previous(levels) if PREDICTS[mean] == "x_previous" else choices.PARAMETERIZATIONS[PREDICTS[mean]]
    denoise = denoiser.make_denoiser(network, predicts, learned_variance=kind.startswith("learned"))
    if clip and PREDICTS[mean] == "x_previous":  # they clip what they report of x_0 alone, and the mean not
        return kind, lambda x_t, level: denoise(x_t, level)._replace(x_0=denoiser.clip(denoise(x_t, level).x_0))
    return kind, denoiser.clip_x_0(denoise) if clip else denoise


def table(betas, rows=None):
    """Returns the levels of a chain, or of a shorter one on some of its rows (rising, from 0)."""
    levels = oracles.rows_of(betas)
    return levels if rows is None else process.rows(levels, rows)


def mse_of(mean, variance, levels, x_0, eps, t):
    _, denoise = setting(mean, variance, levels)
    level = process.rows(levels, t + 1)
    x_0, eps = (jnp.asarray(x, level.alpha.dtype) for x in (x_0, eps))
    return losses.squared_error(denoise(process.diffuse(x_0, level, eps), level), x_0, eps)


def p_mean_variance(mean, variance, clip, levels, x_0, eps, t):
    """Returns the fields of a reference's p_mean_variance at x_t ~ q(x_t | x_0)."""
    kind, denoise = setting(mean, variance, levels, clip)
    level, below = process.rows(levels, t + 1), process.rows(levels, t)
    x_0, eps = (jnp.asarray(x, level.alpha.dtype) for x in (x_0, eps))
    x_t = process.diffuse(x_0, level, eps)
    prediction = denoise(x_t, level)
    first = process.log_variance(process.rows(levels, 2), process.rows(levels, 1), "small")
    log_variance = denoiser.reverse_log_variance(prediction.variance, x_t, level, below, kind, decoder=first)
    return {
        "mean": process.posterior(prediction.x_0, x_t, level, below).mean,
        "log_variance": log_variance,
        # For 'small' the references floor the log-variance alone: the variance of the last step stays 0.
        "variance": jnp.exp(
            process.expand(process.log_variance(level, below, kind), x_t) if kind == "small" else log_variance
        ),
        "pred_xstart": prediction.x_0,
    }


G3_LEVELS = {"loss": ("linear", 100, None), "pmv": ("linear", 100, None), "spaced": ("cosine", 1000, "20")}


def g3_levels(kind):
    name, num_steps, spec = G3_LEVELS[kind]
    return table(choices.SCHEDULES[name](num_steps), None if spec is None else rows_of(spec, num_steps)[::-1])


G3_MSE = [key for key in G3 if key.split(".")[0] in ("loss", "spaced") and ".mse" in key]


@pytest.mark.parametrize("key", [key for key in G3_MSE if not key.endswith("__f32")])
def test_mse_is_improved_diffusions_in_float64(key, x64):
    kind, mean, variance = key.split(".")[:3]
    t = G3["spaced.t"] if kind == "spaced" else G3["t"]
    got = mse_of(mean, variance, g3_levels(kind), nhwc(G3["x_start"]), nhwc(G3["noise"]), t)
    np.testing.assert_allclose(got, G3[key], rtol=1e-9)


@pytest.mark.parametrize("key", [key for key in G3_MSE if key.endswith("__f32")])
def test_mse_is_improved_diffusions_in_float32(key):
    """Ten times the references' own distance, 1.6e-7 in the median for these terms; the largest 1e-5."""
    kind, mean, variance = key.split(".")[:3]
    t = G3["spaced.t"] if kind == "spaced" else G3["t"]
    got = mse_of(mean, variance, g3_levels(kind), nhwc(G3["x_start"]), nhwc(G3["noise"]), t)
    np.testing.assert_allclose(got, G3[key], rtol=1e-4)


def test_the_short_chain_is_improved_diffusions(x64):
    levels = g3_levels("spaced")
    np.testing.assert_array_equal(levels.c_noise[1:], G3["spaced.timestep_map"])
    t, s = process.rows(levels, np.arange(1, 21)), process.rows(levels, np.arange(20))
    np.testing.assert_allclose(jnp.exp(process.log_variance(t, s, "large")), G3["spaced.betas"], rtol=1e-10)


def improveds(key):
    """Returns our value for a key of g3; where x_{t-1} is predicted, the references' clipping leaves the mean alone."""
    _, mean, variance, clip, field = key.removesuffix("__f32").split(".")
    clipped = clip == "clip1" and (PREDICTS[mean] != "x_previous" or field == "pred_xstart")
    fields = p_mean_variance(mean, variance, clipped, g3_levels("pmv"), nhwc(G3["x_start"]), nhwc(G3["noise"]), G3["t"])
    value = nchw(fields[field])
    return value if value.shape == G3[key].shape else np.broadcast_to(value, (*G3[key].shape[:1], *value.shape[1:]))


PMV = recorded.keys("g3_losses", "pmv.")


@pytest.mark.parametrize("key", [key for key in PMV if not key.endswith("__f32")])
def test_p_mean_variance_is_improved_diffusions_in_float64(key, x64):
    np.testing.assert_allclose(improveds(key), G3[key], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("key", [key for key in PMV if key.endswith("__f32")])
def test_p_mean_variance_is_improved_diffusions_in_float32(key):
    np.testing.assert_allclose(improveds(key), G3[key], rtol=1e-4, atol=1e-5)


# ---- g10: Ho et al.'s own code, float32, [B, H, W, C]

G10_FIELDS = [key for key in G10 if key.startswith("pmv.")]
G10_MSE = [key for key in G10 if key.startswith("loss.") and key.endswith(".mse")]


@pytest.mark.parametrize("key", G10_MSE)
def test_mse_is_ho_et_als(key):
    _, mean, variance, _ = key.split(".")
    got = mse_of(mean, variance, table(G10["betas"]), G10["x_start"], G10["noise"], G10["t"])
    np.testing.assert_allclose(got, G10[key], rtol=1e-4)


@pytest.mark.parametrize("key", G10_FIELDS)
def test_p_mean_variance_is_ho_et_als(key):
    """But for the variance (not the log-variance) of 'fixedlarge' at t = 1: there they give beta_1, and never use it."""
    _, mean, variance, field = key.split(".")
    clip = PREDICTS[mean] != "x_previous" or field == "pred_xstart"
    got = p_mean_variance(mean, variance, clip, table(G10["betas"]), G10["x_start"], G10["noise"], G10["t"])[field]
    expected = G10[key]
    if field == "variance" and variance == "fixedlarge":
        got, expected = got[G10["t"] > 0], expected[G10["t"] > 0]
    np.testing.assert_allclose(np.broadcast_to(got, expected.shape), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("key", [key for key in G10 if key.startswith(("p_sample.", "v1.p_sample"))])
def test_chains_are_ho_et_als(key):
    from test_goldens_samplers import chain

    mean, variance = ("eps", "fixedsmall") if key.startswith("v1") else key.split(".")[1:3]
    levels = table(G10["betas"])
    kind, denoise = setting(mean, variance, levels, clip=True)
    grid = process.rows(levels, np.arange(50, -1, -1))
    states, _ = chain(denoise, samplers.ancestral(variance=kind), jnp.asarray(G10["x_T"]), grid, jnp.asarray(G10["p_noise"]))
    np.testing.assert_allclose(states[-1] if key.endswith("final") else states, G10[key], atol=1e-4)


def test_the_older_loss_is_the_same():
    got = mse_of("eps", "fixedsmall", table(G10["betas"]), G10["x_start"], G10["noise"], G10["t"])
    np.testing.assert_allclose(got, G10["v1.loss"], rtol=1e-4)


def test_the_losses_second_moments_are_improved_diffusions(x64):
    """After every batch of 30: the same probability for each of 8 t. Their t is ours minus 1."""
    num_steps, history, uniform_share = G3["lsm.config"]
    drawn = timesteps.loss_second_moment(int(num_steps), history=int(history), uniform_share=uniform_share)
    state = drawn.init()
    for t, loss, stored in zip(G3["lsm.ts"], G3["lsm.losses"], G3["lsm.weights_after"], strict=True):
        state = drawn.update(state, jnp.asarray(t) + 1, jnp.asarray(loss))
        np.testing.assert_allclose(timesteps.probabilities(state, uniform_share), stored / stored.sum(), rtol=1e-12)
    np.testing.assert_allclose(np.sort(state.losses, axis=1), np.sort(G3["lsm.history"], axis=1), rtol=1e-12)


# ---- g9: averages, weights over noise levels, Adam


@pytest.mark.parametrize("rate", ["0.9", "0.9999"])
def test_averages_are_improved_diffusions(rate, x64):
    path, average = G9["ema.params"], averages.exponential((float(rate),))
    ema = average.init(jnp.asarray(path[0]))
    for k, stored in enumerate(G9[f"ema.out.{rate}"]):
        ema = average.update(ema, jnp.asarray(path[k]), jnp.asarray(k)) if k else ema
        np.testing.assert_allclose(ema[rate], stored, rtol=1e-12)


def test_the_averages_warm_up_is_diffusers(x64):
    """But for the first update, which copies the parameters there and takes nine tenths of them here."""
    average = averages.exponential((0.9999,), warmup=True)
    for step, stored in zip(G9["ema.steps"], G9["ema.diffusers_decay.default"], strict=True):
        if step > 1:
            rate = average.update({"0.9999": jnp.ones(())}, jnp.zeros(()), jnp.asarray(step - 1))["0.9999"]
            assert float(rate) == pytest.approx(stored, rel=1e-12)


@pytest.mark.parametrize(("predicts", "key"), [("eps", "snr.minsnr_eps"), ("v", "snr.minsnr_v"), ("x_0", "snr.minsnr_x0")])
def test_min_snr_weights_are_those_of_the_diffusers_examples(predicts, key):
    """To 2e-4: theirs come from a float32 alpha_bar, of which 1 - alpha_bar keeps no more at t = 1."""
    level = process.rows(table(schedules.linear(1000)), G9["snr.t"] + 1)
    np.testing.assert_allclose(losses.snr(level), G9["snr.snr"], rtol=2e-4)
    x = jnp.zeros((len(level.alpha), 1))
    prediction = denoiser.make_denoiser(lambda x, c_noise: x, choices.PARAMETERIZATIONS[predicts])(x, level)
    weight = losses.min_snr(losses.snr(level)) / losses.x_0_weight(prediction, level)
    np.testing.assert_allclose(weight, G9[key], rtol=2e-4)


@pytest.mark.parametrize(("key", "weight_decay"), [("adam.adam.wd0", 0.0), ("adam.adamw.wd0.05", 0.05)])
def test_adam_with_clipping_is_torchs(key, weight_decay, x64):
    """Our warm-up begins at rate 0 and theirs at a quarter, so the rates are applied from outside."""
    p, grads = jnp.asarray(G9["adam.p0"]), jnp.asarray(G9["adam.grads"])
    rates = 0.01 * np.minimum((np.arange(8) + 1) / 4, 1)
    settings = {"decay": "constant", "warmup_steps": 0, "num_steps": 8, "grad_clip": 1.0}
    optimizer = train_state.make_optimizer(learning_rate=1.0, weight_decay=weight_decay, **settings)
    state = optimizer.init(p)
    for grad, rate, stored in zip(grads, rates, G9[key], strict=True):
        update, state = optimizer.update(grad, state, p)
        p = optax.apply_updates(p, rate * update)
        # torch divides by norm + 1e-6 where optax divides by the norm.
        np.testing.assert_allclose(p, stored, rtol=1e-6)
