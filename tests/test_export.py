"""A run's weights alone: what they draw, what they cannot do, and what is refused."""

import os

import numpy as np
import pytest
import tiny

import diffusion_jax as dj
import main
from diffusion_jax.compose import command
from diffusion_jax.tools import export


def size(folder) -> int:
    return sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(folder) for name in names)


def test_the_same_images_from_a_fraction_of_the_bytes(trained, tmp_path, capsys):
    out = tmp_path / "alone"
    assert export.main(["export", f"--workdir={trained}", f"--out={out}"]) == 0
    assert "the weights of step 2" in capsys.readouterr().out
    np.testing.assert_array_equal(dj.load(out).sample(3), dj.load(trained).sample(3))
    assert size(out) < 0.6 * size(trained / "checkpoints")
    assert main.main(["main.py", "--mode=sample", f"--workdir={out}", "--config.sample.num_images=2"]) == 0


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
        ([], "flag --workdir or --out is missing; they must be the folder of a run and the folder to make."),
        (["--workdir=nowhere", "--out=x"], "there is no folder 'nowhere'"),
        (["--workdir={run}", "--out={run}"], "is the workdir of a run already; choose another."),
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
