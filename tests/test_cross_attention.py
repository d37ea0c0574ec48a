"""Networks that are given a text: they begin without it, see all of its tokens, and none of its padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_models import alive

from diffusion_jax import networks
from diffusion_jax.networks import conditioning

STAGES = {"channels": 8, "multipliers": (1, 2), "num_res_blocks": 1, "attention_stages": (1,), "dropout": 0.0}
UNET = STAGES | {"num_groups": 4, "num_heads": 2, "dtype": "float32"}
DIT = {"channels": 16, "depth": 2, "num_heads": 2, "patch_size": 2, "dtype": "float32"}
KINDS = {"unet": (networks.unet, UNET), "dit": (networks.dit, DIT)}
SHAPE, WIDTH = (8, 8, 3), 6


@pytest.fixture(params=KINDS)
def made(request):
    """Returns (options) -> network."""
    make, options = KINDS[request.param]
    return lambda **more: make(SHAPE, **options | more)


def draws(num_images=2, num_tokens=5):
    keys = jax.random.split(jax.random.key(1), 2)
    text = jax.random.normal(keys[0], (num_images, num_tokens, WIDTH))
    return jax.random.normal(keys[1], (num_images, *SHAPE)), jnp.full(num_images, 3.0), text


def without_text(params):
    return {
        name: without_text(inner) if isinstance(inner, dict) else inner
        for name, inner in params.items()
        if "text" not in name
    }


def with_others(params, plain):
    """Returns the parameters of the text, and all others from those of a network without it."""
    return {
        name: with_others(inner, plain[name]) if isinstance(inner, dict) and name in plain else plain.get(name, inner)
        for name, inner in params.items()
    }


def test_a_network_begins_as_one_without_text(made):
    """All other parameters are made alive, so that the output of the network is not 0."""
    (network, plain), (x, c_noise, text) = (made(text_width=WIDTH), made()), draws()
    begins, plain_params = jax.jit(network.init)(jax.random.key(0)), alive(plain)
    assert jax.tree.structure(without_text(begins)) == jax.tree.structure(plain_params)
    params = with_others(begins, plain_params)
    found = jax.jit(network.apply)(params, x, c_noise, {"text": text})
    expected = jax.jit(plain.apply)(plain_params, x, c_noise, {})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)  # XLA may fuse the zeros otherwise
    assert np.std(expected) > 0.01


def test_padding_is_not_seen_and_every_token_is(made):
    network, (x, c_noise, text) = made(text_width=WIDTH), draws(1)
    apply, params = jax.jit(network.apply), alive(network)
    changed = [text, *(text.at[0, token].multiply(3) for token in range(5)), 0 * text]
    padded = jnp.concatenate([*changed, text])
    padded = jnp.pad(padded, ((0, 0), (0, 3), (0, 0)))
    many = jnp.broadcast_to(x, (8, *SHAPE)), jnp.broadcast_to(c_noise, 8)
    found = np.asarray(apply(params, *many, {"text": padded}))
    np.testing.assert_allclose(found[0], apply(params, x, c_noise, {"text": text})[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[0], found[7], rtol=0, atol=1e-5)
    assert np.all(np.max(np.abs(found[1:7] - found[0]), axis=(1, 2, 3)) > 1e-3)
    assert np.all(np.isfinite(found))  # of a text without tokens too


def test_blocks_with_text_may_be_computed_again(made):
    network, (x, c_noise, text) = made(text_width=WIDTH, num_remat_stages=2), draws()
    loss = jax.grad(lambda params: jnp.sum(network.apply(params, x, c_noise, {"text": text}, train=True)))
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    assert jax.eval_shape(loss, shapes) == shapes


def test_a_dropped_text_is_the_empty_one_and_goes_with_the_label():
    empty = jnp.arange(6, dtype=jnp.float16).reshape(2, 3)
    given = conditioning.with_text(
        conditioning.labels(10, null_label=True), (2, 3), lambda: empty, lambda: jnp.stack([empty + 1, empty])
    )
    np.testing.assert_array_equal(given.of_image(jnp.arange(3))["text"], [empty + 1, empty, empty + 1])
    assert {name: (of.shape, of.dtype) for name, of in given.spec(4).items()} == {
        "label": ((4,), jnp.int32),
        "text": ((4, 2, 3), jnp.float16),
    }
    cond = {"label": jnp.zeros(400, jnp.int32), "text": jnp.ones((400, 2, 3), jnp.float16)}
    dropped = given.drop(cond, jax.random.key(0), 0.25)
    is_dropped = dropped["label"] == 10
    assert 70 < np.sum(is_dropped) < 130
    np.testing.assert_array_equal(dropped["text"], np.where(is_dropped[:, None, None], empty, 1))
    assert dropped["text"].dtype == jnp.float16
    np.testing.assert_array_equal(given.null(cond)["text"][7], empty)
