"""Training: python main.py --config=configs/<name>.py --workdir=<workdir>; the same command resumes."""

import functools
import itertools
import signal
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from diffusion_jax import model, streams
from diffusion_jax.compose import inputs, memory, processes, sampling, stored, training
from diffusion_jax.compose.config import Config
from diffusion_jax.data import feed, sources
from diffusion_jax.data.sources import Source
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import compiling, lock, logs, sharding, storage
from diffusion_jax.runs.checkpoint import Checkpoints
from diffusion_jax.training import loop
from diffusion_jax.training.loop import Hook, Parts
from diffusion_jax.training.state import TrainState

NUM_PREVIEWED = 64
NUM_HELD_OUT = 1024  # images at most of which the held-out loss is taken


def run(config: Config, workdir: storage.Path) -> int:
    """Trains until `train.num_steps`, going on from the latest checkpoint of the workdir if it has one.

    Args:
        config: checked by `checks.check`.
        workdir: where checkpoints, metrics and pictures go.

    Returns:
        The exit code: 0, or 128 + the signal that ended the run early.
    """
    mesh = sharding.make_mesh(num_fsdp=config.train.num_fsdp)
    is_new = not stored.has_config(workdir)
    config = _with_batch_size(config if is_new else stored.agreed_config(workdir, config), mesh)
    if config.train.init_from and is_new:
        stored.read_config(storage.path(config.train.init_from))  # before anything is read or written
    sharding.check_batch_size(config.train.batch_size, mesh)
    sampling.solve(config)  # the settings of the pictures fit together
    parts, source = training.parts(config), inputs.source(config)
    if not is_new:
        stored.check_images(workdir, _seen(config, source))
    records, held_out = _read(config, source, mesh), _read_held_out(config, mesh)
    storage.make_dir(workdir)
    with (
        lock.owning(workdir) as check_owner,
        Checkpoints(workdir, keep=config.train.keep_checkpoints) as checkpoints,
        loop.catch_signals() as caught,
    ):
        state = _start(config, parts, mesh, checkpoints)
        first_step = int(state.step)
        per_call = training.steps_per_call(config, first_step=first_step, platform=jax.default_backend())
        _say_what(config, source, mesh, state, per_call)
        broken: list[UserError] = []
        fed = _feed(config, source, records, mesh, first_step, per_call, broken)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        how = {"num_steps": per_call, "deterministic": config.train.deterministic}
        step = compile_step(parts, fed.batch, mesh, shardings, **how)
        with logs.Logs(workdir, first_step=first_step, tensorboard=config.train.tensorboard) as log:
            watch, save = Watch(config, log), functools.partial(_save, workdir, config, source, checkpoints, log, broken)
            state = loop.run(
                state,
                lambda state, item: step(state, fed.store, item),
                fed.items,
                first_step=first_step,
                num_steps=config.train.num_steps,
                steps_per_call=per_call,
                on_metrics=watch,
                hooks=_hooks(config, parts, held_out, mesh, log, save),
                stop=lambda call: check_owner() or sharding.all_stop(call, caught),
            )
            save(state)
            inexact = _is_inexact(broken)
    if broken:
        raise broken[0]
    if inexact:
        raise RunError("another process could not read an image, and says which; the checkpoints are those before.")
    return _say_end(config, workdir, state, caught)


def _with_batch_size(config: Config, mesh: Mesh) -> Config:
    """Returns the config with a batch size: its own, or what the memory holds."""
    if config.train.batch_size:
        return config
    size = memory.batch_size(config, memory=sharding.memory_per_device(), num_devices=mesh.size)
    logs.say("picked", f"batches of {size}")
    return config.with_values("train", batch_size=size)


