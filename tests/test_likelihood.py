"""The bound: against closed forms for Gaussian data, and against recorded reference implementations (g3, g10)."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import recorded
import scipy.special
import scipy.stats
from test_goldens_losses import PREDICTS, setting
from test_goldens_samplers import nhwc, rows_of

from diffusion_jax import denoiser, likelihood, process, schedules
from diffusion_jax.compose import choices
from diffusion_jax.process import Gaussian

G3, G10 = recorded.load("g3_losses"), recorded.load("g10_ho_tf")


def gaussian(mean, log_variance):
    return Gaussian(jnp.asarray(mean), jnp.asarray(log_variance))


def test_kl_is_zero_for_equals_and_the_textbooks_otherwise(x64):
    p, q = gaussian(0.3, -1.0), gaussian(-0.2, 0.4)
    assert likelihood.gaussian_kl(p, p) == 0
    sd_p, sd_q = np.exp(-0.5), np.exp(0.2)
    textbook = np.log(sd_q / sd_p) + (sd_p**2 + 0.25) / (2 * sd_q**2) - 0.5
    np.testing.assert_allclose(likelihood.gaussian_kl(p, q), textbook, rtol=1e-12)


@pytest.mark.parametrize("log_std", [-7.0, -4.0, -1.0, 1.0])
@pytest.mark.parametrize("mean", [-1.3, -0.5, 0.0, 0.21, 1.0])
def test_the_256_probabilities_sum_to_one(mean, log_std, precision):
    x = np.arange(256) / 127.5 - 1
    log_p = likelihood.log_discretized_gaussian(jnp.asarray(x), gaussian(mean, 2 * log_std))
    np.testing.assert_allclose(np.exp(np.float64(scipy.special.logsumexp(log_p))), 1, rtol=max(precision, 1e-10) * 20)


def test_the_decoder_is_right_in_float32_far_into_both_tails():
    """Where the published code, in float32, has no digit left: up to 60 standard deviations out."""
    x = np.concatenate([np.arange(256) / 127.5 - 1] * 2)
    law = gaussian(np.repeat(np.float32([-0.7, 0.7]), 256), np.float32(2 * np.log(0.025)))
    got = likelihood.log_discretized_gaussian(jnp.asarray(x, jnp.float32), law)
    upper, lower = ((x - np.repeat([-0.7, 0.7], 256) + half) / 0.025 for half in (1 / 255, -1 / 255))
    high, low = np.where(x > law.mean, -lower, upper), np.where(x > law.mean, -upper, lower)
    exact = scipy.special.log_ndtr(high) + np.log(-np.expm1(scipy.special.log_ndtr(low) - scipy.special.log_ndtr(high)))
    inner = np.abs(x) < 0.999
    np.testing.assert_allclose(got[inner], exact[inner], rtol=2e-4)
    assert np.all(np.isfinite(got))


@pytest.mark.slow
def test_the_bound_of_gaussian_data_is_above_the_mutual_information_and_falls_to_it(x64):
    """Exact denoiser. The terms from T down to level r sum to I(x_0; x_r) - I(x_0; x_T) and a gap, which goes as 1 / S."""
    key, levels, r = jax.random.key(0), oracles.rows_of(schedules.linear(1000)), 50
    x_0 = oracles.MEAN + oracles.STD * jax.random.normal(key, (64, 16, 16, 1))

    def information(row):
        return 0.5 * np.log2(1 + levels.alpha[row] ** 2 * oracles.STD**2 / levels.sigma[row] ** 2)

    gaps = []
    for num_steps in (38, 95, 190, 475):
        grid = process.rows(levels, np.append(np.arange(1000, r - 1, -950 // num_steps), 0))

        def noise(index):
            return jax.random.normal(jax.random.fold_in(key, index + 1), x_0.shape)

        got = likelihood.bound(oracles.gaussian(), x_0, grid, noise, variance="small")
        gaps.append(float(jnp.mean(jnp.sum(got.terms[:-1], axis=0))) - (information(r) - information(1000)))
    assert np.all(np.array(gaps) > 0)
    np.testing.assert_allclose(np.array(gaps[:-1]) / gaps[1:], [2.5, 2, 2.5], rtol=0.15)


def test_a_grid_of_jax_arrays_may_be_used_under_jit():
    grid = jax.tree.map(jnp.asarray, process.rows(oracles.rows_of(schedules.linear(1000)), [1000, 500, 0]))
    x_0 = jnp.zeros((2, 4, 4, 1))
    got = jax.jit(lambda x_0: likelihood.bound(oracles.gaussian(), x_0, grid, lambda step: x_0, variance="small").total)(x_0)
    assert np.all(np.isfinite(got))


def test_a_bound_in_continuous_time_from_a_level_without_signal_is_refused():
    of, x_0 = process.rectified_flow(), jnp.zeros((2, 4, 4, 1))
    with pytest.raises(ValueError, match="its first level must have signal, alpha above 0"):
        likelihood.continuous_bound(oracles.gaussian(), x_0, of.level(np.array([1.0, 0.5, 0.0])), of, lambda step: (0, x_0))


@pytest.mark.parametrize(
    ("rows", "variance", "sentence"),
    [
        ([1000, 500, 1], "small", "the grid is not allowed; it must end at level 0, the data"),
        ([1000, 500, 0], "smal", "variance = 'smal' is unknown; known: small, large, learned, learned_range"),
    ],
)
def test_a_bound_without_its_decoder_or_of_no_known_variance_is_refused(rows, variance, sentence):
    grid, x_0 = process.rows(oracles.rows_of(schedules.linear(1000)), rows), jnp.zeros((2, 4, 4, 1))
    with pytest.raises(ValueError, match=sentence):
        likelihood.bound(oracles.gaussian(), x_0, grid, lambda step: x_0, variance=variance)


def test_each_term_of_gaussian_data_is_a_strip_of_the_mutual_information(x64):
    """Exact denoiser, variance 'small': (SNR_s - SNR_t) Var(x_0 | x_t) / 2 nats; 16,384 values give each to 1%."""
    key, levels = jax.random.key(0), oracles.rows_of(schedules.linear(1000))
    grid = process.rows(levels, np.array([1000, 800, 400, 200, 100, 50, 0]))
    x_0 = oracles.MEAN + oracles.STD * jax.random.normal(key, (64, 16, 16, 1))
    got = likelihood.bound(
        oracles.gaussian(),
        x_0,
        grid,
        lambda i: jax.random.normal(jax.random.fold_in(key, i + 1), x_0.shape),
        variance="small",
    )
    snr = (grid.alpha[:-1] / grid.sigma[:-1]) ** 2
    variance = oracles.STD**2 / (1 + snr * oracles.STD**2)
    expected = np.diff(snr) * variance[:-1] / 2 / np.log(2)
    np.testing.assert_allclose(np.mean(got.terms[:-1], axis=1), expected, rtol=0.06)


@pytest.mark.parametrize("name", ["vp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("linear", "cosine"))])
def test_the_continuous_bound_of_gaussian_data_is_the_mutual_information_whatever_lies_between_its_ends(name, x64):
    """Exact denoiser: I(x_0; x_first) - I(x_0; x_T) for one pair of ends, to 1%, which 16,384 values in 60 draws give.

    Two chains and an SDE, with intervals even in t: [Kingma et al. 2021, VDM, eq. 18].
    """
    key, ends = jax.random.key(0), np.array([-6.0, 5.0])
    of = process.vp() if name == "vp" else process.chain(choices.SCHEDULES[name](1000))
    grid = of.level(np.append(np.linspace(*of.time(ends), 61), 0.0))
    x_0 = oracles.MEAN + oracles.STD * jax.random.normal(key, (64, 16, 16, 1))

    def noise(index):
        key_share, key_eps = jax.random.split(jax.random.fold_in(key, index + 1))
        return jax.random.uniform(key_share, (64,)), jax.random.normal(key_eps, x_0.shape)

    got = likelihood.continuous_bound(oracles.gaussian(), x_0, grid, of, noise)
    information = np.log2(1 + np.exp(ends) * oracles.STD**2) / 2
    np.testing.assert_allclose(np.mean(np.sum(got.terms[:-1], axis=0)), information[1] - information[0], rtol=0.01)
    alpha, sigma = np.sqrt(scipy.special.expit([ends[0], -ends[0]]))
    of_prior = ((alpha * x_0) ** 2 + sigma**2 - 1) / 2 - np.log(sigma)
    np.testing.assert_allclose(got.prior, np.mean(of_prior, axis=(1, 2, 3)) / np.log(2), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("log_snr", [8.0, 11.0])
def test_the_decoder_without_a_network_costs_what_noise_hides(log_snr, x64):
    """E[-log2 P(value | x)] of an inner value by quadrature over the noise; 40,000 draws are right to 3%."""
    std, k = np.exp(-log_snr / 2), np.arange(256)
    e = std * np.linspace(-7, 7, 20_001)
    all_values = sum(scipy.stats.norm.pdf(e - step / 127.5, scale=std) for step in 100 - k)
    expected = np.trapezoid(scipy.stats.norm.pdf(e, scale=std) * np.log2(all_values / scipy.stats.norm.pdf(e, scale=std)), e)
    level = process.level_of_log_snr(process.vp(), jnp.array([log_snr]))
    x_0 = jnp.full((1, 200, 200, 1), 100 / 127.5 - 1)
    x = process.diffuse(x_0, level, jax.random.normal(jax.random.key(0), x_0.shape))
    np.testing.assert_allclose(likelihood.decoder_term(x_0, x, level), [expected], rtol=0.03)


# ---- recorded


def published_decoder(x_0, law):
    """Returns `likelihood.log_discretized_gaussian` as the references have it: an approximation, with a floor of 1e-12."""

    def cdf(x):
        return 0.5 * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    inverse_std = jnp.exp(-law.log_variance / 2)
    upper, lower = (cdf(inverse_std * (x_0 - law.mean + half)) for half in (1 / 255, -1 / 255))
    probability = jnp.where(x_0 < -0.999, upper, jnp.where(x_0 > 0.999, 1 - lower, upper - lower))
    return jnp.log(jnp.maximum(probability, 1e-12))


@pytest.fixture
def with_published_decoder(monkeypatch):
    monkeypatch.setattr(likelihood, "log_discretized_gaussian", published_decoder)


@pytest.mark.parametrize("decoder", [likelihood.log_discretized_gaussian, published_decoder])
def test_the_decoder_is_the_exact_one_of_which_improved_diffusions_is_an_approximation(decoder, x64):
    """The second is what the comparisons below put in its place."""
    law = gaussian(G3["dgll.means"], 2 * G3["dgll.log_scales"])
    got = decoder(jnp.asarray(G3["dgll.x"]), law)
    expected = G3["dgll.out" if decoder is published_decoder else "dgll.exact"]
    clear = expected > (-20 if decoder is published_decoder else -1e6)
    np.testing.assert_allclose(got[clear], expected[clear], rtol=1e-9, atol=1e-16)


def test_kl_is_improved_diffusions(x64):
    got = likelihood.gaussian_kl(gaussian(G3["kl.mean1"], G3["kl.logvar1"]), gaussian(G3["kl.mean2"], G3["kl.logvar2"]))
    np.testing.assert_allclose(got, G3["kl.normal_kl"], rtol=1e-12, atol=1e-14)


def term_of(mean, variance, clip, levels, x_0, eps, t):
    """Returns the bound's terms by the references' names; clipping does not change the mean of x_{t-1}."""
    kind, denoise = setting(mean, variance, levels, clip and PREDICTS[mean] != "x_previous")
    level, s = process.rows(levels, t + 1), process.rows(levels, t)
    x_0, eps = (jnp.asarray(x, level.alpha.dtype) for x in (x_0, eps))
    x_t = process.diffuse(x_0, level, eps)
    first = likelihood.decoder_log_variance(process.rows(levels, 2), process.rows(levels, 1))
    return likelihood.bound_term(denoise(x_t, level), x_0, x_t, level, s, variance=kind, decoder=first)


LINEAR100 = schedules.linear_rescaled(100)
VB = [key for key in G3 if key.startswith(("vb.", "vb_all_t.")) and not key.endswith("__f32")]


@pytest.mark.parametrize("key", VB)
def test_bound_terms_are_improved_diffusions(key, x64, with_published_decoder):
    kind, mean, variance, clip = key.split(".")
    x_0, eps, t = nhwc(G3["x_start"]), nhwc(G3["noise"]), G3["t"]
    if kind == "vb_all_t":
        t = np.arange(100)
        x_0, eps = (jnp.broadcast_to(x[:1], (100, *x.shape[1:])) for x in (x_0, eps))
    got = term_of(mean, variance, clip == "clip1", oracles.rows_of(LINEAR100), x_0, eps, t)
    np.testing.assert_allclose(got, G3[key], rtol=rtol_of(key))


def rtol_of(key):
    """1e-9, but for x_0 networks: at t = 1 their decoder's probabilities are down at the floor, and lose digits there."""
    return 1e-7 if "START_X" in key else 1e-9


