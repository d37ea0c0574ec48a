"""Configs: every field is checked, survives JSON, and may or may not change on resume."""

import functools
import json

import jax.numpy as jnp
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import config_of

from diffusion_jax.compose import checks, choices, processes, sections, stored, training
from diffusion_jax.compose.config import FIELDS, Config
from diffusion_jax.errors import UserError

DIT = {"model.kind": "dit", "model.multipliers": (1, 2, 4, 8, 16, 32)}  # whose stages 8 pixels would not fit
MEAN_FLOW = {"process.kind": "rectified_flow", "predicts": "velocity", "loss.time_density": "uniform"}
MEAN_FLOW |= {"process.c_noise_scale": 1.0, "loss.name": "mean_flow"}
POINTS = {"data.medium": "points", "data.source": "two_moons", "data.image_size": (), "data.channels": 2}
POINTS |= {"sample.clip": "none", "model.kind": "mlp", "evaluate.features": "given"}
MOLECULES = {"data.medium": "molecules", "data.source": "npz", "data.image_size": (29,), "data.channels": 8}
MOLECULES |= {"sample.clip": "none", "model.kind": "egnn", "model.num_classes": 30, "evaluate.features": "given"}
CLASSIFIER = {"model.kind": "noisy_classifier", "loss.name": "cross_entropy", "model.num_classes": 10}


@pytest.mark.parametrize(
    ("field", "table"),
    [
        ("process.schedule", choices.SCHEDULES),
        ("loss.name", choices.LOSSES),
        ("model.kind", processes.NETWORKS),
        ("loss.weighting", choices.WEIGHTINGS),
        ("loss.timesteps", choices.TIMESTEPS),
        ("data.source", choices.SOURCES),
        ("loss.time_density", choices.TIME_DENSITIES),
        ("process.kind", choices.PROCESSES),
        ("predicts", choices.PARAMETERIZATIONS),
        ("sample.sampler", choices.SAMPLERS),
        ("sample.grid", choices.GRIDS),
        ("sample.clip", choices.CLIPS),
        ("likelihood.probes", choices.PROBES),
    ],
)
def test_a_name_is_allowed_if_and_only_if_it_is_in_its_table(field, table):
    for row in table:
        assert config_of({field: row}).flat()[field] == row
    assert FIELDS[field].allowed == "one of " + ", ".join(sorted(table))


def test_a_choice_takes_the_fields_that_its_function_names():
    def sampler(*, eta, noise):
        return eta, noise

    sample = Config().with_values("sample", eta=0.5).sample
    assert choices.chosen(sampler, sample, noise=3, more=4) == (0.5, 3)
    assert choices.chosen(functools.partial(sampler, eta=1.0), sample, noise=3) == (1.0, 3)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"sampler": "heun", "eta": 1.0}, "sample.eta = 1.0 does nothing: it is for sample.sampler = 'ddim'."),
        (
            {"sampler": "ode", "variance": "small"},
            "variance = 'small' does nothing: it is for sample.sampler = 'ancestral'.",
        ),
        ({"sampler": "ddim", "order": 3}, "is for sample.sampler = 'dpm_solver' or 'dpm_solver_sde' or"),
        ({"num_corrections": 3}, "sample.num_corrections = 3 does nothing: it is for sample.corrector = 'annealed_"),
        ({"corrector": "langevin", "num_corrections": 3, "correction_snr": 0.1}, None),
        ({"sampler": "ddim", "eta": 1.0}, None),
        ({"sampler": "heun", "eta": 0.0}, None),
        ({"sampler": "heun", "seed": 3}, None),
    ],
)
def test_a_field_that_the_choice_beside_it_ignores_is_doubted(values, sentence):
    config = Config().with_values("sample", **values)
    found = checks.without_effect(config, [f"sample.{name}" for name in values])
    assert [sentence in each for each in found] == [True] * (sentence is not None)
    assert checks.without_effect(config, ["train.seed", "predicts"]) == []


