"""Runs that make a model of few steps of one of many: from the command line, stopped and resumed."""

import json

import jax
import numpy as np
import pytest
import tiny

import diffusion_jax as dj
import main
from diffusion_jax.compose import stored
from diffusion_jax.runs import checkpoint, storage
from diffusion_jax.tools import distill

PROGRESSIVE = ["--config.loss.name=progressive", "--config.loss.num_steps=2", "--config.sample.sampler=ddim"]


def words(trained, workdir, *more, **train):
    """Returns the command line of a student of the fixture `trained`."""
    settings = tiny.TRAINED | {"init_from": trained, "sample_every": 2, "warmup_steps": 0}
    return ["", *tiny.flags(workdir, **settings | train), *more]


def params(workdir):
    return jax.tree.leaves(dj.load(workdir, ema_rate=0.0).params)


@pytest.fixture(scope="module")
def distilled(trained, tmp_path_factory):
    """The folder with two rounds: students of two steps and of one."""
    folder = tmp_path_factory.mktemp("distilled") / "rounds"
    with tiny.one_device():
        assert distill.main(words(trained, folder, *PROGRESSIVE)) == 0
    return folder


@pytest.mark.slow
def test_each_student_learns_from_the_one_before_and_draws_in_half_its_steps(trained, distilled):
    assert sorted(folder.name for folder in distilled.iterdir()) == ["steps_1", "steps_2"]
    two, one = (stored.read_config(storage.path(distilled / name)) for name in ("steps_2", "steps_1"))
    assert (two.train.init_from, one.train.init_from) == (str(trained), str(distilled / "steps_2"))
    assert (two.sample.num_steps, one.sample.num_steps) == (2, 1)
    found = dj.load(distilled / "steps_1")
    assert found.sample(2, batch_per_device=1).shape == (2, 8, 8, 1)


@pytest.mark.slow
def test_a_student_begins_as_its_teachers_average(trained, tmp_path, one_device):
    """A learning rate of nearly nothing leaves it as it began."""
    flags = words(trained, tmp_path / "run", *PROGRESSIVE, learning_rate=1e-30)
    assert main.main(flags) == 0
    for student, teacher in zip(params(tmp_path / "run"), jax.tree.leaves(dj.load(trained).params), strict=True):
        np.testing.assert_array_equal(student, teacher)


@pytest.mark.slow
def test_a_stopped_distillation_goes_on_and_ends_with_the_same_bytes(trained, distilled, tmp_path, capsys, one_device):
    """Stopped in the second round, after one of its two steps; the first is not trained again."""
    folder, flags = tmp_path / "rounds", [*PROGRESSIVE, "--config.train.checkpoint_every=1"]
    assert main.main(words(trained, folder / "steps_2", *PROGRESSIVE)) == 0
    one = ["--config.loss.num_steps=1", "--config.sample.num_steps=1"]
    assert main.main(words(folder / "steps_2", folder / "steps_1", *flags, *one, num_steps=1)) == 0
    assert checkpoint.steps(storage.path(folder / "steps_1")) == [1]
    assert distill.main(words(trained, folder, *flags)) == 0
    said = capsys.readouterr().out
    assert "round       of 2 steps: trained\n" in said and "resumed     at step 1\n" in said
    for name in ("steps_1", "steps_2"):
        for found, expected in zip(params(folder / name), params(distilled / name), strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_consistency_is_tuned_in_stages_and_draws_in_any_number_of_steps(trained, tmp_path, one_device):
    """A tiny run of two stages; its gap is in the metrics."""
    consistency = ["--config.loss.name=consistency", "--config.loss.ratio=2.0", "--config.loss.stage_steps=2"]
    run = words(trained, tmp_path / "run", *consistency, "--config.sample.sampler=consistency", num_steps=4)
    assert main.main(run) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["gap"] for row in rows if "gap" in row] == [0.5, 0.25]
    model = dj.load(tmp_path / "run")
    few = [model.sample(2, num_steps=num_steps, batch_per_device=1) for num_steps in (1, 3)]
    assert few[0].shape == (2, 8, 8, 1) and (few[0] != few[1]).any()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--config.loss.name=simple"], "config field loss.name = 'simple' is not allowed here; it must be 'progressive'."),
        (["--last=3"], "flag --last = 3 must be config field loss.num_steps = 2 or a half of it, a half of that, ..."),
        (["--last=0"], "flag --last = '0' is not allowed; it must be a whole number from 1 on, of at most 9 digits."),
        (["--last=half"], "flag --last = 'half' is not allowed; it must be a whole number from 1 on, of at most 9 digits."),
        (["--config.train.init_from="], "loss.name = 'progressive' needs train.init_from, the workdir of the teacher."),
        (["--config.loss.num_steps=16"], "loss.num_steps = 16 must be at most half of process.num_steps = 20."),
        (["--config.predicts=x_0"], "config field predicts is (v) in "),
        (["--config.model.channels=12"], "', the teacher, has other parameters; copy its section model."),
    ],
)
def test_what_cannot_be_distilled_is_said(more, sentence, trained, tmp_path, capsys, one_device):
    assert distill.main(words(trained, tmp_path / "rounds", *PROGRESSIVE, *more)) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.json"))


