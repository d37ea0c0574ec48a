"""What the benchmarks compute by themselves."""

import importlib
import pathlib
import sys

import pytest
import recorded

from benchmarks import quality_vs_steps

G8 = recorded.load("g8_metrics")
NAMES = sorted(file.stem for file in (pathlib.Path(__file__).parents[1] / "benchmarks").glob("*.py"))
COMMANDS = [name for name in NAMES if name not in ("profiles", "torch_peer")]  # those are parts of throughput


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_says_what_it_measures(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))  # some add to it when they are imported
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    benchmark = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == 0 and benchmark.__doc__ in capsys.readouterr().out


def test_the_pytorch_side_of_throughput_is_imported():
    for package in ("torch", "diffusers"):
        pytest.importorskip(package)
    assert importlib.import_module("benchmarks.torch_peer").TorchPeer


@pytest.mark.parametrize("name", ["pytorch_fid", "torch_fidelity", "edm", "guided"])
def test_the_frechet_distance_is_that_of_four_published_evaluators(name):
    assert quality_vs_steps.frechet_distance(G8["feat1"], G8["feat2"]) == pytest.approx(float(G8[f"fid.{name}"]), rel=1e-6)


def test_the_frechet_distance_of_few_features_is_finite():
    """Half as many images as features: both covariances are singular."""
    few = [G8[name][:32] for name in ("feat1", "feat2")]
    assert quality_vs_steps.frechet_distance(*few) == pytest.approx(float(G8["fid.rankdef.symmetric_eigh"]), rel=1e-3)


def test_the_frechet_distance_of_a_set_to_itself_is_zero():
    assert quality_vs_steps.frechet_distance(G8["feat1"], G8["feat1"]) == pytest.approx(0, abs=1e-6)
