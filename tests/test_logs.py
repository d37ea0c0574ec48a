"""The record of a run: complete, in order, and never in the way."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from diffusion_jax.runs import logs, plots, storage


def steps_in(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_record_has_every_step_once(tmp_path):
    """The lines after the checkpoint were written by a process that then died; the last one only half."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 0.5}\n{"step": 6, "lo')
    with logs.Logs(storage.path(tmp_path), first_step=2, tensorboard=False) as log:
        log.metrics(4, {"loss": 0.4})
        log.metrics(6, {"loss": 0.3})
    assert steps_in(tmp_path) == [2, 4, 6]
    assert logs.read_metrics(storage.path(tmp_path) / "metrics.jsonl")[1] == {"step": 4, "loss": 0.4}


def test_a_new_record_forgets_what_an_unsaved_run_left(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0}\n')
    with logs.Logs(storage.path(tmp_path), first_step=0, tensorboard=False):
        pass
    assert steps_in(tmp_path) == []


@pytest.mark.parametrize("steps", [[], [100], [100, 200], [1, 300, 800_000]])
def test_a_loss_curve_is_drawn_of_however_many_points(steps):
    metrics = [{"step": step, "loss": 1 / step} for step in steps]
    assert Image.open(io.BytesIO(plots.loss(metrics))).size == (600, 400)


def test_a_line_takes_the_place_of_the_progress(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logs.Progress("images", total=10).update(3)
    logs.say("done", "10 images")
    captured = capsys.readouterr()
    assert (captured.err, captured.out) == ("\r3/10 images  \033[K\r\033[K", "done        10 images\n")


def test_a_writer_that_fails_is_reported_once_and_stops_nothing(tmp_path, monkeypatch, capsys):
    def fail(metrics):
        raise OSError("disk full")

    monkeypatch.setattr(plots, "loss", fail)
    with logs.Logs(storage.path(tmp_path), first_step=0, tensorboard=False) as log:
        for step in (1, 2):
            log.metrics(step, {"loss": 1.0})
            log.loss_curve()
    assert steps_in(tmp_path) == [1, 2]
    assert capsys.readouterr().out == "warning     loss.png is not written: OSError: disk full\n"


@pytest.mark.slow
def test_tensorboard_gets_the_same_scalars_and_pictures(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with logs.Logs(storage.path(tmp_path), first_step=0, tensorboard=True) as log:
        log.metrics(5, {"loss": 0.25})
        log.grid(5, "raw", np.zeros((4, 8, 8, 1), np.uint8))
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    assert "loss" in events.Tags()["tensors"] and (tmp_path / "previews" / "step_0000005_raw.png").exists()


def test_progress_tells_rate_and_time_left(monkeypatch):
    now = iter([100.0, 100.0, 104.0, 104.0])
    monkeypatch.setattr(logs.time, "monotonic", lambda: next(now))
    progress = logs.Progress("steps", total=2000)
    progress.update(10)
    assert progress.text() == "10/2,000 steps"
    progress.update(1010)
    monkeypatch.setattr(logs.time, "monotonic", lambda: 110.0)
    assert progress.text() == "1,010/2,000 steps  100.0 steps/s  ETA 0:00:10"
    monkeypatch.setattr(logs.time, "monotonic", lambda: 30_100.0)
    assert progress.text() == "1,010/2,000 steps  0.033 steps/s  ETA 8:15:00"


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