def test_a_network_ignores_fields_of_others():
    config = Config().with_values("model", kind="dit", multipliers=(1, 2), num_heads_up=2, patch_size=4)
    ours = "'autoencoder_kl' or 'ncsnpp' or 'noisy_classifier' or 'unet'"
    assert checks.without_effect(config, ["model.multipliers", "model.num_heads_up", "model.patch_size"]) == [
        f"config field model.multipliers = (1, 2) does nothing: it is for model.kind = {ours}.",
        "config field model.num_heads_up = 2 does nothing: it is for model.kind = 'unet'.",
    ]
    [doubt] = checks.without_effect(Config().with_values("model", depth=3), ["model.depth", "model.dropout"])
    assert doubt == "config field model.depth = 3 does nothing: it is for model.kind = 'dit' or 'egnn' or 'mlp'."
    config = Config().with_values("model", kind="ncsnpp", resample="res_block", embedding="fourier")
    [doubt] = checks.without_effect(config, ["model.resample", "model.embedding"])
    assert doubt.startswith("config field model.resample = 'res_block' does nothing: it is for model.kind = ")


def test_a_process_and_a_source_ignore_fields_too():
    config = Config().with_values("process", kind="vp", num_steps=7).with_values("data", source="npz", name="x")
    found = checks.without_effect(config, ["process.num_steps", "data.name", "data.channels"])
    assert found == [
        "config field process.num_steps = 7 does nothing: it is for process.kind = 'discrete' or 'learned'.",
        "config field data.name = 'x' does nothing: it is for data.source = 'tfds'.",
    ]


def test_a_config_is_a_value():
    assert hash(config_of({})) == hash(config_of({})) and config_of({}) == config_of({})
    assert config_of({}) != config_of({"sample.seed": 1})
    with pytest.raises(pydantic.ValidationError):
        config_of({}).sample.seed = 3


def test_changed_values_are_checked():
    with pytest.raises(UserError, match=r"config field sample.eta = 2.0 is not allowed; it must be a number from 0 to 1\."):
        Config().with_values("sample", eta=2.0)
    with pytest.raises(UserError, match="'sample.ete' is unknown; did you mean sample.eta"):
        Config().with_values("sample", ete=0.5)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("train.lr", "train.learning_rate"),
        ("sample.steps", "sample.num_steps"),
        ("sample.batch_size", "sample.batch_per_device"),
        ("T", "process.num_steps"),
        ("scheduler", "process.schedule or sample.sampler"),
        ("train.image-size", "data.image_size"),
        ("proces.schedule", "process.schedule"),
        ("sample.cfg_scale", "sample.guidance"),
        ("num_workers", None),
    ],
)
def test_a_word_of_other_code_bases_or_a_slip_leads_to_the_field(name, meant):
    with pytest.raises(UserError, match=f"config field '{name}' is unknown; ") as caught:
        sections.check_name(name, FIELDS)
    assert (f"; did you mean {meant}? Known: " if meant else "; known: ") in str(caught.value)


def test_a_word_of_other_code_bases_is_of_a_field_that_there_is():
    words = [f"{field.rpartition('.')[0]}.{word}" for field, words in sections.SYNONYMS.items() for word in words.split()]
    assert sections.SYNONYMS.keys() <= FIELDS.keys() and not FIELDS.keys() & set(words)


