"""The loop around the training step: what happens in which order, and how a signal ends it."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
from jax import Array

from diffusion_jax.training.state import TrainState

STOPPING = "stopping after this step, then saving. While it compiles, that takes longer; Ctrl-C again ends at once."


class StopError(Exception):
    """What `on_metrics` raises to end the loop before another hook is called."""


class Hook(NamedTuple):
    """Something to do with the state every so many steps, and after the last."""

    every: int
    call: Callable[[TrainState], None]


def run(
    state: TrainState,
    step_fn: Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]],
    batches: Iterator[Any],
    *,
    first_step: int,
    num_steps: int,
    steps_per_call: int,
    on_metrics: Callable[[int, dict[str, Array]], None],
    hooks: Sequence[Hook],
    stop: Callable[[int], bool],
) -> TrainState:
    """Returns the state after `num_steps` steps, or after the call during which `stop` or `on_metrics` ended the loop.

    The metrics of a call are read after the next has been dispatched, so that the device never waits for the host.

    Args:
        state: after `first_step` steps.
        step_fn: (state, batch) -> (state, metrics), `steps_per_call` steps at once.
        batches: one for each call, as many as are asked for.
        first_step: steps already taken.
        num_steps: steps to take in all.
        steps_per_call: must divide `num_steps - first_step` and every hook's interval.
        on_metrics: gets (steps taken, metrics) of every call in turn; may raise `StopError`.
        hooks: called with the state, in order.
        stop: called before every call, with its number from 0.
    """
    previous = None
    with contextlib.suppress(StopError):
        for call, step in enumerate(range(first_step + steps_per_call, num_steps + 1, steps_per_call)):
            if stop(call):
                break
            batch = next(batches)
            state, metrics = step_fn(state, batch) if call else _heeding_signals(step_fn, state, batch)
            if previous:
                on_metrics(*previous)
            previous = step, metrics
            if due := [hook for hook in hooks if step % hook.every == 0 or step == num_steps]:
                on_metrics(*previous)
                previous = None
            for hook in due:
                hook.call(state)
        if previous:
            on_metrics(*previous)
    return state


def _heeding_signals(function: Callable, *arguments: Any) -> Any:
    """Returns what a function returns; Python hears no signal while its main thread compiles, so another thread does."""
    with futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *arguments).result()


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Yields a list to which signals to stop are appended instead of ending the process; a second SIGINT ends it.

    They are SIGINT, SIGTERM, SIGHUP of a terminal that goes away (but under nohup) and SIGUSR1 of a scheduler. With several
    processes JAX handles SIGTERM and informs the others, and the other signals become it. See `sharding.all_stop`.
    """
    caught: list[int] = []
    interrupts: list[int] = []

    def catch(number: int, frame) -> None:
        if number == signal.SIGINT and (caught or interrupts):
            print("stopped at once: what was not saved yet is lost; the same command resumes.", file=sys.stderr, flush=True)
            os._exit(128 + number)  # an exception in the middle of a compilation would crash
        print(STOPPING, file=sys.stderr, flush=True)
        interrupts.extend([number] * (number == signal.SIGINT))
        caught.append(number) if alone else signal.raise_signal(signal.SIGTERM)

    alone = jax.process_count() == 1
    with handling_signals(catch):
        yield caught


@contextlib.contextmanager
def handling_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Lets `handler`(number, frame) answer the signals to stop that are not ignored: see `catch_signals`."""
    names = ["SIGINT", "SIGHUP", "SIGUSR1", *["SIGTERM"] * (jax.process_count() == 1)]
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