LOSSES = [
    key for key in G3 if key.split(".")[0] == "loss" and key.split(".")[3] in ("KL", "RESCALED_KL") and "__" not in key
]
LOSSES += [key for key in G3 if key.split(".")[0] in ("loss", "spaced") and ".vb" in key and "__" not in key]
LOSSES += [key for key in G3 if key.startswith("spaced") and "KL" in key and "__" not in key]


@pytest.mark.parametrize("key", LOSSES)
def test_bound_losses_are_improved_diffusions(key, x64, with_published_decoder):
    """Rescaled by the length of the chain, and in the hybrid loss by a thousandth of it."""
    kind, mean, variance, name = key.split(".")[:4]
    levels, t = oracles.rows_of(LINEAR100), G3["t"]
    if kind == "spaced":
        levels, t = (
            process.rows(oracles.rows_of(choices.SCHEDULES["cosine"](1000)), rows_of("20", 1000)[::-1]),
            G3["spaced.t"],
        )
    num_steps = len(levels.alpha) - 1
    # The hybrid loss rescales by the original chain's length where the short one's is asked of a spaced process.
    scale = {"KL": 1, "RESCALED_KL": num_steps, "MSE": 1, "RESCALED_MSE": num_steps / 1000}[name]
    got = term_of(mean, variance, False, levels, nhwc(G3["x_start"]), nhwc(G3["noise"]), t)
    np.testing.assert_allclose(scale * got, G3[key], rtol=rtol_of(key))