def _start(config: Config, parts: Parts, mesh: Mesh, checkpoints: Checkpoints) -> TrainState:
    """Returns the latest checkpoint's state, or that before the first step, on its devices."""
    make_state = functools.partial(loop.make_state, parts=parts)
    key = streams.key(config.train.seed, "init")
    abstract = jax.eval_shape(make_state, key)
    shardings = sharding.of_state(abstract, mesh, shard_optimizer=config.train.shard_optimizer)
    if (state := checkpoints.restore_latest(sharding.described(abstract, shardings))) is not None:
        logs.say("resumed", f"at step {int(state.step):,}")
        return state
    state = jax.jit(make_state, out_shardings=shardings)(key)
    return _take_weights(state, config) if config.train.init_from else state


def _take_weights(state: TrainState, config: Config) -> TrainState:
    """Returns a new run's state with the weights of another run, wherever name and shape agree; the others are named."""
    init_from = config.train.init_from
    origin = storage.path(init_from)
    raw, averaged = model.load(origin, ema_rate=0.0), model.load(origin).params
    params, fresh = _take(state.params, raw.params)
    logs.say("weights", f"from {init_from}; fresh: {', '.join(fresh) or 'none'}")
    for name in ("predicts", "process"):
        if getattr(raw.config, name) != getattr(config, name):
            logs.say(
                "warning", f"{name} was {getattr(raw.config, name)} there: the weights will have to learn another task."
            )
    return state._replace(params=params, ema={name: _take(average, averaged)[0] for name, average in state.ema.items()})


def _take(new: Any, old: Any) -> tuple[Any, list[str]]:
    """Returns `new` with the arrays of `old` that fit, on the devices of `new`, and the names of those that did not."""
    named = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(old)}
    fresh = []

    def take(path, leaf):
        name = jax.tree_util.keystr(path)
        if name in named and named[name].shape == leaf.shape:
            return sharding.place(np.asarray(named[name]), leaf.sharding)
        fresh.append(name)
        return leaf

    return jax.tree_util.tree_map_with_path(take, new), fresh


def _read(config: Config, source: Source, mesh: Mesh) -> feed.Records | None:
    """Returns all images of a source on every device, while a terminal shows how far it is; None if they are too many."""
    if not inputs.is_resident(config, source.num_images):
        feed.import_grain()
        source.read(0)  # what is wrong with all images is said now
        return None
    progress = logs.Progress("images read", total=source.num_images)
    records = feed.read_all(source, progress.update)
    progress.clear()
    return sharding.place(records, sharding.replicated(mesh))


