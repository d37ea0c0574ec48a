"""What the benchmarks compute by themselves."""

import functools
import importlib
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
from benchmarks import baselines, few_steps, side_by_side, startup, text_retrieval, throughput, two_halves
from diffusion_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
NAMES = sorted(file.stem for file in (ROOT / "benchmarks").glob("*.py"))
PARTS = ("profiles", "side_by_side_peer", "text_peers", "torch_peer", "weights_peers")  # of others, which start them
COMMANDS = [name for name in NAMES if name not in PARTS]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_says_what_it_measures(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))  # some add to it when they are imported
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    benchmark = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == 0 and benchmark.__doc__ in capsys.readouterr().out


@pytest.mark.parametrize(("name", "part"), [("torch_peer", "TorchPeer"), ("side_by_side_peer", "train")])
def test_the_pytorch_side_is_imported(name, part):
    for package in ("torch", "diffusers"):
        pytest.importorskip(package)
    assert getattr(importlib.import_module(f"benchmarks.{name}"), part)


def test_what_the_other_side_is_trained_on_is_what_ours_drew():
    """Under a gradient, once a step, and the loss is what it was."""
    kept, level = [], dj.chain(dj.linear(1000)).level(jnp.array([1, 500]))
    x_0, eps = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 1))

    def total(scale, loss):
        return jnp.sum(loss(dj.make_denoiser(lambda x_t, c_noise: scale * x_t, dj.X_0), x_0, level, eps)[0])

    recorded = functools.partial(total, loss=side_by_side.recorded(dj.simple(), kept.append))
    found = jax.jit(jax.value_and_grad(recorded))(0.5)
    jax.effects_barrier()
    expected = jax.value_and_grad(functools.partial(total, loss=dj.simple()))(0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    [drawn] = kept
    jax.tree.map(np.testing.assert_array_equal, drawn, (x_0, np.array([0, 499]), eps))


def test_curves_agree_until_the_first_step_beyond_a_limit():
    found = side_by_side.agreement(np.array([1, 1 + 1e-7, 1 + 3e-4, 1, 1.5]), np.ones(5))
    assert found["steps_before_the_first_beyond"] == {"1e-06": 2, "1e-05": 2, "1e-04": 2, "1e-03": 4, "1e-02": 4}
    assert (found["first_step"], found["largest"]) == (0, 0.5) and found["median"] == pytest.approx(1e-7, rel=1e-6)


def halves():
    """Returns two sets of random images, and what is drawn by models that learned their distribution and nothing else."""
    images = np.random.default_rng(0).integers(0, 256, (3, 60, 4, 4, 3), np.uint8)
    return list(images[:2]), [images[2], images[2]], np.full((4, 4, 3), 127.5)


def test_two_models_that_memorise_draw_their_own_halves():
    train, _, mean = halves()
    found = two_halves.measured(train, [images[::-1] for images in train], mean)
    assert found["nearest_of_own_half"] == pytest.approx({"value": 1, "standard_error": 0}, abs=1e-6)
    assert found["nearest_of_other_half"]["value"] == pytest.approx(found["halves"]["value"], abs=0.05)
    assert abs(found["same_seed"]["value"] - found["other_seed"]["value"]) < 0.1
    assert (found["copies"]["value"], found["copies_control"]["value"]) == (1, 0)


def test_two_models_that_learned_the_same_draw_the_same():
    train, drawn, mean = halves()
    found = two_halves.measured(train, drawn, mean)
    assert found["same_seed"]["value"] == pytest.approx(1) and abs(found["other_seed"]["value"]) < 0.1
    assert found["nearest_of_own_half"]["value"] == pytest.approx(found["nearest_of_other_half"]["value"], abs=0.05)
    assert found["copies"]["value"] == 0


def test_the_halves_are_disjoint_and_a_set_too_small_for_them_is_one_sentence(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "nine.npz", images=np.concatenate([images, images[:4]]))
    one, two = two_halves.two_halves(str(tmp_path / "nine.npz"), 4)
    assert len(np.unique(np.concatenate([one, two]), axis=0)) == 9 and len(one) == 5
    with pytest.raises(UserError, match="has 9 different images; two halves of 5 need 10"):
        two_halves.two_halves(str(tmp_path / "nine.npz"), 5)


def test_images_that_are_what_their_prompts_say_have_the_best_rank_and_share_of_words():
    held_out, numbers = np.eye(6), np.array([1, 4, 5])
    right = text_retrieval.ranks_of(text_retrieval.distances(held_out[numbers], held_out), numbers)
    np.testing.assert_allclose(np.diag(right), 5 / 6)  # of six, all but itself are farther
    np.testing.assert_allclose(text_retrieval.others(right), 0)
    assert text_retrieval.share_of_words("blue heart, heart", "two hearts, blue") == 1 / 2


@pytest.mark.parametrize(
    ("page", "figures", "table"),
    [
        ("generative_models", "baselines", lambda result: baselines.table(result["rows"])),
        ("performance", "startup", startup.table),
        *[
            ("few_steps", f"few_steps_{name}", lambda result: few_steps.table(result["rows"]))
            for name in ("digits", "fashion_mnist", "avatars32", "digits_flows")
        ],
    ],
)
def test_the_tables_of_a_document_are_those_of_the_figures(page, figures, table):
    result = json.loads((ROOT / "benchmarks" / f"{figures}.json").read_text())
    shown = (ROOT / "docs" / f"{page}.md").read_text()
    for each in table(result).split("\n\n"):
        assert each.strip() in shown


@pytest.mark.parametrize("figures", ["throughput_cpu", "throughput_nvidia_h200"])
def test_a_table_is_that_of_the_figures_beside_it(figures):
    file = ROOT / "benchmarks" / f"{figures}.json"
    assert throughput.table(json.loads(file.read_text())) == file.with_suffix(".md").read_text()
