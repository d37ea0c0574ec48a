"""A run's weights alone: what they draw, what they cannot do, and what is refused."""

import ast
import json
import os
import re

import jax
import numpy as np
import pytest
import tiny

import diffusion_jax as dj
import main
from diffusion_jax.compose import choices, command, weights
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError
from diffusion_jax.tools import export, import_weights
from diffusion_jax.weights import diffusers, schedulers


def size(folder) -> int:
    return sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(folder) for name in names)


@pytest.mark.slow
def test_the_same_images_from_a_fraction_of_the_bytes(trained, tmp_path, capsys):
    out = tmp_path / "alone"
    assert export.main(["export", f"--workdir={trained}", f"--out={out}"]) == 0
    assert "the weights of step 2" in capsys.readouterr().out
    np.testing.assert_array_equal(dj.load(out).sample(3), dj.load(trained).sample(3))
    assert size(out) < 0.6 * size(trained / "checkpoints")
    assert main.main(["main.py", "--mode=sample", f"--workdir={out}", "--config.sample.num_images=2"]) == 0


def test_weights_alone_keep_the_guidance_by_their_own_null_label_but_no_other_network():
    config = Config().with_values("sample", guidance=1.5)
    assert weights.alone(config).sample.guidance == 1.5
    alone = weights.alone(config.with_values("sample", guide="runs/other")).sample
    assert (alone.guide, alone.guidance) == ("", 1.0)


@pytest.mark.slow
def test_rounded_weights_take_less_space(trained, tmp_path):
    of = ["export", f"--workdir={trained}"]
    assert export.main([*of, f"--out={tmp_path / 'whole'}"]) == 0
    assert export.main([*of, f"--out={tmp_path / 'rounded'}", "--round=bfloat16"]) == 0
    whole, rounded = (dj.load(tmp_path / name).params for name in ("whole", "rounded"))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(rounded))
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(one.astype("bfloat16"), other), whole, rounded)
    assert size(tmp_path / "rounded") < 0.9 * size(tmp_path / "whole")  # the rest is not weights


@pytest.mark.slow
def test_another_run_starts_from_it_but_it_cannot_be_resumed(trained, tmp_path, capsys, one_device):
    out = tmp_path / "alone"
    export.main(["export", f"--workdir={trained}", f"--out={out}"])
    again = tiny.flags(tmp_path / "again", init_from=out, **tiny.TRAINED)
    assert main.main(["main.py", *again]) == 0 and "fresh: none" in capsys.readouterr().out
    assert main.main(["main.py", *tiny.flags(out, num_steps=4)]) == command.BAD_INPUT
    sentence = f"holds weights alone, which cannot be resumed; use another workdir with --config.train.init_from={out}.\n"
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "flag --workdir is missing; it must be the folder of a run."),
        (["--workdir=none"], "flag --out is missing; it must be the folder to make."),
        (["--workdir=nowhere", "--out=x"], "there is no folder 'nowhere'"),
        (["--workdir={run}", "--out={run}"], "exists already; choose another."),
        (
            ["--workdir={run}", "--out=x", "--to=torch"],
            "flag --to = 'torch' is not allowed; it must be one of diffusers, safetensors, workdir, jax, onnx.",
        ),
        (
            ["--workdir={run}", "--out=x", "--round=int8"],
            "flag --round = 'int8' is not allowed; it must be bfloat16 or float16.",
        ),
        (["--workdir={run}", "--out={run}", "--to=diffusers"], "exists already; choose another."),
        (["--workdir={run}", "--out=x", "--config.sample.step=7"], "does not have a checkpoint of step 7; it has 2."),
        (
            ["--workdir={run}", "--out=x", "--config.predicts=x_0"],
            "was trained with another config (predicts: 'v' -> 'x_0')",
        ),
        (["--workdir=nowhere", "--out=x", "--config=configs/digits.py"], "there is no folder 'nowhere'"),
    ],
)
def test_bad_input_gets_one_sentence(trained, capsys, arguments, sentence):
    assert export.main(["export", *[argument.format(run=trained) for argument in arguments]]) == command.BAD_INPUT
    err = capsys.readouterr().err
    assert err.startswith("error: ") and sentence in err and err.count("\n") == 1 and not os.path.exists("nowhere")


