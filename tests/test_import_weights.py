"""Published models become workdirs: recognised, checked to the last tensor, written whole or not at all."""

import functools
import http.server
import json
import pathlib
import sys
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
import safetensors.numpy
import test_convert
import test_noisy_classifier
from test_convert import SMALL

import diffusion_jax as dj
import main
from diffusion_jax import grids, networks, process, schedules
from diffusion_jax.compose import processes, stored
from diffusion_jax.errors import UserError
from diffusion_jax.runs import storage
from diffusion_jax.tools import export, import_weights
from diffusion_jax.weights import formats, maps, openai, openai_models, pesser, schedulers
from diffusion_jax.weights.sources import Source

UNET2D = {"layers_per_block": 1, "norm_num_groups": 32, "sample_size": 8, "in_channels": 3, "out_channels": 3}
UNET2D |= {"norm_eps": 1e-6, "downsample_padding": 0, "freq_shift": 1, "flip_sin_to_cos": False, "attention_head_dim": None}
DOWN, UP = ["DownBlock2D", "AttnDownBlock2D"], ["AttnUpBlock2D", "UpBlock2D"]
UNET2D_A = UNET2D | {"block_out_channels": [16, 32], "layers_per_block": 2, "norm_num_groups": 8}
UNET2D_A |= {"down_block_types": DOWN, "up_block_types": UP}
UNET2D_B = UNET2D | {"block_out_channels": [32, 64], "down_block_types": DOWN[::-1], "up_block_types": UP[::-1]}
CONFIGS = {"unet2d_a": UNET2D_A, "unet2d_b": UNET2D_B}
SAID = ["process.schedule=cosine", "process.num_steps=4000", "data.image_size=(8,8)"]  # what OpenAI's weights do not say
CHANGES = {
    "ho_unet": ["data.image_size=(8,8)"],
    "unet2d_a": [],
    "unet2d_b": [],
    "improved_plain": [*SAID, "model.num_heads=1", "model.num_heads_up=2"],
    "improved_cond_ssn": [*SAID, "model.num_heads=4"],
    "guided_updown": [*SAID, "model.head_channels=16"],
    "guided_neworder": [*SAID, "model.num_heads=4"],
    "guided_classifier_adaptive": [*SAID, "model.num_heads=2", "model.head_channels=0"],
    "guided_classifier_attnpool": [*SAID, "model.head_channels=16"],
}


def tensors_of(name):
    found = recorded.load(f"g7_net_{name}")
    return {key.removeprefix("param."): np.ascontiguousarray(found[key]) for key in found if key.startswith("param.")}


def lay(folder, name, tensors=None, **more):
    """Returns the path of a recorded network, written as its code base or a user would."""
    tensors = tensors_of(name) if tensors is None else tensors
    if name not in CONFIGS:
        file = folder / "weights.safetensors"
        file.write_bytes(safetensors.numpy.save(tensors))
        return file
    model = folder / "model" / "unet"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(CONFIGS[name] | more))
    (model / "diffusion_pytorch_model.safetensors").write_bytes(safetensors.numpy.save(tensors))
    return folder / "model"


def command(source, workdir, *changes):
    flags = [f"--config.{change}" for change in changes]
    return import_weights.main(["import_weights", f"--from={source}", f"--workdir={workdir}", *flags])


def network_of(name):
    """Returns the network that a recorded one is, and its parameters: those of the tests of its outputs."""
    if name.startswith("guided_classifier"):
        return test_noisy_classifier.recorded_of(name.removeprefix("guided_classifier_"))[:2]
    return test_convert.network_of(name), test_convert.recorded_of(name)[0]


def program(network, params, num_classes):
    """Returns the text of what a network computes."""
    cond = {"label": np.zeros(1, np.int32)} if num_classes else {}
    return str(jax.make_jaxpr(network.apply)(params, np.zeros((1, 8, 8, 3), np.float32), np.zeros(1, np.float32), cond))


