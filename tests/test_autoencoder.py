"""Autoencoders: with their weights they are diffusers' (g15, see goldens/README.md), and they do what their options say."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
import safetensors.numpy
from test_models import alive, num_parameters

from benchmarks import parity_autoencoder as parity
from diffusion_jax.compose import coding
from diffusion_jax.errors import UserError
from diffusion_jax.networks.autoencoder import autoencoder_kl, autoencoder_tiny
from diffusion_jax.tools import export, import_weights
from diffusion_jax.weights import diffusers_autoencoder, formats, latent_diffusion, maps, sources
from diffusion_jax.weights.sources import Source

SMALL = [name for name in parity.CASES if name.startswith("small")]
KL = {"channels": 8, "multipliers": (1, 2), "num_res_blocks": 1, "latent_channels": 2, "num_groups": 4, "dtype": "float32"}
TINY = {"channels": 8, "num_blocks": (1, 2), "latent_channels": 2, "dtype": "float32"}
MAKERS = {"autoencoder_kl": (autoencoder_kl, KL), "autoencoder_tiny": (autoencoder_tiny, TINY)}
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # of 2022


def said(name, what, dtype="float64"):
    return recorded.load("g15_autoencoder")[f"{name}.{what}"].astype(dtype)


def config_of(name):
    return json.loads(str(recorded.load("g15_autoencoder")[f"{name}.config"]))


def tensors_of(name):
    """Returns the recorded network's tensors, of the names and shapes that diffusers saved."""
    lines = (line.split(" ", 1) for line in recorded.load("g15_autoencoder")[f"{name}.tensors"].tolist())
    return {key: parity.drawn(key, tuple(json.loads(shape))) for key, shape in lines}


def published(name, tensors=None, **changes):
    """Returns what is read of a recorded network with other options."""
    source = Source("vae", tensors or tensors_of(name), {"config": config_of(name) | changes})
    return formats.recognised(source)


def small(kind, image_shape=(8, 8, 3), **options):
    make, defaults = MAKERS[kind]
    return make(image_shape, **defaults | options)


def images(*shape):
    return jnp.tanh(jax.random.normal(jax.random.key(1), shape))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SMALL)
def test_the_published_network_is_ours_with_its_weights(name, dtype, x64):
    """1e-6 in float64, since the softmax of attention is float32; the numbers' standard deviations are 0.4 to 0.8."""
    found = parity.said_by_us(published(name), parity.drawn("x", (1, 16, 16, 3)).astype(dtype))
    tolerance = {"float32": 1e-5, "float64": 1e-6}[dtype]
    for what in ("mean", "decoded") if name == "small_tiny" else found:
        assert found[what].dtype == dtype
        np.testing.assert_allclose(found[what], said(name, what), rtol=0, atol=tolerance)


def test_a_folder_of_diffusers_is_read_and_what_is_written_is_the_same(tmp_path):
    for name in SMALL:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config_of(name)))
        file = tmp_path / name / "diffusion_pytorch_model.safetensors"
        file.write_bytes(safetensors.numpy.save(tensors_of(name)))
        found = formats.recognised(sources.read(tmp_path / name))
        ours, params = parity.ours_of(found, 16, "float32")
        model = {key.removeprefix("model."): value for key, value in found.fields.items()}
        back = diffusers_autoencoder.write(params, model)
        assert ours.shape == (8, 8, 3)
        jax.tree.map(np.testing.assert_array_equal, back, tensors_of(name))
        written = diffusers_autoencoder.settings_of(model, (16, 16, 3))
        unsaid = {"sample_size": 16, "scaling_factor": 1.0, "shift_factor": 0.0}
        assert written | unsaid == {name: value for name, value in config_of(name).items() if name in written} | unsaid


def test_attentions_of_2022_have_other_names():
    old = tensors_of("small")
    for new, name in OLD_NAMES.items():
        old = {key.replace(f".{new}.", f".{name}."): tensor for key, tensor in old.items()}
    assert old.keys() != tensors_of("small").keys()
    expected, found = (parity.ours_of(published("small", tensors), 16, "float32")[1] for tensors in (None, old))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("config", "num", "latents"),
    [
        (
            {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2},
            83_653_863,
            "latents * 0.18215; for such a model set data.latent_scale=0.18215",
        ),
        (  # of Stable Diffusion 3
            {
                "block_out_channels": [128, 256, 512, 512],
                "layers_per_block": 2,
                "latent_channels": 16,
                "use_quant_conv": False,
                "use_post_quant_conv": False,
                "scaling_factor": 1.5305,
                "shift_factor": 0.0609,
            },
            83_819_683,
            "(latents - 0.0609) * 1.5305; for such a model set data.latent_scale=1.5305 and data.latent_shift=0.0609",
        ),
        ({}, 2_445_063, "latents * 1; for such a model set data.latent_scale=1"),
    ],
)
def test_the_published_sizes_follow_from_config_json(config, num, latents):
    """The numbers are those of diffusers' networks; images of 64 x 48 pixels have latents of 8 x 6."""
    name = "small" if config else "small_tiny"
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4} if config else {}
    found = formats.recognised(Source("vae", tensors_of(name), {"config": config | kinds}))
    fields = found.fields
    assert found.notes == (f"diffusers gives its models {latents}.",)
    ours = parity.network_of(fields, (64, 48, 3), "float32")
    assert num_parameters(ours) == num and ours.shape == (8, 6, fields["model.latent_channels"])
    like, x = jax.eval_shape(ours.init, jax.random.key(0)), jnp.zeros((2, 64, 48, 3))
    z = jax.eval_shape(ours.encode, like, x)
    assert z.mean.shape == z.log_variance.shape == (2, *ours.shape)
    assert jax.eval_shape(ours.decode, like, z.mean).shape == x.shape


