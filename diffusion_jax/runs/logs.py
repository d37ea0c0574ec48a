"""The output of a run: console lines, metrics.jsonl, pictures, and TensorBoard through clu.

All files are written in the background, in order: metrics.jsonl in one thread, what may take seconds (pictures, TensorBoard)
in another. A writer that fails is reported once and never stops training.
"""

import contextlib
import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any, TextIO

import numpy as np

from diffusion_jax.runs import pictures, plots, sharding, storage

CONSOLE_FAULTS = (OSError, ValueError, RuntimeError)  # full, closed, interrupted by a signal that prints


class Console:
    """A stream to print to, which never ends a run: what a full disk, a closed pipe or its encoding refuses is lost."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        with contextlib.suppress(*CONSOLE_FAULTS):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(*CONSOLE_FAULTS):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_console() -> None:
    """Makes a `Console` of standard output and standard error."""
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is not None and not isinstance(stream, Console):
            setattr(sys, name, Console(stream))


def say(label: str, text: str) -> None:
    """Prints a labelled line, in the first process, in the place of a `Progress`."""
    clear_progress()
    if sharding.is_first():
        print(f"{label:<12}{text}", flush=True)


def clear_progress() -> None:
    """Wipes the line of a `Progress`."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def read_metrics(file: storage.Path) -> list[dict[str, float]]:
    """Returns the lines of a metrics.jsonl; incomplete lines and lines without a step are left out."""
    lines = []
    for text in storage.read_bytes(file).splitlines() if file.exists() else []:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


class Logs:
    """The written record of a run, by its first process. Use as a context manager: leaving it waits for the last file."""

    def __init__(self, workdir: storage.Path, *, first_step: int, tensorboard: bool):
        """Opens the record of a run that goes on after `first_step`; later lines are dropped, for they are made again."""
        self._workdir = workdir
        self._file = workdir / "metrics.jsonl"
        self._lines = futures.ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="logs")
        self._failed: set[str] = set()
        self._clu = None
        self._tensorboard = tensorboard
        self._submit("metrics.jsonl", self._drop_after, first_step, thread=self._lines)

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, *exception) -> None:
        self._submit("TensorBoard", lambda: self._clu and self._clu.close())
        self._lines.shutdown(wait=True)
        self._thread.shutdown(wait=True)

    def wait_for_metrics(self) -> None:
        """Waits until metrics.jsonl has every line so far."""
        self._lines.submit(lambda: None).result()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Records the metrics of a step."""
        line = json.dumps({"step": step, **values}) + "\n"
        self._submit("metrics.jsonl", storage.append_text, self._file, line, thread=self._lines)
        self._submit("TensorBoard", self._show, lambda writer: writer.write_scalars(step, values))

    def loss_curve(self) -> None:
        """Redraws loss.png from metrics.jsonl."""
        self._submit(
            "loss.png", lambda: storage.write_bytes(self._workdir / "loss.png", plots.loss(read_metrics(self._file)))
        )

    def grid(self, step: int, name: str, x: np.ndarray) -> None:
        """Records a grid of images at a step, under the name of what made them. # uint8 [N, H, W, C]"""
        grid = pictures.grid(x)
        file = self._workdir / "previews" / f"step_{step:07d}_{name}.png"
        self._submit(file.name, lambda: storage.write_bytes(file, pictures.encode_png(grid)))
        self._submit("TensorBoard", self._show, lambda writer: writer.write_images(step, {name: grid[None]}))

    def _submit(self, what: str, function: Callable, *arguments, thread: futures.Executor | None = None) -> None:
        if not sharding.is_first():
            return

        def guarded() -> None:
            try:
                function(*arguments)
            except Exception as error:  # the record must never stop the run: say so once, go on
                if what not in self._failed:
                    self._failed.add(what)
                    say("warning", f"{what} is not written: {type(error).__name__}: {error}")

        (thread or self._thread).submit(guarded)

    def _drop_after(self, step: int) -> None:
        kept = [line for line in read_metrics(self._file) if line["step"] <= step]
        if kept or self._file.exists():
            storage.write_text(self._file, "".join(json.dumps(line) + "\n" for line in kept))

    def _show(self, write: Callable[[Any], None]) -> None:
        """Writes with clu's writer, made at first use: TensorFlow takes seconds to import."""
        if not self._tensorboard:
            return
        if self._clu is None:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # or it announces itself
            from clu import metric_writers

            self._clu = metric_writers.SummaryWriter(str(self._workdir / "tensorboard"))
        write(self._clu)
        self._clu.flush()


class Progress:
    """The line of a terminal that says how far a run is; elsewhere it says nothing."""

    def __init__(self, unit: str, *, total: int):
        self._unit, self._total = unit, total
        self._first: tuple[float, int] | None = None  # (time, done) after the first call, which compiled
        self._shown, self._done = 0.0, 0

    def update(self, done: int, note: str = "") -> None:
        """Redraws the line, twice a second at most."""
        now = time.monotonic()
        self._done, self._first = done, self._first or (now, done)
        if sys.stderr.isatty() and now - self._shown > 0.5:
            self._shown = now
            print(f"\r{self.text()}  {note}\033[K", end="", file=sys.stderr, flush=True)

    def text(self) -> str:
        """Returns '300/2,000 steps  31.2 steps/s  ETA 0:00:54'."""
        text = f"{self._done:,}/{self._total:,} {self._unit}"
        start, first = self._first or (0.0, 0)
        if self._done == first:
            return text
        rate = (self._done - first) / (time.monotonic() - start)
        eta = datetime.timedelta(seconds=round((self._total - self._done) / rate))
        return f"{text}  {rate:{'.1f' if rate >= 1 else '.2g'}} {self._unit}/s  ETA {eta}"


def progress_by_shard(label: str, num_images: int, shard_size: int) -> Callable[[int], None]:
    """Returns done -> None, which updates the terminal's line and prints one line for each shard."""
    progress = Progress("images", total=num_images)
    shards = 0

    def on_progress(done: int) -> None:
        nonlocal shards
        progress.update(done)
        if done // shard_size > shards or done == num_images:
            shards = done // shard_size
            say(label, progress.text())

    return on_progress
