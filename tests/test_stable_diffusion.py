"""Stable Diffusion in small, with its weights, is diffusers' pipeline (g16, see goldens/README.md)."""

import json
import math
import shutil

import jax
import numpy as np
import pytest
import recorded
import safetensors.numpy

import diffusion_jax as dj
from benchmarks import parity_stable_diffusion as parity
from diffusion_jax import networks
from diffusion_jax.compose import coding, sampling, texts
from diffusion_jax.errors import UserError
from diffusion_jax.runs import storage
from diffusion_jax.tools import export, import_weights
from diffusion_jax.weights import formats, latent_diffusion, maps, schedulers, stable_diffusion, tensors
from diffusion_jax.weights.sources import Source

pytest.importorskip("tokenizers")
GOLDEN = "g16_stable_diffusion"
FILES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def said(name, what):
    return recorded.load(GOLDEN)[f"{name}.{what}"]


def tensors_of(name, part):
    lines = (line.split(" ", 1) for line in said(name, f"{part}.tensors").tolist())
    return parity.tensors_of({key: json.loads(shape) for key, shape in lines})


def write_pipeline(name, folder):
    """Writes the folder that diffusers saved of a recorded pipeline."""
    for part, file in FILES.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(str(said(name, f"{part}.config")))
        (folder / part / f"{file}.safetensors").write_bytes(safetensors.numpy.save(tensors_of(name, part)))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(str(said(name, "scheduler.config")))
    parity.write_tokenizer(folder / "tokenizer", parity.CASES[name]["pad"])
    return folder


def command(folder, workdir, *flags):
    return import_weights.main(["import_weights", f"--from={folder}", f"--workdir={workdir}", *flags])


@pytest.fixture(scope="module", params=["small_1", pytest.param("small_2", marks=pytest.mark.slow)])
def imported(request, tmp_path_factory):
    """The name of a case, and its workdir."""
    root = tmp_path_factory.mktemp("stable_diffusion")
    assert command(write_pipeline(request.param, root / "pipeline"), root / "run") == 0
    shutil.rmtree(root / "pipeline")  # a workdir is whole
    return request.param, root / "run"


