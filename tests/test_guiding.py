"""Guidance as a config says it: what `sample` draws, against the same composed by hand."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import diffusion_jax as dj
import main
from diffusion_jax import process
from diffusion_jax.compose import coding, guiding, sampling, stored
from diffusion_jax.compose.processes import network
from diffusion_jax.errors import UserError
from diffusion_jax.runs import checkpoint, storage

CLASSES = {"model.num_classes": 3, "model.null_label": True, "train.label_dropout": 0.1, "train.ema_rates": ()}
CLASSIFIER = {"model.kind": "noisy_classifier", "loss.name": "cross_entropy", "model.num_classes": 3, "train.ema_rates": ()}
NUMBERS = np.arange(6)


def alive(params, seed):
    """Returns parameters whose output is not 0, as that of a fresh network is."""
    return jax.tree.map(lambda p: p + 0.2 * jnp.sin(jnp.arange(p.size) + seed).reshape(p.shape), params)


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """A folder with weights: of a run of classes at two steps, a worse one, one of no classes, a classifier."""
    folder = tmp_path_factory.mktemp("guided")
    changes = {"no_classes": {"train.ema_rates": ()}, "classifier": CLASSIFIER}
    for name, steps in {"run": (2, 4), "worse": (7,), "no_classes": (3,), "classifier": (5,)}.items():
        config = tiny.config_of(changes.get(name, CLASSES))
        for step in steps:
            params = alive(jax.jit(network(config).init)(jax.random.key(0)), step)
            checkpoint.save_weights(storage.path(folder / name), step, params)
        stored.write_config(storage.path(folder / name), config)
    return folder


@pytest.fixture
def model(workdirs, one_device):
    return dj.load(workdirs / "run")


def by_hand(model, guided):
    """Returns the images that `guided`, label [B] -> denoiser, gives where the section `sample` gives `model`'s."""
    label, settings = jnp.asarray(NUMBERS % 3), model.config
    keys = [dj.streams.keys(0, stream, NUMBERS) for stream in ("x_T", "sampler")]
    noise = jax.vmap(lambda key: jax.random.normal(key, (8, 8, 1)))(keys[0])
    solve = sampling.make_solve(settings)
    x = jax.jit(lambda: solve(dj.clip_x_0(guided(label)), noise, keys[1], 0).x)()
    return np.asarray(coding.codec(settings).decode(x), int)


def drawn(model, **settings):
    return model.sample(len(NUMBERS), batch_per_device=6, **settings).astype(int)


def differences(one, other):
    return np.max(np.abs(one - other))


def test_guidance_leads_away_from_no_label(model):
    def guided(label):
        both = model.denoiser(dj.guidance.paired(label, jnp.full_like(label, 3)))
        return dj.guidance.classifier_free(model.denoiser(label), both, scale=2.5)

    found = drawn(model, guidance=2.5)
    assert differences(found, by_hand(model, guided)) <= 1 < differences(found, drawn(model))


@pytest.mark.slow
def test_or_from_another_label(model):
    def guided(label):
        return dj.guidance.autoguidance(model.denoiser(label), model.denoiser(jnp.full_like(label, 1)), scale=2.5)

    found = drawn(model, guidance=2.5, negative_label=1)
    assert differences(found, by_hand(model, guided)) <= 1 < differences(found, drawn(model, guidance=2.5))
    np.testing.assert_array_equal(found[NUMBERS % 3 == 1], drawn(model)[NUMBERS % 3 == 1])


@pytest.mark.slow
def test_or_from_a_worse_network_of_the_same_run_or_another(workdirs, model):
    for guide, worse in ((2, dj.load(workdirs / "run", step=2)), (workdirs / "worse", dj.load(workdirs / "worse"))):

        def guided(label, worse=worse):
            return dj.guidance.autoguidance(model.denoiser(label), worse.denoiser(label), scale=2.5)

        found = drawn(dj.load(workdirs / "run", guide=guide), guidance=2.5)
        assert differences(found, by_hand(model, guided)) <= 1 < differences(found, drawn(model, guidance=2.5))


