"""Chains and single formulas against recorded reference implementations: g2, the unguided part of g4a, DDPM and DDIM of g4b.

Images there are [B, C, H, W]; everything but the split of a learned variance is elementwise, so they are moved once.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import recorded

from diffusion_jax import denoiser, grids, process, samplers, schedules
from diffusion_jax.compose import choices

G2, G4A, G4B = (recorded.load(name) for name in ("g2_q_and_conversions", "g4a_openai_samplers", "g4b_diffusers"))


def nhwc(x):
    return jnp.moveaxis(jnp.asarray(x), -3, -1)


def nchw(x):
    return np.moveaxis(np.asarray(x), -1, -3)


def x_previous(levels):
    """Returns the parameterization whose output is the mean of x_{t-1}: a = alpha_s, b = the posterior's share of eps.

    For chains of single steps, and not to be clipped: a clipped x_0 is no longer what the network said of x_{t-1}.
    """

    def of(t):
        s = process.one_below(levels, t)
        return s.alpha, t.alpha * s.sigma**2 / (s.alpha * t.sigma)

    return denoiser.Parameterization(of)


PARAMETERIZATIONS = choices.PARAMETERIZATIONS

# ---- g2: q(x_t | x_0), the posterior, conversions between parameterizations


@recorded.once
def conversions(prefix):
    """Returns every quantity of g2 for one schedule, from its stored inputs."""
    name, num_steps = prefix.split("_T")
    stored = {key.removeprefix(f"{prefix}."): G2[key] for key in G2 if key.startswith(f"{prefix}.")}
    levels = oracles.rows_of(choices.SCHEDULES[name](int(num_steps)))
    t, s = (process.rows(levels, stored["t"] + 1 - back) for back in (0, 1))
    first = process.log_variance(process.rows(levels, 2), process.rows(levels, 1), "small")
    dtype = levels.alpha.dtype
    x_0, eps, x_t = (jnp.asarray(stored[key], dtype) for key in ("x_start", "noise", "q_sample"))

    def predicted(kind, key):
        output = jnp.asarray(stored[key], dtype)
        return denoiser.make_denoiser(lambda x, c_noise: output, kind)(x_t, t)

    def wide(column):
        return jnp.broadcast_to(process.expand(column, x_t), x_t.shape)

    small = process.log_variance(t, s, "small")
    return {
        "q_sample": process.diffuse(x_0, t, eps),
        "diffusers_add_noise": process.diffuse(x_0, t, eps),
        "q_mean_variance.mean": process.diffuse(x_0, t, 0 * eps),
        "q_mean_variance.variance": wide(t.sigma**2),
        "q_mean_variance.log_variance": wide(2 * jnp.log(t.sigma)),
        "q_posterior.mean": process.posterior(x_0, x_t, t, s).mean,
        "q_posterior.variance": wide(jnp.exp(small)),
        "q_posterior.log_variance_clipped": wide(jnp.maximum(small, first)),
        "predict_xstart_from_eps": predicted(denoiser.EPS, "eps_pred").x_0,
        "predict_eps_from_xstart": predicted(denoiser.X_0, "xstart_pred").eps,
        "predict_xstart_from_xprev": predicted(x_previous(levels), "xprev_pred").x_0,
        "get_velocity": sum(process.expand(c, x_0) * x for c, x in zip(denoiser.V.coefficients(t), (x_0, eps), strict=True)),
        "xstart_from_v": predicted(denoiser.V, "v_pred").x_0,
        "eps_from_v": predicted(denoiser.V, "v_pred").eps,
    }


INPUTS = {"x_start", "noise", "eps_pred", "xstart_pred", "xprev_pred", "v_pred", "t"}
G2_OUTPUTS = [key for key in G2 if key.split(".", 1)[1] not in INPUTS]


@pytest.mark.parametrize("key", [key for key in G2_OUTPUTS if not key.endswith("__f32")])
def test_conversions_in_float64(key, x64):
    prefix, field = key.split(".", 1)
    np.testing.assert_allclose(conversions(prefix)[field], G2[key], rtol=1e-8 if "cosine" in key else 1e-10, atol=1e-11)


@pytest.mark.parametrize("key", [key for key in G2_OUTPUTS if key.endswith("__f32")])
def test_conversions_in_float32(key):
    """Ten times 1.6e-6 of the largest value, the distance of the references' own float32 from their float64."""
    prefix, field = key.removesuffix("__f32").split(".", 1)
    np.testing.assert_allclose(conversions(prefix)[field], G2[key], rtol=0, atol=1.6e-5 * np.max(np.abs(G2[key])))


# ---- the analytic networks of the recorded chains, as functions of (x_t, what the reference passes as time)


