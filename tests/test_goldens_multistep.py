"""Solvers against recorded reference implementations: g4c (DPM-Solver), g4b (diffusers), g4d (EDM, k-diffusion).

In float64 within rounding, as it adds up over a chain; where a key says float32, within ten times the distance of the
references' own float32 from their float64, as a share of the largest value. Images there are [B, C, H, W].
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import recorded
from test_goldens_samplers import nchw, nhwc, run_of, tanh

from diffusion_jax import denoiser, grids, losses, multistep, process, samplers, schedules, timesteps

G4B, G4C, G4D = (recorded.load(name) for name in ("g4b_diffusers", "g4c_dpm_solver", "g4d_edm_kdiffusion"))


# ---- the analytic models, exact at any level: nothing is told to them but alpha and sigma


def mixture(*components):
    """Returns the exact denoiser, in NumPy, of data whose elements are drawn from Gaussians (weight, mean, std)."""

    def denoise(x, level):
        x, a, b = (np.asarray(array) for array in (x, level.alpha, level.sigma))
        log_r, x_0, eps = [], [], []
        for weight, mean, std in components:
            variance, off = (a * std) ** 2 + b**2, x - a * mean
            log_r.append(math.log(weight) - 0.5 * np.log(variance) - off**2 / (2 * variance))
            x_0.append(mean + a * std**2 / variance * off)
            eps.append(b / variance * off)
        r = np.exp(log_r - np.max(log_r, axis=0))
        r = r / np.sum(r, axis=0)
        return denoiser.Prediction(*(jnp.asarray(np.sum(r * np.stack(parts), axis=0)) for parts in (x_0, eps)))

    return denoise


MODELS = {"gmm": mixture((0.35, -0.6, 0.2), (0.65, 0.5, 0.3)), "gauss": mixture((1.0, 0.3, 0.5))}


def network(x, c_noise):
    return tanh(x, process.expand(c_noise, x))


def through(predicts, exact):
    """Returns an exact denoiser as that of a network of some parameterization."""

    def denoise(x, level):
        truth = exact(x, level)
        a, b = predicts.coefficients(level)
        output = a * truth.x_0 + b * truth.eps
        return denoiser.make_denoiser(lambda *_: output, predicts)(x, level)

    return denoise


def level_of(kappas, c_noise=0.0, *, preserving):
    """Returns the levels of noise-to-signal ratios, of a variance-preserving or a variance-exploding process."""
    kappas = np.asarray(kappas, np.float64)
    alpha = 1 / np.sqrt(1 + kappas**2) if preserving else np.ones_like(kappas)
    with np.errstate(divide="ignore"):
        log_snr = -2 * np.log(kappas)
    return process.make_level(alpha, alpha * kappas, log_snr, np.broadcast_to(c_noise, kappas.shape))


def start(x, scale=1.0):
    return nhwc(x).astype(jax.dtypes.canonicalize_dtype(float)) * scale


def visit(denoise, sampler, x_T, grid, noises=None):
    """Returns (the points at which the denoiser was asked, and the last state; the levels at which it was asked)."""
    points, levels, num_steps = [], [], len(grid.alpha) - 1

    def asked(x, level):
        points.append(x)
        levels.append(level)
        return denoise(x, level)

    noises = None if noises is None else start(noises)
    with jax.disable_jit():
        state = sampler.init(x_T, grid)
        for k in range(num_steps):
            t, s = process.rows(grid, k), process.rows(grid, k + 1)
            interval = samplers.Interval(t, s, jnp.array(k), jnp.array(num_steps - 1 - k))
            state, _ = sampler.step(asked, state, interval, lambda _, k=k: noises[k])
    return jnp.stack([*points, sampler.x_of(state)]), jax.tree.map(lambda *columns: jnp.stack(columns), *levels)


def compare(got, key, stored, *, rtol, atol, float32):
    expected = stored[key]
    got = got[-1] if re.search(r"\.(final|out)(__f32)?$", key) else got
    tolerance = {"rtol": 0, "atol": float32 * np.max(np.abs(expected))} if "__f32" in key else {"rtol": rtol, "atol": atol}
    np.testing.assert_allclose(nchw(got), expected, **tolerance)


@pytest.fixture(autouse=True)
def precision_of(request):
    if "__f32" not in request.node.name:
        request.getfixturevalue("x64")


@pytest.fixture
def half_the_curvature(monkeypatch):
    """The published order 3 takes half of the second difference, so that it is of order 2; ours takes it whole."""
    weights = multistep.polynomial_weights

    def halved(nodes, moments):
        return weights(nodes, [*moments[:2], moments[2] / 2] if len(nodes) == 3 else moments)

    monkeypatch.setattr(multistep, "polynomial_weights", halved)


# ---- g4c: LuChengTHU/dpm-solver


def kept(name):
    """Returns (process, T) of a schedule; its code cuts off levels of log-SNR below -10.2, and calls the rest t = 0 to 1."""
    base, num_steps = re.fullmatch(r"(\w+?)_?T?(\d+)", name).groups()
    betas = {"linear": schedules.linear_rescaled, "cosine": schedules.cosine}[base](int(num_steps))
    total = int(G4C[f"ns.{base}_T{num_steps}.total_N"])
    return process.chain(betas[:total]), total


CURVES = {
    "marginal_log_mean_coeff": lambda of, t: np.log(of.level(t).alpha),
    "marginal_alpha": lambda of, t: of.level(t).alpha,
    "marginal_std": lambda of, t: of.level(t).sigma,
    "marginal_lambda": lambda of, t: of.level(t).log_snr / 2,
    "inverse_lambda": lambda of, t: of.time(of.level(t).log_snr),
}


@pytest.mark.parametrize("key", [key for key in G4C if key.startswith("ns.") and key.split(".")[2] in CURVES])
def test_processes_in_real_valued_time_are_dpm_solvers(key):
    _, name, curve = key.split(".")
    of, total = (process.vp(), 1) if name == "linearSDE" else kept(name)
    got = CURVES[curve](of, total * G4C[f"ns.{name}.t"])
    np.testing.assert_allclose(got / total if curve == "inverse_lambda" else got, G4C[key], rtol=1e-9)


GRIDS = {"time_uniform": grids.uniform, "logSNR": grids.log_snr, "time_quadratic": grids.quadratic}


@pytest.mark.parametrize("key", [key for key in G4C if ".steps." in key and key.startswith("ns.")])
def test_grids_are_dpm_solvers(key):
    _, name, _, skip = key.split(".")
    of, total = kept(name)
    np.testing.assert_allclose(GRIDS[skip](of, 13)[:-1] / total, G4C[key], rtol=1e-9)


def dpm_setting(run):
    """Returns (denoiser, sampler, grid, where the stored points are) that a run of g4c names."""
    _, schedule, model, solves_for, method, order, skip, num_steps, *extra = run.split(".")
    solves_for, order, num_steps = {"dpmsolver++": "x_0", "dpmsolver": "eps"}[solves_for], int(order[1:]), int(num_steps[1:])
    of, _ = kept(schedule)
    times = GRIDS[skip](of, num_steps + 1)
    grid = of.level(times if "denoise0" in extra else times[:-1])
    named = {"x_start": denoiser.X_0, "v": denoiser.V, "score": denoiser.SCORE}
    predicts = next((named[kind] for kind in extra if kind in named), denoiser.EPS)
    denoise = denoiser.make_denoiser(network, denoiser.EPS) if model == "tanh" else through(predicts, MODELS[model])
    if "thr" in extra:  # recorded with this quantile
        denoise = denoiser.limit_x_0(denoise, lambda x_0: denoiser.dynamic_threshold(x_0, quantile=0.9))
    if method == "multistep":
        lower = num_steps < 10 and "lof0" not in extra
        sampler = multistep.dpm_solver(order=order, solves_for=solves_for, lower_order_final=lower)
        return denoise, sampler, grid, slice(None)
    # Its blocks: of 12 steps 2, 2, 2, 2, 2, 2 or 3, 3, 3, 2, 1; only the ends of blocks are stored.
    sampler = multistep.dpm_solver_singlestep(order=order, solves_for=solves_for, lower_order_final=order == 3)
    return denoise, sampler, grid, np.array([3, 6, 9, 11, 12]) if order == 3 else slice(order, None, order)


DPM = recorded.keys("g4c_dpm_solver", "sample.")


@recorded.once
def dpm_run(run):
    denoise, sampler, grid, where = dpm_setting(run)
    return visit(denoise, sampler, start(G4C["x_T"]), grid)[0][where]


@pytest.mark.parametrize("key", [key for key in DPM if ".multistep.o3" not in key])
def test_dpm_solver_is_the_authors(key):
    compare(dpm_run(run_of(key)), key, G4C, rtol=1e-7, atol=1e-9, float32=10 * 8.8e-5)


@pytest.mark.parametrize("key", [key for key in DPM if ".multistep.o3" in key])
def test_multistep_order_3_is_the_authors_but_for_half_of_the_second_difference(key, half_the_curvature):
    compare(dpm_run(run_of(key)), key, G4C, rtol=1e-7, atol=1e-9, float32=10 * 8.8e-5)


# ---- g4b: diffusers


def ratios(run):
    """Returns sigma / alpha of the grid of a run of g4b; Heun's are stored once for each call."""
    stored = G4B[f"{run}.sigmas"]
    return np.append(stored[0], stored[1::2]) if run.startswith("heun") else stored


