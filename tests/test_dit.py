"""The Diffusion Transformer: with recorded weights it is the published one, its sizes are the paper's, its options act."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import recorded
from test_goldens_samplers import nchw, nhwc
from test_models import alive, num_parameters, operations

from diffusion_jax import denoiser, guidance, networks, schedules
from diffusion_jax.errors import UserError
from diffusion_jax.weights import diffusers_dit, maps
from diffusion_jax.weights import dit as weights
from diffusion_jax.weights.sources import Source

dit = importlib.import_module("diffusion_jax.networks.dit")  # `networks.dit` is the function

SMALL = {"channels": 16, "depth": 2, "num_heads": 2, "patch_size": 2, "dtype": "float32"}
RECORDED = {"channels": 48, "depth": 2, "num_heads": 4, "patch_size": 2, "num_classes": 10, "null_label": True}
RECORDED |= {"learned_variance": True}


@pytest.fixture
def recorded_positions(monkeypatch):
    """Their table, which was rounded to half precision when it was recorded, as all weights were."""
    table = recorded.load("g7_net_dit")["param.pos_embed"].reshape(4, 4, 48)
    monkeypatch.setattr(dit, "positions", lambda *shape: table)


def recorded_network(dtype="float32", **options):
    """Returns (the recorded network, its parameters, x_t [B, H, W, C], c_noise, labels)."""
    network, stored = networks.dit((8, 8, 4), dtype=dtype, **RECORDED | options), recorded.load("g7_net_dit")
    like = jax.eval_shape(network.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), read(tensors(), like))
    return network, params, nhwc(stored["in.x"]).astype(dtype), stored["in.t"].astype(dtype), stored["in.y"]


def read(tensors, like):
    """Returns the parameters in a state dict of the authors' code."""
    return maps.read(weights.published(Source("DiT", tensors)).tensors, like, weights.map_of(like))


def tensors():
    stored = recorded.load("g7_net_dit")
    return {name.removeprefix("param."): stored[name] for name in stored if name.startswith("param.")}


def recorded_output(dtype="float32", **options):
    network, params, x_t, c_noise, label = recorded_network(dtype, **options)
    return nchw(jax.jit(lambda *args: network.apply(*args, {"label": label}))(params, x_t, c_noise))


def test_the_published_network_is_ours_with_its_weights(recorded_positions):
    np.testing.assert_allclose(recorded_output(), recorded.load("g7_net_dit")["out"], rtol=0, atol=2e-5)


