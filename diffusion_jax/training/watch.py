"""What watches a run: metrics, pictures, the held-out loss, checkpoints, and what ends it early."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from diffusion_jax import errors
from diffusion_jax.data.feed import Batch
from diffusion_jax.data.media import Medium
from diffusion_jax.errors import RunError
from diffusion_jax.runs import compiling, logs, sharding
from diffusion_jax.training import loop, step
from diffusion_jax.training.loop import Hook
from diffusion_jax.training.state import TrainState
from diffusion_jax.training.step import Parts

NUM_EVALUATED = 512  # images: eight previews
NUM_TIMED = 10  # calls after which a run says how long it will take
OF_MACHINE = ("images_per_s", "mfu", "peak_memory_gib")  # figures that no other start repeats


class Run(NamedTuple):
    """A run, for what watches it."""

    parts: Parts
    medium: Medium  # what is generated
    mesh: Mesh
    log: logs.Logs  # where metrics and pictures go
    num_steps: int  # in all
    batch_size: int  # images of a step, over all devices
    grad_clip: float  # the largest global norm of a gradient; inf for none
    log_every: int  # steps from one line of metrics to the next
    sample_every: int  # from one grid of images, and one held-out loss, to the next
    checkpoint_every: int  # from one checkpoint to the next
    evaluate_every: int  # from one evaluation to the next; 0 for none
    max_skipped: int  # non-finite steps in a row that end the run
    read: Callable[[np.ndarray], Any]  # image numbers [B] -> the batch of which `generate` shows the network something


class Watch:
    """Receives every call's metrics: logs their means, and ends a run that diverges.

    Attributes:
        is_unreadable: whether a record of the latest batch could not be read, by whichever process.
        least_step_s: seconds of a step at the devices' published peak; 0 where that is not known.
    """

    def __init__(self, run: Run):
        self._run, self._began = run, time.monotonic()
        self.progress = logs.Progress("steps", total=run.num_steps)
        self.is_unreadable = False
        self.least_step_s = 0.0
        self._recorded: tuple[float, int] | None = None  # (time, step) of the latest line, at first of the first call
        self._num_calls = 0
        self._since: list[dict[str, np.ndarray]] = []

    def __call__(self, step: int, metrics: dict[str, Any]) -> None:
        """Takes the metrics of the call that ended with a step.

        Raises:
            loop.StopError: where a record could not be read: in every process at the same step, as metrics are of all.
            RunError: after too many steps in a row that were not finite.
        """
        metrics = {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}
        self.is_unreadable = bool(np.any(metrics.pop("unreadable")))
        if self.is_unreadable:
            raise loop.StopError
        if self._began is not None:
            waited, self._began = time.monotonic() - self._began, None
            every = f"a line every {self._run.log_every:,}"
            logs.say("started", f"step {step:,} is done after {waited:.0f} s, compiling included; {every}")
            self._recorded = time.monotonic(), step
        self._num_calls += 1
        self._since.append(metrics)
        self.progress.update(step, f"{step * self._run.batch_size:,} images  loss {metrics['loss'][-1]:.4f}")
        self._check_finite(step, int(np.max(metrics["skipped_in_a_row"])))
        if step % self._run.log_every == 0 or step == self._run.num_steps:
            self._record(step)
        elif self._num_calls == len(self._since) == NUM_TIMED:
            logs.say("speed", self.progress.text())

    def _check_finite(self, step: int, in_a_row: int) -> None:
        if in_a_row >= self._run.max_skipped:
            raise RunError(
                f"the loss or its gradient was not finite in {in_a_row} steps in a row, up to step {step}; the checkpoints "
                "before are whole. Look at the data, or lower train.learning_rate (with checkpoints, in another workdir)."
            )

    def _record(self, step: int) -> None:
        columns = {name: np.concatenate([metrics[name] for metrics in self._since]) for name in self._since[0]}
        quartiles = _quartiles(columns)
        finite = {name: column[np.isfinite(column)] for name, column in columns.items() if not name.startswith("skipped")}
        means = {name: float(np.mean(column)) for name, column in finite.items() if len(column)} | quartiles
        if np.isfinite(self._run.grad_clip) and len(finite["grad_norm"]):
            means["clipped_share"] = float(np.mean(finite["grad_norm"] > self._run.grad_clip))
        means |= {"skipped": int(columns["skipped"][-1]), "images_seen": step * self._run.batch_size}
        means |= {"batch_size": self._run.batch_size, **self._of_machine(step)}
        self._since = []
        self._run.log.metrics(step, means)
        shown = "  ".join(f"{name} {means[name]:.4f}" for name in ("loss", "grad_norm") if name in means)
        logs.say("train", f"{self.progress.text()}  {shown or 'no finite loss'}")

    def _of_machine(self, step: int) -> dict[str, float]:
        """Returns the figures of `OF_MACHINE` that are known, since the line before."""
        (began, first), found = self._recorded, {}
        self._recorded = time.monotonic(), step
        if step > first:
            seconds = (self._recorded[0] - began) / (step - first)
            found["images_per_s"] = self._run.batch_size / seconds
            found |= {"mfu": self.least_step_s / seconds} if self.least_step_s else {}
        peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        return found | ({} if peak is None else {"peak_memory_gib": peak / 2**30})


def _quartiles(columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the mean loss of each quartile of t that had any, and takes their parts, see `step.by_quartile`, out."""
    found = {}
    for name in [name for name in columns if name.startswith("loss_part_q")]:
        loss, weight = columns.pop(name), columns.pop(name.replace("loss", "weight"))
        finite = np.isfinite(loss)
        if np.any(weight[finite]):
            found[name.replace("_part", "")] = float(np.sum(loss[finite]) / np.sum(weight[finite]))
    return found