def diffusers_sampler(run):
    """Returns the sampler that a run of g4b names."""
    name, *fields = run.split(".")
    if name in ("euler", "euler_a", "heun"):
        return {"euler": samplers.ddim(), "euler_a": samplers.ddim(eta=1), "heun": samplers.heun()}[name]
    if "sde-dpmsolver++" in fields:
        return samplers.ancestral(variance="small") if "o1" in fields else multistep.dpm_solver_sde()
    order = int(re.search(r"\.o(\d)", run)[1])
    solves_for = "eps" if "dpmsolver" in fields or "predict_eps" in fields else "x_0"
    if name == "unipc":
        if "nocorr" in fields:
            return multistep.dpm_solver(order=order, solves_for=solves_for)
        return multistep.unipc(order=order, solves_for=solves_for, variant="bh1" if "bh1" in fields else "bh2")
    if name == "dpmss":  # the orders of 10 steps are 1, 2, ..., 1, 2, 1, 1
        return multistep.dpm_solver_singlestep(order=order, solves_for=solves_for)
    lower = len(ratios(run)) - 1 < 15 and "lof0" not in fields
    return multistep.dpm_solver(order=order, solves_for=solves_for, lower_order_final=lower)


CHAIN = process.chain(schedules.linear(1000))
C_NOISE = {  # of the runs of the network 'tanh'; the others ask the exact model
    "dpmpp.dpmsolver++.o2.thresholding": grids.linspace(CHAIN, 21)[:-2] - 1,
    "dpmpp.dpmsolver++.o2.leading": grids.leading(CHAIN, 21)[:-2] - 1,
    "dpmpp.dpmsolver++.o2.trailing": grids.trailing(CHAIN, 20)[:-1] - 1,
    "unipc.o2.bh2.trailing": grids.trailing(CHAIN, 20)[:-1] - 1,
    "euler.tanh": np.linspace(999, 0, 20),
}