def tanh(x, t):
    return jnp.tanh(0.8 * x + 0.5 * jnp.sin(0.01 * t))


def gmm(alpha_bar):
    """Returns the exact eps of a mixture of two Gaussians; `alpha_bar` is indexed by the network's c_noise."""

    def network(x, t):
        bar = jnp.asarray(alpha_bar)[t.astype(int)]
        means, stds = (-0.6, 0.5), (0.2, 0.3)
        log_r = [
            jnp.log(w) - 0.5 * jnp.log(bar * s**2 + 1 - bar) - (x - jnp.sqrt(bar) * m) ** 2 / (2 * (bar * s**2 + 1 - bar))
            for w, m, s in zip((0.35, 0.65), means, stds, strict=True)
        ]
        r = jax.nn.softmax(jnp.stack(log_r), axis=0)
        score = sum(r[k] * (jnp.sqrt(bar) * means[k] - x) / (bar * stds[k] ** 2 + 1 - bar) for k in range(2))
        return -jnp.sqrt(1 - bar) * score

    return network


def with_variance(network, kind):
    """Returns a network with the recorded chains' second half of channels."""

    def extended(x, t):
        u = jnp.cos(1.3 * x + 0.002 * t)
        return jnp.concatenate([network(x, t), -4 + 1.5 * u if kind == "learned" else u], axis=-1)

    return extended


def network_of(name, betas, *, variance="small", previous=False):
    """Returns a network (x_t, c_noise [B]) -> output by its name in the recorded keys."""
    plain = tanh if name == "tanh" else gmm(np.cumprod(1 - betas))
    inner = (lambda x, t: 0.97 * x + 0.05 * plain(x, t)) if previous else plain
    inner = with_variance(inner, variance) if variance.startswith("learned") else inner
    return lambda x, c_noise: inner(x, c_noise[:, None, None, None])


def chain(denoise, sampler, x_T, grid, noises):
    """Returns (states after each step, predicted x_0 of each step) with stored noises."""

    def step(state, scanned):
        interval, noise = scanned
        after, _ = sampler.step(denoise, state, interval, lambda k: noise)
        return after, (sampler.x_of(after), denoise(sampler.x_of(state), interval.t).x_0)

    index = jnp.arange(len(grid.alpha) - 1)
    intervals = samplers.Interval(process.rows(grid, index), process.rows(grid, index + 1), index, index[::-1])
    _, (states, x_0) = jax.lax.scan(step, sampler.init(x_T, grid), (intervals, noises[: len(index)]))
    return states, x_0


def of_steps(num_steps):
    """Returns a chain of so many steps."""
    return process.chain(schedules.constant(num_steps))


def rows_of(spec, num_steps):
    """Returns a grid by improved-diffusion's name for it."""
    if spec.startswith("ddim"):
        return grids.ddim_uniform(of_steps(num_steps), int(spec[4:]))
    return grids.iddpm(of_steps(num_steps), tuple(int(count) for count in spec.split(",")))


@pytest.mark.parametrize("key", recorded.keys("g4a_openai_samplers", "space."))
def test_grids_are_improved_diffusions(key):
    num_steps, spec = re.fullmatch(r"space\.T(\d+)\.(.*)", key).groups()
    np.testing.assert_array_equal(rows_of(spec, int(num_steps))[-2::-1] - 1, G4A[key])


# ---- g4a: improved-diffusion's chains


@recorded.once
def openai_chain(key):
    """Returns (states, x_0 predictions) of an unguided chain of g4a, by its key without the last part."""
    betas, rows, predicts, sampler, clip, network = openai_setting(key)
    levels = oracles.rows_of(betas)
    predicts = x_previous(levels) if predicts == "x_previous" else PARAMETERIZATIONS[predicts]
    dtype = levels.alpha.dtype
    denoise = denoiser.make_denoiser(network, predicts, learned_variance="learned" in str(key).lower())
    denoise = denoiser.clip_x_0(denoise) if clip else denoise
    grid = process.rows(levels, rows)
    return chain(denoise, sampler, nhwc(G4A["x_T"]).astype(dtype), grid, nhwc(G4A["noise"]).astype(dtype))


