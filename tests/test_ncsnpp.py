"""NCSN++ and DDPM++: score_sde's and EDM's code said the recorded outputs (g13, see goldens/README.md)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
from test_config import config_of
from test_models import alive, num_parameters

from diffusion_jax import denoiser, networks, process
from diffusion_jax.compose import checks, choices, imported
from diffusion_jax.errors import UserError
from diffusion_jax.networks import layers
from diffusion_jax.networks.ncsnpp import FOURIER_SCALE, FourierFeatures, double, halve, smooth
from diffusion_jax.weights import edm, formats, maps, score_sde
from diffusion_jax.weights.sources import Source

FIR, SLOW = (1, 3, 3, 1), pytest.mark.slow
SMALL = {"channels": 8, "multipliers": (1, 2), "num_res_blocks": 1, "attention_stages": (1,), "num_groups": 32}
NCSNPP = {"embedding": "fourier", "resample_filter": FIR, "progressive_input": "residual"}
PYRAMIDS = {"embedding": "fourier", "resample_filter": FIR, "progressive_input": "input_skip", "progressive": "output_skip"}
DDPMPP = {"embedding": "positional", "resample_filter": (1, 1), "progressive_input": "none", "progressive": "none"}
DDPMPP |= {"num_classes": 0}
VE_SDE = (process.ve_sde, denoiser.SCALED_SCORE)
CASES = {  # recorded -> (our options, the process that the network goes with, what its output is)
    "sde_ddpmpp": ({}, process.vp, denoiser.EPS),
    "sde_ncsnpp": (NCSNPP, *VE_SDE),
    "sde_pyramids": (PYRAMIDS, *VE_SDE),
    "edm_ddpmpp": ({"num_classes": 3}, process.ve, denoiser.edm()),
    "edm_ncsnpp": (NCSNPP, process.ve, denoiser.edm()),
}


def network_of(options, dtype="float32", image_shape=(8, 8, 3)):
    return networks.ncsnpp(image_shape, dtype=dtype, dropout=0.0, **SMALL | options)


def tensors_of(name):
    stored, prefix = recorded.load("g13_ncsnpp"), f"{name}.param."
    return {key.removeprefix(prefix): np.float32(stored[key]) for key in stored if key.startswith(prefix)}


def map_of(name, like):
    return edm.map_of(like, resolution=8) if name.startswith("edm") else score_sde.map_of(like)


def params_of(name):
    like = jax.eval_shape(network_of(CASES[name][0]).init, jax.random.key(0))
    return maps.read(tensors_of(name), like, map_of(name, like))


@recorded.once
def said(name, dtype):
    """Returns (output, x_0) of a recorded network; x_0 through our process. Their input of VE is sigma times the noise."""
    options, make_process, parameterization = CASES[name]
    stored, params = recorded.load("g13_ncsnpp"), jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params_of(name))
    level = make_process().level(stored[f"{name}.in.times"])
    sigma = 1 if name == "sde_ddpmpp" else level.sigma[:, None, None, None]
    x = jnp.asarray(stored[f"{name}.in.x"], dtype)
    cond = {"label": jnp.arange(2)} if "num_classes" in options else {}
    network = jax.jit(networks.bind(network_of(options, dtype), params, cond))
    output = network(x if name.startswith("edm") else x * sigma, jnp.asarray(level.c_noise, dtype))
    return output, denoiser.make_denoiser(network, parameterization)(x * sigma, level).x_0


@pytest.mark.parametrize("name", [pytest.param(name, marks=[SLOW] * (name != "sde_pyramids")) for name in CASES])
def test_the_published_network_is_ours_with_its_weights(name):
    """Outputs within 2e-5, as they differ by 5e-6 from their own in float64; x_0 is that times sigma / alpha, up to 60."""
    stored = recorded.load("g13_ncsnpp")
    output, x_0 = said(name, "float32")
    np.testing.assert_allclose(output, stored[f"{name}.out"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(x_0, stored[f"{name}.x_0"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[SLOW] * (name != "sde_pyramids")) for name in CASES])
def test_in_float64(name, x64):
    """1e-6, since jax.nn.dot_product_attention has its softmax in float32; 1e-5 for x_0, which is up to 60 times that."""
    stored = recorded.load("g13_ncsnpp")
    output, x_0 = said(name, "float64")
    np.testing.assert_allclose(output, stored[f"{name}.out__f64"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(x_0, stored[f"{name}.x_0__f64"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sde_ddpmpp", {"norm_epsilon": 1e-5}),
        pytest.param("sde_ddpmpp", {"embedding_spacing": "half_open"}, marks=SLOW),
        ("edm_ncsnpp", {"resample_filter": (1, 1)}),
    ],
)
def test_every_option_matters(name, change, monkeypatch):
    """The comparison above would notice each of them."""
    options, *rest = CASES[name]
    monkeypatch.setitem(CASES, name, (options | change, *rest))
    output, _ = said.__wrapped__(name, "float32")
    assert np.max(np.abs(output - recorded.load("g13_ncsnpp")[f"{name}.out"])) > 2e-5


@pytest.mark.parametrize("name", CASES)
def test_weights_come_back_bit_for_bit(name):
    params, tensors = params_of(name), tensors_of(name)
    written = maps.write(params, map_of(name, params))
    assert written.keys() == tensors.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(written[key], tensor)


@functools.cache
def checkpoint():
    """Returns a checkpoint of the PyTorch code, whose average is the network plus 1, and which ones are trained."""
    tensors = tensors_of("sde_ncsnpp")
    trained = [name for name in tensors if name != score_sde.FREQUENCIES]
    found = {f"model.module.{name}": tensor for name, tensor in {"sigmas": np.zeros(9), **tensors}.items()}
    averages = {f"ema.shadow_params.{number}": tensors[name] + 1 for number, name in enumerate(trained)}
    return found | averages | {"optimizer.state.0.exp_avg": np.zeros(3)}


def test_a_checkpoints_average_has_all_but_the_frequencies():
    tensors, average = tensors_of("sde_ncsnpp"), score_sde.of_checkpoint(checkpoint())
    assert average.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(average[name], tensor + (name != score_sde.FREQUENCIES))
    raw = score_sde.of_checkpoint(checkpoint(), ema=False)
    jax.tree.map(np.testing.assert_array_equal, raw, tensors)
    lacking = {name: tensor for name, tensor in checkpoint().items() if name != "ema.shadow_params.3"}
    with pytest.raises(UserError, match=rf"shadow_params are {len(tensors) - 2} tensors; .* trained are {len(tensors) - 1}"):
        score_sde.of_checkpoint(lacking)


def test_what_edm_keeps_beside_its_network_is_left_out():
    tensors, params = tensors_of("edm_ncsnpp"), params_of("edm_ncsnpp")
    kept = {"model.enc.4x4_down.conv0.resample_filter": np.ones((1, 1, 4, 4)), "model.map_augment.weight": np.ones((16, 9))}
    assert edm.of_network(tensors | kept).keys() == tensors.keys()
    with pytest.raises(UserError, match="1 left over: model.else"):
        maps.read(edm.of_network(tensors | {"model.else": np.ones(2)}), params, edm.map_of(params, resolution=8))


@pytest.mark.parametrize("name", CASES)
def test_a_published_network_is_recognised_and_its_process_known(name):
    """score_sde's say neither the side, taken to be that with attention at 16 pixels, nor which of its processes 'vp' is."""
    options, make_process, parameterization = CASES[name]
    filters = {"model.enc.4x4_down.conv0.resample_filter": np.outer(FIR, FIR)[None, None] / 64}
    found = formats.recognised(Source("net.pth", tensors_of(name) | (filters if name == "edm_ncsnpp" else {})))
    assert found.needed == ((("process.kind",),) if name == "sde_ddpmpp" else ())
    config = imported.config_of(found, {"process.kind": "vp"} if found.needed else {})
    assert config.data.image_size == ((8, 8) if name.startswith("edm") else (32, 32))
    chosen = {field: getattr(config.model, field) for field in [*SMALL, *PYRAMIDS, "num_classes"]}
    assert chosen == DDPMPP | SMALL | options
    assert choices.PROCESSES[config.process.kind] is make_process
    level = make_process().level(0.5)
    expected = parameterization.coefficients(level)
    assert choices.PARAMETERIZATIONS[config.predicts].coefficients(level) == expected
    assert not found.needed or imported.config_of(found, {"process.kind": "sub_vp"}).process.kind == "sub_vp"
    params, notes = imported.params_of(found, config)
    jax.tree.map(np.testing.assert_array_equal, params, params_of(name))
    assert not notes