def test_log_variances_are_limited():
    """So that their exponential is finite, whatever the weights."""
    ours = small("autoencoder_kl")
    params, [low, high] = alive(ours), (-30, 20)
    params["encoder"]["quant_conv"]["bias"] = np.array([1e3, 0, -1e5, 1e5], np.float32)
    z = jax.jit(ours.encode)(params, images(2, 8, 8, 3))
    np.testing.assert_array_equal(z.log_variance[..., 0], low)
    np.testing.assert_array_equal(z.log_variance[..., 1], high)
    assert np.min(z.mean[..., 0]) > 100


def test_a_tiny_autoencoder_has_no_variance_and_limits_latents():
    ours = small("autoencoder_tiny")
    params, x = alive(ours), images(2, 8, 8, 3)
    z = jax.jit(ours.encode)(params, x)
    np.testing.assert_array_equal(z.log_variance, np.full(z.mean.shape, -np.inf))
    far = [jax.jit(ours.decode)(params, scale * jnp.ones_like(z.mean)) for scale in (1e3, 1e6, 1.0)]
    np.testing.assert_array_equal(far[0], far[1])
    assert np.max(np.abs(far[0] - far[2])) > 1e-3


@pytest.mark.parametrize("kind", MAKERS)
def test_any_height_and_width_that_the_stages_divide(kind):
    ours = small(kind, (6, 10, 2))
    params = alive(ours)
    assert ours.shape == (3, 5, 2)
    for height, width in [(6, 10), (4, 4)]:
        z = jax.eval_shape(ours.encode, params, images(3, height, width, 2))
        assert z.mean.shape == (3, height // 2, width // 2, 2)
        assert jax.eval_shape(ours.decode, params, z.mean).shape == (3, height, width, 2)
    with pytest.raises(ValueError, match="^arrays of 6 x 5 do not fit: each size must be a multiple of 2."):
        jax.eval_shape(ours.encode, params, images(3, 6, 5, 2))


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_not_an_image_or_a_latent_is_a_sentence(kind):
    ours = small(kind)
    params = jax.eval_shape(ours.init, jax.random.key(0))
    with pytest.raises(ValueError, match=r"^images of \[2, 8, 8, 1\] are not allowed; the encoder takes \[B, H, W, 3\].$"):
        ours.encode(params, images(2, 8, 8, 1))
    with pytest.raises(ValueError, match=r"^latents of \[4, 4, 2\] are not allowed; the decoder takes \[B, H, W, 2\].$"):
        ours.decode(params, images(4, 4, 2))


@pytest.mark.parametrize("kind", MAKERS)
def test_a_fresh_autoencoder_has_drawn_kernels_in_both_halves(kind):
    """Uniform ones, whose mean magnitude is half of the largest."""
    params = jax.jit(small(kind).init)(jax.random.key(0))
    for path, leaf in jax.tree.leaves_with_path(params):
        if path[-1].key == "kernel" and leaf.size > 100:
            assert 0.4 < np.mean(np.abs(leaf)) / np.max(np.abs(leaf)) < 0.6


def test_bfloat16_computes_the_same_roughly_and_with_kernels_cast_beforehand_to_the_bit():
    ours, exact = small("autoencoder_tiny", dtype="bfloat16"), small("autoencoder_tiny")
    params, x = alive(ours), images(2, 8, 8, 3)
    z = jax.jit(ours.encode)(params, x).mean
    assert z.dtype == jnp.float32
    np.testing.assert_array_equal(z, jax.jit(ours.encode)(ours.cast(params), x).mean)
    expected = jax.jit(exact.encode)(params, x).mean
    assert 0 < np.max(np.abs(z - expected)) < 0.1 * np.max(np.abs(expected))


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("small", {"act_fn": "relu"}, "config.json has act_fn = 'relu'; it must be 'silu'."),
        ("small", {"latents_mean": [0.1]}, r"config.json has latents_mean = \[0.1\]; it must be None."),
        ("small", {"out_channels": 1}, "config.json has out_channels = 1; it must be 3."),
        ("small", {"use_post_quant_conv": False}, "config.json has use_post_quant_conv = False; it must be True."),
        (
            "small",
            {"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]},
            r"config.json has down_block_types = \['DownEncoderBlock2D', 'AttnDownEncoderBlock2D'\]; it must be "
            r"\['DownEncoderBlock2D', 'DownEncoderBlock2D'\].",
        ),
        ("small_tiny", {"upsample_fn": "bilinear"}, "config.json has upsample_fn = 'bilinear'; it must be 'nearest'."),
        (
            "small_tiny",
            {"num_decoder_blocks": [1, 2]},
            r"config.json has num_decoder_blocks = \[1, 2\]; it must be \[2, 1\].",
        ),
        (
            "small_tiny",
            {"decoder_block_out_channels": [32, 16]},
            r"config.json has decoder_block_out_channels = \[32, 16\]; it must be \[32, 32\].",
        ),
    ],
)
def test_what_our_network_does_not_compute_is_a_sentence(name, changes, sentence):
    with pytest.raises(UserError, match=f"^{sentence}$"):
        published(name, **changes)


