"""How much memory a training step takes, known before anything runs, and the batch that follows from it."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffusion_jax import networks
from diffusion_jax.compose import inputs, processes, training
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError
from diffusion_jax.runs import logs, sharding
from diffusion_jax.training import start

MAX_BATCH_SIZE = 128  # of the automatic choice: the paper's
MEMORY_USED = 0.75  # of the automatic choice: the rest is for temporary arrays


def with_batch_size(config: Config, mesh: Mesh, *, memory: float) -> Config:
    """Returns the config with its own batch size, or where that is 0 with what the memory of each device holds, in bytes.

    Raises UserError where the devices of the mesh do not divide the batch, where their memory is unknown (0) but needed, and
    as `batch_size` does.
    """
    if not config.train.batch_size:
        if not memory:
            raise UserError("config field train.batch_size = 0 is not possible: the memory of these devices is unknown.")
        size = batch_size(config, memory=memory, num_devices=mesh.size)
        logs.say("picked", f"batches of {size}")
        config = config.with_values("train", batch_size=size)
    sharding.check_batch_size(config.train.batch_size, mesh, num_microbatches=config.train.num_microbatches)
    return config


def batch_size(config: Config, *, memory: float, num_devices: int) -> int:
    """Returns how many images to train on at once: up to 128, a power of two in each device's parts, as its memory allows.

    The config's own `train.batch_size` is not looked at, `memory` is that of each device, in bytes. Raises UserError where
    one image is too much.
    """
    state = jax.eval_shape(functools.partial(start.make_state, parts=training.parts(config)), jax.random.key(0))
    num_parts = config.train.num_microbatches
    fixed = _num_bytes(state) + min(num_parts, 2) * _num_bytes(state.params)  # the gradient; of a part, and the sum
    free = MEMORY_USED * memory - fixed - config.data.device_cache_gib * 2**30  # the data set is at most that
    per_image = activation_bytes(config, 2) - activation_bytes(config, 1)
    if free < per_image:
        num_stages = processes.network(config).parts.num_stages
        raise UserError(
            f"config field train.batch_size = 0 is not possible: one image takes {per_image / 2**30:.1f} GiB and "
            f"{max(free, 0) / 2**30:.1f} GiB are free; set model.num_remat_stages = {num_stages}, or "
            "lower data.image_size or model.channels."
        )
    num_shares = num_devices * num_parts
    most = max(1, min(MAX_BATCH_SIZE // num_shares, int(free // per_image)))
    return num_shares * 2 ** int(math.log2(most))


def activation_bytes(config: Config, num_images: int) -> int:
    """Returns the size of what the forward pass keeps for the backward pass; nothing is computed."""
    net = processes.network(config)
    params = jax.eval_shape(net.init, jax.random.key(0))
    x_t = jax.ShapeDtypeStruct((num_images, *processes.shape(config)), jnp.float32)
    c_noise = jax.ShapeDtypeStruct((num_images,), jnp.float32)
    cond = inputs.conditioning(config).spec(num_images)

    def backward(params, x_t, c_noise, cond):
        def output(params):
            bound = networks.bind(net, params, cond, train=True, rngs={"dropout": jax.random.key(0)})
            if not processes.is_autoencoder(config):
                return bound(x_t, c_noise)
            coder = networks.coder(bound)
            return coder.decode(coder.encode(x_t).mean)

        return jax.vjp(output, params)[1]

    return _num_bytes(jax.eval_shape(backward, params, x_t, c_noise, cond))


def _num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