def diffusers_denoiser(run):
    if run in C_NOISE:
        predicts = denoiser.EPS._replace(input_scale=denoiser.edm(sigma_data=1).input_scale)
        denoise = denoiser.make_denoiser(network, predicts if run.startswith("euler") else denoiser.EPS)
    else:
        named = {"sample": denoiser.X_0, "v_prediction": denoiser.V, "euler.v": denoiser.Parameterization(minus_edm)}
        denoise = through(next((named[name] for name in named if name in run), denoiser.EPS), MODELS["gmm"])
    if "thresholding" in run:
        return denoiser.limit_x_0(denoise, lambda x_0: denoiser.dynamic_threshold(x_0, quantile=0.9, max_bound=1.5))
    return denoise


def minus_edm(level):
    """v of the variance-preserving process at the same noise-to-signal ratio."""
    a, b = denoiser.edm(sigma_data=1).coefficients(level)
    return -a, -b


@recorded.once
def diffusers_run(run):
    kappas, preserving = ratios(run), run.split(".")[0] in ("dpmpp", "dpmss", "unipc")
    grid = level_of(kappas, np.append(C_NOISE[run], -1) if run in C_NOISE else 0.0, preserving=preserving)
    x_T = start(G4B["x_T"], 1 if preserving else np.hypot(kappas[0], 1) if "leading" in run else kappas[0])
    return visit(diffusers_denoiser(run), diffusers_sampler(run), x_T, grid, G4B["noise"])[0][1:]


