"""--mode=likelihood: the same numbers whether or not it was stopped, and whatever shares the work."""

import csv
import json

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.data import feed, transforms
from diffusion_jax.errors import UserError
from diffusion_jax.jobs import likelihood
from diffusion_jax.runs import storage

CHANGES = {f"train.{name}": value for name, value in tiny.TRAINED.items()} | {
    "sample.num_steps": 5,
    "likelihood.num_images": 23,
    "likelihood.shard_size": 10,
    "likelihood.batch_per_device": 1,
}


@pytest.fixture
def workdir(trained):
    return storage.path(trained)


@pytest.fixture
def model(trained):
    """The run's model with the settings of `CHANGES`, whose program the job has too."""
    config = tiny.config_of(CHANGES)
    return dj.load(trained)._replace(config=config)


def measure(workdir, out, **changes):
    config = tiny.config_of(CHANGES | {name.replace("__", "."): value for name, value in changes.items()})
    assert likelihood.run(config, workdir, storage.path(out)) == 0
    return json.loads((out / "bound.json").read_text())


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(workdir, tmp_path, monkeypatch):
    whole = measure(workdir, tmp_path / "whole")
    measured, ask = [], likelihood.model.measure

    def dies_at_the_second(*arguments):
        if measured:
            raise KeyboardInterrupt
        measured.append(arguments)
        return ask(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(likelihood.model, "measure", dies_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            measure(workdir, tmp_path / "stopped")
    first = (tmp_path / "stopped" / "shards" / "00000000.npz").stat().st_mtime_ns
    assert measure(workdir, tmp_path / "stopped") == whole
    assert (tmp_path / "stopped" / "shards" / "00000000.npz").stat().st_mtime_ns == first
    for name in ("bound.json", "rate_distortion.csv"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_the_figures_are_those_of_the_library(workdir, tmp_path):
    """bound.json's mean and standard error, of the terms that `likelihood.bound` gives for the same images and noises.

    Whatever the number of images that the network takes at once, which is another here.
    """
    result = measure(workdir, tmp_path)
    model = dj.load(workdir)
    model = model._replace(config=dj.model.with_settings(model.config, num_steps=5))
    source = transforms.subsampled(tiny.digits_source(), 23)
    batch = feed.read(source)
    found = dj.model.measure(model, batch, np.arange(23))
    assert result["bound_bits_per_dim"] == pytest.approx(np.mean(found["total"]), rel=1e-5)
    assert result["standard_error"] == pytest.approx(np.std(found["total"], ddof=1) / np.sqrt(23), rel=1e-4)
    parts = result["decoder"] + result["sum_of_kl"] + result["prior"]
    assert result["bound_bits_per_dim"] == pytest.approx(parts, rel=1e-5)
    with np.load(tmp_path / "bound.npz") as stored:
        assert stored["total"].shape == (23,)
        np.testing.assert_array_equal(stored["t"], [20, 16, 12, 8, 4])
        np.testing.assert_allclose(stored["terms"], np.mean(found["terms"], axis=1), rtol=1e-5)
    with (tmp_path / "rate_distortion.csv").open() as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["rate_bits_per_dim"]) for row in rows]
    assert rates[0] == pytest.approx(result["prior"], rel=1e-4) and np.all(np.diff(rates) > 0)
    assert rates[-1] == pytest.approx(result["sum_of_kl"] + result["prior"], rel=1e-5)
    assert float(rows[0]["rmse_0_to_255"]) == pytest.approx(127.5 * np.sqrt(np.mean(found["mse_x_0"][0])), rel=1e-4)
    for name in ("bound_terms", "rate_distortion"):
        assert Image.open(tmp_path / f"{name}.png").size == (600, 400)


@pytest.mark.slow
def test_the_flow_has_names_of_its_own(workdir, tmp_path, one_device):
    """Nothing that it writes is called bound. Probes of another law agree, and another seed does not."""
    flow = {
        "likelihood__kind": "pf_ode",
        "likelihood__num_images": 10,
        "likelihood__batch_per_device": 5,
        "likelihood__tolerance": 1e-3,
    }

    def measure_flow(name, **changes):
        config = tiny.config_of(CHANGES | {key.replace("__", "."): value for key, value in (flow | changes).items()})
        assert likelihood.run(config, workdir, storage.path(tmp_path / name)) == 0
        return json.loads((tmp_path / name / "pf_ode.json").read_text())

    one = measure_flow("one")
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == [
        "manifest.json",
        "pf_ode.json",
        "pf_ode.npz",
        "shards",
    ]
    assert not any("bound" in name for name in one) and one["evaluations"] > 7 and one["not_integrated"] == 0
    with np.load(tmp_path / "one" / "pf_ode.npz") as stored:
        assert np.mean(stored["bits"]) == pytest.approx(one["pf_ode_bits_per_dim"], rel=1e-6)
    with pytest.raises(UserError, match=r"holds other results \(different sample.interpolation\)"):
        measure_flow("one", sample__interpolation="log_snr")
    normal = measure_flow("normal", likelihood__probes="normal", likelihood__num_probes=4)
    assert normal["pf_ode_bits_per_dim"] == pytest.approx(one["pf_ode_bits_per_dim"], abs=0.05)
    assert measure_flow("other", sample__seed=1)["pf_ode_bits_per_dim"] != one["pf_ode_bits_per_dim"]


@pytest.mark.slow
def test_the_continuous_bound_is_below_that_of_few_steps_and_has_its_own_names(workdir, tmp_path):
    """Of the same model, whose steps from T to level 1 are four; the decoders are two, and so left out."""
    few = measure(workdir, tmp_path / "bound", sample__grid="linspace", sample__clip="none", sample__variance="small")
    config = tiny.config_of(CHANGES | {"likelihood.kind": "continuous", "sample.grid": "linspace", "sample.sampler": "ddim"})
    assert likelihood.run(config, workdir, storage.path(tmp_path / "continuous")) == 0
    assert (tmp_path / "continuous" / "continuous_terms.png").exists()
    limit = json.loads((tmp_path / "continuous" / "continuous.json").read_text())
    assert limit["prior"] == pytest.approx(few["prior"], rel=1e-4) and limit["standard_error"] > 0
    assert limit["sum_of_kl"] < few["sum_of_kl"]
    total = limit["prior"] + limit["sum_of_kl"] + limit["decoder"]
    assert limit["continuous_bits_per_dim"] == pytest.approx(total, rel=1e-5)


def test_noises_belong_to_images(model):
    """So an image's bound does not depend on its neighbours, nor on how many are asked at once."""
    batch = feed.read(tiny.digits_source(), [5, 6, 7])
    together = dj.model.measure(model, batch, np.array([5, 6, 7]))
    alone = dj.model.measure(model, jax.tree.map(lambda leaf: leaf[1:2], batch), np.array([6]))
    np.testing.assert_allclose(together["total"][1:2], alone["total"], rtol=1e-5)
    other = dj.model.measure(model, jax.tree.map(lambda leaf: leaf[1:2], batch), np.array([8]))
    assert abs(other["total"][0] - alone["total"][0]) > 1e-3


def test_what_cannot_be_measured_is_said(workdir, tmp_path):
    with pytest.raises(UserError, match="sample.sampler = 'ddim' does not sample from a chain of Gaussians"):
        measure(workdir, tmp_path, sample__sampler="ddim")
    with pytest.raises(UserError, match="is empty; set it to the held-out images, or set likelihood.held_out = False"):
        measure(workdir, tmp_path, likelihood__held_out=True)
    assert not list(tmp_path.iterdir())
    measure(workdir, tmp_path)
    with pytest.raises(UserError, match=r"holds other results \(different sample.clip\)"):
        measure(workdir, tmp_path, sample__clip="none")
