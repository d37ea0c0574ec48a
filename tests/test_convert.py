"""Published networks, with their weights, against what they were recorded to say (g7)."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import recorded
from test_goldens_samplers import nchw, nhwc

from diffusion_jax import denoiser, losses, networks, process, schedules
from diffusion_jax.errors import UserError
from diffusion_jax.networks import layers
from diffusion_jax.networks.stages import Stages
from diffusion_jax.networks.unet import UNet
from diffusion_jax.weights import diffusers, ho, maps, openai

ADM = {"norm_epsilon": 1e-5, "downsample_padding": "all_sides", "embedding_spacing": "half_open"}
SMALL = {
    "channels": 32,
    "multipliers": (1, 1),
    "num_res_blocks": 1,
    "attention_stages": (1,),
    "dropout": 0.0,
    "num_groups": 32,
}

OPTIONS = {
    "ho_unet": {},
    "unet2d_a": {"channels": 16, "multipliers": (1, 2), "num_res_blocks": 2, "num_groups": 8},
    "unet2d_b": {"multipliers": (1, 2), "attention_stages": (0,)},
    "improved_plain": ADM | {"attention_stages": (0, 1), "num_heads": 1, "num_heads_up": 2},
    "improved_cond_ssn": ADM
    | {"multipliers": (1, 2), "num_heads": 4, "scale_shift_norm": True, "num_classes": 5, "learned_variance": True},
    "guided_updown": ADM
    | {"head_channels": 16, "scale_shift_norm": True, "resample": "res_block", "num_classes": 5, "learned_variance": True},
    "guided_neworder": ADM | {"attention_stages": (0,), "num_heads": 4},
}


def network_of(name, dtype="float32"):
    return networks.unet((8, 8, 3), dtype=dtype, **SMALL | OPTIONS[name])


def tensors_of(name):
    """Returns the tensors of a recorded network by their names, of Ho et al.'s without 'model/'."""
    stored = recorded.load(f"g7_net_{name}")
    return {key.removeprefix("param.").removeprefix("model/"): stored[key] for key in stored if key.startswith("param.")}


@functools.cache
def recorded_of(name):
    """Returns (our parameters, x_t [B, H, W, C], condition, cond, output [B, H, W, C] by key) of a recorded network."""
    stored = recorded.load(f"g7_net_{name}")
    tensors = tensors_of(name)
    like = jax.eval_shape(network_of(name).init, jax.random.key(0))
    if name == "ho_unet":
        params, layout = maps.read(tensors, like, ho.map_of(like)), np.asarray
    elif name.startswith("unet2d"):
        params, layout = maps.read(tensors, like, diffusers.map_of(like)), nhwc
    else:
        theirs = openai.map_of(like, num_heads=heads(name), split_heads_first="neworder" not in name)
        params, layout = maps.read(tensors, like, theirs), nhwc
    cond = {"label": stored["in.y"]} if "in.y" in stored else {}
    return params, np.asarray(layout(stored["in.x"])), stored["in.t"].astype(np.float32), cond, stored


def heads(name):
    """Returns (channels, our path) -> heads of an attention, from the recorded network's arguments."""
    options = OPTIONS[name]

    def of(channels, path):
        if "head_channels" in options:
            return channels // options["head_channels"]
        return options["num_heads_up"] if path.startswith("up") and "num_heads_up" in options else options["num_heads"]

    return of


def output_of(name, params, x_t, condition, cond, dtype="float32"):
    out = jax.jit(lambda p, x, c: network_of(name, dtype).apply(p, x, c, cond))(params, x_t, condition)
    return np.asarray(out) if name == "ho_unet" else nchw(out)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_published_network_is_ours_with_its_weights(name):
    """Within the references' 2e-5: a wrong norm epsilon moves the outputs by 6e-5, a wrong padding by 0.4."""
    params, x_t, condition, cond, stored = recorded_of(name)
    np.testing.assert_allclose(output_of(name, params, x_t, condition, cond), stored["out"], rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "ho_unet"])
