"""The training step. [Ho et al. 2020, Algorithm 1]"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from diffusion_jax import networks, streams
from diffusion_jax.autoencoding import Coder
from diffusion_jax.data.feed import Batch
from diffusion_jax.denoiser import Denoiser, LogProb
from diffusion_jax.learned_schedule import Moment
from diffusion_jax.losses import Loss
from diffusion_jax.networks import Network
from diffusion_jax.networks.conditioning import Conditioning
from diffusion_jax.process import Level
from diffusion_jax.runs import compiling, sharding
from diffusion_jax.timesteps import Timesteps
from diffusion_jax.training import state as train_state
from diffusion_jax.training.averages import Ema
from diffusion_jax.training.state import TrainState

Encode = Callable[[Batch, Array], tuple[Array, Any]]  # (batch, keys of its images [B]) -> (x_0, cond)
Augment = Callable[[Array, Array], tuple[Array, Array]]  # (x_0, keys of its images [B]) -> (x_0, what the network is told)


class Parts(NamedTuple):
    """The parts of a training step."""

    network: Network
    # (the network as a function, cond) -> what `loss` takes: a denoiser, a classifier's log-probability, a `Coder`
    predictor: Callable[[Callable[[Array, Array], Array], Any], Denoiser | LogProb | Coder]
    # (parameters, t as `timesteps` draws it) -> what the loss is given of the noise: a Level, of a learned schedule a Moment
    level_of: Callable[[Any, Array], Level | Moment]
    timesteps: Timesteps
    loss: Callable[[Array, Denoiser | None], Loss]  # (training step, the teacher in `TrainState.frozen`) -> the loss there
    optimizer: optax.GradientTransformation
    ema: Ema
    encode: Encode  # of held-out images
    prepare: Callable[[Batch, Array, Array], tuple[Array, Any]]  # of training: (batch, two keys, keys of its images)
    seed: int
    has_teacher: bool = False  # whether `TrainState.frozen` is a teacher's parameters
    num_microbatches: int = 1  # parts of a batch that the network takes one after the other


def make_prepare(
    encode: Encode, conditioning: Conditioning, *, random_flip: bool, drop_rate: float, augment: Augment | None = None
) -> Callable[[Batch, Array, Array], tuple[Array, Any]]:
    """Returns (batch, two keys, keys of the images [B]) -> (x_0, cond).

    Args:
        encode: as `Parts.encode`; it gets the batch after mirroring.
        conditioning: how `cond` is dropped.
        random_flip: whether each image is mirrored left to right with probability 1/2.
        drop_rate: probability with which each `cond` becomes the null.
        augment: moves x_0; the network is told how in `cond["augmentation"]`.
    """

    def prepare(batch: Batch, keys: Array, keys_of_images: Array) -> tuple[Array, Any]:
        key_flip, key_drop = keys
        x_0, cond = encode(flipped(batch, key_flip) if random_flip else batch, keys_of_images)
        cond = conditioning.drop(cond, key_drop, drop_rate) if drop_rate else cond
        if augment is None:
            return x_0, cond
        x_0, told = augment(x_0, keys_of_images)
        return x_0, {**cond, "augmentation": told}

    return prepare


def train_step(state: TrainState, batch: Batch, *, parts: Parts) -> tuple[TrainState, dict[str, Array]]:
    """Returns (the state after one step, its metrics). A step whose loss or gradient is not finite changes no weight.

    A step with a record that could not be read changes nothing at all.

    Args:
        batch: {"x": stored data [B, ...], "cond": pytree}, and maybe "valid", see `feed.Batch`.
    """
    keys = jax.random.split(streams.key(parts.seed, "train", state.step), 5)
    key_t, key_eps, key_dropout = keys[2:]
    x_0, cond = parts.prepare(batch, keys[:2], _keys_of_images(parts, batch, "condition", state.step))
    t, weight = parts.timesteps.draw(state.timestep_state, key_t, len(x_0))
    eps = jax.random.normal(key_eps, x_0.shape, x_0.dtype)

    def objective(params, x_0, cond, t, weight, eps, key):
        network = networks.bind(parts.network, params, cond, train=True, rngs={"dropout": key})
        losses, terms = _loss(parts, state, cond)(parts.predictor(network, cond), x_0, parts.level_of(params, t), eps)
        return jnp.mean(weight * losses), (losses, terms)

    value_and_grad = accumulated(jax.value_and_grad(objective, has_aux=True), parts.num_microbatches)
    (loss, (losses, terms)), gradient = value_and_grad(state.params, (x_0, cond, t, weight, eps), key_dropout)
    grad_norm = optax.tree.norm(gradient)
    updates, opt_state = parts.optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    moved = state._replace(
        params=params,
        ema=parts.ema.update(state.ema, params, state.step),
        opt_state=opt_state,
        timestep_state=parts.timesteps.update(state.timestep_state, t, losses),
    )
    unreadable = jnp.sum(~jnp.asarray(batch.get("valid", True)))
    state = train_state.advance(state, moved, jnp.isfinite(loss) & jnp.isfinite(grad_norm), unreadable == 0)
    figures = {name: jnp.mean(term) for name, term in terms.items()} | by_quartile(parts.timesteps, t, weight, losses)
    figures |= {"grad_norm": grad_norm, "update_norm": optax.tree.norm(updates), **_norms(state), **state.counters}
    return state, {"loss": loss, **figures, "unreadable": unreadable}


def by_quartile(timesteps: Timesteps, t: Array, weight: Array, losses: Array) -> dict[str, Array]:
    """Returns the part of each quartile of t in the mean loss, and in the mean weight; their quotient is its mean loss.

    Sums and not means, so that none is missing where no t of a batch is in a quartile.

    Args:
        t: [B], or [B, 2] of `timesteps.pairs`.

    Returns:
        {"loss_part_q1": [], "weight_part_q1": [], ..., "weight_part_q4"}, or {} where the quartiles are not known.
    """
    if timesteps.quantile is None:
        return {}
    above = t.reshape(len(t), -1)[:, :1] >= timesteps.quantile(jnp.array([0.25, 0.5, 0.75]))
    quartile, found = 1 + jnp.sum(above, axis=1), {}
    for number in range(1, 5):
        found[f"loss_part_q{number}"] = jnp.mean(jnp.where(quartile == number, weight * losses, 0))
        found[f"weight_part_q{number}"] = jnp.mean(jnp.where(quartile == number, weight, 0))
    return found


def _norms(state: TrainState) -> dict[str, Array]:
    """Returns the Euclidean norms of the parameters, and of what lies between them and each EMA."""
    distances = {name: optax.tree.norm(optax.tree.sub(ema, state.params)) for name, ema in state.ema.items()}
    return {"param_norm": optax.tree.norm(state.params)} | {f"ema_distance_{name}": x for name, x in distances.items()}


def accumulated(value_and_grad: Callable, num_microbatches: int) -> Callable[[Any, Any, Array], tuple[Any, Any]]:
    """Returns (params, batch, key) -> ((mean loss, what is of each image), mean gradient), in memory for a part at a time.

    The same as of the whole batch, to rounding. A part has every k-th image, so that each device has its share of each.

    Args:
        value_and_grad: (params, *part, key) -> ((loss, pytree of arrays [B / k, ...]), gradient), means over the part.
        num_microbatches: k; must divide the images of each device.
    """
    if num_microbatches == 1:
        return lambda params, batch, key: value_and_grad(params, *batch, key)

    def of_parts(params: Any, batch: Any, key: Array):
        def add(total, part_and_key):
            part, key = part_and_key
            (loss, of_images), gradient = value_and_grad(params, *part, key)
            return jax.tree.map(lambda x, more: x + more / num_microbatches, total, (loss, gradient)), of_images

        split = jax.tree.map(lambda x: x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1), batch)
        zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        (loss, gradient), of_images = jax.lax.scan(add, zeros, (split, jax.random.split(key, num_microbatches)))
        return (loss, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), of_images)), gradient

    return of_parts


def train_steps(state: TrainState, batches: dict[str, Any], *, parts: Parts) -> tuple[TrainState, dict[str, Array]]:
    """Returns `train_step` taken once for each of the stacked batches, and the metrics of each. # {name: [k]}"""
    return jax.lax.scan(lambda state, batch: train_step(state, batch, parts=parts), state, batches)


