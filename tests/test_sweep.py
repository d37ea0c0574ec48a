"""Tables over settings and seeds: tools.sweep."""

import itertools
import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest
import tiny

from diffusion_jax.errors import UserError
from diffusion_jax.jobs import evaluate
from diffusion_jax.runs import checkpoint, storage, tables
from diffusion_jax.tools import sweep

ETAS = "predicts=eps,v; sample.sampler=ddim; sample.eta=0,1"
SMALL = {"evaluate.features": "pixels", "evaluate.num_images": 20, "evaluate.num_real": 60, "train.num_steps": 2}


def words(workdir, grid, *more):
    """Returns the command line of a sweep of tiny runs."""
    settings = [f"--config.{name}={value}" for name, value in SMALL.items()]
    return ["", *tiny.flags(workdir, sample_every=2), *settings, f"--grid={grid}", *more]


def planned(folder, grid=ETAS, num_seeds=2):
    return sweep.plan(tiny.config_of(SMALL), grid, storage.path(folder), num_seeds=num_seeds)


def finish(run, value, floor=1.0):
    """Writes what a run leaves behind, with a Frechet distance."""
    figures = {"frechet_distance": {part: {"value": value, "standard_error": 9.0} for part in evaluate.PARTS}}
    figures["frechet_distance"] |= {"num_matched": 10, "floor": {"value": floor, "standard_error": 0.0}}
    result = {"features": {"network": "pixels"}, "against": {"training": {"figures": figures}}}
    run.result().parent.mkdir(parents=True, exist_ok=True)
    run.result().write_text(json.dumps([result]))


@pytest.fixture
def all_trained(monkeypatch):
    """Lets every run be taken for trained, so that tests of tables need no training."""
    monkeypatch.setattr(sweep.train, "is_done", lambda config, workdir: True)
    monkeypatch.setattr(sweep.evaluate.checkpoint, "steps", lambda workdir: [2])


def test_a_grid_is_every_combination_and_grids_are_put_together():
    grid = "predicts=eps,v; model.multipliers=(1,2),[1] | data.random_flip=True|"
    assert list(sweep.combinations(grid[:-1])) == [
        {"predicts": "eps", "model.multipliers": (1, 2)},
        {"predicts": "eps", "model.multipliers": (1,)},
        {"predicts": "v", "model.multipliers": (1, 2)},
        {"predicts": "v", "model.multipliers": (1,)},
        {"data.random_flip": True},
    ]
    with pytest.raises(
        UserError, match=r"has a side of \| without a field; each side must be fields and their values, such"
    ):
        list(sweep.combinations(grid))


def test_cells_that_differ_in_sampling_alone_share_a_training(tmp_path):
    """Seeds are outermost, and each is that of the training and of the images."""
    runs = planned(tmp_path)
    assert [run.workdir.name for run in runs] == [
        f"predicts={predicts},seed={seed}" for seed in (0, 1) for predicts in ("eps", "eps", "v", "v")
    ]
    assert [run.name for run in runs[:2]] == [
        f"predicts=eps, sample.eta={eta}, sample.sampler=ddim" for eta in ("0.0", "1.0")
    ]
    assert {(run.seed, run.config.train.seed, run.config.sample.seed) for run in runs} == {(0, 0, 0), (1, 1, 1)}
    assert [[run.config.sample.eta for run in one] for one in sweep.trainings(runs)] == [[0.0, 1.0]] * 4


def test_a_cell_that_is_named_twice_is_one(all_trained, tmp_path, capsys):
    grid = "sample.eta=0,0.0; predicts=v | predicts=v; sample.eta=0"
    [run] = planned(tmp_path, grid, num_seeds=1)
    assert run.name == "predicts=v, sample.eta=0.0"
    finish(run, 1.0)
    assert sweep.run(tiny.config_of(SMALL), grid, storage.path(tmp_path)) == 0
    assert "the grid names 3 cells, but 1 different: those that are equal are made once." in capsys.readouterr().out