SLOW = ("unet2d_b", "improved_plain", "guided_neworder", "guided_classifier_adaptive")  # the others have all options


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CHANGES])
def test_a_published_network_becomes_a_workdir(name, tmp_path, capsys):
    """With the parameters, to the bit, and the program of the network whose outputs are tested elsewhere."""
    order = ["--format=openai_new_order"] if "neworder" in name else []
    source, workdir = lay(tmp_path, name), tmp_path / "run"
    flags = [f"--config.{change}" for change in ["model.precision=highest", *CHANGES[name]]]
    assert import_weights.main(["import_weights", f"--from={source}", f"--workdir={workdir}", *order, *flags]) == 0
    assert "parameters in" in capsys.readouterr().out
    model, (network, params) = dj.load(workdir), network_of(name)
    jax.tree.map(np.testing.assert_array_equal, model.params, params)
    num_classes = model.config.model.num_classes
    assert program(processes.network(model.config), params, num_classes) == program(network, params, num_classes)


@pytest.mark.parametrize("name", ["cifar10_uncond_50M_500K", "64x64_diffusion", "128x128_diffusion"])
def test_openais_files_need_nothing_else(name):
    """What their tensors do not say comes from the name: a U-Net of their options is theirs."""
    options = SMALL | test_convert.ADM | {"learned_variance": True, "scale_shift_norm": True}
    theirs = {
        "cifar10_uncond_50M_500K": {"num_heads": 4},
        "64x64_diffusion": {"head_channels": 64, "channels": 64, "resample": "res_block", "num_classes": 5},
        "128x128_diffusion": {"num_heads": 4, "resample": "res_block", "num_classes": 5},
    }[name]
    network = networks.unet((8, 8, 3), dtype="float32", **options | theirs)
    like = jax.eval_shape(network.init, jax.random.key(0))
    model = {"head_channels": 0, "num_heads_up": 0} | theirs
    published = formats.recognised(Source(f"{name}.pt", _zeros(like, model)))
    fields = dict(published.fields)
    assert not published.needed and fields["sample.variance"] == "learned_range"
    assert {key: fields[f"model.{key}"] for key in theirs} == theirs
    size = {"cifar10_uncond_50M_500K": 32}.get(name) or int(name.partition("x")[0])
    assert fields["data.image_size"] == (size, size)
    assert fields["process.num_steps"] == (4000 if size == 32 else 1000)
    assert fields["process.schedule"] == ("linear" if size == 128 else "cosine")


def _zeros(like, model):

    theirs = openai.map_of(like, num_heads=openai_models.heads(model), split_heads_first=True)
    return {entry.name: np.zeros(entry.shape, np.float32) for entry in theirs.values()}


def test_one_stage_and_many_blocks_are_told_apart():
    options = SMALL | test_convert.ADM | {"num_heads": 2}
    for shape in ({"multipliers": (1,), "num_res_blocks": 3, "attention_stages": ()}, {"num_res_blocks": 2}):
        for resample in ("conv", "res_block"):
            network = networks.unet((8, 8, 3), dtype="float32", **options | shape | {"resample": resample})
            like = jax.eval_shape(network.init, jax.random.key(0))
            model = {"head_channels": 0, "num_heads_up": 0, "num_heads": 2}
            fields = formats.recognised(Source("x.pt", _zeros(like, model))).fields
            for key, value in shape.items():
                assert fields[f"model.{key}"] == value
            assert len(fields["model.multipliers"]) == 1 or fields["model.resample"] == resample


def test_a_torch_copy_of_hos_network_is_read_as_his():
    """Of pesser and ermongroup, which a training wraps in a list and in 'module.'."""
    params = test_convert.recorded_of("ho_unet")[0]

    written = maps.write(params, pesser.map_of(params))
    assert written["down.0.block.0.conv1.weight"].shape == (32, 32, 3, 3)
    assert written["mid.attn_1.q.weight"].shape == (32, 32, 1, 1) and "up.1.upsample.conv.weight" in written
    found = formats.recognised(Source("ckpt.pth", {f"0.module.{name}": tensor for name, tensor in written.items()}))
    jax.tree.map(np.testing.assert_array_equal, maps.read(found.tensors, params, found.map_of(params, {})), params)
    assert found.fields["data.image_size"] == (32, 32) and found.fields["model.multipliers"] == (1, 1)
    assert found.fields["sample.variance"] == "large"  # of CIFAR-10; larger images have the small one
    larger = {name.replace("down.1.attn", "down.4.attn"): tensor for name, tensor in written.items()}
    assert formats.recognised(Source("ckpt.pth", larger)).fields["sample.variance"] == "small"


