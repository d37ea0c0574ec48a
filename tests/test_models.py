"""The U-Net: its size is the paper's, and it does what its options say."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax import networks
from diffusion_jax.compose import processes
from diffusion_jax.compose.config import Config
from diffusion_jax.networks import attention, layers
from diffusion_jax.networks.stages import Stages
from diffusion_jax.networks.unet import UNet

SMALL = {
    "channels": 8,
    "multipliers": (1, 2),
    "num_res_blocks": 1,
    "attention_stages": (1,),
    "dropout": 0.5,
    "num_groups": 4,
    "dtype": "float32",
}
DIT = {"channels": 16, "depth": 1, "num_heads": 2, "patch_size": 2, "dtype": "float32"}


def alive(network):
    """Returns parameters of which none is 0; nothing is compiled."""
    return filled(jax.eval_shape(network.init, jax.random.key(0)))


def filled(shapes):
    """Returns normal numbers of some shapes."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: (0.2 * rng.standard_normal(leaf.shape)).astype(leaf.dtype), shapes)


@functools.cache
def small(image_shape=(8, 8, 1), **options):
    """Returns (apply with parameters that are all alive, a batch of x_t, conditions)."""
    network = networks.unet(image_shape, **SMALL | options)
    params = alive(network)
    x_t = jax.random.normal(jax.random.key(2), (3, *image_shape))

    apply = jax.jit(lambda x_t, c_noise, **rest: network.apply(params, x_t, c_noise, {}, **rest), static_argnames="train")
    return apply, x_t, jnp.array([0.0, 10.0, 999.0])


def count(image_shape, **options):
    return num_parameters(networks.unet(image_shape, **options))


def num_parameters(network):
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0))))


def test_the_cifar10_network_has_the_papers_size():
    """35.7 M in the paper; the exact number is that of the authors' code."""
    assert num_parameters(processes.network(Config())) == 35_746_307


def test_the_256_pixel_network_has_the_papers_size():
    """114 M in the paper; its levels are (1, 1, 2, 2, 4, 4) times 128 channels with attention at 16 pixels, level 4."""
    config = Config().with_values("model", multipliers=(1, 1, 2, 2, 4, 4), attention_stages=(4,))
    assert num_parameters(processes.network(config.with_values("data", image_size=(256, 256)))) == 113_673_219


@pytest.mark.parametrize("image_shape", [(8, 8, 1), (8, 16, 3), (6, 4, 5)])
def test_any_height_width_and_channels_that_the_stages_divide(image_shape):
    apply, x_t, condition = small(image_shape)
    output = apply(x_t, condition)
    assert output.shape == x_t.shape and output.dtype == x_t.dtype and np.all(np.isfinite(output))


def test_a_fresh_network_says_almost_nothing():
    network = networks.unet((8, 8, 1), **SMALL)
    params = jax.jit(network.init)(jax.random.key(0))
    output = jax.jit(lambda p: network.apply(p, jnp.ones((1, 8, 8, 1)), jnp.ones(1), {}))(params)
    assert 0 < np.max(np.abs(output)) < 1e-3


def test_initial_weights_are_uniform_with_the_papers_spread():
    """U(-r, r) with r^2 = 3 / mean(fan_in, fan_out); biases 0."""
    params = jax.jit(networks.unet((8, 8, 1), **SMALL | {"channels": 64}).init)(jax.random.key(0))
    kernel = params["middle_0"]["conv1"]["kernel"]
    radius = np.sqrt(3 / (9 * 128))
    assert 0.99 * radius < np.max(np.abs(kernel)) <= radius
    assert np.std(kernel) == pytest.approx(radius / np.sqrt(3), rel=0.01)
    assert not np.any(params["middle_0"]["conv1"]["bias"])


def test_the_condition_changes_the_output_of_its_own_image_only():
    apply, x_t, condition = small()
    before, after = apply(x_t, condition), apply(x_t, condition.at[1].set(500.0))
    assert np.max(np.abs(before[1] - after[1])) > 1e-3
    np.testing.assert_array_equal(before[jnp.array([0, 2])], after[jnp.array([0, 2])])