def test_a_float_that_is_whole_is_told_how_to_write_it():
    with pytest.raises(UserError, match=r"num_steps = 100000.0 is not allowed; it must be .*, below 2.31: write 100000\."):
        config_of({"train.num_steps": 1e5})
    for value in (1e10, -3.0, 2.5):
        with pytest.raises(UserError, match=r"a whole number from 1 on, below 2.31\."):
            config_of({"train.num_steps": value})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data.image_size": (9, 8), "model.multipliers": (1, 2)}, "each size must be a multiple of 2"),
        (
            DIT | {"data.image_size": (9, 8)},
            r"data.image_size = \(9, 8\) does not fit .* patches of 2 x 2; .* must be a multiple of 2",
        ),
        (DIT | {"model.channels": 18}, "model.channels = 18 must be a multiple of 4: sines and cosines of rows and columns"),
        (DIT | {"model.num_heads": 3}, "model.num_heads = 3 must divide channels = 8"),
        (DIT | {"model.patch_size": 0}, "model.patch_size = 0 is not allowed; it must be a whole number from 1 to 1024"),
        ({"model.channels": 10}, "model.channels = 10 .* would have 10 channels, which is not a multiple of num_groups = 4"),
        (
            {"model.multipliers": (0.3,)},
            r"channels = 8 with multipliers = \(0.3,\) .* would have 2.4 channels",
        ),
        ({"model.multipliers": (2, 0.25)}, "a layer would have 2 channels"),
        ({"model.multipliers": (0.0,)}, r"\(0.0,\) is not allowed; it must be a tuple of one or more numbers above 0"),
        ({"model.channels": 9, "model.num_groups": 3}, "model.channels = 9 must be even"),
        (
            {"model.attention_stages": (1,)},
            r"model.attention_stages = \(1,\) names a stage that multipliers lacks; it has 0 to 0",
        ),
        (
            {"process.schedule": "linear", "process.num_steps": 19},
            "config field process.schedule = .linear. with num_steps = 19 has beta_T = 1.05 above 1; use at least 20 steps",
        ),
        (
            {"model.num_heads": 3},
            "model.num_heads = 3 must divide the channels of every stage with attention, here 8",
        ),
        ({"loss.name": "hybrid"}, "model.learned_variance = False does not fit loss.name = 'hybrid'"),
        ({"model.learned_variance": True}, "model.learned_variance = True does not fit loss.name = 'simple'"),
        ({"sample.variance": "learned_range"}, "sample.variance = 'learned_range' needs model.learned_variance = True"),
        (
            {"loss.name": "vlb", "model.learned_variance": True, "loss.weighting": "p2"},
            "loss.weighting = 'p2' is for loss.name = 'simple'",
        ),
        (
            {"train.label_dropout": 0.1},
            "train.label_dropout = 0.1 needs model.num_classes above 0 and model.null_label = True",
        ),
        ({"loss.name": "cross_entropy"}, "loss.name = 'cross_entropy' is for model.kind = 'noisy_classifier'; set"),
        ({"model.kind": "noisy_classifier"}, "loss.name = 'simple' does not fit model.kind = 'noisy_classifier'"),
        ({"model.pool": "attention"}, "model.pool = 'attention' is for model.kind = 'noisy_classifier'; set 'adaptive'"),
        (CLASSIFIER | {"model.num_classes": 0}, "model.num_classes = 0 is not possible .* at least 2, or -1 for as many"),
        (CLASSIFIER | {"model.null_label": True}, "model.null_label = True is for networks that draw.*; set False"),
        (CLASSIFIER | {"train.label_dropout": 0.1}, "train.label_dropout = 0.1 is for networks that draw.*; set 0"),
        (CLASSIFIER | {"model.num_heads_up": 2}, "model.num_heads_up = 2 is for networks that draw"),
        (CLASSIFIER | {"train.evaluate_every": 2}, "train.evaluate_every = 2 is of generated images, and .* set 0"),
        (CLASSIFIER | {"model.learned_variance": True}, "learned_variance = True does not fit loss.name = 'cross_entropy'"),
        (
            {"sample.label": 0},
            "sample.label = 0 is not a label of .*; the network knows no classes; set -1, or sample.guide",
        ),
        ({"process.kind": "vp", "process.zero_terminal_snr": True}, "process.kind = 'vp' does not use a schedule"),
        (
            {"process.kind": "vp", "loss.name": "vlb", "model.learned_variance": True},
            "loss.name = 'vlb' is a bound of discrete processes, and process.kind is 'vp'",
        ),
        ({"process.kind": "ve", "loss.timesteps": "loss_second_moment"}, "counts levels, and process.kind is 've'"),
        (
            {"loss.time_density": "log_normal"},
            "loss.time_density = 'log_normal' does not fit the times of process 'discrete'; set 'uniform'",
        ),
        (
            {"process.kind": "ve"},
            "loss.time_density = 'uniform' does not fit the times of process 've'; set 'log_normal' or 'log_uniform'",
        ),
        ({"process.kind": "rectified_flow", "loss.time_density": "log_normal"}, "set 'logit_normal' or 'uniform'"),
        (
            {"process.kind": "vp", "process.rescale_c_noise": True},
            "is for process.kind = 'discrete', and process.kind is 'vp'; set False",
        ),
        (
            {"sample.last_level": "min_noise"},
            "sample.last_level = 'min_noise' does not fit sample.grid = 'trailing', which always ends at the data",
        ),
        ({"sample.sampler": "ode"}, "sample.clip = 'static' is not for sample.sampler = 'ode'"),
        ({"sample.grid": "explicit"}, r"sample.times = \(\) does not fit sample.grid = 'explicit'"),
        ({"sample.times": (3, 1, 0)}, r"sample.times = \(3, 1, 0\) does not fit sample.grid = 'trailing'"),
        (
            {"sample.grid": "explicit", "sample.times": (3, 1), "sample.last_level": "min_noise"},
            "sample.last_level = 'min_noise' is not for sample.grid = 'explicit'",
        ),
        ({"sample.churn": (40.0, 0.0, 50.0, 1.0)}, "is for sample.sampler = 'euler' or 'heun'"),
        ({"sample.churn": (1.0,)}, r"sample.churn = \(1.0,\) is not allowed; it must be a tuple of 4 numbers from 0"),
        ({"sample.ema_rate": 0.5}, r"sample.ema_rate = 0.5 must be one of train.ema_rates = \(0.99,\), or 0"),
        (
            {"sample.grid": "explicit", "sample.times": (20,)},
            r"sample.grid = 'explicit' does not fit the process: times = \(20,\) are not a valid grid",
        ),
        ({"sample.num_steps": 21}, "sample.num_steps = 21 does not fit the process: a grid of 21 steps is not allowed"),
        (
            {"process.num_steps": 20, "process.schedule": "linear", "predicts": "eps"},
            "predicts = 'eps' is impossible with process.num_steps = 20 of process.schedule = 'linear': x_T is the noise",
        ),
        ({"model.multipliers": ()}, "one or more"),
        ({"train.learning_rate": 0.0}, "train.learning_rate = 0.0 is not allowed; it must be a finite number above 0"),
        ({"train.learning_rate": float("nan")}, "train.learning_rate = nan is not allowed"),
        ({"train.learning_rate": float("inf")}, "train.learning_rate = inf is not allowed"),
        (
            {"model.channels": 10**9},
            r"model.channels = 1000000000 .* is not allowed; a stage has at most 65,536 channels",
        ),
        ({"sample.num_images": 10**7, "sample.shard_size": 1}, "sample.shard_size = 1 makes more than 1,000,000 files of"),
        ({"sample.batch_per_device": 2**31 - 1}, "it must be a whole number from 1 to 1048576"),
        ({"train.seed": 2**31}, "a whole number from 0 on, below 2.31"),
        ({"data.random_flip": 1}, "data.random_flip = 1 is not allowed; it must be True or False"),
        (
            {"process.num_steps": 1, "sample.grid": "uniform", "sample.num_steps": 2},
            "sample.grid = 'uniform' with sample.num_steps = 2: the grid is not allowed; .* different from the one before",
        ),
        ({"process.log_snr": (100.0, -5.0)}, "it must be a tuple of 2 or more numbers from 80 to -80 that fall"),
        ({"process.sigma_max": 1e39}, "process.sigma_max = 1e.39 is not allowed; it must be a number from 1e-6 to 1e6"),
        ({"loss.time_mean": 100.0}, "loss.time_mean = 100.0 is not allowed; it must be a number from -20 to 20"),
        ({"sample.stage": 1e-30}, "sample.stage = 1e-30 is not allowed; it must be a number from 0.01 to 1"),
        ({"sample.correction_snr": 1e30}, "it must be a number above 0, to 10"),
        ({"loss.time_std": 1e30}, "it must be a number above 0, to 20"),
        (CLASSIFIER | {"sample.strip": 2}, "sample.strip = 2 is for networks that draw.*; set 0"),
        (CLASSIFIER | {"sample.guide": "x"}, "sample.guide = 'x' is for networks that draw.*; set ''"),
        (MEAN_FLOW, "is told two times: model.jumps = True, and model.kind = 'dit' or 'unet'"),
        (POINTS | MEAN_FLOW, "is told two times: model.jumps = True, and model.kind = 'mlp'"),
        (MOLECULES | MEAN_FLOW, "is told two times, and none of data.medium = 'molecules' is; set 'simple'"),
        (
            POINTS | {"model.kind": "autoencoder_kl"},
            "'autoencoder_kl' does not fit data.medium = 'points'; it must be 'mlp'",
        ),
        (POINTS | {"data.condition": "mask"}, "data.condition = 'mask' is for data.medium = 'images', and not for 'poi"),
        ({"data.image_size": (1, 8, 8), "data.condition": "edges"}, "does not fit data.medium = 'images'; it must have 2"),
    ],
)
def test_what_cannot_be_is_refused_with_field_value_and_what_is_allowed(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        checks.check(config_of(changes))


def test_a_schedule_that_the_process_does_not_use_is_not_judged():
    checks.check(config_of({"process.kind": "vp", "process.schedule": "linear", "process.num_steps": 10}))


def test_what_can_follow_another_field_does():
    """A run of a few steps of the CIFAR-10 config takes one change, not five."""
    config = Config.of_flat(Config().flat() | {"process.num_steps": 200, "train.ema_rates": (0.9, 0.999)})
    assert (config.sample.num_steps, config.sample.ema_rate) == (200, 0.999)
    assert Config.of_flat(Config().flat() | {"train.ema_rates": ()}).sample.ema_rate == 0
    checks.check(config.with_values("train", num_steps=20))


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({"num_steps": 800_000}, []),
        ({"num_steps": 50_000}, []),
        ({"num_steps": 20_000, "ema_warmup": "off"}, []),
        ({"num_steps": 20_000}, ["EMAs are warmed up: the run is short for train.ema_rates"]),
        ({"num_steps": 5000, "ema_warmup": "on"}, ["the learning rate rises in 500 steps, not in 5,000: the run is short."]),
    ],
)
def test_a_short_run_says_what_is_shorter(changes, sentences):
    found = list(training.notes(Config().with_values("train", **changes)))
    assert len(found) == len(sentences) and all(map(str.startswith, found, sentences))


