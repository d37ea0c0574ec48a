"""Every sampler on every process, for every parameterization: the tables of docs/samplers.md, cell by cell."""

import functools
import itertools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from tiny import config_of

from diffusion_jax import denoiser, process, samplers, streams
from diffusion_jax.compose import checks, choices, sampling, training
from diffusion_jax.compose.config import FIELDS
from diffusion_jax.errors import UserError

TEXT = (pathlib.Path(__file__).parents[1] / "docs" / "samplers.md").read_text()
COLUMNS = {
    "discrete": {},
    "discrete without signal at T": {"process.zero_terminal_snr": True, "predicts": "v"},
    "vp": {"process.kind": "vp"},
    "sub_vp": {"process.kind": "sub_vp"},
    "ve": {"process.kind": "ve", "loss.time_density": "log_normal", "sample.grid": "karras"},
    "rectified_flow": {"process.kind": "rectified_flow", "predicts": "velocity"},
}
EACH = {name: {"sample.order": 3} for name in ("dpm_solver", "dpm_solver_singlestep", "unipc")} | {
    "ancestral": {"sample.variance": "small"},
    "mean_flow": {"loss.name": "mean_flow", "process.c_noise_scale": 1.0, "model.jumps": True},
}
EXACT = {"consistency": oracles.flow_end(), "mean_flow": oracles.mean_velocity()}
SAMPLERS = ["ancestral", "ancestral_2s", "consistency", "ddim", "dpm_solver", "dpm_solver_sde"]
SAMPLERS += ["dpm_solver_sde_singlestep", "dpm_solver_singlestep", "euler", "euler_ancestral", "euler_maruyama", "heun"]
SAMPLERS += ["lms", "mean_flow", "ode", "reverse_diffusion", "runge_kutta_2", "unipc", "unipc_bh1"]
PREDICTS = ["edm", "eps", "scaled_score", "score", "v", "velocity", "x_0"]
NUM_STEPS = 100


def table(first_cell: str) -> dict[tuple[str, str], str]:
    """Returns the cells of the table of docs/samplers.md whose corner says so, by (row, column)."""
    lines = TEXT[TEXT.index(f"| {first_cell} |") :].split("\n\n")[0].splitlines()
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|--")]
    return {(row[0], column): cell for row in rows[1:] for column, cell in zip(rows[0][1:], row[1:], strict=True)}


def config_for(sampler, column, **more):
    process = {"process.schedule": "cosine", "process.num_steps": 1000, "sample.num_steps": NUM_STEPS, "sample.clip": "none"}
    settings = {"sample.sampler": sampler, "sample.tolerance": 1e-4, **EACH.get(sampler, {})}
    config = config_of(process | COLUMNS[column] | settings | more)
    checks.check(config)
    return config


def denoiser_of(number, sampler):
    """Returns the exact denoiser of Gaussian data, as that of a network of the parameterization with this number."""
    exact = EXACT.get(sampler, oracles.gaussian())

    def coefficients(level):
        each = [choices.PARAMETERIZATIONS[name].coefficients(level) for name in PREDICTS]
        return tuple(jnp.stack(jnp.broadcast_arrays(*column))[number] for column in zip(*each, strict=True))

    def denoise(x_t, level):
        wanted = exact(x_t, level)
        a, b = (process.expand(coefficient, x_t) for coefficient in coefficients(level))
        output = a * wanted.x_0 + b * wanted.eps
        return denoiser.make_denoiser(lambda x, c_noise: output, denoiser.Parameterization(coefficients))(x_t, level)

    return denoise


@functools.cache
def compiled(sampler, column):
    """Returns (numbers of parameterizations, noise, grid) -> images: one program for all processes."""
    found = sampling.make_sampler(config_for(sampler, column))

    def generate(numbers, noise, grid):
        keys, x_T = streams.keys(0, "sampler", jnp.arange(len(noise))), process.prior(process.rows(grid, 0), noise)
        return jax.vmap(lambda number: samplers.sample(denoiser_of(number, sampler), found, x_T, grid, keys).x)(numbers)

    return jax.jit(generate)


REFUSED = {cell for cell, text in table("network predicts").items() if text == "refused"}
WORKS = [cell for cell, text in table("sampler").items() if text == "yes"]


def test_the_tables_have_every_sampler_process_and_parameterization():
    assert list(table("sampler")) == list(itertools.product(SAMPLERS, COLUMNS))
    assert list(table("network predicts")) == list(itertools.product(PREDICTS, COLUMNS))
    assert choices.SAMPLERS.keys() == set(SAMPLERS)
    assert set(re.findall(r"\w+", FIELDS["predicts"].allowed.removeprefix("one of "))) == set(PREDICTS)


