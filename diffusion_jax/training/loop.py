"""The training step and the loop around it. [Ho et al. 2020, Algorithm 1]"""

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from diffusion_jax import streams
from diffusion_jax.data import codecs
from diffusion_jax.denoiser import Denoiser
from diffusion_jax.losses import Loss
from diffusion_jax.networks import Network
from diffusion_jax.process import Level
from diffusion_jax.timesteps import Timesteps
from diffusion_jax.training import state as train_state
from diffusion_jax.training.state import TrainState


class Parts(NamedTuple):
    """What a training step is made of."""

    network: Network
    make_denoiser: Callable[[Callable[[Array, Array], Array]], Denoiser]  # (x_t, condition) -> output, as a denoiser
    level_of: Callable[[Array], Level]  # t, as `timesteps` draws it -> Level
    timesteps: Timesteps
    loss: Loss
    optimizer: optax.GradientTransformation
    ema_rates: tuple[float, ...]
    ema_warmup: bool
    random_flip: bool
    label_dropout: float
    null_label: int
    seed: int


def make_state(key: Array, *, parts: Parts) -> TrainState:
    """Returns the state before the first step."""
    params = parts.network.init(key)
    return train_state.make_train_state(params, parts.optimizer, parts.ema_rates, parts.timesteps.init())


def train_step(state: TrainState, batch: dict[str, Any], *, parts: Parts) -> tuple[TrainState, dict[str, Array]]:
    """Returns (the state after one step, its metrics). A step whose loss or gradient is not finite changes no weight.

    Args:
        state: before the step.
        batch: {"image": uint8 [B, H, W, C], "cond": pytree}.
        parts: what the step is made of.
    """
    keys = jax.random.split(streams.key(parts.seed, "train", state.step), 5)
    key_flip, key_label, key_t, key_loss, key_dropout = keys
    x_0 = codecs.from_uint8(batch["image"])
    x_0 = random_flip(x_0, key_flip) if parts.random_flip else x_0
    cond, rate = batch["cond"], parts.label_dropout
    cond = drop_labels(cond, key_label, rate, parts.null_label) if rate else cond
    t, weight = parts.timesteps.draw(state.timestep_state, key_t, len(x_0))

    def objective(params):
        network = functools.partial(parts.network.apply, params, cond=cond, train=True, rngs={"dropout": key_dropout})
        losses, terms = parts.loss(parts.make_denoiser(network), x_0, parts.level_of(t), key_loss)
        return jnp.mean(weight * losses), (losses, terms)

    (loss, (losses, terms)), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
    grad_norm = optax.tree.norm(gradient)
    updates, opt_state = parts.optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    moved = state._replace(
        params=params,
        ema=train_state.update_ema(state.ema, params, num_updates=state.step if parts.ema_warmup else None),
        opt_state=opt_state,
        timestep_state=parts.timesteps.update(state.timestep_state, t, losses),
    )
    state = train_state.advance(state, moved, jnp.isfinite(loss) & jnp.isfinite(grad_norm))
    terms = {name: jnp.mean(term) for name, term in terms.items()}
    return state, {"loss": loss, "grad_norm": grad_norm, **terms, **state.counters}


def train_steps(state: TrainState, batches: dict[str, Any], *, parts: Parts) -> tuple[TrainState, dict[str, Array]]:
    """Returns `train_step` taken once for each of the stacked batches, and the metrics of each. # {name: [k]}"""
    return jax.lax.scan(lambda state, batch: train_step(state, batch, parts=parts), state, batches)


def held_out_loss(params: Any, batches: dict[str, Any], *, parts: Parts) -> Array:
    """Returns the mean loss of stacked batches; the levels and the noises are the same every time. # []"""

    def of_batch(numbered) -> Array:
        index, batch = numbered
        key_t, key_loss = jax.random.split(streams.key(parts.seed, "evaluate", index))
        t, weight = parts.timesteps.draw(parts.timesteps.init(), key_t, len(batch["image"]))
        denoise = parts.make_denoiser(functools.partial(parts.network.apply, params, cond=batch["cond"]))
        losses, _ = parts.loss(denoise, codecs.from_uint8(batch["image"]), parts.level_of(t), key_loss)
        return jnp.mean(weight * losses)

    return jnp.mean(jax.lax.map(of_batch, (jnp.arange(len(batches["image"])), batches)))


def random_flip(x: Array, key: Array) -> Array:
    """Returns images, each mirrored left to right with probability 1/2. # [B, H, W, C]"""
    flip = jax.random.bernoulli(key, shape=(len(x), 1, 1, 1))
    return jnp.where(flip, x[:, :, ::-1], x)


def drop_labels(cond: dict[str, Array], key: Array, rate: float, null_label: int) -> dict[str, Array]:
    """Returns the conditions, each label replaced by the null label with a probability. [Ho & Salimans 2022, algorithm 1]"""
    drop = jax.random.bernoulli(key, rate, cond["label"].shape)
    return {**cond, "label": jnp.where(drop, null_label, cond["label"])}


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
    """Returns the state after `num_steps` steps, or after the call during which `stop` became true or batches ran out.

    The metrics of a call are read after the next has been dispatched, so that the device never waits for the host.

    Args:
        state: after `first_step` steps.
        step_fn: (state, batch) -> (state, metrics), `steps_per_call` steps at once.
        batches: one for each call.
        first_step: steps already taken.
        num_steps: steps to take in all.
        steps_per_call: must divide `num_steps - first_step` and every hook's interval.
        on_metrics: gets (steps taken, metrics) of every call in turn.
        hooks: called with the state, in order.
        stop: asked before every call, with its number from 0.
    """
    previous = None
    for call, step in enumerate(range(first_step + steps_per_call, num_steps + 1, steps_per_call)):
        if stop(call):
            break
        if (batch := next(batches, None)) is None:
            break
        state, metrics = step_fn(state, batch)
        if previous:
            on_metrics(*previous)
        previous = step, metrics
        due = [hook for hook in hooks if step % hook.every == 0 or step == num_steps]
        if due:
            on_metrics(*previous)
            previous = None
        for hook in due:
            hook.call(state)
    if previous:
        on_metrics(*previous)
    return state


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Gives a list to which SIGINT and SIGTERM are appended instead of ending the process; a second SIGINT ends it.

    With several processes SIGTERM is JAX's, which tells the others of it, and SIGINT becomes one; see `sharding.all_stop`.
    """
    caught: list[int] = []
    interrupts: list[int] = []

    def catch(number: int, frame) -> None:
        if number == signal.SIGINT and (caught or interrupts):
            print("stopped at once: what was not saved yet is lost; the same command resumes.", file=sys.stderr, flush=True)
            os._exit(128 + number)  # an exception in the middle of a compilation would crash
        print("stopping after this step, then saving; Ctrl-C again ends at once.", file=sys.stderr, flush=True)
        interrupts.extend([number] * (number == signal.SIGINT))
        caught.append(number) if alone else signal.raise_signal(signal.SIGTERM)

    alone = jax.process_count() == 1
    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)[: 2 if alone else 1]}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