BPD = sorted({key.rsplit(".", 1)[0] for key in G3 if key.startswith("bpd.") and key != "bpd.noise"})


@pytest.mark.parametrize("run", BPD)
def test_the_whole_bound_is_improved_diffusions(run, x64, with_published_decoder):
    """Their steps are ours: from T down."""
    _, model, mean, variance, clip = run.split(".")
    levels = oracles.rows_of(LINEAR100)
    kind, denoise = setting(mean, variance, levels, clip == "clip1" and PREDICTS[mean] != "x_previous")
    if model == "gauss":
        alpha_bar = np.cumprod(1 - LINEAR100)

        def network(x, c_noise):
            bar = jnp.asarray(alpha_bar)[c_noise.astype(int)][:, None, None, None]
            return jnp.sqrt(1 - bar) * (x - jnp.sqrt(bar) * 0.3) / (bar * 0.25 + 1 - bar)

        denoise = denoiser.make_denoiser(network, denoiser.EPS)
        denoise = denoiser.clip_x_0(denoise) if clip == "clip1" else denoise
    grid = process.rows(levels, np.arange(100, -1, -1))
    noises, x_0 = nhwc(G3["bpd.noise"]), nhwc(G3["x_start"])[:2]
    got = likelihood.bound(denoise, x_0, grid, lambda index: noises[index], variance=kind)
    if PREDICTS[mean] == "x_previous" and clip == "clip1":
        _, reported = setting(mean, variance, levels, True)
        clipped = likelihood.bound(reported, x_0, grid, lambda index: noises[index], variance=kind)
        got = got._replace(mse_x_0=clipped.mse_x_0)
    fields = {"total_bpd": got.total, "prior_bpd": got.prior, "vb": got.terms.T, "xstart_mse": got.mse_x_0.T}
    for field, value in fields.items():
        np.testing.assert_allclose(value, G3[f"{run}.{field}"], rtol=rtol_of(run), err_msg=field)


