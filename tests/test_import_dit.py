"""Published Diffusion Transformers become workdirs: of facebookresearch/DiT as a file, of diffusers as a folder."""

import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
from test_dit import RECORDED, recorded_network, tensors
from test_latents import write_codec

import diffusion_jax as dj
from diffusion_jax.compose import processes
from diffusion_jax.compose.config import Config
from diffusion_jax.compose.imported import recognised
from diffusion_jax.errors import UserError
from diffusion_jax.networks.dit import SIZES
from diffusion_jax.tools import export, import_weights
from diffusion_jax.weights import diffusers_dit, dit, formats
from diffusion_jax.weights.sources import Source

CONFIG = {"num_attention_heads": 4, "attention_head_dim": 12, "in_channels": 4, "out_channels": 8, "num_layers": 2}
SCHEDULER = {"_class_name": "DDIMScheduler", "clip_sample": False}
CONFIG |= {"sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 10, "norm_type": "ada_norm_zero", "dropout": 0.0}


def imported(source, workdir, *changes):
    assert import_weights.main(["import_weights", f"--from={source}", f"--workdir={workdir}", *changes]) == 0
    return dj.load(workdir)


def check(model, spacing):
    """Has the recorded weights, and the program of the network whose outputs are tested elsewhere."""
    network, params, x_t, c_noise, label = recorded_network(embedding_spacing=spacing)
    jax.tree.map(np.testing.assert_array_equal, model.params, params)
    ours, theirs = (
        str(jax.make_jaxpr(each.apply)(params, x_t, c_noise, {"label": label}))
        for each in (network, processes.network(model.config.with_values("model", precision="highest")))
    )
    assert ours == theirs


def test_a_published_file_becomes_a_workdir(tmp_path, capsys):
    """Of a training checkpoint, which has the EMA beside the raw weights, the EMA."""
    both = {f"ema.{name}": np.ascontiguousarray(tensor) for name, tensor in tensors().items()}
    (tmp_path / "0400000.safetensors").write_bytes(
        safetensors.numpy.save(both | {name.replace("ema.", "model."): tensor + 1 for name, tensor in both.items()})
    )
    model = imported(tmp_path / "0400000.safetensors", tmp_path / "run", "--config.model.num_heads=4")
    check(model, "half_open")
    said = capsys.readouterr().out
    assert "latents of an autoencoder, whose workdir is for data.codec" in said and "left out: model.\n" in said
    assert f"try in Python: diffusion_jax.load('{tmp_path / 'run'}').denoiser\n" in said
    flat = model.config.flat()
    assert (flat["data.image_size"], flat["sample.grid"], flat["sample.num_steps"]) == ((8, 8), "iddpm", 250)


@pytest.mark.slow
def test_with_a_codec_a_published_transformer_draws_images(tmp_path, capsys):
    """Of 16 x 16 pixels, whose latents are the 8 x 8 x 4 that it knows; with the codec in its own workdir."""
    codec, file = write_codec(tmp_path / "codec", 0, **{"model.latent_channels": 4}), tmp_path / "0400000.safetensors"
    file.write_bytes(safetensors.numpy.save({name: np.ascontiguousarray(of) for name, of in tensors().items()}))
    flags = ["--config.model.num_heads=4", f"--config.data.codec={codec}"]
    assert import_weights.main(["import_weights", f"--from={file}", f"--workdir={tmp_path / 'run'}", *flags]) == 2
    assert "the weights do not say data.latent_scale; add it" in capsys.readouterr().err
    model = imported(file, tmp_path / "run", *flags, "--config.data.latent_scale=0.5")
    assert model.config.data.latent_shape == (8, 8, 4) and model.config.data.codec == str(tmp_path / "run" / "codec")
    assert "python main.py --mode=sample" in capsys.readouterr().out
    images = model.sample(2, sampler="ddim", grid="trailing", num_steps=2, batch_per_device=1)
    assert images.shape == (2, 16, 16, 1) and images.dtype == np.uint8


def test_the_table_of_positions_is_not_said_to_be_left_out():
    """It is checked, and computed again."""
    assert not any("left out" in note for note in recognised(Source("DiT.pt", tensors())).notes)


def folder_of_diffusers(folder):
    """Returns the recorded network as a folder of diffusers; its embedding of t has other frequencies than the authors'."""
    _, params, *_ = recorded_network()
    place = folder / "DiT" / "transformer"
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(CONFIG))
    (folder / "DiT" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (place / "diffusion_pytorch_model.safetensors").write_bytes(safetensors.numpy.save(diffusers_dit.write(params)))
    return folder / "DiT"


def test_a_folder_of_diffusers_becomes_a_workdir(tmp_path):
    check(imported(folder_of_diffusers(tmp_path), tmp_path / "run"), "closed")


def test_what_goes_to_diffusers_comes_back_to_the_bit(tmp_path, capsys):
    """Network, process and sampler; diffusers itself loads it in benchmarks/weights.py."""
    origin, out = imported(folder_of_diffusers(tmp_path), tmp_path / "run"), tmp_path / "shared"
    assert export.main(["export", f"--workdir={tmp_path / 'run'}", f"--out={out}", "--to=diffusers"]) == 0
    assert f"diffusers.DiTTransformer2DModel.from_pretrained('{out}', subfolder='transformer')" in capsys.readouterr().out
    written = json.loads((out / "transformer" / "config.json").read_text())
    assert CONFIG.items() <= written.items() and written["norm_eps"] == 1e-6
    classes = json.loads((out / "model_index.json").read_text())
    assert (classes["_class_name"], classes["transformer"]) == ("DiTPipeline", ["diffusers", "DiTTransformer2DModel"])
    back = imported(out, tmp_path / "back")
    jax.tree.map(np.testing.assert_array_equal, back.params, origin.params)
    assert back.config == origin.config


CLASS = "DiTTransformer2DModel"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"embedding_spacing": "half_open"},
            f"model.embedding_spacing = 'half_open' has no counterpart in {CLASS}, but 'closed'",
        ),
        ({"null_label": False}, f"model.null_label = False has no counterpart in {CLASS}, but True"),
        ({"num_classes": 0}, f"model.num_classes = 0 has no counterpart in {CLASS}, which needs labels"),
        ({"image_shape": (8, 4, 3)}, f"data.image_size = (8, 4) has no counterpart in {CLASS}, whose images are squares"),
        ({"cond_channels": 3}, f"data.condition has no counterpart in {CLASS}, but 'none'"),
    ],
)
def test_what_diffusers_cannot_compute_is_refused(changes, sentence):
    model = dict(Config().model) | {"kind": "dit", "num_classes": 10, "null_label": True} | changes
    shape = model.pop("image_shape", (8, 8, 3)), model.pop("cond_channels", 0)
    with pytest.raises(UserError, match=f"^config field {re.escape(sentence)}.$"):
        diffusers_dit.settings_of(model, *shape)


