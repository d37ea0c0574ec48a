"""A training step that takes its batch in parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import batches, config_of

from diffusion_jax import streams
from diffusion_jax.compose import training
from diffusion_jax.errors import UserError
from diffusion_jax.runs import sharding
from diffusion_jax.training import start, step

# The likelihood loss with the history of losses, of which everything that a step returns for each image matters.
CHANGES = {"loss.name": "vlb", "model.learned_variance": True, "loss.timesteps": "loss_second_moment"}


def parts_of(num_microbatches, **changes):
    parts = training.parts(config_of({**changes, "train.num_microbatches": num_microbatches}))
    return parts._replace(optimizer=optax.sgd(0.1))  # unlike Adam it does not magnify rounding


def state_of(parts):
    return start.make_state(streams.key(0, "init"), parts=parts)


@pytest.mark.slow
def test_a_step_in_parts_is_the_step_of_the_whole_batch(x64):
    [batch], found = batches(1), []
    for num_microbatches in (1, 4):
        parts = parts_of(num_microbatches, **CHANGES)
        found.append(jax.jit(functools.partial(step.train_step, parts=parts))(state_of(parts), batch))
    (whole, metrics), (in_parts, metrics_in_parts) = found
    np.testing.assert_allclose(metrics_in_parts["loss"], metrics["loss"], rtol=1e-6)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(in_parts), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_each_device_takes_its_share_of_each_part():
    """Where the parts lay one after the other, devices would have to exchange images."""
    mesh, parts = sharding.make_mesh(), parts_of(2)
    batch = sharding.put_local_part(batches(1)[0], sharding.batched(mesh))
    state = jax.jit(state_of, static_argnums=0, out_shardings=sharding.replicated(mesh))(parts)
    compiled = jax.jit(functools.partial(step.train_step, parts=parts)).lower(state, batch).compile()
    text = compiled.as_text()
    assert "all-reduce" in text and not {"all-to-all", "collective-permute"} & set(text.replace("(", " ").split())
    assert int(compiled(state, batch)[0].step) == 1


def test_a_held_out_batch_is_shown_other_random_conditions_than_the_training_step_of_its_number():
    def encode(batch, keys):
        return jax.vmap(lambda key: jax.random.normal(key, (8, 8, 1)))(keys), batch["cond"]

    def loss(predict, x_0, level, eps):
        return jnp.mean(x_0, axis=(1, 2, 3)), {}

    prepare = {"encode": encode, "prepare": lambda batch, keys, of_images: encode(batch, of_images)}
    parts = parts_of(1)._replace(**prepare, loss=lambda step, teacher: loss)
    [batch], state = batches(1), state_of(parts)
    trained = jax.jit(functools.partial(step.train_step, parts=parts))(state, batch)[1]["loss"]
    held_out = step.held_out_loss(state, jax.tree.map(lambda leaf: leaf[None], batch), parts=parts)
    assert np.isfinite([trained, held_out]).all() and abs(trained - held_out) > 1e-4


@pytest.mark.slow
def test_parts_take_less_memory():
    sizes = {}
    for num_microbatches in (1, 8):
        parts = parts_of(num_microbatches)
        batch = jax.tree.map(lambda leaf: jnp.concatenate([jnp.asarray(leaf)] * 16), batches(1)[0])
        lowered = jax.jit(functools.partial(step.train_step, parts=parts)).lower(state_of(parts), batch)
        sizes[num_microbatches] = lowered.compile().memory_analysis().temp_size_in_bytes
    assert sizes[8] < sizes[1] / 3


def test_parts_that_the_devices_do_not_divide_are_refused():
    sentence = "train.batch_size = 24 must be a multiple of the number of devices, 8, times train.num_microbatches, 2"
    with pytest.raises(UserError, match=sentence):
        sharding.check_batch_size(24, sharding.make_mesh(), num_microbatches=2)