def test_other_networks_are_not_recognised():
    named = {f"all_modules.{number}.weight": np.ones((2, 2)) for number in range(3)}
    assert score_sde.published(Source("net.pth", named)) is None
    assert edm.published(Source("net.pth", {"model.map_layer0.weight": np.ones((2, 2))})) is None


CIFAR10 = SMALL | {"channels": 128, "multipliers": (1, 2, 2, 2), "num_res_blocks": 4}
OF_EDM = CIFAR10 | {"multipliers": (2, 2, 2)}
AT_256 = CIFAR10 | PYRAMIDS | {"multipliers": (1, 1, 2, 2, 2, 2, 2), "num_res_blocks": 2, "attention_stages": (4,)}
DEEP = {"num_res_blocks": 8}


@pytest.mark.parametrize(
    ("side", "options", "number"),
    [
        pytest.param(32, CIFAR10 | DEEP, 106_632_579, id="score_sde cifar10_ddpmpp_deep", marks=SLOW),
        pytest.param(32, CIFAR10 | NCSNPP | DEEP, 107_587_075, id="score_sde cifar10_ncsnpp_deep", marks=SLOW),
        pytest.param(256, AT_256, 65_574_549, id="score_sde church_ncsnpp"),
        pytest.param(32, OF_EDM | {"num_classes": 10}, 55_734_147, id="edm cifar10 ddpmpp, classes"),
        pytest.param(32, OF_EDM | NCSNPP, 56_395_523 + 128, id="edm cifar10 ncsnpp"),  # whose frequencies they do not count
    ],
)
def test_the_published_sizes(side, options, number):
    """Counted in the authors' code; tests/test_configs.py has those of the configs."""
    assert num_parameters(network_of(options, image_shape=(side, side, 3))) == number


