"""Operations counted: against sums by hand."""

import functools

import jax
import jax.numpy as jnp
import tiny

from diffusion_jax import networks
from diffusion_jax.compose import processes, sampling, training
from diffusion_jax.compose.config import Config
from diffusion_jax.networks.dit import SIZES
from diffusion_jax.runs import flops
from diffusion_jax.training import start
from diffusion_jax.training import step as training_step

F32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)


def convolve(x, kernel, **options):
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


def test_a_product_takes_two_operations_for_each_pair():
    assert flops.count(jnp.matmul, F32((3, 5)), F32((5, 7))) == 2 * 3 * 5 * 7
    assert flops.count(lambda a, b: jnp.einsum("bqhd,bkhd->bhqk", a, b), F32((2, 4, 3, 8)), F32((2, 6, 3, 8))) == (
        2 * 2 * 3 * 4 * 6 * 8
    )


def test_a_convolution_takes_two_operations_for_each_tap():
    x, kernel = F32((2, 8, 8, 3)), F32((3, 3, 3, 5))
    same = functools.partial(convolve, window_strides=(1, 1), padding="SAME")
    assert flops.count(same, x, kernel) == 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)
    halved = functools.partial(convolve, window_strides=(2, 2), padding=((0, 1), (0, 1)))
    assert flops.count(halved, x, kernel) == 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)
    grouped = functools.partial(convolve, window_strides=(1, 1), padding="SAME", feature_group_count=3)
    assert flops.count(grouped, x, F32((3, 3, 1, 6))) == 2 * (2 * 8 * 8 * 6) * (3 * 3)


def test_a_gradient_takes_twice_the_forward_pass_and_widening_zeros_count_nothing():
    """With padding as needed for whole strides the gradients by input and by kernel each take what the convolution takes."""

    def loss(x, kernel, stride):
        return jnp.sum(convolve(x, kernel, window_strides=(stride, stride), padding="VALID"))

    for stride in (1, 2):
        arguments = F32((2, 8, 8, 3)), F32((stride, stride, 3, 5))
        forward = flops.count(functools.partial(loss, stride=stride), *arguments)
        both = flops.count(jax.value_and_grad(functools.partial(loss, stride=stride), argnums=(0, 1)), *arguments)
        assert both == 3 * forward


def test_a_loop_counts_as_often_as_it_runs_and_a_branch_as_the_dearest():
    matrix, vector = F32((4, 4)), F32((4,))
    product = flops.count(jnp.matmul, matrix, vector)
    loop_of_six = lambda m, v: jax.lax.scan(lambda v, _: (m @ v, None), v, length=6)[0]  # noqa: E731
    assert flops.count(jax.jit(loop_of_six), matrix, vector) == 6 * product
    branch = lambda m, v: jax.lax.cond(v[0] > 0, lambda: m @ m @ v, lambda: m @ v)  # noqa: E731
    assert flops.count(branch, matrix, vector) == product + 2 * 4**3
    assert flops.count(jax.checkpoint(lambda m, v: m @ v), matrix, vector) == product


def positions(name: str) -> int:
    """Returns how many places of a 32-px image a layer of the CIFAR-10 network works at."""
    if name.startswith(("down", "up")):
        way, level, *rest = name.split("_")
        level = int(level) + (rest == ["sample"]) * {"down": 1, "up": -1}[way]
        return (32 >> level) ** 2
    return {"conv": 32**2, "middle": 4**2, "embedding": 1}[name.split("_")[0]]


def test_the_cifar10_network_takes_what_a_sum_over_its_layers_gives():
    config = Config()
    network = processes.network(config)
    params = jax.eval_shape(network.init, jax.random.key(0))
    by_hand = 0
    for name, layers in params.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(layers):
            names = [step.key for step in path]
            if names[-1] == "kernel":
                by_hand += 2 * leaf.size * (1 if "embedding" in names else positions(name))
            if names[0] == "query" and names[-1] == "kernel":
                by_hand += 2 * 2 * positions(name) ** 2 * leaf.shape[-1]  # the scores, and the sums that they weigh
    forward = flops.count(lambda *args: network.apply(*args, {}), params, F32((1, 32, 32, 3)), F32((1,)))
    assert forward == by_hand and round(forward / 1e9, 2) == 12.44


def test_a_training_step_takes_three_forward_passes():
    config = tiny.config_of({})
    network, parts = processes.network(config), training.parts(config)
    state = jax.eval_shape(functools.partial(start.make_state, parts=parts), jax.random.key(0))
    batch = {"x": jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.uint8), "cond": {}}
    forward = flops.count(lambda *args: network.apply(*args, {}), state.params, F32((4, 8, 8, 1)), F32((4,)))
    step = flops.count(functools.partial(training_step.train_step, parts=parts), state, batch)
    first_layers = 2 * 4 * 8 * 8 * 9 * 8 + 2 * 4 * 8 * 32  # whose inputs need no gradient
    assert step == 3 * forward - first_layers


def test_a_sampler_takes_one_forward_pass_for_each_step():
    config = tiny.config_of({})
    network, draw = processes.network(config), sampling.make_generate(config)
    params = jax.eval_shape(network.init, jax.random.key(0))
    forward = flops.count(lambda *args: network.apply(*args, {}), params, F32((2, 8, 8, 1)), F32((2,)))
    numbers = jax.ShapeDtypeStruct((2,), jnp.int32)
    assert flops.count(draw, params, jax.ShapeDtypeStruct((), jnp.int32), numbers) == config.sample.num_steps * forward


def test_a_transformer_takes_what_a_sum_over_its_layers_gives():
    """DiT-XL/2 on latents of 32 x 32; its authors count a multiplication with its addition as one, and 119e9 of them."""
    options = SIZES["XL"] | {"patch_size": 2, "learned_variance": True, "dtype": "float32"}
    network, num_tokens = networks.dit((32, 32, 4), **options), 16 * 16
    params = jax.eval_shape(network.init, jax.random.key(0))
    by_hand = 28 * 2 * 2 * num_tokens**2 * 1152  # the scores, and the sums that they weigh
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *_, module, name = (step.key for step in path)
        once = module in ("embedding_0", "embedding_1", "modulation")
        by_hand += 2 * leaf.size * (1 if once else num_tokens) * (name == "kernel")
    forward = flops.count(lambda *args: network.apply(*args, {}), params, F32((1, 32, 32, 4)), F32((1,)))
    assert forward == by_hand and round(forward / 2e9) == 119
