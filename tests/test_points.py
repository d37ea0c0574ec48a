"""Points in the plane: the network, the data whose density is known, and a run on them."""

import importlib
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion_jax as dj
import main
from diffusion_jax import networks
from diffusion_jax.compose import processes
from diffusion_jax.compose.config import Config
from diffusion_jax.data import media, points, sources
from diffusion_jax.errors import UserError

CONFIG = "--config=configs/two_moons.py"
SMALL = ["model.channels=16", "model.depth=2", "train.num_steps=300", "train.log_every=300", "train.sample_every=300"]
SMALL += ["train.checkpoint_every=300", "train.tensorboard=False", "sample.num_images=2000", "sample.batch_per_device=2000"]
SMALL += ["sample.num_steps=8", "evaluate.num_images=500", "evaluate.num_real=500", "likelihood.num_images=20"]
SMALL += ["likelihood.batch_per_device=20", "likelihood.tolerance=1e-2"]
FLAGS = [f"--config.{flag}" for flag in SMALL]


def run(workdir, *flags):
    return main.main(["main.py", f"--workdir={workdir}", *flags])


def drawn(of):
    return np.stack([of.read(number)["x"] for number in range(of.num_images)])


def test_the_density_integrates_to_one_and_is_that_of_the_points():
    edges = np.linspace(-3, 3, 61)
    middles = (edges[1:] + edges[:-1]) / 2
    grid = np.stack(np.meshgrid(middles, middles, indexing="ij"), axis=-1).reshape(-1, 2)
    mass = np.exp(points.two_moons_log_density(grid)).reshape(60, 60) * 0.1**2
    assert np.sum(mass) == pytest.approx(1, abs=1e-4)
    x = drawn(points.two_moons(split="test"))
    counts = np.histogram2d(*x.T, bins=edges)[0].reshape(12, 5, 12, 5).sum((1, 3))
    expected = len(x) * mass.reshape(12, 5, 12, 5).sum((1, 3))
    many = expected > 20
    chi_squared = np.sum((counts - expected)[many] ** 2 / expected[many])
    assert many.sum() > 15 and abs(chi_squared - many.sum()) < 4 * math.sqrt(2 * many.sum())


def test_a_moons_density_is_half_of_that_of_both():
    x = drawn(points.two_moons())[:50]
    both, *each = (np.exp(points.two_moons_log_density(x, label=label)) for label in (None, 0, 1))
    np.testing.assert_allclose(both, np.mean(each, axis=0), rtol=1e-12)
    other = np.stack([-x[:, 0], -x[:, 1]], axis=1)  # the moons are each other's images in the origin
    np.testing.assert_allclose(each[0], np.exp(points.two_moons_log_density(other, label=1)), rtol=1e-9)


def test_an_mlp_treats_each_point_alike_and_is_told_noise_class_and_jump():
    network = networks.mlp((3, 2), channels=8, depth=2, dtype="float32", num_classes=2, jumps=True)
    params = network.init(jax.random.key(0))
    key = jax.random.key(1)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(key, leaf.shape), params)
    x_t = jnp.broadcast_to(jax.random.normal(jax.random.key(2), (1, 1, 2)), (4, 3, 2))
    c_noise, label = jnp.array([[1.0, 1.0], [2.0, 2.0], [1.0, 0.5], [1.0, 1.0]]), jnp.array([0, 0, 0, 1])
    output = network.apply(params, x_t, c_noise, {"label": label})
    assert output.shape == x_t.shape
    np.testing.assert_allclose(output, jnp.broadcast_to(output[:, :1], output.shape), rtol=1e-6)
    assert np.all(np.ptp(output[:, 0], axis=0) > 1e-3) and len(np.unique(np.asarray(output)[:, 0, 0])) == 4
    with pytest.raises(ValueError, match=r"the network takes \[B, \.\.\., 2\]"):
        network.apply(params, x_t[:, 0], c_noise, {"label": label})
    with pytest.raises(UserError, match="channels = 9 must be even"):
        networks.mlp((2,), channels=9, depth=2, dtype="float32")


def test_a_picture_shows_where_points_are():
    right_and_up = np.array([[2.95, 2.95], [2.95, 2.95], [-2.95, -2.95], [9, 0]], np.float32)
    picture = media.point_grid(right_and_up)[2:-2, 2:-2, 0]
    assert picture.shape == (192, 192)
    assert picture[0, -1] == 0 and picture[-1, 0] == 255 - round(255 / math.sqrt(2)) and np.sum(picture < 255) == 18
    panels = media.point_grid(np.tile(right_and_up[1:3], (5, 1)), num_columns=2)[2:-2, 2:-2, 0]
    assert panels.shape == (192, 2 * 192 + 2)
    assert panels[0, 191] == 0 and panels[-1, 194] == 0 and np.sum(panels < 255) == 18