DIFFUSERS = [key for key in G4B if re.match(r"dpm|unipc|euler|heun", key) and not key.endswith("sigmas")]


@pytest.mark.parametrize("key", [key for key in DIFFUSERS if not re.match(r"dpmpp.*\.o3", key)])
def test_solvers_are_diffusers(key):
    compare(diffusers_run(run_of(key)), key, G4B, rtol=1e-7, atol=1e-9, float32=10 * 1.1e-5)


@pytest.mark.parametrize("key", [key for key in DIFFUSERS if re.match(r"dpmpp.*\.o3", key)])
def test_multistep_order_3_is_diffusers_but_for_half_of_the_second_difference(key, half_the_curvature):
    compare(diffusers_run(run_of(key)), key, G4B, rtol=1e-7, atol=1e-9, float32=10 * 1.1e-5)


@pytest.mark.parametrize("key", [key for key in G4B if re.match(r"(dpm|unipc).*sigmas$", key) and "karras" not in key])
def test_levels_are_diffusers(key):
    """Their 'linspace' and 'leading' are of one more step than asked for, of which the last is not taken."""
    kappas = G4B[key]
    num_steps = len(kappas) - 1
    rows = grids.leading(CHAIN, num_steps + 1)[:-1] if "leading" in key else grids.linspace(CHAIN, num_steps + 1)[:-1]
    rows = grids.trailing(CHAIN, num_steps) if "trailing" in key else rows
    rows[-1] = int(kappas[-1] > 0)
    levels = CHAIN.level(rows)
    np.testing.assert_allclose(levels.sigma / levels.alpha, kappas, rtol=1e-9)


@pytest.mark.parametrize("run", ["dpmpp.dpmsolver++.o2.karras", "euler.karras", "heun.karras"])
def test_karras_grids_are_diffusers(run):
    kappas = ratios(run)
    got = karras(len(kappas) - 1, sigma_min=kappas[-2], sigma_max=kappas[0])
    np.testing.assert_allclose(got.sigma, kappas, rtol=1e-9)


# ---- g4d: EDM and k-diffusion


def karras(num_steps, **ends):
    of = process.ve(**ends)
    return of.level(grids.karras(of, num_steps))


def k_grid():
    return karras(10, sigma_min=0.03, sigma_max=14.6)


def churned(sampler):
    return samplers.churn(sampler, process.ve(), amount=40, low=0.05, high=50, noise_std=1.003)


@recorded.once
def edm_run(run):
    """Returns what `visit` does, for a run of EDM's sampler, of its ablations', or of k-diffusion's."""
    family, *fields = run.split(".")
    grid = k_grid() if family == "k" else karras(18)
    samplers_of = {
        "euler": samplers.ddim(),
        "heun": samplers.heun(),
        "dpmpp_2m": multistep.dpm_solver(order=2, lower_order_final=False),
        "dpmpp_2m_sde": multistep.dpm_solver_sde(midpoint="heun" not in fields),
        "lms": multistep.lms(order=4),
        "euler_ancestral": samplers.ddim(eta=0.5 if "eta0" in fields else 1),
        "dpmpp_2s_ancestral": samplers.ancestral_2s(),
    }
    sampler = samplers.heun() if family == "edm" else samplers_of[fields[0]]
    sampler = churned(sampler) if {"churn", "churn1"} & set(fields) else sampler
    x_T = start(G4D["latents"], grid.sigma[0])
    return visit(MODELS["gauss" if "gauss" in fields else "gmm"], sampler, x_T, grid, G4D["noise"])


