"""The library in three lines, on a tiny run."""

import contextlib
import io
import shutil
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import diffusion_jax as dj
from configs import digits
from diffusion_jax import model as models
from diffusion_jax.compose import chunked, sampling
from diffusion_jax.errors import RunError
from diffusion_jax.jobs import sample, train


@pytest.fixture
def workdir(trained):
    return trained


def test_three_lines_give_images(workdir):
    model = dj.load(workdir)
    images = model.sample(20, sampler="ddim", num_steps=5, seed=0)
    assert images.shape == (20, 8, 8, 1) and images.dtype == np.uint8
    assert np.std(images) > 10


def test_more_images_begin_with_the_same_ones(workdir):
    """Chunks are padded, so the first 3 of 40 are the 3 of 3, byte for byte."""
    model = dj.load(workdir)
    np.testing.assert_array_equal(model.sample(40)[:3], model.sample(3))
    assert np.any(model.sample(3, seed=1) != model.sample(3))


@pytest.mark.slow
def test_grids_of_one_length_have_one_program(workdir):
    """And each has images of its own: those of a program that knows the grid when it is compiled."""
    chunked.compiled.cache_clear()
    trained, drawn = dj.load(workdir), []
    for grid in ({"grid": "trailing"}, {"grid": "uniform"}, {"grid": "explicit", "times": (19, 7, 2, 0)}):
        config = models.with_settings(trained.config, sampler="ddim", num_images=2, **grid)
        drawn.append(trained.sample(2, sampler="ddim", **grid))
        known = jax.jit(sampling.make_generate(config))(trained.params, 0, np.arange(2))[0]
        np.testing.assert_allclose(drawn[-1].astype(int), known, atol=1)
    assert chunked.compiled.cache_info().misses == 1
    assert np.any(drawn[0] != drawn[1]) and np.any(drawn[1] != drawn[2])