def upfirdn(x, taps, *, up, down, before, after):
    """Returns rows of x with zeros put after each, padded, filtered, and thinned: by its definition, along one axis."""
    stuffed = np.zeros(up * len(x))
    stuffed[::up] = x
    padded = np.pad(stuffed, (before, after))
    filtered = [np.dot(padded[i : i + len(taps)], taps[::-1]) for i in range(len(padded) - len(taps) + 1)]
    return np.array(filtered)[::down]


@pytest.mark.parametrize("taps", [(1, 1), FIR, (1, 5, 10, 10, 5, 1)])
def test_resampling_is_filtering_with_zeros_beyond_the_border(taps):
    """Along one axis of an image that is the same along the other, away from that one's border; every row and the ends."""
    x, kernel, margin = np.random.default_rng(0).normal(size=8), np.array(taps) / np.sum(taps), len(taps) - 2
    columns = jnp.tile(x[None, :, None, None], (1, 1, 16, 1))
    down = upfirdn(x, kernel, up=1, down=2, before=(margin + 1) // 2, after=margin // 2)
    up = upfirdn(x, 2 * kernel, up=2, down=1, before=(margin + 1) // 2 + 1, after=margin // 2)
    np.testing.assert_allclose(halve(columns, taps)[0, :, 4, 0], down, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(double(columns, taps)[0, :, 16, 0], up, rtol=1e-5, atol=1e-6)
    rows = columns.transpose(0, 2, 1, 3)
    np.testing.assert_allclose(halve(rows, taps)[0, 4, :, 0], down, rtol=1e-5, atol=1e-6)


def test_halving_is_the_transpose_of_doubling():
    x, y = (jax.random.normal(jax.random.key(side), (1, side, side, 2)) for side in (8, 4))
    assert np.sum(halve(x, FIR) * y) == pytest.approx(float(np.sum(x * double(y, FIR))) / 4, rel=1e-5)


def test_smoothing_keeps_what_is_constant_away_from_the_border():
    assert smooth(jnp.ones((1, 6, 6, 1)), (1, 2, 1), margin=0).shape == (1, 4, 4, 1)
    np.testing.assert_allclose(smooth(jnp.ones((1, 6, 6, 1)), (1, 2, 1), margin=1)[0, 1:-1, 1:-1], 1, rtol=1e-6)


def test_fourier_features_are_score_sdes_and_edms(x64):
    """EDM's has the cosines first; frequencies are float32 here."""
    stored = recorded.load("g6_embeddings")
    for prefix, frequencies in {"fourier": "W", "edm.fourier": "freqs"}.items():
        params = {"params": {"frequencies": jnp.asarray(stored[f"{prefix}.{frequencies}"])}}
        found = FourierFeatures(len(stored[f"{prefix}.{frequencies}"])).apply(params, jnp.asarray(stored["fourier.x"]))
        halves = jnp.split(found, 2, axis=-1)[:: -1 if prefix.startswith("edm") else 1]
        np.testing.assert_allclose(jnp.concatenate(halves, axis=-1), stored[f"{prefix}.out"], atol=1e-10)


def test_the_frequencies_are_drawn_and_not_trained():
    module, c_noise = FourierFeatures(1000), jnp.array([-1.0, 1.0])
    params = module.init(jax.random.key(0), c_noise)
    assert np.std(params["params"]["frequencies"]) == pytest.approx(FOURIER_SCALE, rel=0.1)
    gradient = jax.grad(lambda params: jnp.sum(module.apply(params, c_noise) ** 3))(params)
    assert not np.any(gradient["params"]["frequencies"])


def test_a_label_matters_and_an_unknown_one_is_no_label():
    """With the weights of labels at zero all labels are the unknown one."""
    network = network_of({"num_classes": 3, "multipliers": (1,), "attention_stages": ()})
    params = alive(network)
    x_t, c_noise = jnp.tile(jax.random.normal(jax.random.key(0), (1, 8, 8, 3)), (2, 1, 1, 1)), jnp.ones(2)
    apply = jax.jit(lambda params, label: network.apply(params, x_t, c_noise, {"label": label}))
    known, unknown = apply(params, jnp.array([1, 3]))
    assert np.max(np.abs(known - unknown)) > 1e-3
    params["label"]["kernel"] = np.zeros_like(params["label"]["kernel"])
    np.testing.assert_allclose(apply(params, jnp.array([1, 3]))[0], unknown, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, PYRAMIDS])
def test_other_shapes_in_bfloat16_with_an_image_shown_and_a_learned_variance(options):
    network = network_of(options | {"cond_channels": 1, "learned_variance": True}, "bfloat16", (4, 6, 2))
    params = jax.eval_shape(network.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    shown = {"image": jnp.zeros((5, 4, 6, 1))}
    output = jax.eval_shape(lambda params: network.apply(params, jnp.zeros((5, 4, 6, 2)), jnp.zeros(5), shown), params)
    assert output.shape == (5, 4, 6, 4) and output.dtype == jnp.float32


@pytest.mark.parametrize("channels", [8, 12, 48, 192])
def test_groups_have_at_least_four_channels(channels):
    assert layers.count_groups(channels, 32, 4) == min(32, channels // 4)
    assert layers.count_groups(channels, 4, 0) == 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"resample_filter": (1, 2, 1)},
            r"resample_filter = \(1, 2, 1\) is not allowed; it must be an even number of numbers",
        ),
        ({"resample_filter": (1, 3, 2, 1)}, r"resample_filter = \(1, 3, 2, 1\) .* read the same backwards"),
        ({"channels": 50}, "a layer would have 50 channels, which is not a multiple of 12, its number of groups"),
        ({"channels": 160, "multipliers": (1, 1.1)}, "would have 176 channels, which is not a multiple of num_groups = 32"),
    ],
)
def test_options_that_do_not_fit_together(options, sentence):
    with pytest.raises(UserError, match=sentence):
        network_of(options)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"model.kind": "ncsnpp", "model.embedding": "fourier"},
            "of the logarithm of the noise, which process.kind = 'discrete' does not give the network; set 'positional'",
        ),
        (
            {"process.kind": "ve_sde", "loss.time_density": "log_uniform", "process.sigma_min": 90.0},
            "process.sigma_min = 90.0 must be above 0 and below sigma_max = 80.0",
        ),
    ],
)
def test_a_config_that_does_not_fit_together(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        checks.check(config_of(changes))


def test_the_two_exploding_processes_differ_in_what_the_network_is_told():
    t = np.array([0.02, 1.0, 60.0])
    one, other = process.ve().level(t), process.ve_sde().level(t)
    np.testing.assert_allclose(one.c_noise, np.log(t) / 4, rtol=1e-6)
    np.testing.assert_allclose(other.c_noise, np.log(t / 2), rtol=1e-6)
    np.testing.assert_array_equal(one.log_snr, other.log_snr)
