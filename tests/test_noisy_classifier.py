"""The classifier of noisy images: guided-diffusion's with its weights, and what training and guidance ask of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
from test_convert import ADM, SMALL
from test_goldens_samplers import nchw, nhwc

from diffusion_jax import networks
from diffusion_jax.weights import maps, openai

OPTIONS = {
    "adaptive": {"num_classes": 4, "attention_stages": (), "num_heads": 2},
    "attnpool": {"num_classes": 7, "multipliers": (1, 2), "head_channels": 16, "pool": "attention"}
    | {"scale_shift_norm": True, "resample": "res_block"},
}
LABELS = jnp.array([1, 3])  # of the recorded gradients, which are 2.5 times that of log p


@functools.cache
def recorded_of(name, dtype="float32"):
    """Returns (the network, its recorded parameters, x_t [B, H, W, C], c_noise, everything recorded)."""
    stored = recorded.load(f"g7_net_guided_classifier_{name}")
    tensors = {key.removeprefix("param."): stored[key] for key in stored if key.startswith("param.")}
    network = networks.noisy_classifier((8, 8, 3), dtype=dtype, **SMALL | ADM | OPTIONS[name])
    like = jax.eval_shape(network.init, jax.random.key(0))
    params = maps.read(tensors, like, openai.map_of(like, num_heads=heads(name), split_heads_first=True))
    return network, params, np.asarray(nhwc(stored["in.x"])), stored["in.t"].astype(np.float32), stored


def heads(name):
    return lambda channels, path: channels // 16 if name == "attnpool" else 2


def guidance(network, params, x_t, c_noise):
    def total(x_t):
        return jnp.sum(2.5 * network.apply(params, x_t, c_noise, {"label": LABELS}))

    return nchw(jax.jit(jax.grad(total))(x_t))


@pytest.mark.parametrize("name", OPTIONS)
def test_the_published_classifier_is_ours_with_its_weights(name):
    network, params, x_t, c_noise, stored = recorded_of(name)
    logits = jax.jit(lambda x_t: network.apply(params, x_t, c_noise, {}))(x_t)
    np.testing.assert_allclose(logits, stored["out"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(guidance(network, params, x_t, c_noise), stored["cond_fn"], rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adaptive", "attnpool"])
def test_in_float64(name, x64):
    """1e-7, since jax.nn.dot_product_attention has its softmax in float32."""
    network, *inputs, stored = recorded_of(name, "float64")
    inputs = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), inputs)
    params, x_t, c_noise = inputs
    logits = jax.jit(lambda x_t: network.apply(params, x_t, c_noise, {}))(x_t)
    np.testing.assert_allclose(logits, stored["out__f64"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(guidance(network, params, x_t, c_noise), stored["cond_fn__f64"], rtol=0, atol=1e-6)