def test_a_prompt_has_the_tokens_and_the_vectors_of_the_pipeline(imported):
    """77 of each: the tokens that fill a text up are given to the network too."""
    name, workdir = imported
    encoder = texts.encoder(dj.load(workdir).config)
    tokens, mask = encoder.tokens([*parity.PROMPTS, ""], 77)
    np.testing.assert_array_equal(tokens, said(name, "tokens"))
    assert np.all(mask) and tokens[0, -1] == tokens[2, 2] != tokens[0, 0]
    found = encoder.network.apply(encoder.params, tokens, mask)
    np.testing.assert_allclose(found, said(name, "vectors"), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_in_float64_ten_guided_steps_are_those_of_the_pipeline(imported):
    """1e-6 of the numbers' size, since the softmax of attention is float32."""
    name, workdir = imported
    found = parity.said_by_us(dj.load(workdir), "float64", np.float16(said(name, "vectors")))
    for what, array in found.items():
        expected = said(name, what)
        assert array.dtype == np.float64 and np.std(expected) > 0.1
        np.testing.assert_allclose(array, expected, rtol=0, atol=2e-6 * np.max(np.abs(expected)))


@pytest.mark.slow
def test_a_workdir_draws_the_images_of_the_pipeline(imported, tmp_path):
    """Wherever it is moved to. Vectors of texts are rounded to float16, where another rounding moves a pixel by 2."""
    name, workdir = imported
    model = dj.load(shutil.copytree(workdir, tmp_path / "moved"))
    assert str(tmp_path / "moved") in model.config.model.text_folder and str(tmp_path / "moved") in model.config.data.codec
    found = model.sample(2, prompt="\n".join(parity.PROMPTS), num_steps=parity.NUM_STEPS, guidance=parity.GUIDANCE)
    assert found.shape == (2, 16, 16, 3)
    np.testing.assert_allclose(found, np.round(255 * said(name, "images")), rtol=0, atol=3)


@pytest.mark.parametrize(("text_width", "heads"), [(768, (8, 0)), (1024, (1, 64))])
def test_a_file_of_compvis_says_the_network(text_width, heads):
    """Names are those that are published; diffusers' converter makes the recorded tensors of them (benchmarks)."""
    options = {"attention_stages": (0,), "num_groups": 8, "num_heads": 4, "text_block": "transformer", "dropout": 0.0}
    sizes = {"channels": 32, "multipliers": (1, 2), "num_res_blocks": 1, "dtype": "float32", "norm_epsilon": 1e-5}
    sizes |= {"embedding_spacing": "half_open", "downsample_padding": "all_sides"}
    like = jax.eval_shape(networks.unet((8, 8, 4), text_width=text_width, **options | sizes).init, jax.random.key(0))
    found = maps.write(jax.tree.map(lambda of: np.zeros(of.shape, np.float32), like), latent_diffusion.map_of_network(like))
    assert {
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "input_blocks.2.0.op.weight",
        "output_blocks.1.1.conv.weight",
        "output_blocks.3.1.proj_out.weight",
        "middle_block.1.transformer_blocks.0.ff.net.0.proj.weight",
        "time_embed.2.bias",
    } <= found.keys()
    file = Source("v1-5.ckpt", {f"state_dict.model.diffusion_model.{name}": of for name, of in found.items()})
    fields, _, _, _, needed = formats.recognised(file)
    said = {
        name: fields[f"model.{name}"] for name in (options | sizes).keys() & {f[6:] for f in fields if f[:6] == "model."}
    }
    assert said == {name: value for name, value in (options | sizes).items() if name in said} | {"num_heads": heads[0]}
    assert {"channels", "multipliers", "num_res_blocks", "attention_stages", "text_block", "norm_epsilon"} <= said.keys()
    assert fields.get("model.head_channels", 0) == heads[1] and (("predicts",) in needed) == (text_width == 1024)
    assert (fields["process.schedule"], fields["data.channels"]) == ("latent_diffusion", 4)
    for name, shape in {"label_emb.0.0.weight": (1,), "input_blocks.0.0.weight": (32, 9, 3, 3)}.items():
        with pytest.raises(UserError, match="are those of SDXL or of inpainting; they must be of Stable Diffusion 1 or 2"):
            formats.recognised(file._replace(tensors=found | {name: np.zeros(shape)}))


@pytest.mark.slow
def test_a_file_with_all_parts_is_the_model_of_the_folder(imported, tmp_path, capsys):
    name, workdir = imported
    theirs = dj.load(workdir)
    (_, codec), text_folder = coding.first_stage(theirs.config.data.codec), theirs.config.model.text_folder
    parts = {"first_stage_model": maps.write(codec, latent_diffusion.map_of(codec))}
    parts |= {"cond_stage_model.transformer.text_model": tensors.read(storage.path(text_folder) / "model.safetensors")}
    whole = {f"{part}.{key}": np.asarray(of) for part, found in parts.items() for key, of in found.items()}
    (tmp_path / "sd.safetensors").write_bytes(safetensors.numpy.save(parity.in_one_file(theirs) | whole))
    flags = ["--config.model.num_groups=8", f"--config.predicts={theirs.config.predicts}"]
    flags += [f"--config.model.{heads}={getattr(theirs.config.model, heads)}" for heads in ("num_heads", "head_channels")]
    assert command(tmp_path / "sd.safetensors", tmp_path / "run", *flags) == 2
    assert "has CLIP's encoder of text without its tokenizer: add --clip=DIR" in capsys.readouterr().err
    parity.write_tokenizer(tmp_path / "clip", parity.CASES[name]["pad"])
    (tmp_path / "clip" / "config.json").write_text(str(said(name, "text_encoder.config")))
    assert command(tmp_path / "sd.safetensors", tmp_path / "run", f"--clip={tmp_path / 'clip'}", *flags) == 0
    assert "left out" not in capsys.readouterr().out
    ours = dj.load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    jax.tree.map(np.testing.assert_array_equal, coding.first_stage(ours.config.data.codec)[1], codec)
    assert texts.encoder(ours.config).sha256 == texts.encoder(theirs.config).sha256
    differing = {field for field, value in theirs.config.flat().items() if ours.config.flat()[field] != value}
    assert differing == {"data.codec", "data.image_size", "data.latent_shape", "model.text_folder"}


@pytest.mark.slow
def test_such_a_network_goes_to_a_workdir_and_not_to_diffusers(imported, tmp_path, capsys):
    name, workdir = imported
    if name == "small_1":
        flags = ["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}"]
        assert export.main([*flags, "--to=diffusers"]) == 2
        assert "model.text = 'folder' has no counterpart in UNet2DModel, but 'none'.\n" in capsys.readouterr().err
        assert export.main(flags) == 0
        assert (tmp_path / "out" / "text_encoder" / "tokenizer.json").exists()


def published(name="small_1", **changes):
    config = json.loads(str(said(name, "unet.config"))) | changes
    return formats.recognised(Source("unet", tensors_of(name, "unet"), {"config": config}))


def test_the_published_size_follows_from_config_json():
    fields = published(block_out_channels=[320, 640, 1280, 1280], layers_per_block=2, attention_head_dim=8, **STAGES).fields
    assert (fields["model.num_heads"], fields["model.head_channels"]) == (8, 0)
    names = ("channels", "multipliers", "num_res_blocks", "attention_stages", "num_groups", "num_heads", "dropout")
    options = {name: fields[f"model.{name}"] for name in (*names, "text_block", "norm_epsilon")} | {"num_groups": 32}
    network = networks.unet((64, 64, 4), dtype="float32", text_width=768, **options)
    leaves = jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0)))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == 859_520_964  # as published