@pytest.mark.slow
def test_a_guide_may_know_no_classes(workdirs, model):
    guide = dj.load(workdirs / "no_classes")

    def guided(label):
        return dj.guidance.autoguidance(model.denoiser(label), guide.denoiser(), scale=2.5)

    found = drawn(dj.load(workdirs / "run", guide=workdirs / "no_classes"), guidance=2.5)
    assert differences(found, by_hand(model, guided)) <= 1


@pytest.mark.slow
def test_a_classifier_guides_networks_that_know_classes_and_those_that_do_not(workdirs, model):
    """Its scale is w - 1, so that 1 is off."""
    log_prob, alone = dj.load(workdirs / "classifier").log_prob, dj.load(workdirs / "no_classes").denoiser()
    for name, denoiser_of in {"run": model.denoiser, "no_classes": lambda label: alone}.items():

        def guided(label, denoiser_of=denoiser_of):
            return dj.guidance.classifier(denoiser_of(label), log_prob(label), scale=1.5)

        guide = dj.load(workdirs / name, guide=workdirs / "classifier")
        found = drawn(guide, guidance=2.5)
        assert differences(found, by_hand(dj.load(workdirs / name), guided)) <= 1 < differences(found, drawn(guide))
        np.testing.assert_array_equal(drawn(guide, guidance=1.0), drawn(dj.load(workdirs / name)))
        np.testing.assert_array_equal(drawn(guide, guidance=2.5, label=2)[2], found[2])
    with pytest.raises(UserError, match="guidance = 0.5 is not allowed with a classifier; it must be at least 1"):
        drawn(guide, guidance=0.5)
    with pytest.raises(UserError, match="its network does not know config field sample.label = 3"):
        drawn(guide, guidance=2.5, label=3)


def test_a_guide_without_classes_gives_none_to_a_network_without(workdirs, one_device):
    guided = dj.load(workdirs / "no_classes", guide=workdirs / "no_classes")
    with pytest.raises(UserError, match="its network does not know config field sample.label = 1"):
        drawn(guided, guidance=2.5, label=1)


def test_a_run_whose_own_images_were_guided_is_loaded_without(workdirs, tmp_path, one_device):
    run = shutil.copytree(workdirs / "no_classes", tmp_path / "run")
    config = stored.read_config(storage.path(run)).with_values("sample", guide="gone", guidance=2.0)
    stored.write_config(storage.path(run), config)
    np.testing.assert_array_equal(drawn(dj.load(run)), drawn(dj.load(workdirs / "no_classes")))


@pytest.mark.slow
def test_in_an_interval_alone(model):
    levels = sampling.grid(model.config)
    middle = float(levels.sigma[1] / levels.alpha[1])

    def guided(label):
        both = model.denoiser(dj.guidance.paired(label, jnp.full_like(label, 3)))
        of_middle = dj.guidance.interval(2.5, low=0.9 * middle, high=1.1 * middle)
        return dj.guidance.classifier_free(model.denoiser(label), both, scale=of_middle)

    found = drawn(model, guidance=2.5, guidance_interval=(0.9 * middle, 1.1 * middle))
    assert differences(found, by_hand(model, guided)) <= 1 < differences(found, drawn(model, guidance=2.5))
    np.testing.assert_array_equal(drawn(model, guidance=2.5, guidance_interval=(1e7, 1e8)), drawn(model))


def test_an_interval_without_end_guides_where_no_signal_is():
    flow = {"process.kind": "rectified_flow", "predicts": "velocity", "loss.time_density": "uniform", "sample.guidance": 2.0}
    config = tiny.config_of(CLASSES | flow)
    params, x = alive(network(config).init(jax.random.key(0)), 2), jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    levels = jax.tree.map(jnp.asarray, sampling.grid(config))

    def x_0(*interval):
        denoiser_of = guiding.denoiser_of(config.with_values("sample", guidance_interval=interval))
        return denoiser_of(params, {"label": jnp.array([0, 1])})(x, process.rows(levels, 0)).x_0

    assert levels.alpha[0] == 0
    np.testing.assert_allclose(x_0(0.2, 1e9), x_0(0.0, 1e9), atol=1e-5)
    assert np.max(np.abs(x_0(0.2, 1e8) - x_0(0.0, 1e9))) > 1e-2


