"""Inception-v3 of 2015: the same as its ports, from every file that they have, and refused where it is another training."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
import safetensors.numpy

from benchmarks import inception_parity
from diffusion_jax.errors import UserError
from diffusion_jax.networks import inception
from diffusion_jax.runs import storage
from diffusion_jax.weights import features, maps
from diffusion_jax.weights import inception as weights


@functools.cache
def drawn():
    """Returns random parameters: those of the recorded outputs."""
    like = jax.eval_shape(inception.inception("tensorflow").init, jax.random.key(0))
    return inception_parity.random_params(like, seed=0)


def as_torch_names_them():
    """Returns {torch's name: tensor} and what a training left over, which says nothing of the network."""
    left_over = {"Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros((), np.int64)}
    return maps.write(drawn(), weights.map_of(drawn())) | left_over


def as_jax_fid_names_them():
    """Returns the nested dictionary of jax-fid."""
    found = {}
    for name, leaf in maps.write(drawn(), maps.by_name(drawn())).items():
        *modules, last = name.replace(".norm.", ".bn.").replace("fc_bias", "fc.bias").split(".")
        functools.reduce(lambda level, module: level.setdefault(module, {}), modules, found)[last] = leaf
    return found


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["tensorflow", pytest.param("pytorch_fid", marks=pytest.mark.slow)])
def test_inception_is_torch_fidelitys_and_pytorch_fids(resize, optimized):
    """Every output within 1e-4 of its largest number."""
    stored = recorded.load("g12_inception")
    found = jax.jit(inception.inception(resize).apply)(drawn(), jnp.asarray(stored["images"]))
    theirs = {name.partition(".")[2]: value for name, value in stored.items() if name.startswith(resize)}
    for name, value in theirs.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4 * np.max(np.abs(value)), err_msg=name)
    assert {"features", "spatial", "logits", "logits_unbiased"} == (set(theirs) if resize == "tensorflow" else set(found))


def test_pooling_leaves_the_padding_out():
    image = jnp.arange(9.0).reshape(1, 3, 3, 1)
    assert inception.average_pool(image)[0, 0, 0, 0] == np.mean([0, 1, 3, 4])
    assert inception.max_pool(-image)[0, 2, 2, 0] == -4


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Returns the file in the user's cache, which is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "diffusion_jax" / "features" / "inception.safetensors"


@pytest.mark.slow
def test_every_file_gives_the_same_parameters_and_is_read_once(tmp_path, cache, capsys):
    """What is kept of it is found again, and a change there is noticed."""
    wanted = features.sha256(drawn())
    (tmp_path / "jax.pickle").write_bytes(pickle.dumps(as_jax_fid_names_them()))
    (tmp_path / "torch.safetensors").write_bytes(safetensors.numpy.save(as_torch_names_them()))
    for name in ("jax.pickle", "torch.safetensors"):
        cache.unlink(missing_ok=True)
        assert features.load("inception", str(tmp_path / name)).sha256 == wanted
        assert f"inception.safetensors; {name} is no longer needed" in capsys.readouterr().out
        assert features.load("inception_pytorch_fid").sha256 == wanted
    features.load("inception", str(tmp_path / name))
    assert not capsys.readouterr().out
    content = bytearray(cache.read_bytes())
    content[-1] ^= 1
    cache.write_bytes(content)
    with pytest.raises(UserError, match="inception.safetensors' is damaged; remove it"):
        features.load("inception")


def test_missing_weights_are_asked_for(cache):
    with pytest.raises(UserError, match=r"download https://\S+/pt_inception-2015-12-05-6726825d.pth .* torch-fidelity"):
        features.load("inception")


def test_a_cache_that_cannot_be_written_is_only_said(tmp_path, cache, capsys):
    (tmp_path / "cache").write_text("not a folder")
    (tmp_path / "jax.pickle").write_bytes(pickle.dumps(as_jax_fid_names_them()))
    assert features.load("inception", str(tmp_path / "jax.pickle")).sha256 == features.sha256(drawn())
    assert "are not kept" in capsys.readouterr().out


def test_torchvisions_own_training_is_refused(tmp_path, cache):
    """Its features are others: a figure of them is no FID."""
    theirs = as_torch_names_them() | {"fc.weight": np.zeros((1000, 2048)), "fc.bias": np.zeros(1000)}
    with pytest.raises(UserError, match="1,000 classes, as torchvision trained it: its features are not those of FID"):
        weights.read(theirs, drawn())
    with pytest.raises(UserError, match="as torchvision trained it"):
        weights.read(as_torch_names_them() | {"AuxLogits.fc.bias": np.zeros(1008)}, drawn())
    (tmp_path / "net.safetensors").write_bytes(safetensors.numpy.save(theirs))
    with pytest.raises(UserError, match="net.safetensors'.*as torchvision trained it"):
        features.load("inception", str(tmp_path / "net.safetensors"))
    assert not cache.exists() and storage.user_cache() == storage.path(cache.parents[1])