def openai_setting(key):
    """Returns (betas, grid rows, predicts, sampler, clip, network) that a key of g4a names."""
    kind, *fields = key.split(".")
    if kind == "ddim":
        spec, name, eta, clip = re.fullmatch(r"ddim\.([\d,dim]+)\.(\w+)\.eta([\d.]+)\.clip(\d)", key).groups()
        betas = schedules.linear(1000)
        return betas, rows_of(spec, 1000), "eps", samplers.ddim(eta=float(eta)), clip == "1", network_of(name, betas)
    if kind == "psp":
        base, spec, name, variance = fields[:4]
        betas = choices.SCHEDULES[base.removesuffix("1000")](1000)
        kind, clip, rows, predicts = variance.removeprefix("FIXED_").lower(), True, rows_of(spec, 1000), "eps"
    else:
        name, mean, variance, clip = fields[:4]
        betas, rows = schedules.linear_rescaled(100), np.arange(100, -1, -1)
        kind = variance.removeprefix("FIXED_").lower()
        predicts = {"EPSILON": "eps", "START_X": "x_0", "PREVIOUS_X": "x_previous"}[mean]
        clip = clip == "clip1" and predicts != "x_previous"  # there the reference's clipping leaves the mean alone
    network = network_of(name, betas, variance=kind, previous=predicts == "x_previous")
    return betas, rows, predicts, samplers.ancestral(variance=kind), clip, network


OPENAI = [key for key in G4A if key.split(".")[0] in ("p", "psp", "ddim")]


def run_of(key):
    """Returns a key without what it holds of the run: '.traj', '.pred_xstart', '.final', each maybe in float32."""
    return key.rsplit(".", 1)[0]


def compare(got, key, stored, **tolerance):
    states, x_0 = got
    plain = key.removesuffix("__f32")
    value = {"traj": states, "pred_xstart": x_0, "final": states[-1]}[plain.rsplit(".", 1)[1]]
    np.testing.assert_allclose(nchw(value), stored[key], **tolerance)


