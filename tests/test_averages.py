"""Averages of a power function's weights, and others made of them afterwards, against those that are kept directly."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import diffusion_jax as dj
import main
from diffusion_jax.runs import checkpoint, storage
from diffusion_jax.tools import ema
from diffusion_jax.training import averages

WIDTHS = (0.05, 0.1)


def kept(sigma_rels, path):
    """Returns {name: averages of a path [T] of a parameter, after each step, float64 [T]}."""
    average = averages.power(sigma_rels)

    def step(weights, numbered):
        number, value = numbered
        weights = average.update(weights, value, number)
        return weights, weights

    return jax.lax.scan(step, average.init(jnp.zeros_like(path[0])), (jnp.arange(len(path)), path))[1]


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.1, 6.94), (0.28, 0.169)])
def test_the_exponent_of_a_width(sigma_rel, gamma):
    found = averages.gamma(sigma_rel)
    assert found == pytest.approx(gamma, abs=0.005)
    assert (found + 1) / ((found + 2) ** 2 * (found + 3)) == pytest.approx(sigma_rel**2, rel=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.03, 0.1, 0.25])
def test_the_weights_of_steps_have_the_width(sigma_rel, x64):
    """Each step's parameter is its unit vector, so that the average is the weights."""
    num_steps = 400
    weights = kept((sigma_rel,), jnp.eye(num_steps))[f"power{sigma_rel:g}"][-1]
    tau = np.arange(1, num_steps + 1) / num_steps
    mean = np.sum(weights * tau)
    assert np.sum(weights) == pytest.approx(1, rel=1e-12)
    assert math.sqrt(np.sum(weights * (tau - mean) ** 2)) == pytest.approx(sigma_rel, rel=0.01)
    exponent = averages.gamma(sigma_rel)
    np.testing.assert_allclose(weights[200:] / weights[-1], tau[200:] ** exponent, rtol=0.06)


@pytest.mark.parametrize("sigma_rel", [0.04, 0.05, 0.07, 0.1, 0.15, 0.2])
def test_an_average_made_afterwards_is_the_one_that_is_kept(sigma_rel, x64):
    """A random walk, kept every 100 of 2,000 steps: the difference is within what the profiles say, and small."""
    walk = jnp.cumsum(jax.random.normal(jax.random.key(0), (2000, 50)), axis=0)
    steps, found = np.arange(100, 2001, 100), kept((*WIDTHS, sigma_rel), walk)
    at, widths = np.repeat(steps, 2), np.tile(WIDTHS, 20)
    coefficients, error = averages.posthoc(at, widths, step=2000, sigma_rel=sigma_rel)
    made = sum(c * found[averages.power_name(w)][t - 1] for c, t, w in zip(coefficients, at, widths, strict=True))
    wanted = found[averages.power_name(sigma_rel)][-1]
    assert np.sum(coefficients) == pytest.approx(1, rel=1e-9)
    assert error < 0.02
    assert np.linalg.norm(made - wanted) < 0.01 * np.linalg.norm(wanted - np.mean(walk, axis=0))
    if sigma_rel in WIDTHS:
        assert error < 1e-6


def test_few_snapshots_are_said_to_be_few():
    """Of one late snapshot no wide average can be made."""
    _, error = averages.posthoc(np.array([100, 100]), np.array(WIDTHS), step=100, sigma_rel=0.25)
    assert error > 0.1


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """The workdir of a tiny run with averages of two widths in the checkpoints of four steps."""
    workdir = tmp_path_factory.mktemp("averaged") / "run"
    flags = tiny.flags(workdir, **tiny.TRAINED | {"num_steps": 4, "checkpoint_every": 1, "keep_checkpoints": 4})
    with tiny.one_device():
        assert main.main(["", *flags, f"--config.train.ema_sigma_rels={WIDTHS}"]) == 0
    return workdir


SMALL = ["--config.evaluate.num_images=20", "--config.evaluate.features=pixels", "--config.evaluate.num_real=30"]


@pytest.mark.slow
def test_the_tool_measures_each_width_and_writes_the_best(averaged, tmp_path, capsys, one_device):
    out = tmp_path / "best"
    assert ema.main(["", f"--workdir={averaged}", f"--out={out}", "--sigma_rel=0.05,0.1", *SMALL]) == 0
    found = json.loads((out / "ema.json").read_text())
    assert [row["sigma_rel"] for row in found["rows"]] == [0.05, 0.1] and (found["step"], found["num_images"]) == (4, 20)
    assert max(row["profile_error"] for row in found["rows"]) < 1e-6
    assert (out / "ema.png").read_bytes().startswith(b"\x89PNG")
    best = min(found["rows"], key=lambda row: row["kernel_distance"])["sigma_rel"]
    like = dj.load(averaged, ema_rate=0.0).params
    names = {"ema": averages.power_name(best), "all_ema": ["0.5", "0.99", "power0.05", "power0.1"]}
    _, wanted = checkpoint.restore_weights(storage.path(averaged), step=4, like=like, **names)
    for weights, expected in zip(jax.tree.leaves(dj.load(out).params), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-7)
    assert "width       0.05  kernel_distance" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--sigma_rel=0.3"],
            "flag --sigma_rel = '0.3' is not allowed; it must be numbers above 0, to 0.28, such as 0.05,0.1.",
        ),
        (["--sigma_rel=wide"], "flag --sigma_rel = 'wide' is not allowed"),
        ([], "flag --sigma_rel = '' is not allowed"),
        (["--sigma_rel=0.1", "--out="], "flag --out is missing; it must be the folder to make."),
        (["--sigma_rel=0.1", "--config.sample.guide=1"], "sample.guide = '1' is not for averages, which are compared alone"),
    ],
)
def test_a_wrong_flag_is_one_sentence(flags, sentence, averaged, tmp_path, capsys):
    assert ema.main(["", f"--workdir={averaged}", f"--out={tmp_path / 'best'}", *flags]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_kept_none_and_a_folder_that_exists_are_refused(trained, averaged, tmp_path, capsys, one_device):
    assert ema.main(["", f"--workdir={trained}", f"--out={tmp_path / 'best'}", "--sigma_rel=0.1"]) == 2
    assert (
        "the run kept no averages of train.ema_sigma_rels; train with (0.05, 0.1), for example." in capsys.readouterr().err
    )
    assert ema.main(["", f"--workdir={averaged}", f"--out={tmp_path}", "--sigma_rel=0.1"]) == 2
    assert "exists already; choose another." in capsys.readouterr().err