def test_scale_1_is_the_unguided_program(workdirs, model):
    """So it costs one evaluation a step; a guide is not asked either."""
    params, guide = model.params, dj.load(workdirs / "worse")

    def program(weights, *guides, **settings):
        config = dj.model.with_settings(model.config, **settings)
        return str(jax.make_jaxpr(sampling.make_generate(config, *guides))(weights, 0, NUMBERS))

    assert program(params, guidance=1.0) == program(params) != program(params, guidance=2.0)
    by_guide = dj.load(workdirs / "run", guide=workdirs / "worse")
    np.testing.assert_array_equal(drawn(by_guide), drawn(model))
    without = program(params, guidance=2.0, guide=str(workdirs / "worse"))  # as in previews
    assert without == program(params) != program((params, guide.params), guide.config, guidance=2.0)


@pytest.mark.slow
def test_a_dump_says_what_guided_it(workdirs, tmp_path, one_device, capsys):
    command = ["main.py", "--mode=sample", f"--workdir={workdirs / 'run'}", "--config.sample.num_images=6"]
    command += ["--config.sample.batch_per_device=6", "--config.sample.guidance=2.5", "--config.sample.guide=2"]
    assert main.main([*command, f"--out={tmp_path / 'out'}"]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["sample"]["guidance"] == 2.5 and manifest["guide"]["checkpoint_step"] == 2
    assert manifest["guide"]["weights_sha256"] != manifest["weights_sha256"]
    with np.load(next((tmp_path / "out").glob("samples_*.npz"))) as found:
        np.testing.assert_array_equal(
            found["arr_0"], drawn(dj.load(workdirs / "run", guide=2), guidance=2.5).astype(np.uint8)
        )
    assert main.main([*command[:-1], "--config.sample.guide=9", f"--out={tmp_path / 'other'}"]) == 2
    assert "sample.guide = '9': '" in capsys.readouterr().err and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"guidance": -1.0}, "sample.guidance = -1.0 is not allowed; it must be a finite number from 0"),
        ({"guidance_interval": (3, 1)}, r"guidance_interval = \(3, 1\) is not allowed; .* the smaller one first"),
        ({"negative_label": 3}, "sample.negative_label = 3 is not a label of model.num_classes = 3"),
        ({"negative_label": 1, "guidance": 2.0, "label": 1}, "label = 1 is what sample.guidance = 2.0 leads away from"),
        ({"guidance": 2.0, "label": 3}, "sample.label = 3 is what sample.guidance = 2.0 leads away from; 1 is off"),
        ({"guide": "x"}, "setting 'guide' selects the weights; pass it to load"),
    ],
)
def test_a_mistake_is_a_sentence(model, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        drawn(model, **settings)


def test_an_unconditional_model_is_not_guided_by_itself(workdirs, model):
    with pytest.raises(UserError, match=r"2.0 needs a network that knows 'no label' .* or sample.guide; 1 is off"):
        dj.load(workdirs / "no_classes").sample(1, guidance=2.0)


def test_a_guide_must_fit(workdirs, model, trained, tmp_path):
    for guide, sentence in (
        (tmp_path / "nowhere", "it must be the workdir of a run: train first"),
        (9, "does not have a checkpoint of step 9"),
    ):
        with pytest.raises(UserError, match=f"config field sample.guide = '{guide}': .*{sentence}"):
            dj.load(workdirs / "run", guide=guide)
    for field, value in {"process.num_steps": 21, "data.image_size": (16, 16), "model.num_classes": 4}.items():
        stored.write_config(storage.path(tmp_path / field), tiny.config_of(CLASSES | {field: value, "sample.num_steps": 3}))
        with pytest.raises(UserError, match=rf"its run has {field} = .* instead of .*\."):
            dj.load(workdirs / "run", guide=tmp_path / field)


def test_what_guidance_ignores_is_said(model):
    assert sampling.warnings(model.config) == []
    config = model.config.with_values("sample", negative_label=1, guidance_interval=(0.5, 2.0))
    assert [sentence.split(" does")[0] for sentence in sampling.warnings(config)] == [
        "config field sample.guidance_interval = (0.5, 2.0)",
        "config field sample.negative_label = 1",
    ]