def test_rounds_in_the_workdir_of_a_run_are_refused(trained, capsys, one_device):
    assert distill.main(words(trained, trained, *PROGRESSIVE)) == 2
    assert f"flag --workdir = {str(trained)!r} is the workdir of a run; give another folder" in capsys.readouterr().err
    assert not list(trained.glob("steps_*"))


FLOW = ["--config.process.kind=rectified_flow", "--config.process.c_noise_scale=1.0", "--config.predicts=velocity"]
FLOW += ["--config.sample.clip=none"]


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """The folder of a tiny rectified flow."""
    folder = tmp_path_factory.mktemp("flow") / "flow"
    with tiny.one_device():
        assert main.main(words("", folder, *FLOW)) == 0
    return folder


@pytest.mark.slow
def test_mean_flow_starts_from_scratch_or_from_a_rectified_flow_and_draws_in_any_number_of_steps(flow, tmp_path, one_device):
    """Of a rectified flow all arrays are taken; what tells the second time is fresh, and adds nothing yet."""
    mean_flow = ["--config.loss.name=mean_flow", "--config.model.jumps=True", "--config.sample.sampler=mean_flow"]
    assert main.main(words("", tmp_path / "scratch", *FLOW, *mean_flow)) == 0
    assert main.main(words(flow, tmp_path / "warm", *FLOW, *mean_flow, learning_rate=1e-30)) == 0
    rows = [json.loads(line) for line in (tmp_path / "warm" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["squared_error"] < np.inf for row in rows if "loss" in row)
    teacher, warm = dj.load(flow), dj.load(tmp_path / "warm")
    drawn = [model.sample(2, sampler="heun", num_steps=2, batch_per_device=1) for model in (teacher, warm)]
    np.testing.assert_array_equal(*drawn)
    few = [warm.sample(2, sampler=sampler, num_steps=3, batch_per_device=1) for sampler in ("mean_flow", "ddim")]
    np.testing.assert_array_equal(*few)


@pytest.mark.slow
def test_reflow_has_no_loss_where_its_teacher_says_nothing_else(flow, tmp_path, one_device, capsys):
    """The fresh teacher moves x nearly nowhere: its image is the noise itself, and the velocity between them is 0."""
    reflow = ["--config.loss.name=reflow", "--config.loss.num_steps=2", "--config.sample.sampler=euler"]
    assert main.main(words(flow, tmp_path / "run", *FLOW, *reflow)) == 0
    [loss] = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 0 < loss < 1e-3
    assert dj.load(tmp_path / "run").sample(2, num_steps=1, batch_per_device=1).shape == (2, 8, 8, 1)
    assert main.main(words(flow, tmp_path / "other", *FLOW, *reflow, "--config.process.c_noise_scale=2.0")) == 2
    assert "config field process is (" in capsys.readouterr().err
