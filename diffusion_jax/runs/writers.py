"""Where the metrics and pictures of a run go. A writer may fail and may be slow: `logs.Logs` gives each a thread."""

import functools
import importlib.util
import json
import os
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax import errors
from diffusion_jax.errors import UserError
from diffusion_jax.runs import pictures, storage


def _nothing(*arguments: Any) -> None:
    pass


class Writer(NamedTuple):
    """What `Logs` writes to, as functions; they are called in the order of the run."""

    name: str  # in the warning where it fails
    open: Callable[[], None] = _nothing
    metrics: Callable[[int, Mapping[str, float]], None] = _nothing  # (step, figures)
    images: Callable[[int, str, np.ndarray], None] = _nothing  # (step, name, a picture, uint8 [H, W, C])
    close: Callable[[], None] = _nothing


def json_lines(workdir: storage.Path, *, first_step: int) -> Writer:
    """Returns what writes metrics.jsonl, and drops its lines after `first_step`: a resumed run makes them again."""
    file = workdir / "metrics.jsonl"

    def drop() -> None:
        kept = [line for line in read_metrics(file) if line["step"] <= first_step]
        if kept or file.exists():
            storage.write_text(file, "".join(json.dumps(line) + "\n" for line in kept))

    def metrics(step: int, values: Mapping[str, float]) -> None:
        if finite := {name: value for name, value in values.items() if np.isfinite(value)}:  # NaN is no JSON
            storage.append_text(file, json.dumps({"step": step, **finite}) + "\n")

    return Writer(file.name, drop, metrics)


def previews(workdir: storage.Path) -> Writer:
    """Returns what writes PNG files into previews/."""

    def images(step: int, name: str, grid: np.ndarray) -> None:
        storage.write_bytes(workdir / "previews" / f"step_{step:07d}_{name}.png", pictures.encode_png(grid))

    return Writer("previews", images=images)


def tensorboard(workdir: storage.Path) -> Writer:
    """Returns what writes into tensorboard/ by clu, imported at first use: TensorFlow takes seconds."""

    @functools.cache
    def clu() -> Any:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # or it announces itself
        from clu import metric_writers

        return metric_writers.SummaryWriter(str(workdir / "tensorboard"))

    def metrics(step: int, values: Mapping[str, float]) -> None:
        clu().write_scalars(step, values)
        clu().flush()

    def images(step: int, name: str, grid: np.ndarray) -> None:
        clu().write_images(step, {name: grid[None]})
        clu().flush()

    return Writer("TensorBoard", metrics=metrics, images=images, close=lambda: clu.cache_info().currsize and clu().close())


def weights_and_biases(workdir: storage.Path, project: str, *, first_step: int, settings: Mapping[str, Any]) -> Writer:
    """Returns what writes into a run of a project of Weights & Biases, which begins here; wandb/run_id names it for later.

    A resumed run makes some steps again, of which the service keeps the first figures; they are the same.

    Args:
        settings: shown beside the run.

    Raises:
        UserError: where the run cannot begin, as without a key.
    """
    import wandb

    file = workdir / "wandb" / "run_id"
    run_id = storage.read_text(file, "a run's name") if first_step and file.exists() else uuid.uuid4().hex
    storage.write_text(file, run_id)
    options = {"config": dict(settings), "settings": wandb.Settings(console="off", quiet=True)}
    options |= {} if storage.is_object_store(workdir) else {"dir": str(workdir)}
    try:
        run = wandb.init(project=project, id=run_id, name=workdir.name, resume="allow", **options)
    except Exception as error:  # wandb has no one class of its own for these
        raise UserError(
            f"config field train.wandb = {project!r} cannot be written to ({errors.first_line(error).rstrip('.')}); "
            "log in with `wandb login`, or set the variable WANDB_MODE=offline to write into the workdir alone."
        ) from error
    return Writer(
        "Weights & Biases",
        metrics=lambda step, values: run.log(dict(values), step=step),
        images=lambda step, name, grid: run.log({name: wandb.Image(grid)}, step=step),
        close=run.finish,
    )


def check_installed(project: str) -> None:
    """Raises UserError where a project of Weights & Biases is asked for and its package is missing."""
    if project and importlib.util.find_spec("wandb") is None:
        raise UserError(f"config field train.wandb = {project!r} needs a package: pip install wandb; or set it to ''.")


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
