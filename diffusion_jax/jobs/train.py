"""Training: python main.py --config=configs/<name>.py --workdir=<workdir>; the same command resumes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from diffusion_jax import model
from diffusion_jax.compose import (
    checks,
    choices,
    coding,
    evaluating,
    frozen,
    inputs,
    latents,
    memory,
    processes,
    sample_conditions,
    sampling,
    stored,
    training,
)
from diffusion_jax.compose.config import Config
from diffusion_jax.data import feed
from diffusion_jax.data.sources import Source
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import checkpoint, flops, hardware, lock, logs, sharding, storage, writers
from diffusion_jax.runs.checkpoint import Checkpoints
from diffusion_jax.runs.writers import Writer
from diffusion_jax.training import loop, start, step, watch
from diffusion_jax.training.state import TrainState


def run(config: Config, workdir: storage.Path) -> int:
    """Trains until `train.num_steps`, going on from the latest checkpoint of the workdir if it has one.

    Returns the exit code: 0, or 128 + a signal that asked it to stop, also after the last step. The config is checked by
    `checks.check`.
    """
    writers.check_installed(config.train.wandb)
    inputs.check_apart(config, workdir)
    mesh = sharding.make_mesh(num_fsdp=config.train.num_fsdp)
    config, source, held_out_images = latents.images(_agreed(config, workdir, mesh), workdir)
    parts, train = training.parts(config), config.train
    evaluate = evaluating.in_training(config) if train.evaluate_every else None
    sharding.check_same("number of images", source.num_images)
    if stored.has_config(workdir):
        stored.check_images(workdir, inputs.data_fingerprint(config, source))
    records, held_out = inputs.records(config, source, mesh), inputs.held_out_batches(config, held_out_images, mesh)
    storage.make_dir(workdir)
    with (
        lock.owning(workdir) as check_owner,
        Checkpoints(workdir, keep=train.keep_checkpoints) as checkpoints,
        loop.catch_signals() as caught,
    ):
        prepared = functools.partial(_prepared, config)
        state = start.first_state(parts, mesh, checkpoints, shard_optimizer=train.shard_optimizer, prepared=prepared)
        state = state._replace(frozen=_teacher(config, state))
        first_step = int(state.step)
        per_call = training.steps_per_call(config, first_step=first_step, platform=jax.default_backend())
        print_summary(config, source, mesh, state, per_call)
        fed = feed.make_feed(source, records, first_step=first_step, **inputs.batching(config))
        fed = feed.on_devices(fed, mesh, steps_per_call=per_call)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        options = {"num_steps": per_call, "deterministic": train.deterministic}
        take = step.compile_step(parts, fed.batch, mesh, shardings, **options)
        with logs.Logs(workdir, first_step=first_step, others=_writers(config, workdir, first_step)) as log:
            read = functools.partial(sample_conditions.read, sample_conditions.source(config))
            medium = choices.MEDIA[config.data.medium]
            watched = choices.chosen(watch.Run, train, parts=parts, medium=medium, mesh=mesh, log=log, read=read)
            watching, save = watch.Watch(watched), functools.partial(_save, config, workdir, source, checkpoints, log)
            state = loop.run(
                state,
                _measured(take, fed.store, mesh, per_call, watching),
                fed.items,
                first_step=first_step,
                num_steps=train.num_steps,
                steps_per_call=per_call,
                on_metrics=watching,
                hooks=watch.hooks(watched, _generate(config), held_out, save, evaluate),
                stop=lambda call: check_owner() or sharding.all_stop(call, caught),
            )
            num_taken = int(state.step) - first_step
            is_saved = num_taken > 0 and int(state.step) % train.checkpoint_every == 0  # by the hook
            is_early = caught and num_taken <= per_call and not is_saved and int(state.step) < train.num_steps
            if not is_early and (num_taken or not watching.is_unreadable):
                save(state)
    if is_early:
        return _print_unsaved(first_step, caught)
    if watching.is_unreadable:
        unread = "another process could not read an image, and says which; what was learned is saved."
        raise fed.failure() or RunError(unread)
    return _print_end(config, workdir, state, caught)


def _measured(take: Callable, store: Any, mesh: Mesh, per_call: int, watching: watch.Watch) -> Callable:
    """Returns (state, item) -> `take`(state, store, item), which at first tells the watch what a step costs at the peak."""
    peak = hardware.peak(mesh)

    def measured(state: TrainState, item: Any) -> tuple[TrainState, dict[str, Array]]:
        if peak and not watching.least_step_s:  # the call does not trace again
            watching.least_step_s = flops.count(take, state, store, item) / per_call / peak
        return take(state, store, item)

    return measured


def _writers(config: Config, workdir: storage.Path, first_step: int) -> list[Writer]:
    """Returns where metrics and pictures go beside metrics.jsonl and previews/; the first process alone writes."""
    found = [writers.tensorboard(workdir)] if config.train.tensorboard else []
    if (project := config.train.wandb) and sharding.is_first():
        settings = config.flat()
        found += [writers.weights_and_biases(workdir, project, first_step=first_step, settings=settings)]
    return found


def is_done(config: Config, workdir: storage.Path) -> bool:
    """Returns whether a workdir has the checkpoint with which the training ends, so that `run` would have nothing to do."""
    return stored.has_config(workdir) and config.train.num_steps in checkpoint.steps(workdir)


def _agreed(config: Config, workdir: storage.Path, mesh: Mesh) -> Config:
    """Returns the config as this run takes it. What it leaves open is what the workdir's run chose, or follows from the data
    and the memory.

    Raises UserError where it does not fit the workdir, the data or the devices.
    """
    if stored.has_config(workdir):
        stored.check_resumable(workdir)
        config = stored.agreed_config(workdir, config, advice=stored.ADVICE_TO_TRAIN)
        frozen.check(config, workdir)
        config = stored.with_own_folders(config, workdir)
        if changed := stored.changed_since(workdir, sharding.device_name()):
            logs.say("note", f"since the run was saved: {changed}; it goes on to rounding, not to the byte.")
    elif config.train.init_from:
        stored.read_config(storage.path(config.train.init_from))  # before anything is read or written
    checks.check(config := inputs.with_num_classes(config))
    return memory.with_batch_size(config, mesh, memory=sharding.memory_per_device())


def _prepared(config: Config, state: TrainState) -> TrainState:
    """Returns a new run's state with the weights that `train.init_from` names; it says where they had another task."""
    if not (init_from := config.train.init_from):
        return state
    origin = storage.path(init_from)
    average = model.load(origin)
    raw = average if config.loss.name in training.FEW_STEPS else model.load(origin, ema_rate=0.0)
    began = stored.read_config(origin)  # with a learned process as it was before
    for name in ("predicts", "process"):
        if (there := getattr(began, name)) != getattr(config, name):
            logs.say("warning", f"{name} was {there} there: the weights will have to learn another task.")
    return start.with_weights(state, init_from, raw.params, average.params)


