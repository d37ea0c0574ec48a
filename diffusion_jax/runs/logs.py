"""The output of a run: console lines, the line of a terminal, and `Logs`, which hands metrics and pictures to writers."""

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, TextIO, TypeVar

import numpy as np
import tqdm

from diffusion_jax.runs import plots, sharding, storage, writers
from diffusion_jax.runs.writers import Writer

# of a bar of tqdm: on a terminal alone, in one place, wiped at its end
DRAWN = {"disable": None, "position": 0, "leave": False, "dynamic_ncols": True, "mininterval": 0.5, "miniters": 1}
DRAWN |= {"bar_format": "{percentage:3.0f}%|{bar}| {desc}"}
Item = TypeVar("Item")
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


def say(label: str, *texts: str) -> None:
    """Prints a labelled line for each text, in the first process, in the place of a `Progress`."""
    clear_progress()
    for text in texts if sharding.is_first() else ():
        print(f"{label:<12}{text}", flush=True)


def clear_progress() -> None:
    """Wipes the line of a `Progress`."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


class Logs:
    """The written record of a run, by its first process. Use as a context manager: leaving it waits for the last file.

    Each writer has a thread of its own, so that none waits for another. One that fails is reported once and stops nothing.
    """

    def __init__(self, workdir: storage.Path, *, first_step: int, others: Sequence[Writer] = ()):
        """Opens the record of a run that goes on after `first_step`; later lines are dropped, for they are made again.

        Args:
            others: writers beside metrics.jsonl and previews/.
        """
        self._workdir, self._failed = workdir, set()
        own = [writers.json_lines(workdir, first_step=first_step), writers.previews(workdir)]
        self._threads = {writer: futures.ThreadPoolExecutor(1, thread_name_prefix=writer.name) for writer in [*own, *others]}
        self._metrics, self._pictures = own
        for writer in self._threads:
            self._submit(writer, writer.open)

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, *exception) -> None:
        for writer, thread in self._threads.items():
            self._submit(writer, writer.close)
            thread.shutdown(wait=False)
        for thread in self._threads.values():
            thread.shutdown(wait=True)

    def wait_for_metrics(self) -> None:
        """Waits until metrics.jsonl has every line so far."""
        self._threads[self._metrics].submit(lambda: None).result()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Records the metrics of a step."""
        for writer in self._threads:
            self._submit(writer, writer.metrics, step, values)

    def loss_curve(self) -> None:
        """Redraws loss.png from metrics.jsonl."""
        file, metrics = self._workdir / "loss.png", self._workdir / self._metrics.name
        self._submit(
            self._pictures, lambda: storage.write_bytes(file, plots.loss(writers.read_metrics(metrics))), name=file.name
        )

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Records a picture at a step, under the name of what made what it shows. # uint8 [H, W, C]"""
        for writer in self._threads:
            self._submit(writer, writer.images, step, name, picture)

    def _submit(self, writer: Writer, function: Callable, *arguments, name: str = "") -> None:
        if not sharding.is_first():
            return

        def guarded() -> None:
            try:
                function(*arguments)
            except Exception as error:  # the record must never stop the run: say so once, go on
                if (what := name or writer.name) not in self._failed:
                    self._failed.add(what)
                    say("warning", f"{what} is not written: {type(error).__name__}: {error}")

        self._threads[writer].submit(guarded)


class Progress:
    """The line of a terminal that says how far a run is, with a bar; elsewhere it says nothing."""

    def __init__(self, unit: str, *, total: int):
        self._unit, self._total = unit, total
        self._first: tuple[float, int] | None = None  # (time, done) after the first call, which compiled
        self._done = 0
        self._bar: tqdm.tqdm | None = None

    def update(self, done: int, note: str = "") -> None:
        """Redraws the line, twice a second at most."""
        self._done, self._first = done, self._first or (time.monotonic(), done)
        shown = f"{self.text()}  {note}"
        self._bar = self._bar or tqdm.tqdm(desc=shown, initial=done, total=self._total, **DRAWN)
        self._bar.set_description_str(shown, refresh=False)
        self._bar.update(done - self._bar.n)

    def text(self) -> str:
        """Returns '300/2,000 steps  31.2 steps/s  ETA 0:00:54'."""
        text = f"{self._done:,}/{self._total:,} {self._unit}"
        start, first = self._first or (0.0, 0)
        if self._done == first:
            return text
        rate = (self._done - first) / max(time.monotonic() - start, 1e-9)
        eta = datetime.timedelta(seconds=round(max(self._total - self._done, 0) / rate))
        return f"{text}  {rate:{'.1f' if rate >= 1 else '.2g'}} {self._unit}/s  ETA {eta}"


def with_progress(items: Collection[Item], unit: str) -> Iterator[Item]:
    """Yields items, while the line of a terminal says how many are done."""
    progress = Progress(unit, total=len(items))
    for done, item in enumerate(items, start=1):
        yield item
        progress.update(done)
    clear_progress()


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
