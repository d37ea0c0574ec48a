"""A GAN, a VAE and a flow of arrays [N, D], as short as they can be, to hold diffusion against.

    from examples import baselines

    flow = baselines.flow(2, width=56, num_couplings=12)
    params = baselines.train(flow, points, num_steps=3000, batch_size=512)
    x = flow.sample(params, jax.random.key(0), 1000)  # [1000, 2]
    nats = flow.log_density(params, jax.random.key(0), x)  # [1000]

A model is a few pure functions of its params. One loop trains all three: what differs is the loss.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array

EMA_RATE, WARMUP_STEPS = 0.99, 100  # as in the diffusion models beside them
LARGEST = 2.0  # of |log scale| in a coupling: Dinh et al. limit it by a tanh too


class Baseline(NamedTuple):
    """A model of the distribution of x, [D]."""

    init: Callable[[Array], Any]  # key -> params
    loss: Callable[[Any, Array, Array], Array]  # params, key, x [B, D] -> what training makes small
    sample: Callable[[Any, Array, int], Array]  # params, key, N -> x [N, D]
    log_density: Callable[[Any, Array, Array], Array] | None  # params, key, x [N, D] -> nats [N]; None where there is none
    learning_rate: float  # the highest
    b1: float = 0.9  # of Adam


class MLP(nn.Module):
    """Two hidden layers."""

    width: int
    num_out: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(2):
            x = nn.silu(nn.Dense(self.width)(x))
        return nn.Dense(self.num_out)(x)


def gan(dim: int, *, width: int, num_latents: int) -> Baseline:
    """Returns a generative adversarial network with the non-saturating loss. [Goodfellow et al. 2014, section 3]

    The discriminator D makes log D(x) + log(1 - D(G(z))) large, the generator G log D(G(z)). Both take a step at once, each
    against the other as it is. There is no density. b1 is that of DCGAN. [Radford et al. 2015]
    """
    generator, discriminator = MLP(width, dim), MLP(width, 1)

    def init(key: Array) -> Any:
        of_g, of_d = jax.random.split(key)
        return {
            "generator": generator.init(of_g, jnp.zeros((1, num_latents))),
            "discriminator": discriminator.init(of_d, jnp.zeros((1, dim))),
        }

    def sample(params: Any, key: Array, num: int) -> Array:
        return generator.apply(params["generator"], jax.random.normal(key, (num, num_latents)))

    def loss(params: Any, key: Array, x: Array) -> Array:
        def logit(params: Any, x: Array) -> Array:  # of D: the probability that x is real
            return discriminator.apply(params["discriminator"], x)

        drawn, fixed = sample(params, key, len(x)), jax.lax.stop_gradient(params)
        of_d = jax.nn.softplus(-logit(params, x)) + jax.nn.softplus(logit(params, jax.lax.stop_gradient(drawn)))
        return jnp.mean(of_d + jax.nn.softplus(-logit(fixed, drawn)))

    return Baseline(init, loss, sample, None, learning_rate=5e-4, b1=0.5)


def vae(dim: int, *, width: int, num_latents: int, num_draws: int = 500, noise: float = 1.0) -> Baseline:
    """Returns a variational autoencoder of diagonal Gaussians. [Kingma & Welling 2014, appendix C.2]

    With w = p(x | z) p(z) / q(z | x) and z of q, E[log w] is the evidence lower bound. It is trained with one draw.
    The density is the log of the mean of w over `num_draws`: a closer bound from below, on average. [Burda et al. 2016]

    Args:
        dim: D.
        width: of both networks.
        num_latents: values of z.
        num_draws: of z for a density.
        noise: what the decoder's standard deviation is multiplied with in samples: 1 draws from the model, 0 its means.
    """
    encoder, decoder = MLP(width, 2 * num_latents), MLP(width, 2 * dim)

    def init(key: Array) -> Any:
        of_e, of_d = jax.random.split(key)
        return {
            "encoder": encoder.init(of_e, jnp.zeros((1, dim))),
            "decoder": decoder.init(of_d, jnp.zeros((1, num_latents))),
        }

    def log_weight(params: Any, key: Array, x: Array) -> Array:
        of_z = jnp.split(encoder.apply(params["encoder"], x), 2, axis=-1)
        z = _drawn(key, *of_z)
        of_x = jnp.split(decoder.apply(params["decoder"], z), 2, axis=-1)
        return _log_normal(x, *of_x) + _log_normal(z, 0.0, 0.0) - _log_normal(z, *of_z)

    def loss(params: Any, key: Array, x: Array) -> Array:
        return -jnp.mean(log_weight(params, key, x))

    def log_density(params: Any, key: Array, x: Array) -> Array:
        weights = jax.lax.map(lambda one: log_weight(params, one, x), jax.random.split(key, num_draws))
        return jax.nn.logsumexp(weights, axis=0) - math.log(num_draws)

    def sample(params: Any, key: Array, num: int) -> Array:
        of_z, of_x = jax.random.split(key)
        z = jax.random.normal(of_z, (num, num_latents))
        mean, log_std = jnp.split(decoder.apply(params["decoder"], z), 2, axis=-1)
        return mean + noise * (_drawn(of_x, mean, log_std) - mean)

    return Baseline(init, loss, sample, log_density, learning_rate=2e-3)


def flow(dim: int, *, width: int, num_couplings: int) -> Baseline:
    """Returns RealNVP: affine couplings, each of which changes half of the values by what the other half says.

    log p(x) = log N(z) + sum of log |dz/dx| is exact. [Dinh et al. 2017, equations 3 to 8]
    """
    network, masks = MLP(width, 2 * dim), _masks(dim, num_couplings)

    def init(key: Array) -> Any:
        params = jax.vmap(lambda one: network.init(one, jnp.zeros((1, dim))))(jax.random.split(key, num_couplings))
        return jax.tree.map(lambda leaf: leaf * jnp.where(leaf.shape[-1] == 2 * dim, 0.1, 1.0), params)  # nearly x = z

    def coupling(params: Any, mask: Array, x: Array) -> tuple[Array, Array]:
        shift, log_scale = jnp.split(network.apply(params, x * mask), 2, axis=-1)
        return (1 - mask) * shift, (1 - mask) * LARGEST * jnp.tanh(log_scale / LARGEST)

    def log_density(params: Any, key: Array, x: Array) -> Array:
        def towards_noise(carried: tuple[Array, Array], layer: tuple[Any, Array]) -> tuple[tuple[Array, Array], None]:
            x, log_det = carried
            shift, log_scale = coupling(*layer, x)
            return ((x - shift) * jnp.exp(-log_scale), log_det - jnp.sum(log_scale, axis=-1)), None

        (z, log_det), _ = jax.lax.scan(towards_noise, (x, jnp.zeros(len(x))), (params, masks))
        return _log_normal(z, 0.0, 0.0) + log_det

    def sample(params: Any, key: Array, num: int) -> Array:
        def towards_data(x: Array, layer: tuple[Any, Array]) -> tuple[Array, None]:
            shift, log_scale = coupling(*layer, x)
            return x * jnp.exp(log_scale) + shift, None

        return jax.lax.scan(towards_data, jax.random.normal(key, (num, dim)), (params, masks), reverse=True)[0]

    def loss(params: Any, key: Array, x: Array) -> Array:
        return -jnp.mean(log_density(params, key, x))

    return Baseline(init, loss, sample, log_density, learning_rate=1e-3)


def train(
    model: Baseline, data: np.ndarray, *, num_steps: int, batch_size: int, dequantize: float = 0.0, seed: int = 0
) -> Any:
    """Returns the EMA of a model's params after training by Adam, with a learning rate that rises and decays by a cosine.

    Args:
        model: what to train.
        data: [N, D].
        num_steps: of Adam.
        batch_size: examples in a step, drawn with replacement.
        dequantize: the distance between two levels of the data. Uniform noise of that width is added, without which a
            density of discrete values has no limit. [Theis et al. 2016, section 3.1]
        seed: of weights, batches and noise.
    """
    rate = optax.warmup_cosine_decay_schedule(0.0, model.learning_rate, min(WARMUP_STEPS, num_steps // 2), num_steps)
    optimizer, x_0 = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(rate, b1=model.b1)), jnp.asarray(data)

    def step(state: tuple[Any, Any, Any], key: Array) -> tuple[tuple[Any, Any, Any], None]:
        params, average, moments = state
        of_batch, of_levels, of_loss = jax.random.split(key, 3)
        x = x_0[jax.random.randint(of_batch, (batch_size,), 0, len(x_0))]
        x += dequantize * jax.random.uniform(of_levels, x.shape, minval=-0.5, maxval=0.5)
        change, moments = optimizer.update(jax.grad(model.loss)(params, of_loss, x), moments)
        params = optax.apply_updates(params, change)
        return (params, optax.incremental_update(params, average, 1 - EMA_RATE), moments), None

    of_params, of_steps = jax.random.split(jax.random.key(seed))
    params = model.init(of_params)
    run = jax.jit(lambda *arguments: jax.lax.scan(step, *arguments)[0])
    return jax.block_until_ready(run((params, params, optimizer.init(params)), jax.random.split(of_steps, num_steps))[1])


def _drawn(key: Array, mean: Array, log_std: Array) -> Array:
    return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)


def _log_normal(x: Array, mean: Array | float, log_std: Array | float) -> Array:
    """Returns the log density of a diagonal Gaussian in nats. # [N, D] -> [N]"""
    of_each = -0.5 * ((x - mean) * jnp.exp(-log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
    return jnp.sum(of_each, axis=-1)


def _masks(dim: int, num_couplings: int) -> np.ndarray:
    """Returns 1 for the values that a coupling keeps: a random half, then the other half, and so on. # [num_couplings, D]"""
    rng = np.random.default_rng(0)
    halves = np.stack([rng.permutation(dim) < dim // 2 for _ in range(-(-num_couplings // 2))])
    return np.stack([halves, ~halves], axis=1).reshape(-1, dim)[:num_couplings].astype(np.float32)