def test_in_float64(recorded_positions, x64):
    """1e-5, since their embedding of t stays float32, as the softmax of jax.nn.dot_product_attention does."""
    np.testing.assert_allclose(recorded_output("float64"), recorded.load("g7_net_dit")["out__f64"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("option", [{"embedding_spacing": "closed"}, {"num_heads": 2}])
def test_every_option_matters(recorded_positions, option):
    """The comparison above would notice each of them."""
    assert np.max(np.abs(recorded_output(**option) - recorded.load("g7_net_dit")["out"])) > 2e-5


def test_positions_are_the_published_table():
    """To half precision, in which it was recorded."""
    table = recorded.load("g7_net_dit")["param.pos_embed"].reshape(4, 4, 48)
    np.testing.assert_array_equal(dit.positions(4, 4, 48).astype(np.float16), table)


def test_positions_are_of_the_column_first_and_then_of_the_row():
    """[sin, cos] of x, then of y; with 8 channels at the frequencies 1 and 1 / 100."""
    table, rates = dit.positions(3, 5, 8), np.array([1, 0.01])
    expected = [*np.sin(4 * rates), *np.cos(4 * rates), *np.sin(2 * rates), *np.cos(2 * rates)]
    assert table.shape == (3, 5, 8) and table.dtype == np.float32
    np.testing.assert_allclose(table[2, 4], expected, rtol=1e-6)
    np.testing.assert_array_equal(dit.positions(2, 3, 8), table[:2, :3])


def of_three_channels(better, worse, scale, level):
    """Returns the extrapolation of the first three channels alone."""
    return guidance.linear(better, worse, scale, level) * jnp.array([1.0, 1.0, 1.0, 0.0])


def test_their_guidance_is_ours_of_three_channels(recorded_positions):
    """Their code guides three of four channels of eps, "for exact reproducibility"; the fourth is as with the label."""
    network, params, x_t, c_noise, label = recorded_network()
    expected = nhwc(recorded.load("g7_net_dit")["out_cfg"])[:2]  # of the two images with labels; the others are without
    x_t, level = x_t[:2], oracles.rows_of(schedules.linear(1000), c_noise=np.arange(-1.0, 1000))
    level = jax.tree.map(lambda column: column[c_noise[:2].astype(int) + 1], level)

    def bound(labels):
        asked = networks.bind(network, params, {"label": labels})
        return denoiser.make_denoiser(asked, denoiser.EPS, learned_variance=True)

    pair = guidance.paired(label[:2], jnp.full(2, 10))
    for extrapolate, num_same in {of_three_channels: 4, guidance.linear: 3}.items():
        guided = guidance.classifier_free(bound(label[:2]), bound(pair), scale=1.7, extrapolate=extrapolate)
        found = jax.jit(guided)(x_t, level)
        np.testing.assert_allclose(found.eps[..., :num_same], expected[..., :num_same], rtol=0, atol=5e-5)
        np.testing.assert_allclose(found.variance, expected[..., 4:], rtol=0, atol=2e-5)
    assert np.max(np.abs(found.eps[..., 3] - expected[..., 3])) > 1e-3


def test_weights_read_and_written_are_the_same():
    """Bit for bit, and without the table, which is a constant: it is checked and left out."""
    _, params, *_ = recorded_network()
    written, given = maps.write(params, weights.map_of(params)), tensors()
    assert written.keys() == given.keys() - {"pos_embed"}
    del given["pos_embed"]
    for name, tensor in given.items():
        np.testing.assert_array_equal(written[name], tensor)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pos_embed": np.zeros((1, 16, 48))}, r"tensor 'pos_embed' \[1, 16, 48\] is not the table of sines and cosines"),
        ({"pos_embed": np.zeros((1, 15, 48))}, r"tensor 'pos_embed' \[1, 15, 48\] is not the table of sines and cosines"),
        ({"pos_embed": np.zeros(3)}, r"tensor 'pos_embed' \[3\] is not the table of sines and cosines"),
        ({"blocks.2.attn.proj.bias": np.zeros(48)}, r"1 left over: blocks.2.attn.proj.bias \[48\]"),
        ({"blocks.0.attn.qkv.bias": np.zeros(48)}, r"blocks.0.attn.qkv.bias is \[48\] and not \[144\]"),
    ],
)
def test_weights_of_another_model_are_refused(changes, sentence):
    like = jax.eval_shape(networks.dit((8, 8, 4), dtype="float32", **RECORDED).init, jax.random.key(0))
    with pytest.raises(UserError, match=sentence):
        read(tensors() | changes, like)


BLOCK = ["norm1.linear", "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"]
COPIED = ["timestep_embedder.linear_1", "timestep_embedder.linear_2"]  # of each block, with weights and biases


def test_weights_of_diffusers_are_read_and_written():
    """With the names of 0.42.1, and the same embeddings in every block."""
    _, params, *_ = recorded_network()
    written = diffusers_dit.write(params)
    layers = [
        f"transformer_blocks.{i}.{name}" for i in (0, 1) for name in [*BLOCK, *(f"norm1.emb.{each}" for each in COPIED)]
    ]
    names = [
        f"{name}.{leaf}" for name in [*layers, "pos_embed.proj", "proj_out_1", "proj_out_2"] for leaf in ("weight", "bias")
    ]
    table = "norm1.emb.class_embedder.embedding_table.weight"
    assert written.keys() == {*names, *(f"transformer_blocks.{i}.{table}" for i in (0, 1))}
    assert written["proj_out_2.weight"].shape == (32, 48) and written["pos_embed.proj.weight"].shape == (48, 4, 2, 2)
    again = maps.read(diffusers_dit.shared(written), params, diffusers_dit.map_of(params))
    jax.tree.map(np.testing.assert_array_equal, again, params)
    written[f"transformer_blocks.1.{table}"] = written[f"transformer_blocks.1.{table}"] + 1
    with pytest.raises(UserError, match=f"other embeddings in other blocks, .*: transformer_blocks.1.{table}"):
        diffusers_dit.shared(written)


