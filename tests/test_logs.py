"""The record of a run: complete, in order, and never in the way."""

import io
import json
import re
import sys
import threading
import types
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.errors import UserError
from diffusion_jax.runs import logs, plots, storage, writers


def steps_in(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_record_has_every_step_once(tmp_path):
    """The lines after the checkpoint were written by a process that then died; the last one only half."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 0.5}\n{"step": 6, "lo')
    with logs.Logs(storage.path(tmp_path), first_step=2) as log:
        log.metrics(4, {"loss": 0.4, "held_out_loss_raw": float("nan")})  # which is no JSON
        log.metrics(6, {"loss": 0.3})
    assert steps_in(tmp_path) == [2, 4, 6]
    assert writers.read_metrics(storage.path(tmp_path) / "metrics.jsonl")[1] == {"step": 4, "loss": 0.4}


def test_a_new_record_forgets_what_an_unsaved_run_left(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}\n')
    with logs.Logs(storage.path(tmp_path), first_step=0):
        pass
    assert steps_in(tmp_path) == []


@pytest.mark.parametrize("steps", [[], [100], [100, 200], [1, 300, 800_000]])
def test_a_loss_curve_is_drawn_of_however_many_points(steps):
    metrics = [{"step": step, "loss": 1 / step} for step in steps]
    assert Image.open(io.BytesIO(plots.loss(metrics))).size == (600, 400)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_a_terminal_shows_a_bar_whose_place_a_line_takes(monkeypatch, capsys):
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    progress = logs.Progress("steps", total=10)
    progress.update(3, "48 images")
    assert re.search(r"\r 30%\|\S+ *\| 3/10 steps  48 images", shown.getvalue())
    logs.say("done", "10 steps")
    assert shown.getvalue().endswith("\r\033[K") and capsys.readouterr().out == "done        10 steps\n"


def test_items_come_with_a_bar_that_is_wiped_at_the_end(monkeypatch):
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    assert list(logs.with_progress("abc", "images")) == ["a", "b", "c"]
    assert "1/3 images" in shown.getvalue() and "\r\033[K" in shown.getvalue()


def test_elsewhere_there_is_no_bar(capsys):
    progress = logs.Progress("steps", total=10)
    progress.update(3, "48 images")
    assert capsys.readouterr() == ("", "") and progress.text() == "3/10 steps"


def test_a_writer_that_fails_is_reported_once_and_stops_nothing(tmp_path, monkeypatch, capsys):
    def fail(metrics):
        raise OSError("disk full")

    monkeypatch.setattr(plots, "loss", fail)
    with logs.Logs(storage.path(tmp_path), first_step=0) as log:
        for step in (1, 2):
            log.metrics(step, {"loss": 1.0})
            log.loss_curve()
    assert steps_in(tmp_path) == [1, 2]
    assert capsys.readouterr().out == "warning     loss.png is not written: OSError: disk full\n"


def test_every_writer_gets_the_same_and_none_waits_for_another(tmp_path):
    """The other one hangs until metrics.jsonl is whole."""
    free, got = threading.Event(), []
    other = writers.Writer(
        "other", free.wait, lambda *given: got.append(given), lambda *given: got.append(given[:2]), lambda: got.append("end")
    )
    with logs.Logs(storage.path(tmp_path), first_step=0, others=[other]) as log:
        log.metrics(5, {"loss": 0.25})
        log.picture(5, "raw", np.zeros((8, 8, 1), np.uint8))
        log.wait_for_metrics()
        assert steps_in(tmp_path) == [5] and got == []
        free.set()
    assert got == [(5, {"loss": 0.25}), (5, "raw"), "end"]
    assert (tmp_path / "previews" / "step_0000005_raw.png").exists()


class FakeWandb(types.ModuleType):
    """What a run uses of the package."""

    def __init__(self):
        super().__init__("wandb")
        self.begun, self.logged, self.num_finished = [], [], 0

    def init(self, **options):
        self.begun.append(options)
        return self

    def log(self, values, *, step):
        self.logged.append((step, values))

    def finish(self):
        self.num_finished += 1

    Settings = dict
    Image = staticmethod(lambda grid: ("image", grid.shape))


def test_weights_and_biases_gets_the_same_and_a_resumed_run_goes_on_there(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    workdir = storage.path(tmp_path / "digits")
    for first_step in (0, 4, 0):
        other = writers.weights_and_biases(workdir, "ddpm", first_step=first_step, settings={"predicts": "eps"})
        with logs.Logs(workdir, first_step=first_step, others=[other]) as log:
            log.metrics(first_step + 2, {"loss": 0.25})
            log.picture(first_step + 2, "raw", np.zeros((8, 8, 1), np.uint8))
    ids = [options["id"] for options in fake.begun]
    assert ids[0] == ids[1] != ids[2] and fake.num_finished == 3  # the third began anew
    expected = {"project": "ddpm", "name": "digits", "dir": str(workdir), "config": {"predicts": "eps"}, "resume": "allow"}
    assert fake.begun[0].items() >= expected.items()
    assert fake.logged[:2] == [(2, {"loss": 0.25}), (2, {"raw": ("image", (8, 8, 1))})] and fake.logged[2][0] == 6


def test_weights_and_biases_is_asked_for_before_a_run_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    writers.check_installed("")
    with pytest.raises(UserError, match="train.wandb = 'ddpm' needs a package: pip install wandb"):
        writers.check_installed("ddpm")
    fake = FakeWandb()
    fake.init = mock.Mock(side_effect=RuntimeError("no API key configured.\nmore"))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(UserError, match=r"cannot be written to \(no API key configured\); log in with"):
        writers.weights_and_biases(storage.path(tmp_path), "ddpm", first_step=0, settings={})


@pytest.mark.slow
def test_tensorboard_gets_the_same_scalars_and_pictures(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with logs.Logs(storage.path(tmp_path), first_step=0, others=[writers.tensorboard(storage.path(tmp_path))]) as log:
        log.metrics(5, {"loss": 0.25})
        log.picture(5, "raw", np.zeros((8, 8, 1), np.uint8))
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    assert "loss" in events.Tags()["tensors"] and (tmp_path / "previews" / "step_0000005_raw.png").exists()


def test_progress_tells_rate_and_time_left(monkeypatch):
    monkeypatch.setattr(logs.time, "monotonic", lambda: 100.0)
    progress = logs.Progress("steps", total=2000)
    progress.update(10)
    assert progress.text() == "10/2,000 steps"
    progress.update(1010)  # at the same moment, by a coarse clock
    monkeypatch.setattr(logs.time, "monotonic", lambda: 110.0)
    assert progress.text() == "1,010/2,000 steps  100.0 steps/s  ETA 0:00:10"
    monkeypatch.setattr(logs.time, "monotonic", lambda: 30_100.0)
    assert progress.text() == "1,010/2,000 steps  0.033 steps/s  ETA 8:15:00"
    progress.update(2010)  # of a total that was an estimate
    assert progress.text().endswith("ETA 0:00:00")


@pytest.mark.parametrize(("encoding", "cat"), [("ascii", r"\u732b"), ("cp1252", r"\u732b"), ("utf-8", "\u732b")])
def test_a_console_prints_any_text(monkeypatch, encoding, cat):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding))
    logs.guard_console()
    logs.say("classes", "0 \u732b")
    assert shown.getvalue().decode(encoding) == f"{'classes':<12}0 {cat}\n"


@pytest.mark.parametrize("error", [OSError("disk full"), BrokenPipeError(), ValueError("closed file")])
def test_a_console_that_cannot_be_written_stops_nothing(monkeypatch, error):
    class Refusing(io.StringIO):
        def write(self, text):
            raise error

        flush = close = lambda self: None

    monkeypatch.setattr(sys, "stdout", Refusing())
    logs.guard_console()
    logs.say("loss", "0.1")
    guarded = sys.stdout
    logs.guard_console()
    assert sys.stdout is guarded
