"""What training carries from step to step, and how parameters move."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array


class TrainState(NamedTuple):
    """Arrays only: everything that a checkpoint holds, and nothing that follows from the config."""

    step: Array  # training steps taken, int32 []
    params: Any  # the network's parameters
    ema: dict[str, Any]  # {name: average of the parameters}, as `averages` names them
    opt_state: Any  # the optimizer's
    timestep_state: Any  # the history of losses that the distribution of t uses; () for uniform t
    counters: dict[str, Array]  # {'skipped': non-finite steps so far, 'skipped_in_a_row': those just now}, int32 []
    frozen: Any = ()  # what no step changes and no checkpoint holds, such as a teacher; a pytree


def make_optimizer(
    *,
    learning_rate: Array | float,
    decay: Literal["constant", "cosine"],
    warmup_steps: int,
    num_steps: int,
    grad_clip: float,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Returns Adam (beta 0.9, 0.999, epsilon 1e-8) after clipping by global norm, with linear warm-up from 0.

    Args:
        learning_rate: the peak.
        decay: after the warm-up, 'constant' [Ho et al. 2020, appendix B] or 'cosine', to 0 at `num_steps`.
        warmup_steps: steps from 0 to the peak; the very first has rate 0 if there are any.
        num_steps: the length of the run.
        grad_clip: the largest global norm of a gradient; inf does not clip.
        weight_decay: of AdamW, times the rate, of every parameter; 0 is Adam. [Loshchilov & Hutter 2019]
    """
    cosine = optax.cosine_decay_schedule(learning_rate, max(num_steps - warmup_steps, 1))
    after = {"constant": optax.constant_schedule(learning_rate), "cosine": cosine}[decay]
    rate = optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), after], [warmup_steps])
    adam = optax.adamw(rate, weight_decay=weight_decay) if weight_decay else optax.adam(rate)
    return optax.chain(optax.clip_by_global_norm(grad_clip), adam)


def advance(state: TrainState, moved: TrainState, finite: Array, readable: Array | bool = True) -> TrainState:
    """Returns the state after a step.

    Args:
        state: before it.
        moved: the state with parameters, EMA, optimizer and timestep states as they are after it.
        finite: whether loss and gradient were; else the step counts as skipped, and nothing moves.
        readable: whether its whole batch was; else nothing changes at all, so that the state remains exact.
    """

    def chosen(condition: Array, new: Any, old: Any) -> Any:
        return jax.tree.map(lambda one, other: jnp.where(condition, one, other), new, old)

    skipped = 1 - finite.astype(jnp.int32)
    counters = {
        "skipped": state.counters["skipped"] + skipped,
        "skipped_in_a_row": (state.counters["skipped_in_a_row"] + 1) * skipped,
    }
    kept = chosen(finite & readable, moved._replace(frozen=()), state._replace(frozen=()))
    step, counters = chosen(readable, (state.step + 1, counters), (state.step, state.counters))
    return kept._replace(step=step, counters=counters, frozen=state.frozen)