def test_in_float64(name, x64):
    """1e-7, since jax.nn.dot_product_attention has its softmax in float32; diffusers' embedding is float32, hence 1e-5."""
    params, x_t, condition, cond, stored = recorded_of(name)
    params, x_t, condition = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, x_t, condition))
    got = output_of(name, params, x_t, condition, cond, "float64")
    np.testing.assert_allclose(got, stored["out__f64"], rtol=0, atol=1e-5 if name.startswith("unet2d") else 1e-7)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("improved_plain", {"norm_epsilon": 1e-6}),
        ("improved_plain", {"downsample_padding": "bottom_right"}),
        ("improved_cond_ssn", {"embedding_spacing": "closed"}),
        ("ho_unet", {"norm_epsilon": 1e-5}),
    ],
)
def test_every_option_matters(name, option, monkeypatch):
    """The comparison above would notice each of them."""
    params, x_t, condition, cond, stored = recorded_of(name)
    monkeypatch.setitem(OPTIONS, name, OPTIONS[name] | option)
    assert np.max(np.abs(output_of(name, params, x_t, condition, cond) - stored["out"])) > 2e-5


def test_the_order_of_heads_matters():
    (params, x_t, condition, cond, stored), tensors = recorded_of("guided_neworder"), tensors_of("guided_neworder")
    theirs = openai.map_of(params, num_heads=heads("guided_neworder"), split_heads_first=True)
    wrong = maps.read(tensors, params, theirs)
    assert np.max(np.abs(output_of("guided_neworder", wrong, x_t, condition, cond) - stored["out"])) > 0.1


@pytest.mark.parametrize("name", OPTIONS)
def test_every_tensor_is_used(name):
    """As many numbers in as out."""
    params, *_, stored = recorded_of(name)
    num_theirs = sum(stored[key].size for key in stored if key.startswith("param."))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num_theirs


def test_a_narrow_first_stage_is_laid_out_as_in_guided_diffusion():
    """Whose unet.py has ch = input_ch = int(channel_mult[0] * model_channels) in its first and its last layer."""
    options = SMALL | OPTIONS["guided_updown"] | {"channels": 64, "multipliers": (0.5, 1), "learned_variance": False}
    network = networks.unet((8, 8, 3), dtype="float32", **options)
    like = jax.eval_shape(network.init, jax.random.key(0))
    names = openai.map_of(like, num_heads=heads("guided_updown"), split_heads_first=True)
    leaves = jax.tree_util.tree_leaves_with_path(like)
    shapes = {names[".".join(part.key for part in path)].name: leaf.shape for path, leaf in leaves}
    expected = {
        **{"input_blocks.0.0.weight": (3, 3, 3, 32), "time_embed.0.weight": (64, 256), "label_emb.weight": (5, 256)},
        **{"input_blocks.1.0.in_layers.2.weight": (3, 3, 32, 32), "input_blocks.2.0.in_layers.2.weight": (3, 3, 32, 32)},
        **{"input_blocks.3.0.in_layers.2.weight": (3, 3, 32, 64), "input_blocks.3.0.skip_connection.weight": (1, 1, 32, 64)},
        **{"output_blocks.0.0.in_layers.2.weight": (3, 3, 128, 64), "output_blocks.1.0.in_layers.2.weight": (3, 3, 96, 64)},
        **{"output_blocks.2.0.in_layers.2.weight": (3, 3, 96, 32), "output_blocks.3.0.in_layers.2.weight": (3, 3, 64, 32)},
        **{"out.0.weight": (32,), "out.2.weight": (3, 3, 32, 3)},
    }
    assert {name: shapes[name] for name in expected} == expected
    assert "input_blocks.1.0.skip_connection.weight" not in shapes


@pytest.mark.parametrize("name", OPTIONS)
def test_every_network_knows_the_time(name, monkeypatch):
    """Another t changes each image's output. With one channel in a group an added embedding is normalised away: hence 8."""
    params, x_t, condition, cond, _ = recorded_of(name)
    monkeypatch.setitem(OPTIONS, name, OPTIONS[name] | {"num_groups": 8})
    apply = jax.jit(network_of(name).apply)
    one, two = (apply(params, x_t, t, cond) for t in (condition, (condition + 300) % 1000))
    assert np.all(np.max(np.abs(one - two), axis=(1, 2, 3)) > 1e-3)