def _loss(parts: Parts, state: TrainState, cond: Any) -> Loss:
    """Returns the loss at the state's step, with its teacher if it has one, bound to the conditions of a batch."""
    if not parts.has_teacher:
        return parts.loss(state.step, None)
    return parts.loss(state.step, parts.predictor(networks.bind(parts.network, state.frozen, cond), cond))


def held_out_loss(state: TrainState, batches: dict[str, Any], *, parts: Parts) -> Array:
    """Returns the mean loss of stacked batches; the levels and the noises are the same every time. # []"""

    def of_batch(numbered) -> Array:
        index, batch = numbered
        key_t, key_eps = jax.random.split(streams.key(parts.seed, "evaluate", index))
        x_0, cond = parts.encode(batch, _keys_of_images(parts, batch, "held_out", index))
        t, weight = parts.timesteps.draw(parts.timesteps.init(), key_t, len(x_0))
        eps = jax.random.normal(key_eps, x_0.shape, x_0.dtype)
        predict = parts.predictor(networks.bind(parts.network, state.params, cond), cond)
        losses, _ = _loss(parts, state, cond)(predict, x_0, parts.level_of(state.params, t), eps)
        return jnp.mean(weight * losses)

    return jnp.mean(jax.lax.map(of_batch, (jnp.arange(len(batches["x"])), batches)))


def _keys_of_images(parts: Parts, batch: Batch, stream: str, index: Array) -> Array:
    """Returns what `Parts.encode` draws with, for a training step or a held-out batch. # [B]"""
    return jax.random.split(streams.key(parts.seed, stream, index), len(batch["x"]))


def flipped(batch: Batch, key: Array) -> Batch:
    """Returns a batch, each image mirrored left to right with probability 1/2, together with what is shown with it.

    Latents [B, 2, h, w, c] are of an image and of its mirror image, which change places.
    """
    flip = jax.random.bernoulli(key, shape=(len(batch["x"]), 1, 1, 1))

    def of(leaf: Array) -> Array:
        if jnp.ndim(leaf) == 5:
            return jnp.where(flip[..., None], leaf[:, ::-1], leaf)
        return jnp.where(flip, leaf[:, :, ::-1], leaf) if jnp.ndim(leaf) == 4 else leaf  # or labels

    return jax.tree.map(of, batch)


def compile_step(
    parts: Parts,
    batch_of: Callable[[Any, Any], Batch],
    mesh: Mesh,
    shardings: TrainState,
    *,
    num_steps: int,
    deterministic: bool = False,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the jitted training step (state, store, item) -> (state, metrics), the state donated.

    Args:
        batch_of: (store, item) -> batch, see `feed.Feed`.
        num_steps: taken in one call; above one, items and metrics are stacked.
        deterministic: see `compiling.options`.
    """
    take = functools.partial(train_step if num_steps == 1 else train_steps, parts=parts)
    where, options = (shardings, sharding.replicated(mesh)), compiling.options(mesh, deterministic=deterministic)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=where, compiler_options=options)
    def step(state: TrainState, store: Any, item: Any):
        return take(state, batch_of(store, item))

    return step
