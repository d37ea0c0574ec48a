"""Configs: every field is checked, survives JSON, and may or may not change on resume."""

import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import config_of

from diffusion_jax.compose import consistency, inputs, processes, sampling, schema, training
from diffusion_jax.errors import UserError


@pytest.mark.parametrize(
    ("field", "parts"),
    [
        ("process.schedule", processes.SCHEDULES),
        ("loss.name", training.LOSSES),
        ("loss.weighting", training.WEIGHTINGS),
        ("loss.timesteps", training.TIMESTEPS),
        ("data.source", inputs.SOURCES),
        ("loss.density", training.DENSITIES),
        ("process.kind", {"chain", *processes.PROCESSES}),
        ("sample.sampler", {"ode", *sampling.SAMPLERS}),
        ("sample.grid", {"explicit", *sampling.GRIDS, *sampling.REAL_GRIDS}),
        ("sample.clip", processes.CLIPS),
    ],
)
def test_a_name_is_allowed_if_and_only_if_it_can_be_built(field, parts):
    for name in parts:
        assert schema.FIELDS[field].admits(name)
    assert schema.FIELDS[field].allowed == "one of " + ", ".join(sorted(parts))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data.image_size": (9, 8), "model.multipliers": (1, 2)}, "height and width must be multiples of 2"),
        ({"model.channels": 10}, "model.channels = 10 must be a multiple of model.num_groups = 4"),
        ({"model.channels": 9, "model.num_groups": 3}, "model.channels = 9 must be even"),
        ({"model.attention_levels": (1,)}, r"model.attention_levels = \(1,\) names a level that model.multipliers lacks"),
        (
            {"process.schedule": "linear", "process.num_steps": 19},
            "too short for schedule 'linear', which needs at least 20",
        ),
        (
            {"model.num_heads": 3},
            r"model.num_heads = 3 \(and model.num_heads_up = 0\) must divide the channels of every level",
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
        ({"sample.label": 0}, "sample.label = 0 is no label of model.num_classes = 0; -1 goes through all"),
        (
            {"sample.num_steps": 21},
            "sample.num_steps = 21 must be at most process.num_steps = 20 for sample.grid = 'trailing'",
        ),
        ({"process.kind": "vp", "process.zero_terminal_snr": True}, "process.kind = 'vp' has no schedule to rescale"),
        (
            {"process.kind": "vp", "loss.name": "vlb", "model.learned_variance": True},
            "loss.name = 'vlb' is a bound of chains, and process.kind is 'vp'",
        ),
        ({"process.kind": "ve", "loss.timesteps": "loss_second_moment"}, "counts the levels of a chain"),
        ({"loss.density": "log_normal"}, "loss.density = 'log_normal' is of real-valued times"),
        (
            {"process.kind": "ve"},
            "loss.density = 'uniform' does not fit the times of process 've'; set 'log_normal' or 'log_uniform'",
        ),
        ({"process.kind": "rectified_flow", "loss.density": "log_normal"}, "set 'logit_normal' or 'uniform'"),
        ({"process.kind": "vp", "process.rescale_condition": True}, "is for chains, and process.kind is 'vp'; set False"),
        ({"sample.end": "lowest"}, "sample.end = 'lowest' is not for sample.grid = 'trailing', which leads to the data"),
        (
            {"sample.grid": "linspace", "sample.end": "lowest", "sample.num_steps": 20},
            "sample.num_steps = 20 must be at most",
        ),
        ({"sample.sampler": "ode"}, "sample.clip = 'static' is not for sample.sampler = 'ode'"),
        ({"process.kind": "vp", "sample.grid": "leading"}, "sample.grid = 'leading' counts the levels of a chain"),
        ({"sample.grid": "explicit"}, r"sample.times = \(\) does not fit sample.grid = 'explicit'"),
        ({"sample.times": (3, 1, 0)}, r"sample.times = \(3, 1, 0\) does not fit sample.grid = 'trailing'"),
        (
            {"sample.grid": "explicit", "sample.times": (3, 1), "sample.end": "lowest"},
            "sample.end = 'lowest' is not for sample.grid = 'explicit'",
        ),
        ({"sample.churn": (40.0, 0.0, 50.0, 1.0)}, "is for sample.sampler = 'euler' or 'heun'"),
        ({"sample.churn": (1.0,)}, r"sample.churn = \(1.0,\) is not allowed; it must be a tuple of 4 numbers from 0"),
        (
            {"sample.sampler": "ode", "sample.clip": "none", "sample.strip": 2},
            "sample.strip = 2 is impossible with sample.sampler = 'ode'",
        ),
        ({"sample.ema_rate": 0.5}, r"sample.ema_rate = 0.5 must be one of train.ema_rates = \(0.99,\), or 0"),
        ({"train.warmup_steps": 2000}, "train.warmup_steps = 2000 must be below train.num_steps = 2000"),
        ({"model.multipliers": ()}, "one or more"),
        ({"train.learning_rate": 0.0}, "train.learning_rate = 0.0 is not allowed; it must be a finite number above 0"),
        ({"train.learning_rate": float("nan")}, "train.learning_rate = nan is not allowed"),
        ({"train.learning_rate": float("inf")}, "train.learning_rate = inf is not allowed"),
        ({"train.seed": 2**31}, "a whole number from 0 to 2147483647"),
        ({"data.random_flip": 1}, "data.random_flip = 1 is not allowed; it must be True or False"),
    ],
)
def test_what_cannot_be_is_refused_with_field_value_and_what_is_allowed(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        schema.check(config_of(changes))


def test_the_two_kinds_of_grids_are_known_without_jax():
    assert set(consistency.WHOLE_GRIDS) == sampling.GRIDS.keys()
    assert {"trailing", *consistency.REAL_GRIDS} == {"explicit", *sampling.REAL_GRIDS}


def test_a_missing_field_is_named():
    config = config_of({})
    del config["train"]["seed"]
    with pytest.raises(UserError, match=r"config field 'train.seed' is missing; it must be a whole number"):
        schema.check(config)


@given(
    st.sampled_from(sorted(schema.FIELDS)),
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.tuples(), st.lists(st.integers()), st.binary()
    ),
)
def test_any_value_is_taken_or_refused_with_a_sentence(field, value):
    config = config_of({})
    *section, name = field.split(".")
    (config[section[0]] if section else config)[name] = value
    try:
        schema.check(config)
    except UserError as error:
        assert str(error).startswith("config field ") and str(error).endswith(".")