def test_of_a_training_the_average_is_read_and_the_rest_is_named(tmp_path, capsys):
    tensors, source = tensors_of("unet2d_a"), lay(tmp_path, "unet2d_a", {})
    more = {"opt.state.0.exp_avg": np.ones(2, np.float32), **{f"model.{name}": 2 * of for name, of in tensors.items()}}
    more |= {f"ema.{name}": tensor for name, tensor in tensors.items()}
    (source / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(safetensors.numpy.save(more))
    assert command(source, tmp_path / "run") == 0
    assert "of 'model' the tensors of ema are used; left out: model, opt.\n" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, dj.load(tmp_path / "run").params, test_convert.recorded_of("unet2d_a")[0])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("unet.down.0.to_q.lora_A.weight", "are those of a LoRA, a change to the weights of another network.\n"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", "is shown a text, such as Stable Diffusion's"),
    ],
)
def test_what_people_have_most_often_is_named(name, sentence, tmp_path, capsys):
    (tmp_path / "x.safetensors").write_bytes(safetensors.numpy.save({name: np.ones((2, 2), np.float32)}))
    assert command(tmp_path / "x.safetensors", tmp_path / "run") == 2
    assert sentence in capsys.readouterr().err


def test_the_old_names_of_attention_are_known(tmp_path):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in tensors_of("unet2d_a").items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = tensor
    assert any(".query." in name for name in renamed)
    assert command(lay(tmp_path, "unet2d_a", renamed), tmp_path / "run") == 0
    jax.tree.map(np.testing.assert_array_equal, dj.load(tmp_path / "run").params, test_convert.recorded_of("unet2d_a")[0])


def test_a_network_that_is_shown_an_image_goes_to_diffusers_and_comes_back(tmp_path, capsys):
    """The channels that it is given are those of x_t and of the image."""
    kernel = tensors_of("unet2d_a")["conv_in.weight"]
    wide = tensors_of("unet2d_a") | {"conv_in.weight": np.concatenate([kernel, kernel], axis=1)}
    assert command(lay(tmp_path, "unet2d_a", wide, in_channels=6), tmp_path / "run") == 0
    assert export.main(["export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}", "--to=diffusers"]) == 0
    assert f"diffusers.UNet2DModel.from_pretrained('{tmp_path / 'out'}', subfolder='unet')" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "unet" / "config.json").read_text())["in_channels"] == 6
    assert command(tmp_path / "out", tmp_path / "back") == 0
    origin, back = dj.load(tmp_path / "run"), dj.load(tmp_path / "back")
    jax.tree.map(np.testing.assert_array_equal, back.params, origin.params)
    assert back.config.data == origin.config.data and back.config.data.condition == "paired"