@pytest.mark.parametrize(
    ("sampler", "column"),
    [pytest.param(*cell, marks=[pytest.mark.slow] * (cell[0] == "runge_kutta_2" and cell[1] != "sub_vp")) for cell in WORKS],
)
def test_gaussian_data_is_generated_whatever_the_network_predicts(sampler, column):
    """2,560 values for each parameterization: standard errors are 0.010 of the mean and 0.007 of the spread; tolerances 4 of
    them, and 0.02 for what 100 steps leave."""
    usable = [number for number, name in enumerate(PREDICTS) if (name, column) not in REFUSED]
    numbers = jnp.resize(jnp.array(usable), len(PREDICTS))  # as many in every column, some twice
    noise = jax.random.normal(jax.random.key(1), (40, 8, 8, 1))
    knows_process = sampler in ("euler_maruyama", "mean_flow", "ode", "runge_kutta_2")
    generate = compiled(sampler, column if knows_process else "discrete")
    x = generate(numbers, noise, sampling.grid(config_for(sampler, column)))
    np.testing.assert_allclose(np.mean(x, axis=(1, 2, 3, 4)), oracles.MEAN, atol=0.06)
    np.testing.assert_allclose(np.std(x, axis=(1, 2, 3, 4)), oracles.STD, atol=0.05)


@pytest.mark.parametrize(("sampler", "column"), [cell for cell, text in table("sampler").items() if text != "yes"])
def test_a_sampler_is_refused_where_the_table_says_so(sampler, column):
    sentences = "is impossible (where|for a solver)|needs process.kind = 'rectified_flow'|needs a process in real time"
    with pytest.raises(UserError, match=sentences):
        sampling.make_solve(config_for(sampler, column))


@pytest.mark.parametrize(("predicts", "column"), list(itertools.product(PREDICTS, COLUMNS)))
def test_a_parameterization_is_refused_where_the_table_says_so(predicts, column):
    def make():
        return training.parts(config_for("ddim", column, predicts=predicts))

    if (predicts, column) in REFUSED:
        with pytest.raises(UserError, match=f"predicts = '{predicts}' is impossible with .*: x_T is the noise"):
            make()
    else:
        make()


@pytest.mark.parametrize("sampler", ["dpm_solver", "dpm_solver_singlestep", "unipc"])
def test_solving_for_eps_is_refused_where_no_signal_is_left(sampler):
    for column in ("discrete without signal at T", "rectified_flow"):
        with pytest.raises(UserError, match=f"{sampler}': a first level without signal is impossible for a solver of eps"):
            sampling.make_solve(config_for(sampler, column, **{"sample.solves_for": "eps"}))
    sampling.make_solve(config_for(sampler, "vp", **{"sample.solves_for": "eps"}))


def make(sampler, **changes):
    return sampling.make_solve(config_for(sampler, "discrete without signal at T", **changes))


def test_several_levels_without_signal_are_refused():
    """Between the last two levels of such a chain there is none either."""
    with pytest.raises(UserError, match="sample.grid = 'uniform' visits several levels without signal"):
        make("ancestral", **{"sample.grid": "uniform", "sample.num_steps": 2000})


def test_churn_is_refused_where_the_chain_has_levels_without_signal():
    with pytest.raises(UserError, match="sample.churn is impossible where the chain leaves no signal at T"):
        make("heun", **{"sample.churn": (40.0, 0.0, 50.0, 1.0)})


def test_the_inversion_of_the_document_gives_back_the_image(tmp_path):
    """As docs/samplers.md has it, on data whose denoiser is known; up and down in 100 steps of Heun's method."""
    import diffusion_jax as dj

    [snippet] = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    process, keys = dj.chain(dj.linear(1000)), streams.keys(0, "sampler", jnp.arange(4))
    names = {"dj": dj, "np": np, "process": process, "keys": keys, "denoise": oracles.gaussian()}
    names["x_0"] = oracles.MEAN + oracles.STD * jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    exec(snippet, names)
    assert np.std(names["latent"]) == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(names["again"], names["x_0"], atol=0.01)


@pytest.mark.parametrize("grid", ["karras", "log_snr", "polyexponential"])
def test_grids_of_the_log_snr_are_refused_where_no_signal_is_left(grid):
    for column in ("discrete without signal at T", "rectified_flow"):
        with pytest.raises(UserError, match="are impossible without signal at T; use 'trailing'"):
            sampling.make_solve(config_for("ddim", column, **{"sample.grid": grid}))