def test_numbers_of_steps_and_intervals_may_change_on_resume_and_the_rest_may_not():
    config = config_of({})
    free = config_of({"train.num_steps": 9, "train.log_every": 7, "sample.num_steps": 2, "train.keep_checkpoints": 9})
    assert schema.changed(config, free) == []
    fixed = config_of({"process.num_steps": 30, "train.learning_rate": 1.0, "data.random_flip": True})
    assert schema.changed(config, fixed) == [
        "process.num_steps: 20 -> 30",
        "train.learning_rate: 0.002 -> 1.0",
        "data.random_flip: False -> True",
    ]


def test_what_may_change_on_resume_is_documented():
    text = (pathlib.Path(__file__).parents[1] / "docs" / "architecture.md").read_text()
    for name in schema.FREE_ON_RESUME:
        assert f"`{name}`" in text or name.startswith(("sample.", "likelihood.")), name


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"format_version": 1}'])
def test_a_damaged_config_is_said_to_be_damaged(text):
    with pytest.raises(UserError, match="config.json is damaged"):
        schema.from_json(text)


@pytest.mark.parametrize("version", [1, 99])
def test_another_format_is_refused(version):
    text = json.dumps({"format_version": version, "config": {}, "versions": {}})
    sentence = f"format_version = {version}; this version of diffusion_jax reads 2 to {schema.FORMAT_VERSION}"
    with pytest.raises(UserError, match=sentence):
        schema.from_json(text)