def test_shards_and_half_precision_are_read(tmp_path, capsys):

    tensors = {name: np.asarray(tensor, jnp.bfloat16) for name, tensor in tensors_of("unet2d_a").items()}
    model = lay(tmp_path, "unet2d_a", {}) / "unet"
    (model / "diffusion_pytorch_model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"one.safetensors": names[:90], "two.safetensors": names[90:]}
    for file, part in halves.items():
        (model / file).write_bytes(safetensors.numpy.save({name: tensors[name] for name in part}))
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (model / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert command(model.parent, tmp_path / "run") == 0
    assert "the weights are bfloat16; they are written as float32" in capsys.readouterr().out
    expected = jax.tree.map(lambda leaf: np.asarray(np.asarray(leaf, jnp.bfloat16), np.float32), network_of("unet2d_a")[1])
    jax.tree.map(np.testing.assert_array_equal, dj.load(tmp_path / "run").params, expected)
    (model / "two.safetensors").unlink()
    assert command(model.parent, tmp_path / "again") == 2
    assert "has no two.safetensors, which diffusion_pytorch_model.safetensors.index.json names" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_the_scheduler_becomes_the_process_and_the_sampler():
    def fields(kind, **options):
        return schedulers.fields({"_class_name": f"{kind}Scheduler", **options})[0]

    found = fields("DDPM", beta_schedule="squaredcos_cap_v2", variance_type="fixed_large", prediction_type="v_prediction")
    assert (found["process.schedule"], found["sample.variance"], found["predicts"]) == ("cosine", "large", "v")
    assert (found["sample.sampler"], found["sample.clip"], found["sample.num_steps"]) == ("ancestral", "static", 0)
    found = fields("DDIM", timestep_spacing="trailing", rescale_betas_zero_snr=True, num_train_timesteps=500)
    assert (found["sample.sampler"], found["sample.grid"], found["sample.clip"]) == ("ddim", "trailing", "static_keep_eps")
    assert (found["process.zero_terminal_snr"], found["process.num_steps"]) == (True, 500)
    assert fields("UniPCMultistep")["sample.sampler"] == "unipc" and fields("UniPCMultistep")["sample.clip"] == "none"
    assert fields("UniPCMultistep", solver_type="bh1")["sample.sampler"] == "unipc_bh1"
    assert fields("UniPCMultistep", solver_order=3)["sample.order"] == 3
    saved = fields("DPMSolverMultistep", variance_type=None, trained_betas=None)  # as diffusers saves it
    assert (saved["sample.sampler"], saved["sample.order"], saved["sample.variance"]) == ("dpm_solver", 2, "small")
    assert fields("DPMSolverMultistep", algorithm_type="sde-dpmsolver++")["sample.sampler"] == "dpm_solver_sde"
    for kind, options in (("DPMSolver", {"algorithm_type": "dpmsolver"}), ("UniPC", {"predict_x0": False})):
        assert fields(f"{kind}Multistep")["sample.solves_for"] == "x_0"
        assert fields(f"{kind}Multistep", **options)["sample.solves_for"] == "eps"
    _, (note,) = schedulers.fields({"_class_name": "PNDMScheduler"})
    assert note.startswith("the scheduler PNDMScheduler is replaced by DDIM")
    for options, sentence in (
        ({"beta_end": 0.03}, "has beta_schedule = 'linear' from 0.0001 to 0.03; known: linear from 0.0001 to 0.02"),
        ({"trained_betas": [0.1]}, "has trained_betas"),
        ({"prediction_type": "flow"}, "has prediction_type = 'flow'; known: epsilon, sample, v_prediction"),
        ({"clip_sample_range": 2.0}, "has clip_sample_range = 2.0; it must be 1"),
        ({"use_flow_sigmas": True}, "has use_flow_sigmas = True: a rectified flow"),
    ):
        with pytest.raises(UserError, match=sentence):
            fields("DDPM", **options)


@pytest.mark.parametrize("num_steps", (10, 20, 50))
def test_a_multistep_scheduler_visits_the_rows_of_diffusers_within_one(num_steps):
    """Of diffusers' set_timesteps: S of S + 1 rows, evenly spaced from T - 1 to 0, without the last."""
    settings = {"_class_name": "DPMSolverMultistepScheduler"}
    assert schedulers.fields(settings)[0]["sample.grid"] == "trailing"
    theirs = np.linspace(0, 999, num_steps + 1).round()[::-1][:-1]
    ours = grids.trailing(process.chain(schedules.linear(1000)), num_steps)[:-1] - 1
    assert np.max(np.abs(ours - theirs)) <= 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"use_karras_sigmas": True}, "has use_karras_sigmas, which is left out; sample.grid says which levels"),
        (
            {"timestep_spacing": "leading"},
            "the scheduler's rows are T // (S + 1) apart, without row 0; in the grid 'leading' T // S, with it",
        ),
        ({"final_sigmas_type": "sigma_min"}, "the scheduler stops at the least noise; the sampler goes to the data"),
        ({"algorithm_type": "sde-dpmsolver"}, "algorithm_type = 'sde-dpmsolver' is replaced by 'sde-dpmsolver++'"),
    ],
)
def test_what_a_scheduler_says_and_the_import_does_not_heed_is_noted(options, sentence):
    _, (note,) = schedulers.fields({"_class_name": "DPMSolverMultistepScheduler", **options})
    assert sentence in note


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