@pytest.mark.parametrize("key", [key for key in OPENAI if not key.endswith("__f32")])
def test_improved_diffusions_chains_in_float64(key, x64):
    compare(openai_chain(run_of(key)), key, G4A, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("key", [key for key in OPENAI if key.endswith("__f32")])
def test_improved_diffusions_chains_in_float32(key):
    """Ten times the references' own distance, 2.9e-5 of the largest value: the first step divides by alpha_T."""
    compare(openai_chain(run_of(key)), key, G4A, rtol=0, atol=2.9e-4 * np.max(np.abs(G4A[key])))


@recorded.once
def inversion(key):
    """The reference steps to t + 1 but asks the network at t: a grid that rises, its last level pure noise."""
    _, name, clip = key.split(".")
    betas = schedules.linear(1000)
    levels = oracles.rows_of(betas)
    grid = process.rows(levels, grids.ddim_uniform(of_steps(1000), 25)[-2::-1])
    end = process.Level(0.0, 1.0, -jnp.inf, 0.0, 0.0)
    grid = jax.tree.map(lambda column, last: jnp.append(column, jnp.asarray(last, column.dtype)), grid, end)
    denoise = denoiser.make_denoiser(network_of(name, betas), denoiser.EPS)
    denoise = denoiser.clip_x_0(denoise) if clip == "clip1" else denoise
    x_0, noises = (nhwc(G4A[name]).astype(grid.alpha.dtype) for name in ("rev.x0", "noise"))
    return chain(denoise, samplers.ddim(), x_0, grid, noises)


INVERSIONS = [key for key in recorded.keys("g4a_openai_samplers", "rev.") if key != "rev.x0"]


@pytest.mark.parametrize("key", [key for key in INVERSIONS if not key.endswith("__f32")])
def test_ddim_inversion_in_float64(key, x64):
    compare(inversion(run_of(key)), key, G4A, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("key", [key for key in INVERSIONS if key.endswith("__f32")])
def test_ddim_inversion_in_float32(key):
    compare(inversion(run_of(key)), key, G4A, rtol=0, atol=2.9e-4 * np.max(np.abs(G4A[key])))


# ---- g4b: diffusers' DDPM and DDIM

BETAS = schedules.linear(1000)


def mixture(kind, betas):
    """Returns the exact network of the mixture that predicts eps, x_0 or v; where no signal is left, E[x_0] for x_0."""
    alpha_bar = np.cumprod(1 - betas)

    def network(x, t):
        bar = jnp.asarray(alpha_bar)[t.astype(int)]
        eps = gmm(alpha_bar)(x, t)
        x_0 = jnp.where(
            bar > 0, (x - jnp.sqrt(1 - bar) * eps) / jnp.sqrt(jnp.where(bar > 0, bar, 1)), 0.35 * -0.6 + 0.65 * 0.5
        )
        return {"eps": eps, "x_0": x_0, "v": jnp.sqrt(bar) * eps - jnp.sqrt(1 - bar) * x_0}[kind]

    return network


@recorded.once
def diffusers_chain(run):
    """Returns (states, x_0 predictions) of a run of g4b: 'ddpm.leading.fixed_small', 'ddim.trailing.one1.eta0.7', ..."""
    t = G4B[f"{run}.timesteps"]
    is_ddim, stride = run.startswith("ddim"), 1000 // len(t)
    betas = schedules.zero_terminal_snr(BETAS) if "ztsnr" in run else BETAS
    levels = oracles.rows_of(betas)
    dtype = levels.alpha.dtype
    predicts = "x_0" if ".sample" in run else "v" if "_v" in run or ".v_" in run else "eps"
    # The recorded runs that limit x_0 or learn the variance ask the network 'tanh', whose x_0 is often out of range.
    network = tanh if re.search("clip|thresholding|learned", run) else mixture(predicts, betas)
    network = with_variance(network, "learned_range") if "learned_range" in run else network
    denoise = denoiser.make_denoiser(
        lambda x, c_noise: network(x, c_noise[:, None, None, None]),
        PARAMETERIZATIONS[predicts],
        learned_variance="learned_range" in run,
    )
    denoise = limited(denoise, run)
    eta = float(run.split("eta")[1]) if "eta" in run else 0.0
    variance = next((kind for kind in ("large", "learned_range") if kind in run), "small")
    sampler = samplers.ddim(eta=eta) if is_ddim else samplers.ancestral(variance=variance)
    # diffusers' DDIM goes to t - T // S, whether or not the network is asked there next.
    to = t - stride if is_ddim else np.append(t[1:], -1)
    rows = np.where(to < 0, 1 if "one0" in run else 0, to + 1)
    x, noises = (nhwc(G4B[name]).astype(dtype) for name in ("x_T", "noise"))
    index = jnp.arange(len(t))
    state, states = sampler.init(x, levels), []
    for k in index:
        interval = samplers.Interval(process.rows(levels, t[k] + 1), process.rows(levels, rows[k]), k, len(t) - 1 - k)
        state, _ = sampler.step(denoise, state, interval, lambda _, k=k: noises[k])
        states.append(state)
    return jnp.stack(states), None


def limited(denoise, run):
    """Returns the denoiser with the clipping that a run of g4b names, or has by default."""
    if "thresholding" in run:

        def limit(x_0):
            return denoiser.dynamic_threshold(x_0, quantile=0.9, max_bound=1.5)

        return denoiser.limit_x_0(denoise, limit, recompute_eps=False)
    if "clip_range" in run:
        return denoiser.limit_x_0(denoise, lambda x_0: denoiser.clip(x_0, bound=0.7))
    if "use_clipped" in run:
        return denoiser.limit_x_0(denoise, denoiser.clip, recompute_eps=run.endswith("1"))
    clipped = (
        "ddpm.leading.fixed_small",
        "ddpm.trailing.fixed_small",
        "ddpm.linspace.fixed_small",
        "ddpm.leading.learned_range",
    )
    return denoiser.clip_x_0(denoise) if run in clipped else denoise


DIFFUSERS = [key for key in G4B if key.startswith("dd") and not key.endswith("timesteps")]


@pytest.mark.parametrize("key", [key for key in DIFFUSERS if not key.endswith("__f32")])
def test_diffusers_chains_in_float64(key, x64):
    """Their posterior variance is at least 1e-20, ours may be 0: 1e-10 of a last step's noise."""
    compare(diffusers_chain(run_of(key)), key, G4B, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("key", [key for key in DIFFUSERS if key.endswith("__f32")])
def test_diffusers_chains_in_float32(key):
    """Ten times the references' own distance, 1.1e-5 of the largest value."""
    compare(diffusers_chain(run_of(key)), key, G4B, rtol=0, atol=1.1e-4 * np.max(np.abs(G4B[key])))


@pytest.mark.parametrize("key", [key for key in G4B if key.endswith(".timesteps")])
def test_grids_are_diffusers(key):
    t = G4B[key]
    name = key.split(".")[1]
    rows = choices.GRIDS[name.removesuffix("_offset1")](of_steps(1000), len(t))[:-1] + name.endswith("_offset1")
    np.testing.assert_array_equal(rows - 1, t)


@pytest.mark.parametrize("key", [key for key in G4B if key.startswith("thr.out")])
def test_dynamic_thresholding_is_diffusers(key, precision):
    quantile, bound = re.match(r"thr\.out\.ratio([\d.]+)\.max([\d.]+?)(?:__f32)?$", key).groups()
    x = jnp.asarray(G4B["thr.x"], jax.dtypes.canonicalize_dtype(float))
    got = denoiser.dynamic_threshold(x, quantile=float(quantile), max_bound=float(bound))
    np.testing.assert_allclose(got, G4B[key], rtol=1e-10 if precision < 1e-9 and "f32" not in key else 2e-6)