STAGES = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}


def test_the_scheduler_of_stable_diffusion_starts_at_981_and_ends_at_row_1():
    """PNDM's settings are those of the published folders; 0 is the least noisy level, where theirs end too."""
    options = parity.SCHEDULER | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    fields, notes = schedulers.fields(options)
    assert notes == ("the scheduler PNDMScheduler is replaced by DDIM with 50 steps, of the same process.",)
    config = dj.load("examples/digits").config
    config = config.of_flat(config.flat() | fields)
    times = sampling.grid_times(config)
    np.testing.assert_array_equal(times - 1, [*range(981, 0, -20), 0])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"addition_embed_type": "text_time"}, "config.json has addition_embed_type = 'text_time'; it must be None."),
        ({"class_embed_type": "projection"}, "config.json has class_embed_type = 'projection'; it must be None."),
        ({"dual_cross_attention": True}, "config.json has dual_cross_attention = True; it must be False."),
        ({"only_cross_attention": True}, "config.json has only_cross_attention = True; it must be False."),
        ({"transformer_layers_per_block": [1, 2]}, r"has transformer_layers_per_block = \[1, 2\]; it must be 1."),
        ({"in_channels": 9}, "config.json has in_channels = 9; it must be 4."),
        (
            {"attention_head_dim": [4, 4]},
            r"attention_head_dim = \[4, 4\], numbers of heads; in stages of \[32, 64\] channels",
        ),
        ({"_class_name": "UNet3DConditionModel"}, "of the class 'UNet3DConditionModel'; it must be UNet2DConditionModel."),
    ],
)
def test_what_our_network_does_not_compute_is_a_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        published(**changes)


def test_what_is_missing_or_damaged_in_a_pipeline_is_a_sentence_and_nothing_is_written(tmp_path, capsys):
    def fails(sentence, *flags):
        assert command(folder, tmp_path / "run", *flags) == 2
        assert sentence in capsys.readouterr().err and not (tmp_path / "run").exists()

    folder = write_pipeline("small_1", tmp_path / "pipeline")
    (folder / "tokenizer" / "special_tokens_map.json").write_text('{"pad_token": "<pad>"}')
    fails("has no token '<pad>', with which it fills texts up.")
    (folder / "tokenizer" / "special_tokens_map.json").unlink()
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    fails("cannot be read as a tokenizer")
    (folder / "tokenizer" / "merges.txt").unlink()
    fails("has no merges.txt; it must be a folder with")
    vae = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps(vae | {"shift_factor": 0.1}))
    fails("vae/config.json has shift_factor = 0.1; it must be 0 or None.")
    fails(
        "does nothing: it is for a file with all parts of Stable Diffusion 1.", f"--clip={folder}", "--config.data.codec=x"
    )
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "vae")
    fails("the weights do not say model.text_folder, nor does the name of the file; add --config.model.text_folder=...")


def test_a_transformer_needs_a_text():
    config = dj.load("examples/digits").config.with_values("model", text_block="transformer")
    assert "model.text_block = 'transformer' attends to a text" in next(texts.contradictions(config))


def test_a_tokenizer_that_is_whole_is_taken_as_it_is(tmp_path):
    folder = tmp_path / "tokenizer"
    parity.write_tokenizer(folder, "!")
    said, length = stable_diffusion._tokenizer(folder)
    (folder / "tokenizer.json").write_text(said)
    (folder / "vocab.json").unlink()
    assert stable_diffusion._tokenizer(folder) == (said, length) and length == 77