def test_each_average_is_its_own(workdir):
    models = [dj.load(workdir, ema_rate=rate) for rate in (0.0, 0.5, 0.99)]
    weights = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(model.params)]) for model in models]
    assert np.max(np.abs(weights[0] - weights[1])) > 0 and np.max(np.abs(weights[1] - weights[2])) > 0
    np.testing.assert_array_equal(
        weights[2], np.concatenate([np.ravel(x) for x in jax.tree.leaves(dj.load(workdir).params)])
    )
    assert models[0].step == 2


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda workdir: dj.load(workdir, ema_rate=0.7), "sample.ema_rate = 0.7 must be one of train.ema_rates"),
        (lambda workdir: dj.load(workdir, step=3), "does not have a checkpoint of step 3; it has 2"),
        (lambda workdir: dj.load(workdir / "nowhere"), "nowhere'; it must be the workdir of a run: train first"),
        (
            lambda workdir: dj.load(workdir).sample(3, num_stepz=5),
            "'sample.num_stepz' is unknown; did you mean sample.num_steps",
        ),
        (
            lambda workdir: dj.load(workdir).sample(3, ema_rate=0.5),
            "setting 'ema_rate' selects the weights; pass it to load",
        ),
        (lambda workdir: dj.load(workdir).sample(0), "sample.num_images = 0 is not allowed"),
    ],
)
def test_a_mistake_is_a_value_error_with_a_sentence(workdir, call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(workdir)


def test_a_model_prints_on_one_line(workdir):
    model = dj.load(workdir)
    num = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    assert repr(model) == f"Model('{workdir}': step 2, EMA 0.99, {num:,} parameters, images [8, 8, 1])"
    assert "no EMA" in repr(dj.load(workdir, ema_rate=0))


def test_a_config_dict_and_images_of_another_shape_are_refused(workdir):
    model = dj.load(workdir)
    with pytest.raises(ValueError, match="a config of type ConfigDict is not allowed; it must be a Config, such as"):
        model._replace(config=digits.get_config()).sample(1)
    level = dj.chain(dj.cosine(20)).level(3)
    for shape in ((2, 8, 8, 3), (8, 8, 1)):
        with pytest.raises(ValueError, match=r"x_t of .* is not allowed; the network takes \[B, H, W, 1\]"):
            model.denoiser()(jnp.ones(shape), level)


def test_settings_may_be_numbers_of_numpy_and_lists(workdir):
    model = dj.load(workdir)
    expected = model.sample(2, sampler="ddim", grid="explicit", times=(20.0, 10.0, 0.0), seed=1)
    settings = {"times": [20, 10, 0], "seed": np.int64(1)}
    np.testing.assert_array_equal(model.sample(np.int32(2), sampler="ddim", grid="explicit", **settings), expected)
    np.testing.assert_array_equal(
        model.sample(2, sampler="ddim", grid="explicit", times=np.array([20.0, 10, 0]), seed=jnp.int32(1)), expected
    )


def test_a_label_is_for_networks_that_know_classes(workdir):
    model = dj.load(workdir)
    with pytest.raises(ValueError, match="label = 3 is not allowed; with 0 classes it must be None"):
        model.denoiser(3)
    knowing = model._replace(config=model.config.with_values("model", num_classes=10))
    for label in (None, 3):
        with pytest.raises(ValueError, match=r"label = .* is not allowed; with 10 classes it must be int \[B\]"):
            knowing.denoiser(label)


def test_images_that_are_not_finite_are_said_instead_of_drawn_black(workdir):
    model = dj.load(workdir)
    broken = model._replace(params=jax.tree.map(lambda leaf: leaf * np.nan, model.params))
    with pytest.raises(RunError, match="^2 of 2 images are not finite: the network's output was not"):
        broken.sample(2, batch_per_device=4)


def test_its_denoiser_works_with_any_sampler(workdir):
    """What the three lines do, by hand."""
    model = dj.load(workdir)
    process = dj.chain(dj.cosine(20))
    grid = process.level(dj.trailing(process, 5))
    numbers = jnp.arange(3)
    x_T = jax.vmap(lambda key: jax.random.normal(key, (8, 8, 1)))(dj.streams.keys(0, "x_T", numbers))
    denoise = dj.clip_x_0(model.denoiser())
    got = dj.sample(
        denoise, dj.ddim(), dj.prior(process.level(process.last), x_T), grid, dj.streams.keys(0, "sampler", numbers)
    )
    expected = model.sample(3, sampler="ddim", num_steps=5, seed=0)
    assert np.max(np.abs(np.asarray(dj.to_uint8(got.x), int) - expected)) <= 1


@pytest.mark.slow
def test_a_new_run_can_start_from_these_weights(workdir, tmp_path, capsys, monkeypatch, one_device):
    """The first step has rate 0. With another width of one level: the tensors that fit are taken, the others are named."""
    changes = {"train.init_from": str(workdir), "train.checkpoint_every": 1, "train.keep_checkpoints": 2}
    changes |= {f"train.{name}": value for name, value in tiny.TRAINED.items()}
    storage = dj.model.storage
    assert train.run(tiny.config_of(changes), storage.path(tmp_path / "same")) == 0
    assert f"weights     from {workdir}, 74 of 74 arrays; fresh: none\n" in capsys.readouterr().out
    raw, averaged = (dj.load(workdir, ema_rate=rate).params for rate in (0.0, 0.99))
    a_step_on = jax.tree.map(lambda average, p: p + 0.99 * (average - p), averaged, raw)
    for rate, expected in ((0.0, raw), (0.99, a_step_on)):
        got = dj.load(tmp_path / "same", step=1, ema_rate=rate).params
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    wider = tiny.config_of(changes | {"model.multipliers": (2,)})
    monkeypatch.setattr(train.loop, "run", mock.Mock(side_effect=KeyboardInterrupt))  # what is asked for is said before
    with pytest.raises(KeyboardInterrupt):
        train.run(wider, storage.path(tmp_path / "wider"))
    said = capsys.readouterr().out
    assert "9 of 76 arrays; fresh: ['conv_out']['kernel'], ['down_0_0']" in said and "['embedding_0']" not in said
    assert " and 57 more; not taken: " in said and said.split("\n")[0].endswith("['middle_0']['conv1']['bias'] and 55 more")
    assert "warning     most of the network begins anew, since its names or shapes are others." in said


@pytest.fixture(scope="module")
def of_classes(trained, tmp_path_factory):
    """(config, workdir, what was said) of a run on colours of ten classes, with a null label, from the weights of another.

    That is gone by the time it goes on.
    """
    folder = tmp_path_factory.mktemp("classes")
    origin = shutil.copytree(trained, folder / "origin")
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "rgb.npz", images=images, labels=np.arange(64) % 10)
    changes = {"train.init_from": str(origin), "train.label_dropout": 0.5, "train.sample_every": 100}
    changes |= {"data.source": "npz", "data.path": str(folder / "rgb.npz"), "data.channels": 3}
    changes |= {"model.num_classes": 10, "model.null_label": True, "sample.num_images": 12, "sample.batch_per_device": 2}
    workdir = dj.model.storage.path(folder / "run")
    with contextlib.redirect_stdout(io.StringIO()) as said, tiny.one_device():
        for num_steps in (2, 4):
            config = tiny.config_of(changes | {"train.num_steps": num_steps})
            assert train.run(config, workdir) == 0
            shutil.rmtree(origin, ignore_errors=True)
    return config, workdir, said.getvalue()