@pytest.mark.slow
def test_a_run_on_points_draws_evaluates_and_measures_them(tmp_path, capsys, one_device):
    assert run(tmp_path, CONFIG, *FLAGS) == 0
    assert "two_moons: 20,000 points, 2, on the devices" in capsys.readouterr().out
    assert run(tmp_path, "--mode=sample", f"--out={tmp_path / 'out'}", "--config.sample.strip=4") == 0
    x = np.load(tmp_path / "out" / "samples_2000x2.npz")["arr_0"]
    assert x.dtype == np.float32 and np.all(np.isfinite(x))
    trained, noise = points.two_moons_log_density(x), np.random.default_rng(0).normal(size=(2000, 2))
    assert np.mean(trained) > np.mean(points.two_moons_log_density(noise)) + 1
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["quantisation"] == "none"
    assert {"grid.png", "strip.png"} <= {file.name for file in (tmp_path / "out").iterdir()}
    np.testing.assert_allclose(dj.load(tmp_path).sample(3, batch_per_device=2000), x[:3], atol=1e-5)

    assert run(tmp_path, "--mode=evaluate") == 0
    assert "sliced Wasserstein" in next(tmp_path.glob("evaluate/*/evaluate.md")).read_text()
    assert run(tmp_path, "--mode=likelihood") == 0
    found = json.loads(next(tmp_path.glob("likelihood/*/pf_ode.json")).read_text())
    assert found["offset"].startswith("none") and 0 < found["pf_ode_bits_per_dim"] < 3
    capsys.readouterr()
    for flags, sentence in {
        ("--mode=likelihood", "--config.likelihood.kind=bound"): "data.medium = 'points' has no variational bound",
        ("--mode=edit", "--config.edit.images=x"): "data.medium = 'points' is not possible here, which is for images alone",
    }.items():
        assert run(tmp_path, *flags) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "sentence"),
    {
        "data.random_flip=True": "config field data.random_flip = True is for data.medium = 'images'",
        "data.medium=images": "config field data.source = 'two_moons' has points; found data.medium = 'images'.",
        "data.source=digits": "config field data.source = 'digits' has images; found data.medium = 'points'.",
        "data.image_size=(8,8)": "config field data.image_size = (8, 8) does not fit data.medium = 'points'",
        "data.channels=3": "say [3], but the data are [2]; set data.image_size = () and data.channels = 2.",
        "model.kind=unet": "config field model.kind = 'unet' does not fit data.medium = 'points'",
        "evaluate.features=inception": "evaluate.features = 'inception' does not fit data.medium = 'points'; it must be",
        "loss.name=hybrid": "config field loss.name = 'hybrid' is a bound of uint8 values",
        "sample.clip=static": "config field sample.clip = 'static' limits x_0 to [-1, 1], and points have no limits",
        "data.held_out=other": "split 'other' is unknown; data.source = 'two_moons' has 'test'",
    }.items(),
)
def test_what_points_have_not_is_one_sentence(tmp_path, capsys, flag, sentence):
    assert run(tmp_path / "w", CONFIG, f"--config.{flag}") == 2
    assert sentence in capsys.readouterr().err


def test_points_of_a_file_are_finite_vectors(tmp_path):
    file = tmp_path / "points.npz"
    np.savez(file, arr_0=np.arange(6.0).reshape(3, 2), labels=np.array([0, 1, 1]))
    found = sources.npz(path=str(file), medium=media.POINTS)
    assert found.num_classes == 2 and found.read(2)["x"].dtype == np.float32 and found.read(2)["x"].tolist() == [4, 5]
    for wrong in (np.zeros((3, 2), np.uint8), np.full((3, 2), np.nan), np.zeros((3, 2, 2)), np.zeros((0, 2))):
        np.savez(file, arr_0=wrong)
        with pytest.raises(UserError, match=r"must hold 'images' or 'arr_0' as finite floating-point numbers \[N, D\]"):
            sources.npz(path=str(file), medium=media.POINTS)


def test_points_of_any_dimension_have_a_network():
    config = Config().with_values("data", medium="points", image_size=(), channels=5).with_values("model", kind="mlp")
    network = processes.network(config)
    output = jax.eval_shape(
        network.apply, jax.eval_shape(network.init, jax.random.key(0)), jnp.ones((7, 5)), jnp.ones(7), {}
    )
    assert output.shape == (7, 5)


@pytest.mark.parametrize(("tool", "out"), [("shards", "out"), ("classifier", "out.safetensors")])
def test_tools_of_images_take_no_points(tmp_path, capsys, tool, out):
    more = ["--num_shards=1"] if tool == "shards" else []
    module = importlib.import_module(f"diffusion_jax.tools.{tool}")
    assert module.main([tool, CONFIG, f"--out={tmp_path / out}", *more]) == 2
    assert "config field data.medium = 'points' is not possible here" in capsys.readouterr().err
    assert not (tmp_path / out).exists()