@pytest.mark.parametrize("key", ["k.dpmpp_3m_sde.gmm.x_at", "k.dpmpp_3m_sde.gmm.out"])
def test_the_sde_of_order_3_is_k_diffusions_but_for_half_of_the_second_difference(key, half_the_curvature):
    grid = k_grid()
    x_T = start(G4D["latents"], grid.sigma[0])
    points, _ = visit(MODELS["gmm"], multistep.dpm_solver_sde(order=3), x_T, grid, G4D["noise"])
    np.testing.assert_allclose(nchw(points[-1] if key.endswith("out") else points[:-1]), G4D[key], rtol=1e-8, atol=1e-10)


def k_grid_with_stages():
    """Returns k-diffusion's grid with levels halfway, in log sigma, between its own but the data."""
    sigma = k_grid().sigma[:-1]
    between = np.sqrt(sigma[:-1] * sigma[1:])
    visited = np.concatenate([np.stack([sigma[:-1], between], axis=1).ravel(), [sigma[-1], 0]])
    return process.ve(sigma_min=0.03, sigma_max=14.6).level(visited)


@pytest.mark.parametrize("key", ["k.dpm_2.gmm.x_at", "k.dpm_2.gmm.out"])
def test_k_diffusions_dpm_2_is_the_singlestep_solver_with_its_stages_halfway(key):
    """The last step, to the data, is Euler's in both."""
    solver = multistep.dpm_solver_singlestep(order=2, solves_for="eps")
    points, _ = visit(MODELS["gmm"], solver, start(G4D["latents"], k_grid().sigma[0]), k_grid_with_stages())
    np.testing.assert_allclose(nchw(points[-1] if key.endswith("out") else points[:-1:2]), G4D[key], rtol=1e-8, atol=1e-10)


def noises_of_one_path(sigma, drawn):
    """Returns the noises of the steps of a path that has those drawn for a stage, and anew for the step. # [S, B, ...]"""

    def std(t, s):
        return (s * np.sqrt(1 - (s / t) ** 2))[:, None, None, None, None]

    t, middle, s = sigma[:-1:2], sigma[1::2], sigma[2::2]
    of_stage, of_step = drawn[:-1:2], drawn[1::2]
    kept = (s / middle)[:, None, None, None, None] ** 2 * std(t, middle) * of_stage
    added = (std(t, s) * of_step - kept) / std(middle, s)
    return np.concatenate([np.stack([of_stage, added], axis=1).reshape(-1, *drawn.shape[1:]), drawn[:1]])


@pytest.mark.parametrize("key", ["k.dpmpp_sde.gmm.x_at", "k.dpmpp_sde.gmm.out"])
def test_k_diffusions_dpmpp_sde_is_the_singlestep_solver_with_its_stages_halfway(key):
    grid, solver = k_grid_with_stages(), multistep.dpm_solver_sde_singlestep()
    noises = noises_of_one_path(grid.sigma[:-1], G4D["noise"][: len(grid.alpha) - 2])
    points, _ = visit(MODELS["gmm"], solver, start(G4D["latents"], grid.sigma[0]), grid, noises)
    np.testing.assert_allclose(nchw(points[-1] if key.endswith("out") else points[:-1:2]), G4D[key], rtol=1e-8, atol=1e-10)


OTHERWISE = r"k\.dpm_2\.|k\.dpmpp_3m_sde\.|k\.dpmpp_sde\.|abl.*alpha|abl\.heun\.\w+\.(ve|vp)"  # compared elsewhere


