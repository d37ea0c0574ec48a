"""The state with which a run starts: its latest checkpoint, new parameters, or the weights of another run."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from diffusion_jax import streams
from diffusion_jax.runs import logs, sharding
from diffusion_jax.runs.checkpoint import Checkpoints
from diffusion_jax.training.state import TrainState
from diffusion_jax.training.step import Parts


def make_state(key: Array, *, parts: Parts) -> TrainState:
    """Returns the state before the first step."""
    params = parts.network.init(key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=parts.ema.init(params),
        opt_state=parts.optimizer.init(params),
        timestep_state=parts.timesteps.init(),
        counters={"skipped": jnp.zeros((), jnp.int32), "skipped_in_a_row": jnp.zeros((), jnp.int32)},
    )


def first_state(
    parts: Parts,
    mesh: Mesh,
    checkpoints: Checkpoints,
    *,
    shard_optimizer: bool,
    prepared: Callable[[TrainState], TrainState],
) -> TrainState:
    """Returns the latest checkpoint's state, or that before the first step, on its devices.

    Args:
        shard_optimizer: see `sharding.state_shardings`.
        prepared: new parameters' state -> the state with which a new run starts.
    """
    make, key = functools.partial(make_state, parts=parts), streams.key(parts.seed, "init")
    abstract = jax.eval_shape(make, key)
    shardings = sharding.state_shardings(abstract, mesh, shard_optimizer=shard_optimizer)
    if (state := checkpoints.restore_latest(sharding.with_shardings(abstract, shardings))) is not None:
        logs.say("resumed", f"at step {int(state.step):,}")
        return state
    return prepared(jax.jit(make, out_shardings=shardings)(key))


def with_weights(state: TrainState, origin: str, raw: Any, average: Any) -> TrainState:
    """Returns a new run's state with `raw` as parameters and `average` as all EMA weights, both of the run `origin`.

    Where name or shape differ it keeps its own, and says so.
    """
    params, fresh = copy_matching(state.params, raw)
    logs.say("weights", f"from {origin}; fresh: {', '.join(fresh) or 'none'}")
    ema = {name: copy_matching(params, average)[0] for name, params in state.ema.items()}
    return state._replace(params=params, ema=ema)


def copy_matching(new: Any, old: Any) -> tuple[Any, list[str]]:
    """Returns `new` with the arrays of `old` that fit, on the devices of `new`, and the names of those that did not."""
    named = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(old)}
    fresh = []

    def copy(path, leaf):
        name = jax.tree_util.keystr(path)
        if name in named and named[name].shape == leaf.shape:
            return sharding.put_global(np.asarray(named[name]), leaf.sharding)
        fresh.append(name)
        return leaf

    return jax.tree_util.tree_map_with_path(copy, new), fresh