OF_OPENAI = [f"{layer}.{{}}" for layer in ("time_embed.0", "time_embed.2", "input_blocks.1.0.emb_layers.1")]
TIME_PATHS = {  # their layers from the embedding of t to the first block, of networks whose outputs hide them
    "ho_unet": [f"model/{layer}/{{}}" for layer in ("temb/dense0", "temb/dense1", "down_0/block_0/temb_proj")],
    "improved_plain": OF_OPENAI,
    "guided_neworder": OF_OPENAI,
}


@pytest.mark.parametrize("name", TIME_PATHS)
def test_the_path_of_the_time_is_theirs_where_the_outputs_hide_it(name):
    """Their 32 channels are in 32 groups: no output depends on t. What the first block adds is compared instead."""
    params, x_t, condition, cond, stored = recorded_of(name)
    options = {key: value for key, value in (SMALL | OPTIONS[name]).items() if key != "num_heads_up"}
    module = UNet(out_channels=3, stages=Stages(dtype=jnp.float32, **options))
    only = {"capture_intermediates": lambda layer, _: layer.name == "embedding"}
    _, seen = jax.jit(lambda p: module.apply({"params": p}, x_t, condition, cond, train=False, **only))(params)
    h = np.asarray(layers.embed_c_noise(jnp.asarray(condition), 32, spacing=module.stages.embedding_spacing), np.float64)
    h = h if name == "ho_unet" else np.roll(h, 16, axis=1)  # OpenAI's have the cosines first
    for number, layer in enumerate(TIME_PATHS[name]):
        h = h / (1 + np.exp(-h)) if number else h
        if name == "ho_unet":
            h = h @ stored["param." + layer.format("W")] + stored["param." + layer.format("b")]
        else:
            h = h @ stored["param." + layer.format("weight")].T + stored["param." + layer.format("bias")]
    [found] = seen["intermediates"]["down_0_0"]["embedding"]["__call__"]
    np.testing.assert_allclose(found, h, rtol=0, atol=2e-5)
    assert np.max(np.abs(h[0] - h[1])) > 1e-2


def test_weights_of_another_network_are_refused():
    tensors = tensors_of("ho_unet")
    like = jax.eval_shape(networks.unet((8, 8, 3), dtype="float32", **SMALL | {"num_res_blocks": 2}).init, jax.random.key(0))
    with pytest.raises(UserError, match="options: [0-9]+ missing: down_0/block_1/conv1/b, .* and [0-9]+ more"):
        maps.read(tensors, like, ho.map_of(like))
    like = jax.eval_shape(
        networks.unet((8, 8, 3), dtype="float32", **SMALL | {"multipliers": (1, 2)}).init, jax.random.key(0)
    )
    with pytest.raises(UserError, match=r"of another shape: .*down_1/block_0/conv1/b is \[32\] and not \[64\]"):
        maps.read(tensors, like, ho.map_of(like))


def test_weights_of_a_network_that_has_more_are_refused():
    tensors = tensors_of("ho_unet")
    like = jax.eval_shape(networks.unet((8, 8, 3), dtype="float32", **SMALL).init, jax.random.key(0))
    more = {f"up_0/attn_{number}/norm/gamma": np.ones(32) for number in range(7, 19)}
    sentence = r"options: 12 left over: up_0/attn_7/norm/gamma \[32\], .*up_0/attn_16/norm/gamma \[32\] and 2 more"
    with pytest.raises(UserError, match=sentence):
        maps.read(tensors | more, like, ho.map_of(like))


G6 = recorded.load("g6_embeddings")
CLOSED = ("ho.", "score_sde.", "diffusers.flip0.shift1.", "edm.pos.endpoint1.")


