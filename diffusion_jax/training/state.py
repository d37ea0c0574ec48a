"""What training carries from step to step, and how parameters and their averages move."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array


class TrainState(NamedTuple):
    """Arrays only: everything that a checkpoint holds, and nothing that can be had from the config.

    Attributes:
        step: training steps taken, int32 [].
        params: the network's parameters.
        ema: {rate: average of the parameters}; the rate as text.
        opt_state: the optimizer's.
        timestep_state: what the draws of t have learned; () for uniform draws.
        counters: {'skipped': non-finite steps so far, 'skipped_in_a_row': those just now}, int32 [].
    """

    step: Array
    params: Any
    ema: dict[str, Any]
    opt_state: Any
    timestep_state: Any
    counters: dict[str, Array]


def make_train_state(
    params: Any, optimizer: optax.GradientTransformation, ema_rates: Sequence[float], timestep_state: Any
) -> TrainState:
    """Returns the state before the first step; every average starts as a copy of the parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema={ema_name(rate): jax.tree.map(jnp.copy, params) for rate in ema_rates},
        opt_state=optimizer.init(params),
        timestep_state=timestep_state,
        counters={"skipped": jnp.zeros((), jnp.int32), "skipped_in_a_row": jnp.zeros((), jnp.int32)},
    )


def ema_name(rate: float) -> str:
    """Returns the name of the average with a rate: '0.9999'."""
    return f"{rate:g}" if float(f"{rate:g}") == rate else repr(rate)


def update_ema(ema: dict[str, Any], params: Any, *, num_updates: Array | None = None) -> dict[str, Any]:
    """Returns each average moved to rate * average + (1 - rate) * params. [Ho et al. 2020, appendix B]

    Args:
        ema: {rate: average}.
        params: the parameters after a step.
        num_updates: n, for a warm-up: the rate is at most (1 + n) / (10 + n), so that the start is forgotten soon.
    """

    def move(rate: float, averages: Any) -> Any:
        rate = rate if num_updates is None else jnp.minimum(rate, (1 + num_updates) / (10 + num_updates))
        return jax.tree.map(lambda average, p: average + (1 - rate) * (p - average), averages, params)

    return {name: move(float(name), averages) for name, averages in ema.items()}


def make_optimizer(
    *,
    learning_rate: Array | float,
    decay: Literal["constant", "cosine"],
    warmup_steps: int,
    num_steps: int,
    grad_clip: float,
) -> optax.GradientTransformation:
    """Returns Adam (beta 0.9, 0.999, epsilon 1e-8) after clipping by global norm, with linear warm-up from 0.

    Args:
        learning_rate: the peak.
        decay: after the warm-up, 'constant' [Ho et al. 2020, appendix B] or 'cosine', to 0 at `num_steps`.
        warmup_steps: steps from 0 to the peak; the very first has rate 0 if there are any.
        num_steps: the length of the run.
        grad_clip: the largest global norm of a gradient; inf does not clip.
    """
    schedules = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, max(num_steps - warmup_steps, 1)),
    }
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    rate = optax.join_schedules([warmup, schedules[decay]()], [warmup_steps])
    return optax.chain(optax.clip_by_global_norm(grad_clip), optax.adam(rate))


def advance(state: TrainState, moved: TrainState, finite: Array) -> TrainState:
    """Returns `moved` one step on where the step was finite, else `state` one step on, with the skip counted."""
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
    skipped = 1 - finite.astype(jnp.int32)
    counters = {
        "skipped": state.counters["skipped"] + skipped,
        "skipped_in_a_row": (state.counters["skipped_in_a_row"] + 1) * skipped,
    }
    return kept._replace(step=state.step + 1, counters=counters)
