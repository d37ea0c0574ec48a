"""Latent diffusion: a run whose images are the latents of an autoencoder, here one with random weights."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

import diffusion_jax as dj
import main
from configs import digits
from diffusion_jax.compose import chunked, coding, guiding, inputs, latents, processes, stored
from diffusion_jax.compose.config import Config
from diffusion_jax.data import codecs, feed, sources
from diffusion_jax.errors import UserError
from diffusion_jax.runs import checkpoint, storage
from diffusion_jax.runs.shards import flatten
from diffusion_jax.training import step
from diffusion_jax.weights import sources as weight_sources

OF_CODEC = {"model.kind": "autoencoder_kl", "model.latent_channels": 3, "loss.name": "reconstruction"}
OF_LATENTS = {"data.codec": "", "model.multipliers": (1, 1)}
NETWORK = {"model.channels": 4, "model.num_groups": 2, "model.multipliers": (1, 1), "model.num_res_blocks": 1}
RUN = {"train.num_steps": 2, "train.warmup_steps": 1, "train.batch_size": 8, "train.sample_every": 2, "train.log_every": 1}
RUN |= {"train.checkpoint_every": 1, "train.tensorboard": False, "sample.batch_per_device": 4, "sample.num_images": 4}
RUN |= {"process.num_steps": 20, "sample.num_steps": 3, "sample.clip": "none", "data.random_flip": True}


def config_of(**fields):
    return Config.of_flat(Config().flat() | flatten(digits.get_config().to_dict()) | NETWORK | RUN | fields)


def write_codec(folder, seed, **fields):
    """Writes an autoencoder of digits, 8 x 8 x 1 to 4 x 4 x 3, with random weights."""
    config = config_of(**OF_CODEC | {"train.ema_rates": (), "sample.ema_rate": 0.0} | fields)
    checkpoint.save_weights(storage.path(folder), 0, processes.network(config).init(jax.random.key(seed)))
    stored.write_config(storage.path(folder), config, weights_alone=True)
    return str(folder)


def flags(workdir, codec, **fields):
    given = NETWORK | RUN | {"data.codec": codec, "model.multipliers": (1,)} | fields
    text = [f"--config.{name}={value}".replace(" ", "") for name, value in given.items()]
    return ["main.py", "--config=configs/digits.py", f"--workdir={workdir}", *text]


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    return write_codec(tmp_path_factory.mktemp("codec") / "run", seed=0)


@pytest.fixture(scope="module")
def trained(codec, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("latents") / "run"
    assert main.main(flags(workdir, codec)) == 0
    return workdir


@pytest.fixture
def of_codec(codec):
    return config_of(**{"data.codec": codec, "model.multipliers": (1,)})


def test_a_run_is_trained_on_the_latents_of_its_codec_at_unit_variance(of_codec, tmp_path):
    config, source, held_out = latents.images(of_codec, storage.path(tmp_path))
    assert config.data.latent_shape == (4, 4, 3) and held_out is None
    records = feed.read(source)["x"]
    assert records.shape == (1797, 2, 4, 4, 3)
    np.testing.assert_allclose(np.std(records) * config.data.latent_scale, 1, rtol=1e-4)
    images = feed.read(inputs.source(config), range(5))["x"]
    wanted = coding.coder(of_codec.data.codec).encode(codecs.from_uint8(images)).mean
    mirrored = coding.coder(of_codec.data.codec).encode(codecs.from_uint8(images[:, :, ::-1])).mean
    np.testing.assert_allclose(records[:5], np.stack([wanted, mirrored], 1), atol=1e-5)


def test_latents_are_shifted_and_scaled_and_back(of_codec):
    """As diffusers' pipelines do: (z - shift) * scale."""
    config = of_codec.with_values("data", latent_shape=(4, 4, 3), latent_scale=0.5, latent_shift=-0.25)
    z = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    x_0, _ = inputs.encode(config)({"x": z[:, None], "cond": {}}, jax.random.split(jax.random.key(0), 2))
    np.testing.assert_array_equal(x_0, (z + 0.25) * 0.5)
    wanted = codecs.to_uint8(coding.coder(config.data.codec).decode(z))
    np.testing.assert_array_equal(coding.codec(config).decode(x_0), wanted)