@pytest.mark.parametrize(
    ("size", "millions", "exactly"),
    [("S", 33, 32_865_056), ("B", 130, 130_315_808), ("L", 458, 457_840_672), ("XL", 675, 674_834_720)],
)
def test_the_networks_have_the_papers_sizes(size, millions, exactly):
    """Those of its table, with patches of 2 pixels; exactly as many as the authors' code trains."""
    options = dit.SIZES[size] | {"patch_size": 2, "num_classes": 1000, "null_label": True, "learned_variance": True}
    found = num_parameters(networks.dit((32, 32, 4), dtype="float32", **options))
    assert found == exactly and round(found / 1e6) == millions


def small(image_shape=(8, 8, 3), **options):
    """Returns (network, parameters of which none is 0, x_t, c_noise)."""
    network = networks.dit(image_shape, **SMALL | options)
    return network, alive(network), jax.random.normal(jax.random.key(2), (2, *image_shape)), jnp.array([10.0, 700.0])


def test_a_fresh_network_says_nothing():
    """adaLN-Zero: each block begins as the identity, and the output as 0; other layers as their initialisers say."""
    network = networks.dit((8, 8, 3), **SMALL | {"channels": 64, "depth": 1, "num_classes": 100})
    params = jax.jit(network.init)(jax.random.key(0))
    assert not np.any(jax.jit(network.apply)(params, jnp.ones((1, 8, 8, 3)), jnp.ones(1), {"label": jnp.zeros(1, int)}))
    block, radius = params["block_0"], {"query": math.sqrt(6 / (4 * 64)), "mlp_0": math.sqrt(6 / (5 * 64))}
    for name, most in (radius | {"out": math.sqrt(6 / 128)}).items():  # of q, k and v as of one layer [Glorot & Bengio 2010]
        assert 0.99 * most < np.max(np.abs(block[name]["kernel"])) <= most
    assert np.max(np.abs(params["patches"]["kernel"])) == pytest.approx(math.sqrt(6 / (12 + 64)), rel=0.01)
    for drawn in (params["embedding_0"]["kernel"], params["embedding_1"]["kernel"], params["label"]["embedding"]):
        assert np.std(drawn) == pytest.approx(0.02, rel=0.03)
    for zero in (block["modulation"], params["modulation"], params["out"], {"bias": block["mlp_1"]["bias"]}):
        assert not any(map(np.any, jax.tree.leaves(zero)))


@pytest.mark.parametrize("image_shape", [(8, 4, 3), (4, 12, 1)])
def test_any_height_and_width_that_the_patches_divide(image_shape):
    """Also of a network that was made for another size: no parameter knows it."""
    network, params, x_t, c_noise = small((8, 8, image_shape[-1]))
    x_t = jax.random.normal(jax.random.key(0), (2, *image_shape))
    output = jax.jit(network.apply)(params, x_t, c_noise, {})
    assert output.shape == x_t.shape and output.dtype == x_t.dtype and np.all(np.isfinite(output))
    with pytest.raises(ValueError, match=f"arrays of {image_shape[0]} x 3 do not fit: each size must be a multiple of 2"):
        jax.eval_shape(network.apply, params, x_t[:, :, :3], c_noise, {})


