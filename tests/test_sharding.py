"""Eight devices: where arrays live, and that it makes no difference to the result."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from tiny import batches, config_of

from diffusion_jax import build, loop, sharding, streams
from diffusion_jax.errors import UserError


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
    specs = {name: where.spec for name, where in sharding.of_parameters(tree, mesh).items()}
    assert specs == {
        "kernel": P(None, None, None, "fsdp"),
        "square": P("fsdp"),
        "odd": P(),
        "bias": P(),
        "step": P(),
    }


@pytest.mark.parametrize("num_fsdp", [1, 4])
def test_eight_devices_take_the_same_steps_as_one(num_fsdp):
    """Loss and gradient norm of three steps with SGD, which unlike Adam does not magnify rounding."""
    import optax

    config = config_of({"train.batch_size": 16, "model.channels": 64, "model.multipliers": (1, 2)})
    parts = build.parts(config)._replace(optimizer=optax.sgd(0.1))
    key = streams.key(0, "init")
    make_state = functools.partial(loop.make_state, parts=parts)

    def train(mesh):
        abstract = jax.eval_shape(make_state, key)
        where = sharding.of_parameters(abstract, mesh) if mesh else None
        state = jax.jit(make_state, out_shardings=where)(key)
        step = jax.jit(functools.partial(loop.train_step, parts=parts))
        metrics = []
        for batch in batches(3):
            batch = sharding.to_global(batch, sharding.batched(mesh)) if mesh else batch
            state, each = step(state, batch)
            metrics.append([float(each["loss"]), float(each["grad_norm"])])
        return state, metrics

    _, alone = train(None)
    state, together = train(sharding.make_mesh(num_fsdp=num_fsdp))
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    split = [leaf for leaf in jax.tree.leaves(state.params) if not leaf.sharding.is_fully_replicated]
    assert bool(split) == (num_fsdp > 1)