def in_latent_diffusion(name, **more):
    """Returns a recorded network's tensors as in a checkpoint of CompVis/latent-diffusion."""
    _, params = parity.ours_of(published(name), 16, "float32")
    return params, {
        f"state_dict.{key}": of for key, of in (maps.write(params, latent_diffusion.map_of(params)) | more).items()
    }


@pytest.mark.parametrize("name", ["small", "small_bare"])
def test_a_checkpoint_of_latent_diffusion_is_read(name):
    """Which benchmarks/parity_autoencoder.py compares with what diffusers makes of one."""
    params, tensors = in_latent_diffusion(name, **{"loss.logvar": np.zeros(())})
    assert "state_dict.decoder.up.1.upsample.conv.weight" in tensors
    found = formats.recognised(Source("epoch=6.ckpt", tensors))
    jax.tree.map(np.testing.assert_array_equal, parity.ours_of(found, 16, "float32")[1], params)
    expected = published(name).fields | {"data.image_size": (256, 256), "model.num_groups": 32}
    assert found.fields == expected


def test_what_is_no_autoencoder_of_ours_in_latent_diffusion_is_a_sentence():
    _, tensors = in_latent_diffusion("small", **{"encoder.down.1.attn.0.q.weight": np.zeros(1)})
    with pytest.raises(UserError, match="^the weights have attention in stages, as 'encoder.down.1.attn.0.q.weight'; they"):
        formats.recognised(Source("model.ckpt", tensors))
    _, tensors = in_latent_diffusion("small", **{"model.diffusion_model.attn2.weight": np.zeros(1)})
    with pytest.raises(UserError, match="are those of a network that is shown a text"):
        formats.recognised(Source("v1-5-pruned.ckpt", tensors))


@pytest.mark.parametrize("name", ["small", "small_tiny"])
def test_a_folder_of_diffusers_becomes_a_codec_and_a_folder_again(name, tmp_path, capsys):
    """Its latents are those of the recorded network, and what comes back is the folder."""
    folder, workdir, out = tmp_path / "vae", tmp_path / "run", tmp_path / "back"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_of(name)))
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(safetensors.numpy.save(tensors_of(name)))
    assert import_weights.main(["import_weights", f"--from={folder}", f"--workdir={workdir}"]) == 0
    assert f"try it for the latents of a run: --config.data.codec={workdir}\n" in capsys.readouterr().out
    with jax.default_matmul_precision("highest"):
        z = coding.coder(str(workdir)).encode(parity.drawn("x", (1, 16, 16, 3)))
    np.testing.assert_allclose(z.mean, said(name, "mean"), rtol=0, atol=1e-5)
    assert export.main(["export", f"--workdir={workdir}", f"--out={out}", "--to=diffusers"]) == 0
    assert f"diffusers.{config_of(name)['_class_name']}.from_pretrained({str(out)!r})\n" in capsys.readouterr().out
    found = formats.recognised(sources.read(out))
    jax.tree.map(np.testing.assert_array_equal, dict(found.tensors), tensors_of(name))
    assert found.fields == formats.recognised(sources.read(folder)).fields


def test_another_epsilon_has_no_counterpart_in_diffusers():
    model = {"kind": "autoencoder_kl", "multipliers": (1,), "latent_channels": 4, "norm_epsilon": 1e-5}
    with pytest.raises(UserError, match="^config field model.norm_epsilon = 1e-05 has no counterpart in AutoencoderKL, but"):
        diffusers_autoencoder.settings_of(model, (16, 16, 3))


def test_another_class_and_a_missing_config_are_a_sentence():
    with pytest.raises(UserError, match="^config.json is of a model of the class 'VQModel'; it must be AutoencoderKL.$"):
        formats.recognised(Source("vae", tensors_of("small"), {"config": {"_class_name": "VQModel"}}))
    with pytest.raises(UserError, match="^flag --from = 'vae' must be the folder with config.json beside the weights,"):
        formats.recognised(Source("vae", tensors_of("small_tiny")))


def test_weights_of_other_options_are_listed():
    with pytest.raises(UserError, match="4 left over: .*post_quant_conv.weight"):
        parity.ours_of(published("small", use_quant_conv=False, use_post_quant_conv=False), 16, "float32")


@pytest.mark.parametrize("kind", MAKERS)
def test_too_many_channels_are_a_sentence(kind):
    with pytest.raises(UserError, match="^channels = 65600.* is not allowed; a stage has at most 65,536 channels.$"):
        small(kind, channels=65600)