@pytest.mark.parametrize("key", [key for key in G4D if re.match(r"edm\.|abl\.|k\.", key) and not re.match(OTHERWISE, key)])
def test_samplers_are_edms_and_k_diffusions(key):
    run, field = (key, "out") if key.startswith("abl") else key.rsplit(".", 1)
    points, levels = edm_run(run)
    if field == "evals_sigma":
        np.testing.assert_allclose(levels.sigma, G4D[key], rtol=1e-9)
    else:
        first_of_steps = slice(None, -1, 2 if re.match(r"k\.(heun|dpmpp_2s)", run) else 1)
        got = {"out": points[-1], "evals_x": points[:-1], "x_at": points[first_of_steps]}[field]
        strict, loose = key.startswith("edm"), "lms" in run  # whose weights are integrated there to 1e-4
        np.testing.assert_allclose(
            nchw(got), G4D[key], rtol=1e-4 if loose else 1e-9 if strict else 1e-8, atol=1e-11 if strict else 1e-10
        )


def in_edms_time():
    """Returns EDM's VE process, whose time is sigma^2."""
    of = process.ve(sigma_min=0.02, sigma_max=100.0)
    return of._replace(
        level=lambda t: of.level(t**0.5), time=lambda log_snr: of.time(log_snr) ** 2, first=of.first**2, last=of.last**2
    )


def of_ends(sigma_min, sigma_max, first=1e-3):
    """Returns the variance-preserving process with these sigma / alpha at t = `first` and 1, as EDM's has."""
    low, high = np.log1p(sigma_min**2), np.log1p(sigma_max**2)
    slope = 2 * (low / first - high) / (first - 1)
    return process.vp(beta_min=high - slope / 2, beta_max=high + slope / 2)


ABLATIONS = {  # discretization.schedule.scaling -> (process, whose t is that of the schedule, grid)
    "edm.linear.none": (process.ve(), grids.karras),
    "edm.vp.vp": (of_ends(0.002, 80), grids.karras),
    "ve.ve.none": (in_edms_time(), grids.log_snr),
    "vp.vp.vp": (process.vp(), grids.uniform),
}
IN_TIME = r"abl\.heun\.(\w+\.(ve|vp)|edm\.linear\.none\.alpha)"


@pytest.mark.filterwarnings("ignore:invalid value")  # EDM's beta_min may be negative, which leaves no time of the data
@pytest.mark.parametrize("key", [key for key in G4D if re.match(IN_TIME, key)])
def test_runge_kutta_of_order_2_is_edms_algorithm_3(key):
    """But for the step to the data, which is Euler's there: where sigma is not linear in t it leaves noise."""
    of, grid = ABLATIONS[re.match(r"abl\.heun\.(\w+\.\w+\.\w+)", key)[1]]
    sampler = samplers.runge_kutta_2(of, stage=0.7 if "alpha0.7" in key else 1.0)
    if key.endswith("churn"):
        sampler = samplers.churn(sampler, of, amount=40, low=0.05, high=50, noise_std=1.003)
    levels = of.level(grid(of, 18))
    points, asked = visit(MODELS["gmm"], sampler, start(G4D["latents"], levels.sigma[0]), levels, G4D["noise"])
    x, last = points[-2], process.rows(asked, len(asked.alpha) - 1)  # where the step to the data begins
    time, at_end = of.time(last.log_snr), MODELS["gmm"](points[-2], last)
    _, by_time = jax.jvp(of.level, (time,), (jnp.ones_like(time),))
    euler = x - time * (by_time.alpha * at_end.x_0 + by_time.sigma * at_end.eps)
    np.testing.assert_allclose(nchw(euler), G4D[key], rtol=1e-7, atol=1e-9)


POLYEXPONENTIAL = functools.partial(grids.polyexponential, rho=7)
SIGMAS = {
    "sig.karras.n10_0.03_14.6_rho7": (grids.karras, process.ve(sigma_min=0.03, sigma_max=14.6), 10),
    "sig.karras.n18_0.002_80_rho7": (grids.karras, process.ve(), 18),
    "sig.exp.n10_0.03_14.6": (grids.log_snr, process.ve(sigma_min=0.03, sigma_max=14.6), 10),
    "sig.exp.n18_0.002_80": (grids.log_snr, process.ve(), 18),
    "sig.poly.n10_0.03_14.6_rho7": (POLYEXPONENTIAL, process.ve(sigma_min=0.03, sigma_max=14.6), 10),
    "sig.poly.n18_0.002_80_rho7": (POLYEXPONENTIAL, process.ve(), 18),
    "sig.vp.n12": (grids.uniform, process.vp(), 12),
}