@pytest.mark.parametrize("key", [key for key in G10 if key.startswith("loss.") and key.endswith(".kl")])
def test_bound_losses_are_ho_et_als(key, with_published_decoder):
    """Their float32 decoder at t = 1 is only good to 15%."""
    _, mean, variance, _ = key.split(".")
    got = term_of(mean, variance, False, oracles.rows_of(G10["betas"]), G10["x_start"], G10["noise"], G10["t"])
    np.testing.assert_allclose(got[G10["t"] > 0], G10[key][G10["t"] > 0], rtol=1e-3)
    np.testing.assert_allclose(got[G10["t"] == 0], G10[key][G10["t"] == 0], rtol=0.15)


@pytest.mark.parametrize("run", sorted({key.rsplit(".", 1)[0] for key in G10 if key.startswith("bpd.")}))
def test_the_whole_bound_is_ho_et_als(run):
    _, mean, variance, clip = run.split(".")
    levels = oracles.rows_of(G10["betas"])
    kind, denoise = setting(mean, variance, levels, clip == "clip1")
    grid = process.rows(levels, np.arange(50, -1, -1))
    noises = jnp.asarray(G10["bpd_noise_by_t"])[::-1]
    got = likelihood.bound(denoise, jnp.asarray(G10["x_start"])[:2], grid, lambda index: noises[index], variance=kind)
    np.testing.assert_allclose(got.terms[:-1].T[:, ::-1], G10[f"{run}.terms_bpd"][:, 1:], rtol=1e-3)
    np.testing.assert_allclose(got.total, G10[f"{run}.total_bpd"], rtol=0.15)
    np.testing.assert_allclose(got.prior, G10[f"{run}.prior_bpd"], rtol=1e-3)
    np.testing.assert_allclose(got.mse_x_0.T[:, ::-1], G10[f"{run}.mse_xstart"], rtol=1e-3)
