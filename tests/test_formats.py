"""Runs that earlier versions left: stored/format_<n>.zip has config.json, metrics.jsonl and a checkpoint of step 2."""

import json
import pathlib
import zipfile

import pytest

import diffusion_jax as dj
import main
from diffusion_jax.compose import stored
from diffusion_jax.compose.config import FIELDS
from diffusion_jax.errors import UserError

STORED = sorted((pathlib.Path(__file__).parent / "stored").glob("format_*.zip"), key=lambda file: int(file.stem[7:]))
FLAGS = ["model.channels=4", "model.num_groups=2", "model.multipliers=(1,)", "process.num_steps=20", "sample.num_steps=5"]
FLAGS += ["train.num_steps=4", "train.warmup_steps=1", "train.checkpoint_every=2"]
FLAGS += ["sample.batch_per_device=1"]


EARLIER = [pytest.param(file, marks=pytest.mark.slow) for file in STORED[:-1]]


@pytest.fixture
def workdir(file, tmp_path):
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def test_every_earlier_format_is_stored():
    assert [int(file.stem.removeprefix("format_")) for file in STORED] == list(range(2, stored.FORMAT_VERSION))


def test_what_was_renamed_exists_now_and_not_before():
    assert set(stored.RENAMED.values()) <= FIELDS.keys() and not set(stored.RENAMED) & FIELDS.keys()
    for field, old, new in stored.VALUES_RENAMED:
        allowed = FIELDS[field].allowed.removeprefix("one of ").split(", ")
        assert new in allowed and old not in allowed


def test_old_names_and_values_are_read_as_the_present_ones():
    flat = {name: field.default for name, field in FIELDS.items() if name not in stored.RENAMED.values()}
    del flat["model.precision"]  # which there was not yet
    flat |= {"process.kind": "chain", "sample.clip": "static_eps_kept", "likelihood.kind": "flow", "sample.end": "lowest"}
    flat |= {"train.split_update": True, "train.ema_warmup": False, "model.attention_levels": [0], "sample.grid": "uniform"}
    config = stored.from_json(json.dumps({"format_version": 5, "config": flat}))
    assert (config.process.kind, config.sample.clip, config.likelihood.kind) == ("discrete", "static_keep_eps", "pf_ode")
    assert (config.sample.last_level, config.train.shard_optimizer) == ("min_noise", True)
    assert (config.model.attention_stages, config.train.ema_warmup, config.model.precision) == ((0,), "off", "highest")


def test_the_present_format_needs_every_field():
    text = json.dumps({"format_version": stored.FORMAT_VERSION, "config": {"predicts": "eps"}})
    with pytest.raises(UserError, match="'compilation_cache' is missing; it must be True or False"):
        stored.from_json(text)


def test_an_earlier_run_on_videos_is_refused_with_the_reason():
    flat = {name: field.default for name, field in FIELDS.items()} | {"data.medium": "videos"}
    expected = "format_version = 15, of a network of videos that this version of diffusion_jax does not have any more"
    with pytest.raises(UserError, match=expected):
        stored.from_json(json.dumps({"format_version": 15, "config": flat}))
    assert stored.from_json(json.dumps({"format_version": 16, "config": flat})).data.medium == "videos"


@pytest.mark.parametrize("file", STORED, ids=lambda file: file.stem)
def test_an_earlier_run_is_loaded_and_drawn_from(workdir, one_device):
    assert dj.load(workdir).sample(2, batch_per_device=1).shape == (2, 8, 8, 1)


@pytest.mark.parametrize("file", [*EARLIER, STORED[-1]], ids=lambda file: file.stem)
def test_an_earlier_run_goes_on(workdir, capsys, one_device):
    settings = [f"--config.{flag}" for flag in [*FLAGS, "train.log_every=2", "train.tensorboard=False"]]
    assert main.main(["main.py", "--config=configs/digits.py", f"--workdir={workdir}", *settings]) == 0
    assert "resumed     at step 2" in capsys.readouterr().out
    assert [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()] == [2, 4]
    assert json.loads((workdir / "config.json").read_text())["format_version"] == stored.FORMAT_VERSION