def test_dropout_acts_in_training_only():
    apply, x_t, condition = small()
    drawn = [apply(x_t, condition, train=True, rngs={"dropout": jax.random.key(seed)}) for seed in (0, 1)]
    assert np.max(np.abs(drawn[0] - drawn[1])) > 1e-3
    np.testing.assert_array_equal(apply(x_t, condition), apply(x_t, condition))


def test_attention_is_global_and_knows_no_places():
    """One pixel's change reaches all; moving all pixels moves the output with them."""
    module = attention.Attention(2, layers.Style(4, 1e-6, False, 0.0, jnp.float32))
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 8))
    params = jax.tree.map(lambda p: p + 0.2, jax.jit(module.init)(jax.random.key(1), x))
    apply = jax.jit(module.apply)
    output, moved = apply(params, x), apply(params, x[:, ::-1, ::-1])[:, ::-1, ::-1]
    np.testing.assert_allclose(moved, output, rtol=1e-4)
    touched = apply(params, x.at[0, 0, 0, 0].add(1.0))
    assert np.min(np.max(np.abs(touched - output), axis=-1)) > 1e-4


def test_bfloat16_is_close_to_float32_and_keeps_float32_parameters():
    fine, x_t, condition = small()
    coarse, _, _ = small(dtype="bfloat16")
    assert coarse(x_t, condition).dtype == jnp.float32
    scale = np.std(fine(x_t, condition))
    assert 0 < np.max(np.abs(coarse(x_t, condition) - fine(x_t, condition))) < 0.2 * scale + 0.2
    params = jax.eval_shape(networks.unet((8, 8, 1), **SMALL | {"dtype": "bfloat16"}).init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def operations(jaxpr):
    """Yields (name, dtypes of the inputs) of every operation, those inside others too."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name, {v.aval.dtype for v in equation.invars if hasattr(v.aval, "dtype")}
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from operations(inner)


@pytest.mark.parametrize("shape", [(3, 12), (2, 8, 8, 12), (2, 5, 12)])
def test_group_normalisation_is_its_definition(shape):
    rng = np.random.default_rng(0)
    x, scale, bias = rng.normal(2.0, 0.5, shape), rng.normal(size=12), rng.normal(size=12)
    grouped = x.reshape(shape[0], -1, 4, 3)
    mean, variance = (moment(grouped, axis=(1, 3), keepdims=True) for moment in (np.mean, np.var))
    expected = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(shape) * scale + bias
    params = {"params": {"scale": jnp.float32(scale), "bias": jnp.float32(bias)}}
    result = jax.jit(layers.GroupNorm(4, 1e-5, jnp.float32).apply)(params, jnp.float32(x))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dropout_is_flaxs_with_a_mask_that_is_not_computed_again(dtype):
    """The same values from the same key, and so the same gradient; the mask alone passes a barrier."""

    class Dropped(nn.Module):
        layer: nn.Module

        def __call__(self, x):
            return self.layer(x, True) if isinstance(self.layer, layers.Dropout) else self.layer(x)

    x, rngs = jax.random.normal(jax.random.key(0), (4, 8, 8, 16), dtype), {"dropout": jax.random.key(1)}
    kept, flaxs = (Dropped(layer) for layer in (layers.Dropout(0.25), nn.Dropout(0.25, deterministic=False)))
    (result, back), (expected, back_of_flax) = (
        jax.vjp(lambda x, module=module: module.apply({}, x, rngs=rngs), x) for module in (kept, flaxs)
    )
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(back(x)[0], back_of_flax(x)[0])
    assert result.dtype == dtype and 0.2 < np.mean(np.asarray(result) == 0) < 0.3
    found = list(operations(jax.make_jaxpr(lambda: kept.apply({}, x, rngs=rngs))().jaxpr))
    assert [dtypes for name, dtypes in found if name == "optimization_barrier"] == [{jnp.dtype("bool")}]


def test_in_bfloat16_convolutions_are_bfloat16_and_norms_and_softmax_float32():
    network = networks.unet((8, 8, 1), **SMALL | {"dtype": "bfloat16"})
    params = jax.eval_shape(network.init, jax.random.key(0))
    x_t, condition = jnp.zeros((2, 8, 8, 1)), jnp.zeros(2)
    traced = jax.make_jaxpr(lambda p: network.apply(p, x_t, condition, {}))(params).jaxpr
    found = list(operations(traced))
    bfloat16, float32 = jnp.dtype("bfloat16"), jnp.dtype("float32")
    assert {dtype for name, dtypes in found if name == "conv_general_dilated" for dtype in dtypes} == {bfloat16}
    for name in ("rsqrt", "exp"):  # of the norms' variances, of the softmax (and of the embedding's frequencies)
        dtypes = [dtypes for found_name, dtypes in found if found_name == name]
        assert dtypes and all(each == {float32} for each in dtypes), name


def loss_with_remat(num_stages):
    """Returns params -> the squared error of a network that computes so many stages twice."""
    network = networks.unet((8, 8, 1), **SMALL | {"dropout": 0.0}, num_remat_stages=num_stages)
    x_t, c_noise = jax.random.normal(jax.random.key(2), (8, 8, 8, 1)), jnp.linspace(0, 999, 8)
    return lambda params: jnp.mean((network.apply(params, x_t, c_noise, {}, train=True) - x_t) ** 2)


@pytest.mark.slow
def test_rematerialised_stages_are_the_same_function():
    params = alive(networks.unet((8, 8, 1), **SMALL))
    none, every = (jax.jit(jax.value_and_grad(loss_with_remat(num)))(params) for num in (0, 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), none, every)


@pytest.mark.slow
def test_rematerialised_stages_take_less_memory():
    """Each keeps less for the backward pass, all of them less than half."""
    params, kept = alive(networks.unet((8, 8, 1), **SMALL)), []
    for loss in map(loss_with_remat, (0, 1, 2)):
        residuals = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], params)
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(residuals)))
    assert kept[0] > kept[1] > kept[2] and kept[2] < 0.5 * kept[0]


def test_embedding_starts_as_sines_and_cosines_from_fast_to_slow():
    embedding = layers.embed_c_noise(jnp.array([0.0, 7.0]), 6, spacing="closed")
    np.testing.assert_array_equal(embedding[0], [0, 0, 0, 1, 1, 1])
    rates = np.array([1, 1e-2, 1e-4])
    np.testing.assert_allclose(embedding[1], np.concatenate([np.sin(7 * rates), np.cos(7 * rates)]), rtol=1e-5)


def test_downsampling_pads_below_and_on_the_right():
    """As TensorFlow's SAME does, which published weights expect: the first output sees pixels 0 to 2, none before."""
    x = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0, 0].set(1.0)

    class Conv(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.conv(1, 3, jnp.float32, stride=2, padding=(0, 1), name="conv")(x)

    conv, params = Conv(), {"params": {"conv": {"kernel": jnp.arange(9.0).reshape(3, 3, 1, 1), "bias": jnp.zeros(1)}}}
    np.testing.assert_array_equal(conv.apply(params, x)[0, :, :, 0], [[0, 0], [0, 0]])
    np.testing.assert_array_equal(conv.apply(params, jnp.roll(x, (1, 1), (1, 2)))[0, :, :, 0], [[4, 0], [0, 0]])


IMPROVED = {"norm_epsilon": 1e-5, "downsample_padding": "all_sides", "embedding_spacing": "half_open", "num_groups": 32}
IMPROVED |= {"scale_shift_norm": True, "learned_variance": True, "dtype": "float32", "num_res_blocks": 3}


def test_the_improved_cifar10_network_has_its_published_size():
    """Nichol & Dhariwal 2021: 128 channels, three blocks, attention at 16 and 8 pixels; "50M" in their file name."""
    options = IMPROVED | {"channels": 128, "multipliers": (1, 2, 2, 2), "attention_stages": (1, 2), "dropout": 0.3}
    assert count((32, 32, 3), **options, num_heads=4) == 52_546_438


def test_the_adm_64_network_has_its_published_size():
    """Dhariwal & Nichol 2021: 192 channels, attention at 32, 16, 8 pixels, heads of 64 channels, a thousand classes."""
    options = IMPROVED | {"channels": 192, "multipliers": (1, 2, 3, 4), "attention_stages": (1, 2, 3), "dropout": 0.1}
    assert count((64, 64, 3), **options, head_channels=64, resample="res_block", num_classes=1000) == 295_904_454


@pytest.mark.parametrize(
    ("size", "multipliers", "stages", "millions"),
    [(256, (1, 1, 2, 2, 4, 4), (3, 4, 5), 554), (512, (0.5, 1, 1, 2, 2, 4, 4), (4, 5, 6), 559)],
)
def test_the_large_adm_networks_have_their_published_sizes(size, multipliers, stages, millions):
    """Dhariwal & Nichol 2021, table 13: 256 channels, two blocks, attention at 32, 16, 8 pixels; half as wide at 512."""
    options = IMPROVED | {"channels": 256, "num_res_blocks": 2, "dropout": 0.0, "head_channels": 64, "resample": "res_block"}
    options |= {"multipliers": multipliers, "attention_stages": stages, "num_classes": 1000}
    assert round(count((size, size, 3), **options) / 1e6) == millions


def test_a_first_stage_may_be_narrower_than_the_base():
    apply, x_t, condition = small((8, 8, 1), multipliers=(0.5, 1, 1.5), attention_stages=(2,))
    output = apply(x_t, condition)
    assert output.shape == x_t.shape and np.all(np.isfinite(output))
    assert np.all(np.max(np.abs(output - apply(x_t, condition + 5)), axis=(1, 2, 3)) > 1e-3)


def test_a_label_changes_the_output_of_its_own_image_only():
    network = networks.unet((8, 8, 1), **SMALL | {"num_classes": 3, "null_label": True})
    params = alive(network)
    assert params["label"]["embedding"].shape == (4, 32)
    x_t, condition = jax.random.normal(jax.random.key(2), (2, 8, 8, 1)), jnp.array([10.0, 10.0])
    apply = jax.jit(lambda label: network.apply(params, x_t, condition, {"label": label}))
    one, two = apply(jnp.array([0, 1])), apply(jnp.array([0, 3]))
    np.testing.assert_array_equal(one[0], two[0])
    assert np.max(np.abs(one[1] - two[1])) > 1e-3


def test_an_image_goes_with_x_t_into_the_first_layer():
    network = networks.unet((8, 8, 3), **SMALL | {"cond_channels": 2})
    params = alive(network)
    assert params["conv_in"]["kernel"].shape == (3, 3, 5, 8) and params["conv_out"]["kernel"].shape[-1] == 3
    x_t = jax.random.normal(jax.random.key(2), (1, 8, 8, 3))
    apply = jax.jit(lambda image: network.apply(params, x_t, jnp.ones(1), {"image": image}))
    assert np.max(np.abs(apply(jnp.zeros((1, 8, 8, 2))) - apply(jnp.ones((1, 8, 8, 2))))) > 1e-3


def test_fourier_features_tell_odd_values_from_even_and_how_far_a_value_is():
    """Of n = 7 the sine is 1 at even values and -1 at odd ones; of n = 8 it is the sine of the distance, with a sign."""
    k = np.arange(256)
    values = layers.fourier_features(jnp.asarray(k / 127.5 - 1)[:, None], (7, 8))
    np.testing.assert_allclose(values[:, 0], np.where(k % 2, -1, 1), atol=1e-4)
    near = layers.fourier_features(jnp.asarray((k + 0.1) / 127.5 - 1)[:, None], (7, 8))
    np.testing.assert_allclose(near[:, 1], -np.sin(0.2 * np.pi), atol=1e-3)
    assert values.shape == (256, 4)


def test_a_shape_that_the_stages_do_not_divide_is_refused():
    network = networks.unet((8, 8, 1), **SMALL)
    params = jax.eval_shape(network.init, jax.random.key(0))
    with pytest.raises(ValueError, match="arrays of 8 x 7 do not fit: each size must be a multiple of 2"):
        jax.eval_shape(lambda p, x: network.apply(p, x, jnp.ones(1), {}), params, jnp.zeros((1, 8, 7, 1)))


@pytest.mark.slow
def test_a_fresh_network_told_two_levels_is_the_one_told_the_first_and_learns_to_tell_them_apart():
    """So a network that was told one level is a start. A jump to the level itself is as being told that alone."""
    for make, options in ((networks.unet, SMALL), (networks.dit, DIT)):
        plain, network = (make((8, 8, 1), **options, jumps=jumps) for jumps in (False, True))
        x_t, one = jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), jnp.array([0.5, 0.9])
        apply = jax.jit(lambda params, c_noise, network=network, x_t=x_t: network.apply(params, x_t, c_noise, {}))
        both, lively = jnp.stack([one, 0 * one], axis=-1), alive(network)
        fresh = jax.jit(lambda key, network=network: network.init(key)["jump"])(jax.random.key(1))
        rest = {name: params for name, params in lively.items() if name != "jump"}
        expected = jax.jit(plain.apply)(rest, x_t, one, {})
        np.testing.assert_array_equal(apply(rest | {"jump": fresh}, both), expected)
        alone = apply(lively, one)
        assert not np.allclose(apply(lively, both), alone)
        np.testing.assert_array_equal(apply(lively, jnp.stack([one, one], axis=-1)), alone)