def test_names_of_folders_have_letters_for_every_disk_and_are_never_equal():
    names = [sweep.folder_name({"data.path": path}) for path in ("a/b", "ab", "a b", "ab" * 100, "ab" * 101)]
    assert names[1] == "data.path=ab" and len(set(names)) == len(names)
    assert all(len(name) < 120 and not set("/ |") & set(name) for name in names)


def test_shards_are_disjoint_and_complete(tmp_path):
    runs = planned(tmp_path)
    of = [[str(run.workdir) for one in sweep.trainings(runs, (i, 3)) for run in one] for i in range(3)]
    assert [len(set(one)) for one in of] == [2, 1, 1]
    assert sorted(itertools.chain(*of)) == sorted(str(run.workdir) for run in runs)


def test_what_is_made_is_not_made_again(all_trained, tmp_path):
    runs = planned(tmp_path)
    for run in (runs[0], *runs[2:4]):
        finish(run, 1.0)
    assert [len(one) for one in sweep.trainings(runs)] == [1, 2, 2]


def test_a_longer_training_in_the_same_workdir_is_not_what_a_cell_is_judged_by(all_trained, tmp_path, monkeypatch):
    [run] = planned(tmp_path, "predicts=eps", num_seeds=1)
    before = run.result()
    monkeypatch.setattr(sweep.evaluate.checkpoint, "steps", lambda workdir: [2, 30])
    assert run.result() == before and before.parent.name.startswith("step_0000002_")
    assert run.evaluated().sample.step == 2 and run.config.sample.step == -1


def test_mean_error_and_difference_by_hand():
    """Of 1, 2, 6: mean 3, sd sqrt(7), error sqrt(7 / 3). Seed 2 lacks a partner; of -1, -3 the error is 1."""
    figures = {
        seed: {"value": {"value": value}, "matched": None, "floor": None, "num_matched": 0}
        for seed, value in enumerate((1.0, 2.0, 6.0))
    }
    first = {0: {"value": {"value": 2.0}}, 1: {"value": {"value": 5.0}}, 7: {"value": {"value": 0.0}}}
    found = sweep.over_seeds(figures, first)
    assert found["value"] == {"mean": 3.0, "standard_error": pytest.approx((7 / 3) ** 0.5), "num_seeds": 3}
    assert found["difference"] == {"mean": -2.0, "standard_error": pytest.approx(1.0), "num_seeds": 2}
    assert found["floor"] is None and found["by_seed"] == {0: 1.0, 1: 2.0, 2: 6.0}
    assert sweep.mean([4.0]) == {"mean": 4.0, "standard_error": None, "num_seeds": 1}


def test_the_table_has_what_is_made_and_why_the_rest_is_not(all_trained, tmp_path):
    runs = planned(tmp_path, "predicts=eps,v,x_0")
    for run, value in zip(runs, (1.0, 2.0, None, 3.0, None, None), strict=True):
        if value is not None:
            finish(run, value)
    storage.write_text(runs[4].failed, "a | b.\n")
    sweep.write(tmp_path, {"num_seeds": 2}, runs)
    rows = (tmp_path / "sweep.md").read_text().splitlines()[4:]
    assert rows == [
        "## Against the training set",
        "",
        "| cell | Frechet distance | difference | seeds |",
        "|---|---|---|---|",
        "| predicts=eps | 2 ± 1 |  | 2 |",
        "| predicts=v | 2 | 1 | 1 of 2; seed 1 failed: a \\| b. |",
        "| predicts=x_0 |  |  | 0 of 2 |",
        "| predicts=eps: 10 images | 2 ± 1 | | |",
        "| other real images: 10 images | 1 | | |",
        "",
        tables.FLOOR_OF_SWEEP,
    ]
    found = json.loads((tmp_path / "sweep.json").read_text())["cells"]
    assert [[run["state"] for run in cell["runs"]] for cell in found] == [
        ["done", "done"],
        ["done", "failed"],
        ["missing", "missing"],
    ]
    assert "".join(tables.of_sweep(found, 2)).count("predicts=x_0") == 1