def test_a_short_runs_learning_rate_reaches_its_peak_and_its_ema_forgets_the_start():
    config = Config().with_values("train", num_steps=20)
    parts, params = training.parts(config), {"w": jnp.ones(())}
    ema, state = parts.ema.init(params), parts.optimizer.init(params)
    for step in range(3):
        update, state = parts.optimizer.update({"w": jnp.ones(())}, state, params)
        ema = parts.ema.update(ema, {"w": jnp.zeros(())}, jnp.asarray(step))
    assert float(update["w"]) == pytest.approx(-2e-4, rel=1e-3)  # of Adam: the rate itself, after 2 steps of warm-up
    assert float(ema["0.9999"]["w"]) == pytest.approx(1 / 10 * 2 / 11 * 3 / 12)


def test_a_multiplier_may_be_a_fraction_and_whole_ones_stay_whole_numbers():
    config = config_of({"model.multipliers": (0.5, 1, 2), "data.image_size": (8, 8)})
    checks.check(config)
    text = stored.to_json(config)
    assert json.loads(text)["config"]["model"]["multipliers"] == [0.5, 1, 2] and stored.from_json(text) == config
    assert all(type(multiplier) is int for multiplier in stored.from_json(text).model.multipliers[1:])


def test_a_missing_field_is_named():
    flat = config_of({}).flat()
    del flat["train.seed"]
    with pytest.raises(UserError, match=r"config field 'train.seed' is missing; it must be a whole number"):
        Config.of_flat(flat)