@pytest.mark.parametrize("options", [{}, {"resample": "res_block", "scale_shift_norm": True}])
def test_over_signals_it_is_the_network_over_images_whose_rows_are_constant(options):
    """With each kernel in the middle column of one of the other: blocks, attention and resampling know any axes."""
    stages = Stages(**SMALL | {"dtype": jnp.float32, "dropout": 0.0} | options)
    module, x_t, c_noise = UNet(2, stages), jax.random.normal(jax.random.key(2), (3, 16, 2)), jnp.array([0.0, 10.0, 999.0])
    shapes = jax.eval_shape(lambda key: module.init(key, x_t, c_noise, {}, train=False)["params"], jax.random.key(0))
    params = filled(shapes)

    def over_images(path, leaf):
        if path[-1].key != "kernel" or leaf.ndim == 2:
            return leaf
        middle = np.zeros((len(leaf), *leaf.shape))
        middle[:, len(leaf) // 2] = leaf
        return middle

    apply = jax.jit(lambda params, x: module.apply({"params": params}, x, c_noise, {}, train=False))
    of_images = apply(jax.tree_util.tree_map_with_path(over_images, params), jnp.repeat(x_t[:, :, None], 2, axis=2))
    of_signals = apply(params, x_t)
    assert of_signals.shape == x_t.shape and np.std(of_signals) > 0.01
    for column in (0, 1):
        np.testing.assert_allclose(of_images[:, :, column], of_signals, rtol=1e-3, atol=1e-4 * np.std(of_signals))


def test_a_signal_that_the_stages_do_not_divide_is_refused():
    module = UNet(2, Stages(**SMALL | {"dtype": jnp.float32}))
    with pytest.raises(ValueError, match="arrays of 15 do not fit: each size must be a multiple of 2"):
        jax.eval_shape(lambda x: module.init(jax.random.key(0), x, jnp.ones(1), {}, train=False), jnp.zeros((1, 15, 2)))