def _teacher(config: Config, state: TrainState) -> Any:
    """Returns the weights of the network that a student learns from, () where there is none.

    Raises UserError where it has another task or other parts than the student.
    """
    if not training.has_teacher(config):
        return ()
    teacher = model.load(storage.path(origin := config.train.init_from))
    for name in ("predicts", "process"):
        if getattr(teacher.config, name) != getattr(config, name):
            there, here = getattr(teacher.config, name), getattr(config, name)
            raise UserError(
                f"config field {name} is ({there}) in {origin!r}, the teacher, and ({here}) here; both must agree."
            )
    if jax.tree.map(np.shape, teacher.params) != jax.tree.map(np.shape, state.params):
        raise UserError(f"the network of {origin!r}, the teacher, has other parameters; copy its section model.")
    return jax.tree.map(
        lambda leaf, like: sharding.put_global(np.asarray(leaf), like.sharding), teacher.params, state.params
    )


def _generate(config: Config) -> Callable[..., tuple[Array, Array]] | None:
    """Returns what draws previews, of an autoencoder what it makes of images; None for a classifier, which draws none."""
    if processes.is_classifier(config):
        return None
    if processes.is_autoencoder(config):
        return functools.partial(coding.make_reconstruct(config), seed=0)
    return functools.partial(sampling.make_generate(config), seed=config.sample.seed)


def _save(
    config: Config, workdir: storage.Path, source: Source, checkpoints: Checkpoints, log: logs.Logs, state: TrainState
) -> None:
    """Saves a state, with the config beside it: a run that never came so far does not own its workdir.

    The metrics up to here are in their file before: a run that resumes from this state does not make them again.
    """
    log.wait_for_metrics()
    if sharding.is_first():
        frozen.keep(config, workdir)
        more = {"images": inputs.data_fingerprint(config, source), "frozen_sha256": frozen.hashes(config)}
        stored.write_config(workdir, config, device=sharding.device_name(), **more)
    checkpoints.save(state)


def print_summary(config: Config, source: Source, mesh: Mesh, state: TrainState, per_call: int) -> None:
    """Prints what will run, one line for each fact."""
    train, device = config.train, jax.devices()[0]
    num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    logs.say(
        "devices", f"{jax.device_count()} x {device.device_kind} ({device.platform}), {jax.process_count()} process(es)"
    )
    logs.say("mesh", ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items()))
    for label, text in inputs.summary(config, source):
        logs.say(label, text)
    logs.say("network", f"{num_params:,} parameters, {config.model.dtype}, {processes.network(config).parts.summary}")
    span = f"{int(state.step):,} to {train.num_steps:,}"
    logs.say("steps", f"{span}, {train.batch_size} images each, {per_call} step{'s' * (per_call > 1)} a call")
    if state.step >= train.num_steps:
        logs.say("note", "all train.num_steps are done; set a larger value to go on.")
    logs.say("note", *training.notes(config))
    logs.say("warning", *sampling.warnings(config))
    logs.say("note", "Ctrl-C is safe: it finishes the step and saves; the same command resumes.")


def _print_unsaved(first_step: int, caught: list[int]) -> int:
    left = f"it resumes at step {first_step:,}" if first_step else "nothing was saved, and any config may use the workdir"
    logs.say("stopped", f"by signal {caught[0]}, before there was a step worth saving; {left}.")
    return 128 + caught[0]


def _print_end(config: Config, workdir: storage.Path, state: TrainState, caught: list[int]) -> int:
    step = int(state.step)
    if caught:
        left = "the same command resumes" if step < config.train.num_steps else "that was the last step"
        logs.say("stopped", f"by signal {caught[0]}, saved at step {step:,}; {left}.")
        return 128 + caught[0]
    quoted = storage.quoted(workdir)
    see = f"{workdir}/previews, or: python main.py --mode=sample --workdir={quoted}"
    if processes.is_classifier(config):
        guide = f'--config.sample.guide={quoted} in --mode=sample, or in Python dj.load("{workdir}").log_prob(label)'
        see = f"{workdir}/loss.png; to guide another run's images: {guide}"
    logs.say("done", f"{step:,} steps; see {see}")
    return 0