def test_a_flip_takes_the_latents_of_the_mirror_image():
    x = np.arange(8 * 2 * 3 * 3 * 2, dtype=np.float32).reshape(8, 2, 3, 3, 2)
    found = np.asarray(step.flipped({"x": x, "cond": {}}, jax.random.key(0))["x"])
    is_flipped = found[:, 0, 0, 0, 0] != x[:, 0, 0, 0, 0]
    assert 0 < is_flipped.sum() < 8
    np.testing.assert_array_equal(found, np.where(is_flipped[:, None, None, None, None], x[:, ::-1], x))


def test_latents_are_made_once_and_anew_for_another_codec(of_codec, tmp_path, monkeypatch):
    first = latents.images(of_codec, storage.path(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(chunked, "in_chunks", None)  # nothing is encoded again
        again = latents.images(of_codec, storage.path(tmp_path))
    assert again[0] == first[0]
    np.testing.assert_array_equal(again[1].read(7)["x"], first[1].read(7)["x"])
    other = write_codec(tmp_path / "other", seed=1)
    latents.images(of_codec.with_values("data", codec=other), storage.path(tmp_path))
    assert len(list((tmp_path / "latents").iterdir())) == 2


@pytest.mark.slow
def test_a_workdir_needs_neither_the_codecs_folder_nor_its_own_old_place(trained, tmp_path):
    moved = shutil.copytree(trained, tmp_path / "moved")
    config = stored.read_config(storage.path(moved))
    (moved / "config.json").write_text(
        (moved / "config.json").read_text().replace(json.dumps(config.data.codec), json.dumps("gone"))
    )
    model = dj.load(moved)
    images = model.sample(4)
    assert images.shape == (4, 8, 8, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, dj.load(trained).sample(4))


@pytest.mark.slow
def test_predictions_on_the_way_are_images_too(trained):
    model = dj.load(trained)
    strip = dj.model.strip(model._replace(config=model.config.with_values("sample", strip=3)), 4)
    assert strip.shape == (3, 4, 8, 8, 1) and strip.dtype == np.uint8
    np.testing.assert_array_equal(strip[-1], model.sample(4))


@pytest.mark.slow
def test_latents_are_decoded_by_no_other_codec_than_the_runs(trained, tmp_path):
    other, config = write_codec(tmp_path / "other", seed=1), stored.read_config(storage.path(trained))
    wanted = coding.sha256(config.data.codec)[:8]
    with pytest.raises(
        UserError, match=f"data.codec = '.*other' has not the weights .*, and must with {wanted}. Set --config"
    ):
        dj.model.restore(storage.path(trained), config.with_values("data", codec=other))
    moved = shutil.copytree(trained, tmp_path / "moved")
    own = shutil.move(moved / "codec", tmp_path / "elsewhere")
    with pytest.raises(UserError, match="data.codec = '.*gone': there is no folder"):
        dj.model.restore(storage.path(moved), config.with_values("data", codec="gone"))
    assert dj.model.restore(storage.path(moved), config.with_values("data", codec=str(own))).step == 2
    shutil.move(other, moved / "codec")
    with pytest.raises(UserError, match="data.codec = '.*moved/codec' has not the weights that workdir '.*moved' was"):
        dj.load(moved)


@pytest.mark.slow
def test_the_codec_goes_with_exported_weights(trained, tmp_path):
    from diffusion_jax.tools import export

    assert export.main(["export", f"--workdir={trained}", f"--out={tmp_path / 'out'}"]) == 0
    np.testing.assert_array_equal(dj.load(tmp_path / "out").sample(2), dj.load(trained).sample(2))


@pytest.mark.slow
def test_a_shift_of_latents_has_no_counterpart_in_diffusers(trained, tmp_path, capsys):
    from diffusion_jax.tools import export

    shifted = shutil.copytree(trained, tmp_path / "shifted")
    said = (shifted / "config.json").read_text()
    (shifted / "config.json").write_text(re.sub(r'"latent_shift": 0.0', '"latent_shift": 0.5', said))
    assert export.main(["export", f"--workdir={shifted}", f"--out={tmp_path / 'out'}", "--to=diffusers"]) == 2
    assert "data.latent_shift = 0.5 has no counterpart in diffusers' pipelines; it must be 0." in capsys.readouterr().err


@pytest.mark.slow
def test_the_codec_goes_to_diffusers_with_the_network_of_latents(trained, tmp_path):
    """As an LDMPipeline, which divides latents by the scale of its autoencoder."""
    from diffusion_jax.tools import export

    out, config = tmp_path / "out", stored.read_config(storage.path(trained))
    assert export.main(["export", f"--workdir={trained}", f"--out={out}", "--to=diffusers"]) == 0
    unet, vae, index = (
        json.loads((out / name).read_text()) for name in ("unet/config.json", "vqvae/config.json", "model_index.json")
    )
    assert (unet["in_channels"], unet["sample_size"], vae["latent_channels"], vae["sample_size"]) == (3, 4, 3, 8)
    assert vae["scaling_factor"] == config.data.latent_scale != 1
    assert (index["_class_name"], index["vqvae"]) == ("LDMPipeline", ["diffusers", "AutoencoderKL"])
    _, params = coding.first_stage(config.data.codec)
    written = weight_sources.read(out / "vqvae").tensors
    np.testing.assert_array_equal(written["encoder.conv_in.bias"], params["encoder"]["conv_in"]["bias"])


@pytest.mark.slow
def test_a_run_goes_on_without_its_codecs_folder_and_refuses_another_codec(trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "run")
    other = write_codec(tmp_path / "other", seed=1)
    assert main.main(flags(workdir, other)) == 2
    assert re.search("data.codec = '.*other' has not the weights that workdir .* was trained with", capsys.readouterr().err)
    assert main.main(flags(workdir, "gone", **{"train.num_steps": 3})) == 0
    assert "resumed     at step 2" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_known_of_an_image_stays_and_the_rest_follows_its_latents(trained):
    model, images = dj.load(trained), np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    mask = np.zeros((8, 8, 1), np.uint8)
    mask[:, :3] = 1
    edited = model.edit(images, task="inpaint", mask=mask)
    np.testing.assert_array_equal(edited[:, :, 3:], images[:, :, 3:])
    assert np.any(edited[:, :, :3] != images[:, :, :3])
    assert model.edit(images, task="vary", strength=0.5).shape == images.shape
    with pytest.raises(UserError, match="edit.task = 'deblur' measures pixels, which a network of latents does not see"):
        model.edit(images, task="deblur", blur_std=1.0)


def test_a_coarse_mask_is_free_where_any_pixel_is(of_codec):
    mask = np.zeros((1, 8, 8, 1), bool)
    mask[0, 3, 6] = True
    found = np.asarray(coding.coarse(of_codec, mask))
    assert found.shape == (1, 4, 4, 1) and np.argwhere(found).tolist() == [[0, 1, 3, 0]]


@pytest.mark.slow
def test_an_autoencoder_is_trained_and_shows_what_it_makes_of_images(tmp_path, capsys):
    fields = OF_CODEC | OF_LATENTS | {"loss.equivariance_weight": 0.1}
    assert main.main(flags(tmp_path / "run", "", **fields)) == 0
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"l1", "kl", "psnr", "equivariance"} <= metrics[0].keys() and list((tmp_path / "run" / "previews").iterdir())
    assert main.main(["main.py", "--mode=sample", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out" / "cond.png").exists()
    model = dj.load(tmp_path / "run")
    images = feed.read(inputs.source(model.config), range(4))["x"]
    coder = coding.coder_of(model.config)(model.params)
    wanted = codecs.to_uint8(coder.decode(coder.encode(codecs.from_uint8(images)).mean))
    np.testing.assert_allclose(model.sample(4).astype(int), np.asarray(wanted, int), atol=1)


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"sample.clip": "static"}, "sample.clip = 'static' limits x_0 to .-1, 1., which latents leave; set 'none' or"),
        ({"data.condition": "edges"}, "data.condition = 'edges' is made of pixels"),
        ({"data.codec": "nowhere"}, "data.codec = 'nowhere': there is no folder 'nowhere'"),
        ({"data.codec": "examples/digits"}, "model.kind = 'unet' is no autoencoder; known: autoencoder_kl, autoenc"),
        ({"data.channels": 3}, "it takes images of 1 channel.s., and data.channels = 3"),
        ({"data.image_size": (8, 9)}, "it takes multiples of 2, and data.image_size = .8, 9."),
        ({"model.multipliers": (1, 1, 1, 1)}, "latents of .4, 4, 3., does not fit"),
        ({"data.codec": "", "data.latent_shift": 0.5}, "data.latent_shift = 0.5 is for latents; set data.codec"),
        ({"data.codec": "", "data.latent_scale": 2.0}, "data.latent_scale = 2.0 is for latents; set data.codec"),
        (OF_CODEC, "data.codec = .* is for networks that draw: model.kind = 'autoencoder_kl' has no such part; set ''"),
        (OF_CODEC | OF_LATENTS | {"loss.name": "simple"}, "does not fit model.kind = 'autoencoder_kl'"),
        (
            OF_CODEC | OF_LATENTS | {"data.image_size": (8, 6), "data.resize": True, "loss.equivariance_weight": 0.1},
            "loss.equivariance_weight = 0.1 needs latents of even height and width, and they are .4, 3, 3.",
        ),
        (OF_CODEC | {"data.codec": ""}, "model.latent_channels = 3 makes latents of .8, 8, 3., more values than images of"),
        ({"data.codec": "", "loss.name": "reconstruction"}, "is for model.kind = 'autoencoder_kl' or 'autoencoder_tiny'"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(codec, tmp_path, capsys, fields, sentence):
    assert main.main(flags(tmp_path / "run", codec, **({"data.codec": codec} | fields))) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(sentence, line), line


def test_a_guide_must_draw_the_same_latents(codec, tmp_path):
    config = config_of(**OF_LATENTS | {"data.codec": codec})
    other = write_codec(tmp_path / "other", seed=1)
    config = config.with_values("data", latent_scale=2.0, latent_shift=0.5)
    for field, value, sentence in (
        ("codec", "", "data.codec = ''"),
        ("latent_scale", 1.8, r"data.latent_scale and latent_shift = \(1.8, 0.5\) instead of \(2.0, 0.5\)"),
        ("latent_shift", 0.6, r"data.latent_scale and latent_shift = \(2.0, 0.6\) instead of \(2.0, 0.5\)"),
    ):
        with pytest.raises(UserError, match=f"its run has {sentence}"):
            guiding.check_guide(config, config.with_values("data", **{field: value}))
    guiding.check_guide(config, config.with_values("data", latent_scale=2.06))  # measured of mirrored images too
    with pytest.raises(UserError, match="its run has data.codec = .*other', and this one .*: other latents"):
        guiding.check_guide(config, config.with_values("data", codec=other))
    guiding.check_guide(config, config.with_values("data", codec=str(shutil.copytree(codec, tmp_path / "copy"))))


@pytest.mark.slow
def test_the_likelihood_of_images_is_refused(trained, capsys):
    assert main.main(["main.py", "--mode=likelihood", f"--workdir={trained}"]) == 2
    assert "the likelihood of images does not follow from that of their latents" in capsys.readouterr().err


@pytest.mark.slow
def test_an_autoencoder_is_evaluated_by_what_it_makes_of_its_images(codec, tmp_path):
    flags = ["--config.evaluate.features=pixels", "--config.evaluate.num_images=40"]
    images = feed.read(sources.digits(), range(40))["x"]
    assert main.main(["main.py", "--mode=evaluate", f"--workdir={codec}", f"--out={tmp_path / 'out'}", *flags]) == 0
    [result] = json.loads((tmp_path / "out" / "evaluate.json").read_text())
    coder = coding.coder(codec)
    made = np.asarray(coder.decode(coder.encode(codecs.from_uint8(images)).mean))
    error = np.clip(made, -1, 1) - codecs.from_uint8(images)
    wanted = np.mean(10 * np.log10(4 / np.mean(error**2, axis=(1, 2, 3))))
    assert result["num_images"] == 40 and result["reconstruction"]["psnr"] == pytest.approx(wanted, abs=0.02)
    assert "Peak signal-to-noise ratio" in (tmp_path / "out" / "evaluate.md").read_text()