def test_the_papers_networks_need_nothing_else():
    """Of which the width says how many heads there are; of others the user says it."""
    shapes = {name: tensor for name, tensor in tensors().items() if not name.endswith("proj.weight")}
    for width, heads in {options["channels"]: options["num_heads"] for options in SIZES.values()}.items():
        patches = {"x_embedder.proj.weight": np.zeros((width, 4, 2, 2))}
        published = formats.recognised(Source("DiT-XL-2-256x256.pt", shapes | patches))
        assert published.fields["model.num_heads"] == heads and not published.needed
    alone = formats.recognised(Source("x.pt", {name: each for name, each in tensors().items() if name != dit.TABLE}))
    assert alone.needed == (("model.num_heads",), ("data.image_size",))
    assert {name: alone.fields[f"model.{name}"] for name in RECORDED if name != "num_heads"} == {
        name: value for name, value in RECORDED.items() if name != "num_heads"
    }


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "flag --from = 'DiT' must be the folder with config.json beside the weights"),
        ({"config": CONFIG | {"norm_type": "layer_norm"}}, "norm_type = 'layer_norm'; it must be 'ada_norm_zero'"),
        ({"config": CONFIG | {"activation_fn": "geglu"}}, "activation_fn = 'geglu'; it must be 'gelu-approximate'"),
    ],
)
def test_what_our_network_does_not_compute_is_a_sentence(settings, sentence):
    _, params, *_ = recorded_network()
    with pytest.raises(UserError, match=sentence):
        formats.recognised(Source("DiT", diffusers_dit.write(params), settings))