@pytest.mark.parametrize("key", [key for key in G6 if not re.match("t_|.*fourier", key)])
def test_the_embeddings_are_the_references(key, x64):
    """Sines and cosines in either order; what is float32 there loses digits of t before the sine."""
    condition = G6["t_frac"] if ".frac." in key or key.startswith("edm") else G6["t_int"].astype(np.float64)
    spacing = "closed" if key.startswith(CLOSED) else "half_open"
    got = layers.embed_c_noise(jnp.asarray(condition), G6[key].shape[-1], spacing=spacing)
    if key.startswith(("improved.", "diffusers.flip1", "edm.")):
        sine, cosine, rest = jnp.split(got, (got.shape[-1] // 2, 2 * (got.shape[-1] // 2)), axis=-1)
        got = jnp.concatenate([cosine, sine, rest], axis=-1)
    atol = 2e-4 * max(1, np.max(condition) / 1000) if key.endswith("__f32") else 1e-11
    np.testing.assert_allclose(got, G6[key], rtol=0, atol=atol)


def theirs_by_ours(name, like):
    """Returns {their tensor: our leaves that make it up}: q, k and v are one tensor of theirs."""
    found = {}
    for ours, entry in openai.map_of(like, num_heads=heads(name), split_heads_first=True).items():
        found.setdefault(entry.name, []).append(tuple(ours.split(".")))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("precision", [pytest.param("float32", marks=pytest.mark.slow), "float64"], indirect=True)
def test_the_hybrid_loss_and_its_gradients_are_improved_diffusions(precision):
    """Cosine, T = 1000, learned range, L_vlb's share held off the mean: loss, and the gradient of each of their 129 tensors.

    To their 2e-3 in float32; in float64 to 1e-5, what the float32 softmax of attention leaves.
    """
    name, is_double = "improved_cond_ssn", precision < 1e-9
    suffix, dtype = ("__f64", np.float64) if is_double else ("", np.float32)
    params, _, _, cond, stored = recorded_of(name)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)
    levels = oracles.rows_of(schedules.cosine(1000))
    x_0, eps = (nhwc(stored[f"train.{key}"]).astype(dtype) for key in ("x_start", "noise"))
    network = network_of(name, str(np.dtype(dtype)))

    def objective(params):
        def apply(x_t, condition):
            return network.apply(params, x_t, condition, cond, train=True, rngs={"dropout": jax.random.key(0)})

        denoise = denoiser.make_denoiser(apply, denoiser.EPS, learned_variance=True)
        loss = losses.hybrid(levels=levels)
        each, terms = loss(denoise, x_0, process.rows(levels, stored["train.t"] + 1), eps)
        return jnp.mean(each), (each, terms)

    (_, (each, terms)), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    rtol = 1e-5 if is_double else 2e-3
    np.testing.assert_allclose(terms["mse"], stored[f"train.mse{suffix}"], rtol=rtol)
    np.testing.assert_allclose(0.001 * terms["vlb"], stored[f"train.vb{suffix}"], rtol=rtol)
    np.testing.assert_allclose(each, stored[f"train.loss{suffix}"], rtol=rtol)
    flat = {tuple(part.key for part in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)}
    norms = {
        theirs: np.sqrt(sum(np.sum(np.square(flat[ours])) for ours in leaves))
        for theirs, leaves in theirs_by_ours(name, params).items()
    }
    got = np.array([norms[str(theirs)] for theirs in stored["train.grad_names"]])
    expected = stored[f"train.grad_norm{suffix}"]
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-6 * np.max(expected))
    conv_in = np.moveaxis(np.asarray(gradient["conv_in"]["kernel"]), (-1, -2), (0, 1))
    for value, key in ((conv_in, "input_blocks.0.0.weight"), (gradient["conv_out"]["bias"], "out.2.bias")):
        whole = stored[f"train.grad.{key}{suffix}"]
        np.testing.assert_allclose(value, whole, rtol=rtol, atol=rtol * np.max(np.abs(whole)))


def map_of(name, like):
    """Returns the map of a recorded network."""
    if name == "ho_unet":
        return ho.map_of(like)
    if name.startswith("unet2d"):
        return diffusers.map_of(like)
    return openai.map_of(like, num_heads=heads(name), split_heads_first="neworder" not in name)


@pytest.mark.parametrize("name", OPTIONS)
def test_reading_and_writing_is_the_identity_for_every_map(name):
    """To the bit, and by names: what is written is the recorded state dict."""
    params, theirs = recorded_of(name)[0], tensors_of(name)
    written = maps.write(params, map_of(name, params))
    assert written.keys() == {key.removeprefix("model/") for key in theirs}
    for key, tensor in theirs.items():
        np.testing.assert_array_equal(written[key.removeprefix("model/")].ravel(), tensor.ravel(), err_msg=key)