def test_what_goes_to_diffusers_comes_back_to_the_bit(trained, tmp_path, capsys):
    """Network, process and sampler; diffusers itself loads it in benchmarks/weights.py."""
    out = tmp_path / "shared"
    assert export.main(["export", f"--workdir={trained}", f"--out={out}", "--to=diffusers"]) == 0
    assert f"diffusers.DDPMPipeline.from_pretrained('{out}')" in capsys.readouterr().out
    assert json.loads((out / "model_index.json").read_text())["unet"] == ["diffusers", "UNet2DModel"]
    assert import_weights.main(["import_weights", f"--from={out}", f"--workdir={tmp_path / 'back'}"]) == 0
    back, origin = dj.load(tmp_path / "back"), dj.load(trained)
    jax.tree.map(np.testing.assert_array_equal, back.params, origin.params)
    assert back.config.process == origin.config.process and back.config.predicts == origin.config.predicts
    settings = {"batch_per_device": 1, "num_steps": 3, "grid": "trailing", "clip": "static"}
    np.testing.assert_array_equal(back.sample(2, **settings), origin.sample(2, **settings))


def test_one_file_with_our_names_comes_back_to_the_bit(trained, tmp_path):
    out = tmp_path / "shared"
    assert export.main(["export", f"--workdir={trained}", f"--out={out}", "--to=safetensors"]) == 0
    assert import_weights.main(["import_weights", f"--from={out}", f"--workdir={tmp_path / 'back'}"]) == 0
    back, origin = dj.load(tmp_path / "back"), dj.load(trained)
    jax.tree.map(np.testing.assert_array_equal, back.params, origin.params)
    assert back.config == origin.config.with_values("train", ema_rates=()).with_values("sample", ema_rate=0.0)


NO_COUNTERPART = {
    "model.resample='res_block'": "config field model.resample = 'res_block' has no counterpart in UNet2DModel, but 'conv'",
    "model.multipliers=(0.5, 1)": "config field model.multipliers = (0.5, 1) has no counterpart in UNet2DModel, but (1, 1)",
    "model.num_heads=2": "whose heads have as many channels in each stage with attention, and stages have 32, 64",
    "process.kind='vp'": "process.kind = 'vp' and predicts = 'eps' have no counterpart in diffusers' DDPMScheduler",
    "process.rescale_c_noise=True": "process.rescale_c_noise = True has no counterpart in diffusers, but for 1000 steps",
}


@pytest.mark.parametrize("change", NO_COUNTERPART)
def test_what_diffusers_cannot_compute_is_refused(change):
    name, _, value = change.partition("=")
    attended = {"model.channels": 32, "model.multipliers": (1, 2), "model.attention_stages": (0, 1)}
    config = Config.of_flat(Config().flat() | attended | {"process.num_steps": 500, name: ast.literal_eval(value)})
    with pytest.raises(UserError, match=re.escape(NO_COUNTERPART[change])):
        diffusers.settings_of(dict(config.model), (8, 8, 3))
        schedulers.settings_of([0.1] * 500, config.process.schedule, config.flat())


@pytest.mark.parametrize("schedule", ["linear", "linear_raw", "cosine", "scaled_linear", "latent_diffusion", "sigmoid"])
def test_every_schedule_reaches_diffusers(schedule):
    """By its name, or as the betas themselves, which import_weights does not take."""
    betas, flat = choices.SCHEDULES[schedule](1000), Config().flat() | {"sample.variance": "small"}
    settings = schedulers.settings_of(betas, schedule, flat)
    if schedule == "sigmoid":
        assert settings["trained_betas"] == list(betas)
        return
    back = schedulers.fields(settings)[0]
    np.testing.assert_array_equal(choices.SCHEDULES[back["process.schedule"]](1000), betas)
    assert back["sample.variance"] == flat["sample.variance"] and back["sample.grid"] == flat["sample.grid"]


@pytest.mark.parametrize(
    ("changes", "spacing"),
    [
        ({"sample.variance": "large"}, "leading"),
        ({"sample.variance": "learned_range"}, "leading"),
        ({"sample.variance": "small"}, "trailing"),
        ({"sample.variance": "large", "sample.sampler": "ddim"}, "trailing"),
        ({"sample.variance": "large", "sample.grid": "linspace"}, "linspace"),
    ],
)
def test_the_last_step_adds_no_noise_in_diffusers(changes, spacing):
    """Of a variance that has some, its DDPMScheduler does unless that step is at its t = 0, and 'trailing' ends before."""
    settings = schedulers.settings_of([0.1] * 1000, "linear", Config().flat() | changes)
    assert settings["timestep_spacing"] == spacing