@pytest.mark.parametrize("key", SIGMAS)
def test_grids_are_k_diffusions(key):
    grid, of, num_sampled = SIGMAS[key]
    levels = of.level(grid(of, num_sampled))
    np.testing.assert_allclose(levels.sigma / levels.alpha, G4D[key], rtol=1e-10)


def test_tables_between_their_rows_are_k_diffusions():
    of = process.chain(schedules.linear_rescaled(1000), interpolation="log_snr")
    found = process.level_of_log_snr(of, -2 * np.log(G4D["disc.sigma"]))
    np.testing.assert_allclose(found.c_noise, G4D["disc.sigma_to_t"], rtol=1e-10)
    asked = {"t_to_sigma": np.array([1, 1.5, 11.25, 501, 1000]), "get_sigmas10": grids.uniform(of, 10)}
    for name, t in asked.items():  # which go through float32, there
        level = of.level(t)
        np.testing.assert_allclose(level.sigma / level.alpha, G4D[f"disc.{name}"], rtol=1e-6)


def test_time_of_the_vp_process_is_edms():
    of = process.vp()
    t = np.array([1e-5, 1e-3, 0.1, 0.5, 1])
    np.testing.assert_allclose(of.level(t).sigma / of.level(t).alpha, G4D["pre.vp.sigma_of_t"], rtol=1e-8)
    np.testing.assert_allclose(of.time(-2 * np.log(G4D["pre.sigma"])), G4D["pre.vp.sigma_inv"], rtol=1e-8)


def test_cosine_chain_has_the_levels_of_edms_iddpm():
    levels = oracles.rows_of(schedules.cosine(1000))
    np.testing.assert_allclose((levels.sigma / levels.alpha)[::-1], G4D["pre.iddpm.u"], rtol=1e-8)


PROCESSES = {"edm": process.ve(), "vp": process.vp()}
PARAMETERIZED = {"edm": denoiser.edm(), "vp": denoiser.EPS, "iddpm": denoiser.EPS}


def edm_network(family):
    return denoiser.make_denoiser(network, PARAMETERIZED[family])


@pytest.mark.parametrize("key", [key for key in G4D if re.match(r"pre\.\w+\.D", key)])
def test_preconditioning_is_edms(key):
    family = key.split(".")[1]
    kappas, x = G4D["pre.sigma"], start(G4D["pre.x"])
    if family == "iddpm":
        levels = level_of(kappas, 999 - G4D["pre.iddpm.round_index"], preserving=True)
    else:
        levels = PROCESSES[family].level(PROCESSES[family].time(-2 * np.log(kappas)))
    x_t = process.expand(levels.alpha, x) * x
    compare(edm_network(family)(x_t, levels).x_0, key, G4D, rtol=1e-8, atol=0, float32=10 * 2.0e-7)


@pytest.mark.parametrize("key", ["edmloss.edm", "edmloss.vp"])
def test_training_loss_is_edms(key):
    """EDM weighs the error of x_0 so that it is that of the network's output."""
    family = key.split(".")[1]
    t = timesteps.log_normal(jax.scipy.stats.norm.cdf(G4D["edmloss.rnd_normal"].ravel()))
    if family == "vp":
        t = timesteps.uniform_time(jnp.asarray(1 - G4D["edmloss.rnd_uniform"].ravel()), first=1e-5, last=1)
    levels = PROCESSES[family].level(t)
    x_0, eps = start(G4D["edmloss.images"]), start(G4D["edmloss.n"])
    prediction = edm_network(family)(process.diffuse(x_0, levels, eps), levels)
    got = losses.squared_error(prediction, x_0, eps)
    np.testing.assert_allclose(got, np.mean(G4D[key], axis=(1, 2, 3)), rtol=1e-8)
