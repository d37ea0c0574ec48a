"""The classifier that a data set's own features come from: it learns, its file gives it back, and bad input is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion_jax.compose import command
from diffusion_jax.errors import UserError
from diffusion_jax.networks import classifier as networks
from diffusion_jax.runs import storage
from diffusion_jax.tools import classifier
from diffusion_jax.weights import features, tensors


@pytest.fixture
def quick(monkeypatch):
    """Lets the tool train for a moment."""
    monkeypatch.setattr(classifier, "NUM_STEPS", 50)


@pytest.mark.slow
def test_it_learns_the_digits_and_its_file_gives_it_back(tmp_path, capsys, quick, optimized):
    """In 50 steps; held out are every tenth image, 180."""
    file = tmp_path / "digits.safetensors"
    assert classifier.main(["classifier", "--config=configs/digits.py", f"--out={file}"]) == 0
    assert "of 180 held-out images are named rightly" in capsys.readouterr().out
    said = tensors.read_metadata(storage.path(file))
    assert float(said["accuracy"]) > 0.6 and said["num_held_out"] == "180" and '"source":"digits"' in said["data"]
    found = features.load("classifier", str(file))
    assert found.network.apply(found.params, np.zeros((2, 8, 8, 1), np.uint8))["features"].shape == (2, 128)


@pytest.mark.slow
def test_the_same_command_makes_the_same_file(tmp_path, quick, optimized):
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for file in files:
        assert classifier.main(["classifier", "--config=configs/digits.py", f"--out={file}"]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (64, 64, 3), (33, 20, 3)])
def test_it_takes_images_of_any_size(shape):
    network = networks.classifier(7)
    params = jax.eval_shape(network.init, jax.random.key(0))
    found = jax.eval_shape(network.apply, params, jax.ShapeDtypeStruct((3, *shape), jnp.uint8))
    assert {name: value.shape for name, value in found.items()} == {"features": (3, 128), "logits": (3, 7)}


def test_held_out_images_are_those_of_the_config(tmp_path, capsys, quick, monkeypatch):
    monkeypatch.setattr(classifier, "NUM_STEPS", 1)
    images, labels = np.random.default_rng(0).integers(0, 256, (90, 8, 8, 3), dtype=np.uint8), np.arange(90) % 3
    for name, num in {"train": 90, "test": 24}.items():
        np.savez(tmp_path / f"{name}.npz", images=images[:num], labels=labels[:num])
    data = {"source": "npz", "path": tmp_path / "train.npz", "held_out": tmp_path / "test.npz", "channels": 3}
    flags = [f"--config.data.{name}={value}" for name, value in data.items()]
    out = tmp_path / "net.safetensors"
    assert classifier.main(["classifier", "--config=configs/digits.py", f"--out={out}", *flags]) == 0
    assert "90 images of 3 classes, 24 held out" in capsys.readouterr().out
    np.savez(tmp_path / "train.npz", images=images)
    assert classifier.main(["classifier", "--config=configs/digits.py", f"--out={out}", *flags]) == command.BAD_INPUT
    assert "data.source = 'npz' has 0 classes; a classifier needs 2 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config=configs/digits.py"], "flag --out = '' is not allowed; it must be a file"),
        (["--config=configs/digits.py", "--out=folder"], "flag --out = 'folder' is not allowed; it must be a file"),
        (["--out=a.safetensors"], "flag --config is missing"),
        (["--steps=9"], "flag --steps is unknown; known: --config, --flagfile, --out, --workdir."),
        (["--config.train.num_steps=9"], "config field train.num_steps has no effect on this program; leave it out."),
        (["--config=configs/digits.py", "--out={file}/a.safetensors"], "is a file; it must be a folder."),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, capsys, arguments, sentence):
    (tmp_path / "file").write_text("")
    given = [argument.format(file=tmp_path / "file") for argument in arguments]
    assert classifier.main(["classifier", *given]) == command.BAD_INPUT
    err = capsys.readouterr().err
    assert err.startswith("error: ") and sentence in err and err.count("\n") == 1


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "net.safetensors").write_bytes(tensors.as_bytes({"logits.bias": np.zeros(3)}, {}))
    with pytest.raises(
        UserError, match="net.safetensors' cannot be used for features 'classifier': the weights are of another"
    ):
        features.load("classifier", str(tmp_path / "net.safetensors"))
    with pytest.raises(UserError, match=r"tools\.classifier --config=FILE\.py --out=FILE\.safetensors"):
        features.load("classifier")
    with pytest.raises(UserError, match="features 'classifier' have no choice of size, and 32 is given"):
        features.load("classifier", size=32)