def test_a_patch_is_put_back_where_it_was():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    patches = dit.split(x, 2)
    assert patches.shape == (2, 2, 3, 2, 2, 3)
    np.testing.assert_array_equal(patches[1, 1, 2], x[1, 2:4, 4:6])
    np.testing.assert_array_equal(dit.joined(patches), x)


def test_the_condition_changes_the_output_of_its_own_image_only():
    network, params, x_t, c_noise = small(num_classes=3, null_label=True, cond_channels=2)
    assert params["label"]["embedding"].shape == (4, 16) and params["patches"]["kernel"].shape == (2, 2, 5, 16)
    cond = {"label": jnp.array([0, 1]), "image": jnp.zeros((2, 8, 8, 2))}
    apply = jax.jit(network.apply)
    before = apply(params, x_t, c_noise, cond)
    changed = {"label": jnp.array([0, 3]), "image": cond["image"].at[1].set(1.0)}
    for name, value in changed.items():
        after = apply(params, x_t, c_noise, cond | {name: value})
        np.testing.assert_array_equal(after[0], before[0])
        assert np.max(np.abs(after[1] - before[1])) > 1e-3, name
    after = apply(params, x_t, c_noise.at[1].set(500.0), cond)
    assert np.max(np.abs(after[1] - before[1])) > 1e-3 and np.array_equal(after[0], before[0])


def test_dropout_acts_in_training_only():
    network, params, x_t, c_noise = small(dropout=0.5)
    apply = jax.jit(network.apply, static_argnames="train")
    rngs = [{"dropout": jax.random.key(seed)} for seed in (0, 1)]
    outputs = [apply(params, x_t, c_noise, {}, train=train, rngs=each) for train in (False, True) for each in rngs]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.max(np.abs(outputs[2] - outputs[3])) > 1e-3


def test_in_bfloat16_products_are_bfloat16_and_norms_and_softmax_float32():
    network, params, x_t, c_noise = small(dtype="bfloat16")
    exact = jax.jit(small()[0].apply)(params, x_t, c_noise, {})
    output = jax.jit(network.apply)(network.cast(params), x_t, c_noise, {})
    assert output.dtype == jnp.float32 and 0 < np.max(np.abs(output - exact)) < 0.1 * np.std(exact) + 0.1
    found = list(operations(jax.make_jaxpr(lambda p: network.apply(p, x_t, c_noise, {}))(params).jaxpr))
    products = [dtypes for name, dtypes in found if name == "dot_general"]
    assert products and all(dtypes == {jnp.dtype("bfloat16")} for dtypes in products)
    for name in ("rsqrt", "exp"):  # of the norms' variances, of the softmax (and of the embedding's frequencies)
        assert all(dtypes == {jnp.dtype("float32")} for each, dtypes in found if each == name), name


def loss_with_remat(num):
    """Returns (params -> the squared error of a network that computes so many blocks twice, parameters)."""
    network, params, x_t, c_noise = small(num_remat_stages=num)
    return lambda params: jnp.mean((network.apply(params, x_t, c_noise, {}, train=True) - x_t) ** 2), params


@pytest.mark.slow
def test_recomputed_blocks_are_the_same_function():
    none, every = (jax.jit(jax.value_and_grad(loss))(params) for loss, params in map(loss_with_remat, (0, 2)))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), none, every)


def test_recomputed_blocks_take_less_memory():
    """Each keeps less for the backward pass."""
    kept = []
    for loss, params in map(loss_with_remat, (0, 1, 2)):
        residuals = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], params)
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(residuals)))
    assert kept[0] > kept[1] > kept[2]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"channels": 18, "num_heads": 3}, "channels = 18 must be a multiple of 4"),
        ({"num_heads": 3}, "num_heads = 3 must divide channels = 16"),
        ({"channels": 2**17}, "channels = 131072 is not allowed; a token has at most 65,536 channels"),
    ],
)
def test_options_that_do_not_fit_together_are_a_sentence(options, sentence):
    with pytest.raises(UserError, match=f"^{sentence}"):
        networks.dit((8, 8, 3), **SMALL | options)
