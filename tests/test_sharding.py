"""Eight devices: where arrays live, and that it makes no difference to the result."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from tiny import batches, config_of

from diffusion_jax import streams
from diffusion_jax.compose import training
from diffusion_jax.errors import UserError
from diffusion_jax.runs import checkpoint, sharding, storage
from diffusion_jax.tools.plan import collectives
from diffusion_jax.training import start
from diffusion_jax.training import step as training_step


def test_the_mesh_holds_all_devices():
    assert dict(sharding.make_mesh().shape) == {"data": 8, "fsdp": 1}
    assert dict(sharding.make_mesh(num_fsdp=4).shape) == {"data": 2, "fsdp": 4}
    with pytest.raises(UserError, match=r"train.num_fsdp = 3 must divide the number of devices, 8\."):
        sharding.make_mesh(num_fsdp=3)


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(UserError, match="train.batch_size = 12 must be a multiple of the number of devices, 8"):
        sharding.check_batch_size(12, sharding.make_mesh())


def test_large_parameters_are_split_along_their_largest_dimension():
    mesh = sharding.make_mesh(num_fsdp=4)
    shapes = {"kernel": (3, 3, 128, 256), "square": (512, 512), "odd": (257, 1027), "bias": (256,), "step": ()}
    tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    specs = {name: where.spec for name, where in sharding.param_shardings(tree, mesh).items()}
    assert specs == {
        "kernel": P(None, None, None, ("fsdp",)),
        "square": P(("fsdp",)),
        "odd": P(),
        "bias": P(),
        "step": P(),
    }


def wide_parts(**changes):
    config = config_of({"train.batch_size": 16, "model.channels": 128, "model.multipliers": (1,), **changes})
    return training.parts(config)


def train(parts, mesh, *, shard_optimizer=False):
    """Returns the state and [loss, gradient norm] of three steps; mesh None is one device."""
    key, make_state = streams.key(0, "init"), functools.partial(start.make_state, parts=parts)
    abstract = jax.eval_shape(make_state, key)
    where = sharding.state_shardings(abstract, mesh, shard_optimizer=shard_optimizer) if mesh else None
    state = jax.jit(make_state, out_shardings=where)(key)
    replicated = sharding.replicated(mesh) if mesh else None
    step = jax.jit(
        functools.partial(training_step.train_step, parts=parts), out_shardings=(where, replicated) if mesh else None
    )
    metrics = []
    for batch in batches(3):
        batch = sharding.put_local_part(batch, sharding.batched(mesh)) if mesh else batch
        state, each = jax.block_until_ready(step(state, batch))  # eight devices on few cores: one program at a time
        metrics.append([float(each["loss"]), float(each["grad_norm"])])
    return state, metrics


@functools.cache
def alone():
    return train(wide_parts()._replace(optimizer=optax.sgd(0.1, momentum=0.9)), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_fsdp", "shard_optimizer"),
    [(4, False), (1, False), (1, True)],
)
def test_eight_devices_take_the_same_steps_as_one(num_fsdp, shard_optimizer):
    """Loss and gradient norm of three steps with SGD and momentum, which unlike Adam do not magnify rounding."""
    parts = wide_parts()._replace(optimizer=optax.sgd(0.1, momentum=0.9))
    state, together = train(parts, sharding.make_mesh(num_fsdp=num_fsdp), shard_optimizer=shard_optimizer)
    np.testing.assert_allclose(together, alone()[1], rtol=1e-4)
    for one, other in zip(jax.tree.leaves(alone()[0]), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_transformer_takes_the_same_steps_on_eight_devices_as_on_one():
    """With parameters split over four of them; all of its large ones are."""
    options = {"model.kind": "dit", "model.channels": 128, "model.depth": 2, "model.num_heads": 4, "model.dropout": 0.0}
    parts = wide_parts(**options)._replace(optimizer=optax.sgd(0.1, momentum=0.9))
    state, together = train(parts, mesh := sharding.make_mesh(num_fsdp=4))
    alone, expected = train(parts, None)
    np.testing.assert_allclose(together, expected, rtol=1e-4)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    large = [leaf for leaf in jax.tree.leaves(state.params) if leaf.size >= sharding.MIN_SHARDED_SIZE]
    assert len(large) == 2 * 3 and not any(leaf.sharding == sharding.replicated(mesh) for leaf in large)


def bytes_on_a_device(tree):
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("num_fsdp", "shard_optimizer"), [(8, False), (2, True), (1, True)])
def test_bytes_on_a_device_fall_with_the_number_that_share_them(num_fsdp, shard_optimizer):
    """Of the arrays that are large enough to split, which hold most of all bytes here."""
    parts, mesh = wide_parts(), sharding.make_mesh(num_fsdp=num_fsdp)
    make_state = functools.partial(start.make_state, parts=parts)
    abstract = jax.eval_shape(make_state, jax.random.key(0))
    where = sharding.state_shardings(abstract, mesh, shard_optimizer=shard_optimizer)
    state = jax.jit(make_state, out_shardings=where)(jax.random.key(0))
    for name, num_parts in {"params": num_fsdp, "ema": 8 if shard_optimizer else num_fsdp, "opt_state": 8}.items():
        tree = getattr(state, name)
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
        large = sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if leaf.size >= sharding.MIN_SHARDED_SIZE)
        assert large > 0.7 * whole
        assert bytes_on_a_device(tree) == whole - large + large / num_parts


@pytest.mark.slow
@pytest.mark.parametrize(("num_fsdp", "shard_optimizer", "most"), [(1, False, 1.01), (1, True, 2), (4, False, 3)])
def test_a_step_sends_the_parameters_as_often_as_it_must(num_fsdp, shard_optimizer, most):
    """Summing gradients sends them once, handing out a split update once more; split parameters are gathered both ways."""
    parts, mesh = wide_parts(), sharding.make_mesh(num_fsdp=num_fsdp)
    abstract = jax.eval_shape(functools.partial(start.make_state, parts=parts), jax.random.key(0))
    where = sharding.state_shardings(abstract, mesh, shard_optimizer=shard_optimizer)
    like = sharding.with_shardings(abstract, where)
    batch = sharding.put_local_part(batches(1)[0], sharding.batched(mesh))
    step = jax.jit(
        functools.partial(training_step.train_step, parts=parts), out_shardings=(where, sharding.replicated(mesh))
    )
    moved = collectives.moved(step.lower(like, batch).compile().as_text())
    num_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract.params))
    assert num_bytes <= sum(moved.values()) <= most * num_bytes, moved


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_numbers_on_other_meshes(tmp_path):
    """8 devices split in parameters -> 1 -> 8 that share the batch and split the update: every byte is the same."""
    parts, folder = wide_parts(), storage.path(tmp_path)
    make_state = functools.partial(start.make_state, parts=parts)
    abstract = jax.eval_shape(make_state, jax.random.key(0))
    one_device = jax.tree.map(lambda leaf: jax.sharding.SingleDeviceSharding(jax.devices()[3]), abstract)
    meshes = [
        sharding.state_shardings(abstract, sharding.make_mesh(num_fsdp=8), shard_optimizer=False),
        one_device,
        sharding.state_shardings(abstract, sharding.make_mesh(), shard_optimizer=True),
    ]
    first = state = jax.jit(make_state, out_shardings=meshes[0])(jax.random.key(0))
    for step, where in enumerate(meshes, start=1):
        with checkpoint.Checkpoints(folder) as checkpoints:
            checkpoints.save(state._replace(step=state.step * 0 + step))
        with checkpoint.Checkpoints(folder) as checkpoints:
            state = checkpoints.restore_latest(sharding.with_shardings(abstract, where))
        assert [leaf.sharding for leaf in jax.tree.leaves(state)] == jax.tree.leaves(where)
    for one, other in zip(jax.tree.leaves(first.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(one, other)
