"""The state with which a run starts: its latest checkpoint, new parameters, or the weights of another run."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from diffusion_jax import errors, streams
from diffusion_jax.errors import UserError
from diffusion_jax.runs import logs, sharding
from diffusion_jax.runs.checkpoint import Checkpoints
from diffusion_jax.training.state import TrainState
from diffusion_jax.training.step import Parts


def make_state(key: Array, *, parts: Parts) -> TrainState:
    """Returns the state before the first step. Its teacher is the parameters themselves, until one takes their place."""
    params = parts.network.init(key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=parts.ema.init(params),
        opt_state=parts.optimizer.init(params),
        timestep_state=parts.timesteps.init(),
        counters={"skipped": jnp.zeros((), jnp.int32), "skipped_in_a_row": jnp.zeros((), jnp.int32)},
        frozen=jax.tree.map(jnp.copy, params) if parts.has_teacher else (),
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
    check_size(abstract, shardings)
    if (state := checkpoints.restore_latest(sharding.with_shardings(abstract, shardings))) is not None:
        logs.say("resumed", f"at step {int(state.step):,}")
        return state
    return prepared(jax.jit(make, out_shardings=shardings)(key))


def check_size(abstract: TrainState, shardings: Any) -> None:
    """Raises UserError where a state is more than twice what a device is known to have: it would compile for long."""
    sizes = jax.tree.map(
        lambda leaf, where: math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize, abstract, shardings
    )
    size, memory = sum(jax.tree.leaves(sizes)), sharding.memory_per_device()
    if size > 2 * memory > 0:
        raise UserError(
            f"parameters, EMAs and optimizer state take {size / 2**30:,.0f} GiB on each device, which may use "
            f"{memory / 2**30:,.1f} GiB; set smaller model.channels, model.multipliers or model.num_classes."
        )


def with_weights(state: TrainState, origin: str, raw: Any, average: Any) -> TrainState:
    """Returns a new run's state with `raw` as parameters and `average` as all EMA weights, both of the run `origin`.

    Where name or shape differ it keeps its own, and says so. UserError where nothing fits.
    """
    params, fresh, left = copy_matching(state.params, raw)
    num_arrays = len(jax.tree.leaves(params))
    num_taken = num_arrays - len(fresh)
    if not num_taken:
        raise UserError(f"config field train.init_from = {origin!r} has no array that fits the network.")
    said = f"from {origin}, {num_taken} of {num_arrays} arrays; fresh: {errors.some(fresh) or 'none'}"
    logs.say("weights", f"{said}; not taken: {errors.some(left)}" if left else said)
    if 2 * num_taken < num_arrays:
        logs.say("warning", "most of the network begins anew, since its names or shapes are others.")
    ema = {name: copy_matching(params, average)[0] for name, params in state.ema.items()}
    return state._replace(params=params, ema=ema)


def copy_matching(new: Any, old: Any) -> tuple[Any, list[str], list[str]]:
    """Returns (`new` with the arrays of `old` that fit, on its own devices; what is fresh in it; what is left of `old`)."""
    named = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(old)}
    taken, fresh = set(), []

    def copy(path, leaf):
        name = jax.tree_util.keystr(path)
        if name in named and named[name].shape == leaf.shape:
            taken.add(name)
            return sharding.put_global(np.asarray(named[name]), leaf.sharding)
        fresh.append(name)
        return leaf

    result = jax.tree_util.tree_map_with_path(copy, new)
    return result, fresh, [name for name in named if name not in taken]