@settings(deadline=None)  # the first call imports
@given(
    st.sampled_from(sorted(FIELDS)),
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.tuples(), st.lists(st.integers()), st.binary()
    ),
)
def test_any_value_is_taken_or_refused_with_a_sentence(field, value):
    try:
        checks.check(config_of({field: value}))
    except UserError as error:
        assert str(error).startswith("config field ") and str(error).endswith(".")


def test_numbers_of_steps_and_intervals_may_change_on_resume_and_the_rest_may_not():
    config = config_of({})
    free = config_of({"train.num_steps": 9, "train.log_every": 7, "sample.num_steps": 2, "train.keep_checkpoints": 9})
    assert stored.changed(config, free) == []
    assert stored.changed(config, config_of({"train.batch_size": 0, "model.num_classes": -1})) == []
    fixed = config_of({"process.num_steps": 30, "train.learning_rate": 1.0, "data.random_flip": True})
    assert stored.changed(config, fixed) == [
        "process.num_steps: 20 -> 30",
        "train.learning_rate: 0.002 -> 1.0",
        "data.random_flip: False -> True",
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"format_version": 1}'])
def test_a_damaged_config_is_said_to_be_damaged(text):
    with pytest.raises(UserError, match="config.json is damaged"):
        stored.from_json(text)


@pytest.mark.parametrize("version", [1, 99])
def test_another_format_is_refused(version):
    text = json.dumps({"format_version": version, "config": {}, "versions": {}})
    sentence = f"format_version = {version}; this version of diffusion_jax reads 2 to {stored.FORMAT_VERSION}"
    with pytest.raises(UserError, match=sentence):
        stored.from_json(text)