NAN = {"conv_out.bias": np.full(3, np.nan, np.float32)}
BAD = {  # name -> (its tensors, options of its config.json, what is said)
    "a missing tensor": (lambda all: without(all, "conv_out.bias"), {}, "1 missing: conv_out.bias"),
    "one too many": (lambda all: all | {"more": np.ones(2, np.float32)}, {}, r"1 left over: more [2]"),
    "another shape": (
        lambda all: all | {"conv_out.bias": np.ones(4, np.float32)},
        {},
        "1 of another shape: conv_out.bias is [4] and not [3]",
    ),
    "not finite": (lambda all: all | NAN, {}, "1 tensors have numbers that are not finite: conv_out.bias"),
    "another network": (
        lambda all: {"w": np.ones(2, np.float32)},
        {},
        "they have w; known are diffusers_autoencoder, diffusers, ",
    ),
    "an option": (lambda all: all, {"act_fn": "gelu"}, "config.json has act_fn = 'gelu'; it must be 'silu' or 'swish'"),
    "a class": (lambda all: all, {"_class_name": "AutoencoderKL"}, "of the class 'AutoencoderKL'; it must be UNet2DModel"),
    "a block": (lambda all: all, {"down_block_types": ["SkipDownBlock2D"] * 2}, "has blocks SkipDownBlock2D, "),
    "another depth": (lambda all: all, {"layers_per_block": 1}, "left over: "),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_exactly_one_network_is_refused_and_nothing_is_written(what, tmp_path, capsys):
    change, options, sentence = BAD[what]
    source = lay(tmp_path, "unet2d_a", change(tensors_of("unet2d_a")), **options)
    assert command(source, tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1 and not (tmp_path / "run").exists()


def test_files_that_are_not_there_or_not_whole_are_refused(tmp_path, capsys):
    whole = lay(tmp_path, "unet2d_a") / "unet" / "diffusion_pytorch_model.safetensors"
    whole.write_bytes(whole.read_bytes()[:1000])
    (tmp_path / "empty").mkdir()
    (tmp_path / "alone.safetensors").write_bytes(safetensors.numpy.save(tensors_of("unet2d_a")))
    for source, sentence in {
        tmp_path / "nothing": "does not exist; it must be a file of weights or a folder with one",
        tmp_path / "empty": "has no file of weights; it must have diffusion_pytorch_model.safetensors",
        tmp_path / "model": "cannot be read as tensors: it is cut short; download it again.",
        tmp_path / "alone.safetensors": "must be the folder with config.json beside the weights",
    }.items():
        assert command(source, tmp_path / "run") == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_the_weights_do_not_say_must_be_given(tmp_path, capsys):
    source = lay(tmp_path, "improved_plain")
    assert command(source, tmp_path / "run") == 2
    assert "add --config.model.num_heads=... or --config.model.head_channels=..." in capsys.readouterr().err
    assert command(source, tmp_path / "run", *CHANGES["improved_plain"][:2], "model.num_heads=1") == 2
    assert "the weights do not say data.image_size, nor does the name of the file" in capsys.readouterr().err
    assert command(source, tmp_path, *CHANGES["improved_plain"]) == 2
    assert "exists; choose another, or remove it first" in capsys.readouterr().err
    assert import_weights.main(["import_weights", f"--from={source}"]) == 2
    assert import_weights.main(["import_weights", f"--from={source}", "--workdir=x", "--format=torch"]) == 2
    assert "flag --format = 'torch' is unknown; known: diffusers_autoencoder, diffusers, " in capsys.readouterr().err
    assert import_weights.main(["import_weights", f"--from={source}", "--workdir=x", "--config=mine.py"]) == 2
    assert "flag --config = 'mine.py' is not allowed; it must be left out: the weights say" in capsys.readouterr().err


def test_an_imported_run_holds_weights_alone_and_starts_others(tmp_path):
    assert command(lay(tmp_path, "unet2d_a"), tmp_path / "run") == 0
    assert stored.read_config(storage.path(tmp_path / "run")).train.ema_rates == ()
    with pytest.raises(UserError, match="holds weights alone, which cannot be resumed"):
        stored.check_resumable(storage.path(tmp_path / "run"))
    assert pathlib.Path(tmp_path / "run" / "checkpoints").is_dir()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a folder; yields (the folder, its URL), with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "published"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_a_url_is_downloaded_once(server, tmp_path, capsys):
    folder, url = server
    lay(folder, "improved_plain")
    changes = CHANGES["improved_plain"]
    assert command(f"{url}/weights.safetensors", tmp_path / "run", *changes) == 0
    (folder / "weights.safetensors").unlink()
    assert command(f"{url}/weights.safetensors", tmp_path / "again", *changes) == 0
    assert "was downloaded before" in capsys.readouterr().out
    assert command(f"{url}/other.pt", tmp_path / "third") == 1
    assert f"{url}/other.pt cannot be downloaded (HTTP Error 404" in capsys.readouterr().err
    kept = tmp_path / "cache" / "diffusion_jax" / "weights"
    assert [file.name for file in kept.rglob("*") if file.is_file()] == ["weights.safetensors"]
    (folder / "b").mkdir()
    lay(folder / "b", "improved_plain", {"w": np.ones(1, np.float32)})
    assert command(f"{url}/b/weights.safetensors", tmp_path / "third") == 2  # another file of the same name
    assert "they have w; known are" in capsys.readouterr().err


def test_a_model_of_the_hub_is_downloaded_by_its_package(tmp_path, monkeypatch, capsys):
    """Which is asked for .safetensors before .bin."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert command("google/ddpm-tiny", tmp_path / "run") == 2
    assert "if it is a model of the Hugging Face hub: pip install huggingface_hub" in capsys.readouterr().err
    asked, folder = [], lay(tmp_path, "unet2d_a")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"

    def snapshot_download(name, *, allow_patterns, ignore_patterns):
        asked.append((name, allow_patterns[-1]))
        return str(folder)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    assert command("google/ddpm-tiny", tmp_path / "run") == 0 and asked == [("google/ddpm-tiny", "*.safetensors")]
    weights.unlink()
    assert command("google/ddpm-tiny", tmp_path / "again") == 2
    assert asked[1:] == [("google/ddpm-tiny", "*.safetensors"), ("google/ddpm-tiny", "*.bin")]
    assert "'google/ddpm-tiny' of the Hugging Face hub has no weights" in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkpoint_of_tensorflow_is_read_with_its_ema(tmp_path, capsys):
    """As Ho et al. published theirs: each variable, its EMA, and Adam's slots."""
    import tensorflow

    tensors, ema = tensors_of("ho_unet"), "/ExponentialMovingAverage"
    held = {f"{name}{ema}": tensor for name, tensor in tensors.items()} | {"global_step": np.int64(5)}
    for suffix in ("", "/Adam", "/Adam_1"):
        held |= {f"{name}{suffix}": tensor + 1 for name, tensor in tensors.items()}
    prefix = str(tmp_path / "model.ckpt-790000")
    tensorflow.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(held), shape_and_slices=[""] * len(held), tensors=list(held.values())
    )
    assert command(prefix, tmp_path / "run") == 0
    assert "images are taken to have 32 x 32 pixels" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, dj.load(tmp_path / "run").params, network_of("ho_unet")[1])
    (tmp_path / "model.ckpt-790000.data-00000-of-00001").unlink()
    assert command(prefix, tmp_path / "again") == 2
    assert "checkpoint" in (said := capsys.readouterr().err) and "cannot be read" in said and said.count("\n") == 1


@pytest.mark.parametrize("lacks", ["time_embed.0.weight", "out.2.weight", "input_blocks.1.0.emb_layers.1.weight"])
def test_a_model_that_lacks_what_tells_its_options_is_refused(lacks):
    with pytest.raises(UserError, match="the weights of 'x.pt' are not"):
        formats.recognised(Source("x.pt", without(tensors_of("improved_plain"), lacks)))


@pytest.mark.slow
def test_an_imported_model_draws_into_its_workdir_whatever_the_current_folder(tmp_path, monkeypatch, one_device):
    """As the first commands of docs/weights.md do: nobody has said where images of the data set are."""
    source = lay(tmp_path, "unet2d_a")
    monkeypatch.chdir(tmp_path)
    assert command(source, "runs/published") == 0
    flags = [f"--config.sample.{name}=2" for name in ("num_images", "batch_per_device", "num_steps")]
    assert main.main(["main.py", "--mode=sample", "--workdir=runs/published", *flags]) == 0
    [images] = (tmp_path / "runs" / "published" / "samples").glob("*/samples_2x8x8x3.npz")
    assert np.load(images, allow_pickle=False)["arr_0"].dtype == np.uint8