def _read_held_out(config: Config, mesh: Mesh) -> feed.Batch | None:
    """Returns batches of images that are not trained on, stacked: always the same; None if the config names none."""
    if (source := inputs.held_out(config)) is None:
        return None
    source = sources.thinned(source, NUM_HELD_OUT)
    fed = feed.make_feed(source, feed.read_all(source), first_step=0, **_batching(config))
    num_batches = max(1, source.num_images // config.train.batch_size)
    batches = fed.batch(fed.store, next(feed.stacked(fed.items, num_batches)))
    return sharding.to_global(batches, sharding.batched(mesh, axis=1))


def _feed(
    config: Config,
    source: Source,
    records: feed.Records | None,
    mesh: Mesh,
    first_step: int,
    per_call: int,
    broken: list[UserError],
) -> feed.Feed:
    """Returns the feed, its items as they are sent for each call; they end where an image is broken, which `broken` gets.

    Several processes must stop at the same call: until they have agreed on one, the last whole item comes again.
    """
    fed = feed.make_feed(source, records, first_step=first_step, **_batching(config))
    items = fed.items if per_call == 1 else feed.stacked(fed.items, per_call)
    where = sharding.batched(mesh, axis=0 if per_call == 1 else 1)

    def sent():
        latest = None
        try:
            for item in items:
                latest = sharding.to_global(item, where)
                yield latest
        except UserError as error:
            if latest is None:
                raise
            broken.append(error)
            if jax.process_count() > 1:
                signal.raise_signal(signal.SIGTERM)  # which JAX tells the others of
                yield from itertools.repeat(latest)

    return fed._replace(items=sent())


def compile_step(
    parts: Parts,
    batch_of: Callable[[Any, Any], feed.Batch],
    mesh: Mesh,
    shardings: TrainState,
    *,
    num_steps: int,
    deterministic: bool = False,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the jitted training step (state, store, item) -> (state, metrics), the state donated.

    Args:
        parts: what a step is made of.
        batch_of: (store, item) -> batch, see `feed.Feed`.
        mesh: of the devices.
        shardings: of the state.
        num_steps: taken in one call; above one, items and metrics are stacked.
        deterministic: see `compiling.options`.
    """
    take = functools.partial(loop.train_step if num_steps == 1 else loop.train_steps, parts=parts)
    where, options = (shardings, sharding.replicated(mesh)), compiling.options(deterministic=deterministic)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=where, compiler_options=options)
    def step(state: TrainState, store: Any, item: Any):
        return take(state, batch_of(store, item))

    return step


def _batching(config: Config) -> dict[str, Any]:
    """Returns how images become batches."""
    return {
        "batch_size": config.train.batch_size,
        "seed": config.train.seed,
        "with_labels": config.model.num_classes > 0,
        "part": jax.process_index(),
        "num_parts": jax.process_count(),
    }


class Watch:
    """Receives every call's metrics: logs their means, and ends a run that has lost its way."""

    def __init__(self, config: Config, log: logs.Logs):
        train = config.train
        self._every, self._last, self._max_skipped = train.log_every, train.num_steps, train.max_skipped
        self._log, self._began = log, time.monotonic()
        self.progress = logs.Progress("steps", total=train.num_steps)
        self._since: list[dict[str, np.ndarray]] = []

    def __call__(self, step: int, metrics: dict[str, Any]) -> None:
        metrics = {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}
        if self._began is not None:
            waited, self._began = time.monotonic() - self._began, None
            logs.say(
                "started", f"step {step:,} is done after {waited:.0f} s, compiling included; a line every {self._every:,}"
            )
        self._since.append(metrics)
        self.progress.update(step, f"loss {metrics['loss'][-1]:.4f}")
        if (in_a_row := np.max(metrics["skipped_in_a_row"])) >= self._max_skipped:
            raise RunError(
                f"the loss or its gradient was not finite in {in_a_row} steps in a row, up to step {step}; the checkpoints "
                "are those before. Look at the data, or lower train.learning_rate (with checkpoints, in another workdir)."
            )
        if step % self._every == 0 or step == self._last:
            self._record(step)

    def _record(self, step: int) -> None:
        columns = {name: np.concatenate([metrics[name] for metrics in self._since]) for name in self._since[0]}
        finite = {name: column[np.isfinite(column)] for name, column in columns.items() if not name.startswith("skipped")}
        means = {name: float(np.mean(column)) for name, column in finite.items() if len(column)}
        means["skipped"] = int(columns["skipped"][-1])
        self._since = []
        self._log.metrics(step, means)
        self.progress.clear()
        shown = "  ".join(f"{name} {means[name]:.4f}" for name in ("loss", "grad_norm") if name in means)
        logs.say("train", f"{self.progress.text()}  {shown or 'no finite loss'}")


def _seen(config: Config, source: Source) -> dict[str, Any]:
    """Returns what must stay of the images when a run goes on: their order and their labels depend on it."""
    classes = list(source.class_names) if config.model.num_classes else []
    return {"num_images": source.num_images, "class_names": classes}


def _is_inexact(broken: list[UserError]) -> bool:
    """Returns whether steps were taken with a batch of before, because one of several processes could not read its own."""
    return jax.process_count() > 1 and sharding.any_process(bool(broken))


def _save(
    workdir: storage.Path,
    config: Config,
    source: Source,
    checkpoints: Checkpoints,
    log: logs.Logs,
    broken: list[UserError],
    state: TrainState,
) -> None:
    """Saves a state that is exact, with the config beside it: a run that never came so far does not own its workdir.

    The metrics up to here are in their file before: a run that resumes from this state does not make them again.
    """
    if _is_inexact(broken):
        return
    log.wait_for_metrics()
    if sharding.is_first():
        stored.write_config(workdir, config, images=_seen(config, source))
    checkpoints.save(state)


def _hooks(
    config: Config,
    parts: Parts,
    held_out: feed.Batch | None,
    mesh: Mesh,
    log: logs.Logs,
    save: Callable[[TrainState], None],
) -> list[Hook]:
    draw = jax.jit(sampling.draw(config), out_shardings=sharding.replicated(mesh))
    padded = -(-NUM_PREVIEWED // mesh.size) * mesh.size
    numbers = sharding.place(np.arange(padded), sharding.batched(mesh))

    def preview(state: TrainState) -> None:
        for name, params in _weights(state).items():
            drawn, _ = draw(params, config.sample.seed, numbers)
            log.grid(int(state.step), name, np.asarray(drawn)[:NUM_PREVIEWED])
        log.loss_curve()

    every = config.train.sample_every
    watched = [] if held_out is None else [Hook(every, _held_out_hook(parts, held_out, log))]
    return [
        *watched,
        Hook(every, preview),
        Hook(config.train.checkpoint_every, save),
    ]  # the save seals what was logged


def _weights(state: TrainState) -> dict[str, Any]:
    """Returns the parameters, as 'raw', and every average of them."""
    return {"raw": state.params} | {f"ema{name}": params for name, params in state.ema.items()}


def _held_out_hook(parts: Parts, held_out: feed.Batch, log: logs.Logs) -> Callable[[TrainState], None]:
    """Returns what logs the loss of images that are not trained on: always with the same levels and noises."""
    loss = jax.jit(functools.partial(loop.held_out_loss, parts=parts))

    def log_loss(state: TrainState) -> None:
        losses = {f"held_out_loss_{name}": float(loss(params, held_out)) for name, params in _weights(state).items()}
        log.metrics(int(state.step), losses)
        logs.say("held out", "  ".join(f"{name} {value:.4f}" for name, value in losses.items()))

    return log_loss


def _say_what(config: Config, source: Source, mesh: Mesh, state: TrainState, per_call: int) -> None:
    """Prints what is about to run, a line each."""
    train, device = config.train, jax.devices()[0]
    num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    height, width, channels = processes.image_shape(config)
    logs.say(
        "devices", f"{jax.device_count()} x {device.device_kind} ({device.platform}), {jax.process_count()} process(es)"
    )
    logs.say("mesh", ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items()))
    where = "on the devices" if inputs.is_resident(config, source.num_images) else "read as needed"
    logs.say("data", f"{config.data.source}: {source.num_images:,} images, {height} x {width} x {channels}, {where}")
    if config.model.num_classes and source.class_names:
        logs.say("classes", ", ".join(f"{label} {name}" for label, name in enumerate(source.class_names)))
        if (num_classes := config.model.num_classes) > len(source.class_names):
            logs.say(
                "warning", f"config field model.num_classes = {num_classes} is more than these; the others learn nothing."
            )
    logs.say("network", f"{num_params:,} parameters, {config.model.dtype}")
    span = f"{int(state.step):,} to {train.num_steps:,}"
    logs.say("steps", f"{span}, {train.batch_size} images each, {per_call} in a call")
    if state.step >= train.num_steps:
        logs.say("note", "train.num_steps are taken already; set more to go on.")
    for doubt in sampling.doubts(config):
        logs.say("warning", doubt)
    logs.say("note", "Ctrl-C is safe: it finishes the step and saves; the same command resumes.")


def _say_end(config: Config, workdir: storage.Path, state: TrainState, caught: list[int]) -> int:
    step = int(state.step)
    if caught and step < config.train.num_steps:
        logs.say("stopped", f"by signal {caught[0]}, saved at step {step:,}; the same command resumes.")
        return 128 + caught[0]
    logs.say("done", f"{step:,} steps; see {workdir}/previews, or: python main.py --mode=sample --workdir={workdir}")
    return 0