def test_a_table_of_nothing_has_its_rows(tmp_path):
    cells = sweep.summary(planned(tmp_path))
    assert "| predicts=v, sample.eta=1.0, sample.sampler=ddim | 0 of 2 |" in list(tables.of_sweep(cells, 2))


@pytest.mark.parametrize(
    ("grid", "more", "sentence"),
    [
        ("", [], "flag --grid = '' has no field; it must be fields and their values, such as --grid='predicts=eps,v; "),
        ("predicts", [], "flag --grid has 'predicts'; it must be a field and its values, such as"),
        ("predict=v", [], "config field 'predict' is unknown; did you mean predicts?"),
        ("predicts=v,u", [], "config field predicts = 'u' is not allowed; it must be one of edm, eps, "),
        ("train.seed=1", [], "flag --grid has the field train.seed, which --seeds sets; leave it out."),
        ("predicts=v; predicts=eps", [], "flag --grid has the field predicts, twice; leave it out."),
        (
            "loss.name=simple,hybrid",
            [],
            "of the cell loss.name=hybrid: config field model.learned_variance = False does not",
        ),
        (
            "predicts=v",
            ["--seeds=0"],
            "flag --seeds = '0' is not allowed; it must be a whole number from 1 on, of at most 9 digits.",
        ),
        (
            "predicts=v",
            ["--seeds=" + "9" * 5000],
            "is not allowed; it must be a whole number from 1 on, of at most 9 digits.",
        ),
        ("predicts=v", ["--shard=2/2"], "flag --shard = '2/2' is not allowed; it must be i/n with i from 0 to n - 1"),
        ("predicts=v", ["--workdir="], "flag --workdir is missing; it must be the folder for the table"),
    ],
)
def test_what_cannot_be_swept_is_said_and_nothing_written(grid, more, sentence, tmp_path, capsys):
    assert sweep.main(words(tmp_path / "sweep", grid, *more)) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_workdirs_of_another_config_are_said_before_anything_runs(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "sweep" / "predicts=v,seed=0")
    assert sweep.main(words(tmp_path / "sweep", "predicts=v")) == 2
    assert "was trained with another config (train.ema_rates: (0.5, 0.99) -> (0.99,))" in capsys.readouterr().err


def test_a_signal_between_trainings_ends_a_sweep_with_a_sentence(all_trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep.evaluate, "run", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit, match="143"):
        sweep.main(words(tmp_path, "predicts=eps,v"))
    said, error = capsys.readouterr()
    assert error == "stopped by signal 15; all written files are complete; the same command resumes.\n"
    assert "2 of this process" not in said and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_stopped_and_a_failed_cell_is_a_row(tmp_path, capsys, one_device, monkeypatch):
    """Stopped after the training, in the first evaluation. The last cell draws images of NaN."""
    folder, grid = tmp_path / "sweep", "sample.sampler=ddim; sample.eta=0,1 | train.learning_rate=1e30"
    with monkeypatch.context() as patched:
        patched.setattr(sweep.evaluate, "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert sweep.main(words(folder, grid)) == 130
    assert checkpoint.steps(storage.path(folder / "seed=0")) == [2] and "0 of 1" in (folder / "sweep.md").read_text()
    capsys.readouterr()
    assert sweep.main(words(folder, grid)) == 0
    said = capsys.readouterr().out
    assert said.count("checkpoint  of step") == 1 and said.count("2 of 3 evaluations") == 1
    cells = json.loads((folder / "sweep.json").read_text())["cells"]
    assert [cell["runs"][0]["state"] for cell in cells] == ["done", "done", "failed"]
    assert "images are not finite" in (folder / "sweep.md").read_text()
    values = [cell["figures"]["training"]["frechet_distance"] for cell in cells[:2]]
    difference = values[1]["difference"]["mean"]
    assert difference != 0 and np.isclose(difference, values[1]["value"]["mean"] - values[0]["value"]["mean"])