@pytest.mark.slow
def test_changed_input_and_label_layers_start_afresh_and_the_origin_may_go(of_classes):
    config, _, said = of_classes
    fresh = "['conv_in']['kernel'], ['conv_out']['bias'], ['conv_out']['kernel'], ['label']['embedding']"
    left = "['conv_in']['kernel'], ['conv_out']['bias'], ['conv_out']['kernel']"
    assert f"weights     from {config.train.init_from}, 71 of 75 arrays; fresh: {fresh}; not taken: {left}\n" in said
    assert "resumed     at step 2" in said


@pytest.mark.slow
def test_classes_are_trained_drawn_and_dumped(of_classes, tmp_path):
    """Labels reach the network in training (with a null label) and in sampling, and stand beside the images."""
    config, workdir, _ = of_classes
    assert sample.run(config, workdir, dj.model.storage.path(tmp_path)) == 0
    with np.load(tmp_path / "samples_12x8x8x3.npz") as stored:
        assert stored["arr_0"].shape == (12, 8, 8, 3)
        np.testing.assert_array_equal(stored["arr_1"], np.arange(12) % 10)
    for _ in range(2):
        assert sample.run(config.with_values("sample", label=7, num_images=2), workdir) == 0
    [folder] = (workdir / "samples").iterdir()
    assert folder.name.startswith("step_0000004_ancestral3_label7_seed0_")
    model = dj.load(workdir)
    alive = jax.tree.map(
        lambda p: p + 0.1 * jnp.sin(jnp.arange(p.size)).reshape(p.shape), model.params
    )  # 4 steps teach little
    model = model._replace(params=alive)
    cycled, sevens = model.sample(12), model.sample(12, label=7)
    np.testing.assert_array_equal(cycled[7], sevens[7])
    assert np.any(cycled[3] != sevens[3])
    with pytest.raises(ValueError, match="sample.label = 11 is not a label of model.num_classes = 10"):
        model.sample(1, label=11)


def test_drawing_may_begin_anywhere(workdir):
    """Chunks are of 2 images on each of 8 devices; image 21 is in the middle of the second."""
    model = dj.load(workdir)
    whole = model.sample(40, batch_per_device=2)
    settings = dj.model.with_settings(model.config, num_images=40, batch_per_device=2)
    for first in (0, 16, 21, 39):
        pieces = list(dj.model.chunks(model._replace(config=settings), first=first))
        np.testing.assert_array_equal(np.concatenate(pieces), whole[first:])


@pytest.mark.slow
def test_a_strip_ends_with_the_image_and_begins_far_from_it(workdir):
    model = dj.load(workdir)
    config = dj.model.with_settings(model.config, num_steps=10, strip=4)
    strip = dj.model.strip(model._replace(config=config), 3)
    assert strip.shape == (4, 3, 8, 8, 1)
    np.testing.assert_array_equal(strip[-1], model.sample(3, num_steps=10))
    distances = np.mean(np.abs(strip.astype(float) - strip[-1]), axis=(1, 2, 3, 4))
    assert np.all(np.diff(distances) < 0)


@pytest.mark.slow
def test_a_strip_does_not_change_the_images_of_the_adaptive_solver(workdir, one_device):
    """Whose steps would be others if it stopped where the strip looks. So its strip ends with the image to its tolerance."""
    model = dj.load(workdir)
    settings = {"sampler": "ode", "clip": "none", "tolerance": 1e-3}
    images = model.sample(2, **settings)
    np.testing.assert_array_equal(model.sample(2, **settings, strip=6), images)
    strip = dj.model.strip(model._replace(config=dj.model.with_settings(model.config, **settings, strip=6)), 2)
    assert strip.shape == (6, 2, 8, 8, 1) and np.max(np.abs(strip[-1].astype(int) - images)) <= 3
