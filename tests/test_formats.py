"""Runs that earlier versions left: stored/format_<n>.zip has config.json, metrics.jsonl and a checkpoint of step 2."""

import json
import pathlib
import zipfile

import pytest

import diffusion_jax as dj
import main
from diffusion_jax.compose import schema

STORED = sorted((pathlib.Path(__file__).parent / "stored").glob("format_*.zip"))
FLAGS = ["model.channels=4", "model.num_groups=2", "model.multipliers=(1,)", "process.num_steps=20", "sample.num_steps=5"]
FLAGS += ["train.num_steps=4", "train.warmup_steps=1", "train.sample_every=4", "train.checkpoint_every=2"]


@pytest.fixture(params=STORED, ids=lambda file: file.stem)
def workdir(request, tmp_path):
    with zipfile.ZipFile(request.param) as stored:
        stored.extractall(tmp_path)
    return tmp_path


def test_every_earlier_format_is_stored():
    assert [int(file.stem.removeprefix("format_")) for file in STORED] == list(range(2, schema.FORMAT_VERSION))
    assert set(schema.ADDED) == set(range(3, schema.FORMAT_VERSION + 1))
    assert all(name in schema.FIELDS for fields in schema.ADDED.values() for name in fields)


def test_an_earlier_run_is_loaded_and_drawn_from(workdir):
    assert dj.load(workdir).sample(2).shape == (2, 8, 8, 1)


def test_an_earlier_run_goes_on(workdir, capsys):
    settings = [f"--config.{flag}" for flag in [*FLAGS, "train.log_every=2", "train.tensorboard=False"]]
    assert main.main(["main.py", "--config=configs/digits.py", f"--workdir={workdir}", *settings]) == 0
    assert "resumed     at step 2" in capsys.readouterr().out
    assert [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()] == [2, 4]
    assert json.loads((workdir / "config.json").read_text())["format_version"] == schema.FORMAT_VERSION