def hooks(
    run: Run,
    generate: Callable[..., tuple[Array, Array]] | None,
    held_out: Batch | None,
    save: Callable[[TrainState], None],
    evaluate: Callable[[np.ndarray], dict[str, float]] | None,
) -> list[Hook]:
    """Returns what is done with the state every so many steps; the save is last, and seals what was logged.

    Args:
        generate: (params, numbers=image numbers [B], batch=what `Run.read` says) -> images, uint8 [B, H, W, C], and which of
            them are finite; or None.
        held_out: stacked batches that are not trained on, or None.
        evaluate: images -> figures by name, or None.
    """
    found = [] if held_out is None else [Hook(run.sample_every, _held_out_loss(run, held_out))]
    if generate is not None:
        whole, options = sharding.replicated(run.mesh), compiling.options(run.mesh)
        generate = jax.jit(generate, out_shardings=whole, compiler_options=options)
        found += [Hook(run.sample_every, _preview(run, generate))]
    found += [Hook(run.sample_every, lambda state: run.log.loss_curve())]
    if evaluate is not None:
        found += [Hook(run.evaluate_every, _evaluation(run, generate, evaluate))]
    return [*found, Hook(run.checkpoint_every, save)]


def _preview(run: Run, generate: Callable[..., tuple[Array, Array]]) -> Callable[[TrainState], None]:
    """Returns what records a grid of images of each set of weights."""
    batches, medium = _batches(run, run.medium.num_pictured), run.medium

    def preview(state: TrainState) -> None:
        for name, params in _weights(state).items():
            grid = medium.grid(_images(generate, name, params, batches)[: medium.num_pictured])
            run.log.picture(int(state.step), name, grid)
        logs.say("preview", f"of step {int(state.step):,}, as PNG: {', '.join(_weights(state))}")

    return preview


def _batches(run: Run, num_images: int) -> list[dict[str, Any]]:
    """Returns what the first images are made of, a picture's at a time or a few more, on the devices: read now, once."""
    at_once = -(-run.medium.num_pictured // run.mesh.size) * run.mesh.size
    numbers = [np.arange(first, first + at_once) for first in range(0, num_images, at_once)]
    where = sharding.batched(run.mesh)
    return [sharding.put_global({"numbers": few, "batch": run.read(few)}, where) for few in numbers]


def _images(generate: Callable[..., tuple[Array, Array]], name: str, params: Any, batches: list[dict]) -> np.ndarray:
    """Returns what the weights of a name draw; says where that is not finite."""
    drawn = [jax.device_get(generate(params, **batch)) for batch in batches]
    images, finite = map(np.concatenate, zip(*drawn, strict=True))
    if not np.all(finite):
        logs.say("warning", f"of the weights {name!r}, {errors.not_finite(finite)}")
    return images


def _evaluation(run: Run, generate: Callable[..., tuple[Array, Array]], evaluate: Callable[[np.ndarray], dict[str, float]]):
    """Returns what logs figures of the last EMA's images; the first process alone finds them."""
    batches = _batches(run, NUM_EVALUATED)

    def log_figures(state: TrainState) -> None:
        began, (name, params) = time.monotonic(), list(_weights(state).items())[-1]
        images = _images(generate, name, params, batches)[:NUM_EVALUATED]
        if sharding.is_first():
            figures = {f"{figure}_{name}": value for figure, value in evaluate(images).items()}
            run.log.metrics(int(state.step), figures)
            shown = "  ".join(f"{figure} {value:.4g}" for figure, value in figures.items())
            logs.say("evaluated", f"{shown}, in {time.monotonic() - began:.0f} s")

    return log_figures


def _held_out_loss(run: Run, held_out: Batch) -> Callable[[TrainState], None]:
    """Returns what logs the loss of images that are not trained on: always with the same levels and noises."""
    loss = jax.jit(functools.partial(step.held_out_loss, parts=run.parts), compiler_options=compiling.options(run.mesh))

    def log_loss(state: TrainState) -> None:
        losses = {
            f"held_out_loss_{name}": float(loss(state._replace(params=params), held_out))
            for name, params in _weights(state).items()
        }
        run.log.metrics(int(state.step), losses)
        logs.say("held out", "  ".join(f"{name} {value:.4f}" for name, value in losses.items()))

    return log_loss


def _weights(state: TrainState) -> dict[str, Any]:
    """Returns the parameters, as 'raw', and all EMA weights but those that only make others."""
    return {"raw": state.params} | {f"ema{name}": params for name, params in state.ema.items() if name[0].isdigit()}
