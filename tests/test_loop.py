"""The training step and the loop: what one call does, in what order things happen, what a signal does."""

import functools
import json
import os
import shutil
import signal
import threading
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from diffusion_jax import networks, streams
from diffusion_jax.compose import choices, inputs, stored, training
from diffusion_jax.data import feed, sources
from diffusion_jax.errors import UserError
from diffusion_jax.jobs import train
from diffusion_jax.networks import conditioning
from diffusion_jax.runs import checkpoint, pictures, sharding, storage
from diffusion_jax.training import loop, start
from diffusion_jax.training import step as training_step
from diffusion_jax.training.state import TrainState

FROZEN = {"teacher": np.arange(3.0, dtype=np.float32)}


@functools.cache
def compiled():
    """Returns (parts, jitted step, state, batches of three steps) of a tiny run; the loss of black images is not finite."""
    plain = training.parts(tiny.config_of({"model.dropout": 0.1}))

    def loss(denoise, x_0, level, eps):
        losses, terms = plain.loss(0, None)(denoise, x_0, level, eps)
        return losses + jnp.where(jnp.all(x_0 == -1), jnp.nan, 0), terms

    parts = plain._replace(loss=lambda step, teacher: loss)
    state = jax.jit(functools.partial(start.make_state, parts=parts))(streams.key(0, "init"))
    step = jax.jit(functools.partial(training_step.train_step, parts=parts))
    return parts, step, state._replace(frozen=FROZEN), tiny.batches(3)


def leaves_equal(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_images_or_classes(tmp_path, capsys, one_device):
    """The order of batches depends on the number of images, labels on the names of classes, where the network knows any."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8)
    for name in ("cats", "dogs"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "set" / name / f"{number}.png").write_bytes(pictures.encode_png(pixels))
    changes = {"data.source": "folder", "data.path": str(tmp_path / "set"), "train.batch_size": 8, "train.num_steps": 2}

    config = tiny.config_of({**changes, "model.num_classes": 3, "train.sample_every": 100})
    workdir = storage.path(tmp_path / "run")
    assert train.run(config, workdir) == 0
    assert "model.num_classes = 3 is more than the data has; the others are not trained" in capsys.readouterr().out
    (tmp_path / "set" / "cats").rename(tmp_path / "set" / "horses")
    with pytest.raises(UserError, match=r"class_names: \['cats', 'dogs'\] -> \['dogs', 'horses'\]"):
        train.run(config, workdir)
    (tmp_path / "set" / "horses").rename(tmp_path / "set" / "cats")
    (tmp_path / "set" / "dogs" / "0.png").unlink()
    with pytest.raises(UserError, match="was begun on other images .num_images: 8 -> 7.; the order of the"):
        train.run(config, workdir)
    plain = tiny.config_of(changes)
    assert inputs.data_fingerprint(plain, inputs.source(plain)) == {"num_images": 7, "class_names": []}


def test_a_run_goes_on_where_names_of_classes_became_known(tmp_path):
    """As those of an .npz file did, which were not read once."""
    stored.write_config(storage.path(tmp_path), tiny.config_of({}), images={"num_images": 8, "class_names": []})
    stored.check_images(storage.path(tmp_path), {"num_images": 8, "class_names": ["cats", "dogs"]})
    with pytest.raises(UserError, match="num_images: 8 -> 7"):
        stored.check_images(storage.path(tmp_path), {"num_images": 7, "class_names": ["cats", "dogs"]})


def test_training_lowers_the_loss():
    _, step, state, batches = compiled()
    losses = []
    for _ in range(60):
        for batch in batches:
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
    assert np.mean(losses[-30:]) < 0.7 * np.mean(losses[:30])


def test_a_step_depends_on_state_and_batch_alone():
    _, step, state, batches = compiled()
    leaves_equal(step(state, batches[0]), step(state, batches[0]), rtol=0)


def test_steps_draw_new_noise():
    _, step, state, batches = compiled()
    later = state._replace(step=state.step + 1)
    assert float(step(state, batches[0])[1]["loss"]) != float(step(later, batches[0])[1]["loss"])


def test_fused_steps_are_the_same_steps():
    """One call of three steps against three calls: equal to rounding, which Adam's first steps magnify to 1e-4.

    With a network of two numbers and dropout; what is fused makes no difference between networks.
    """

    def apply(params, x_t, c_noise, cond, *, train, rngs):
        kept = jax.random.bernoulli(rngs["dropout"], 0.9, x_t.shape)
        return params["scale"] * x_t * kept + params["shift"] * jnp.sin(c_noise)[:, None, None, None]

    network = networks.Network(lambda key: dict(zip(("scale", "shift"), jax.random.normal(key, (2,)), strict=True)), apply)
    parts, batches = training.parts(tiny.config_of({}))._replace(network=network), compiled()[3]
    state = start.make_state(streams.key(0, "init"), parts=parts)
    step = jax.jit(functools.partial(training_step.train_step, parts=parts))
    stacked = {"x": np.stack([batch["x"] for batch in batches]), "cond": {}}
    fused, metrics = jax.jit(functools.partial(training_step.train_steps, parts=parts))(state, stacked)
    losses = []
    for batch in batches:
        state, each = step(state, batch)
        losses.append(float(each["loss"]))
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-4)
    assert fused.step == 3
    leaves_equal(fused.params, state.params, atol=2e-4)


def test_a_batch_that_is_not_finite_is_skipped_and_counted():
    _, step, state, batches = compiled()
    after, metrics = step(state, {**batches[0], "x": np.zeros_like(batches[0]["x"])})
    assert not np.isfinite(metrics["loss"]) and metrics["skipped"] == metrics["skipped_in_a_row"] == 1
    leaves_equal((after.params, after.ema, after.opt_state), (state.params, state.ema, state.opt_state), rtol=0)
    assert after.step == 1


def test_a_batch_with_a_record_that_could_not_be_read_changes_nothing():
    """With a network of one number; it makes no difference to what is done with its gradient."""
    network = networks.Network(lambda key: jnp.float32(0.5), lambda params, x_t, *rest, **options: params * x_t)
    parts, batches = training.parts(tiny.config_of({}))._replace(network=network), compiled()[3]
    state = start.make_state(streams.key(0, "init"), parts=parts)
    # Two programs, to the byte: compiled as users' are, where conftest.py sets an option of jaxlib 0.10 for the others.
    options = {"xla_cpu_use_fusion_emitters": True} if metadata.version("jaxlib").startswith("0.10.") else {}
    step = jax.jit(functools.partial(training_step.train_step, parts=parts), compiler_options=options)
    state, _ = step(state, batches[0])
    same, metrics = step(state, {**batches[1], "valid": np.arange(16) != 3})
    assert metrics["unreadable"] == 1 and metrics["skipped"] == 0
    leaves_equal(same, state, rtol=0)
    taken, metrics = step(state, {**batches[1], "valid": np.ones(16, bool)})
    assert metrics["unreadable"] == 0
    leaves_equal(taken, step(state, batches[1])[0], rtol=0)


def test_what_is_frozen_stays_and_is_in_no_checkpoint(tmp_path):
    """So a checkpoint of a run without it is restored into a state that has it."""
    _, step, state, batches = compiled()
    after, _ = step(state, batches[0])
    leaves_equal(after.frozen, FROZEN, rtol=0)
    for saved in (state._replace(frozen=()), after):
        folder = storage.path(tmp_path / str(int(saved.step)))
        with checkpoint.Checkpoints(folder) as checkpoints:
            checkpoints.save(saved)
        with checkpoint.Checkpoints(folder) as checkpoints:
            restored = checkpoints.restore_latest(saved._replace(frozen=FROZEN))
        leaves_equal(restored, saved._replace(frozen=FROZEN), rtol=0)


def test_the_training_job_donates_the_state():
    """On the program that the job compiles: every array of the state has its output to live in."""
    parts, _, state, _ = compiled()
    mesh = sharding.make_mesh()
    where = sharding.replicated(mesh)
    state = jax.tree.map(lambda leaf: jax.device_put(leaf, where), state)
    config = tiny.config_of({})
    source = inputs.source(config)
    fed = feed.make_feed(source, inputs.records(config, source, mesh), first_step=0, **inputs.batching(config))
    fed = feed.on_devices(fed, mesh, steps_per_call=1)
    step = training_step.compile_step(parts, fed.batch, mesh, jax.tree.map(lambda leaf: leaf.sharding, state), num_steps=1)
    text = step.lower(state, fed.store, next(fed.items)).as_text()
    assert text.count("tf.aliasing_output") + text.count("jax.buffer_donor") == len(jax.tree.leaves(state))


def test_random_flip_mirrors_half_of_the_images():
    x = jnp.broadcast_to(jnp.arange(4.0)[None, None, :, None], (2000, 1, 4, 1))
    flipped = training_step.flipped({"x": x, "cond": {}}, jax.random.key(0))["x"][:, 0, :, 0]
    is_flipped = np.all(flipped == x[0, 0, ::-1, 0], axis=1)
    assert np.all(is_flipped | np.all(flipped == x[0, 0, :, 0], axis=1))
    assert np.sum(is_flipped) == pytest.approx(1000, abs=100)  # 4.5 standard errors


def test_conditions_are_dropped_at_their_rate():
    label = jnp.arange(4000) % 10
    labels = conditioning.labels(10, null_label=True)
    dropped = labels.drop({"label": label, "other": 1}, jax.random.key(0), 0.2)
    is_null = dropped["label"] == labels.null({"label": label})["label"]
    assert np.all(is_null | (dropped["label"] == label)) and dropped["other"] == 1
    assert np.sum(is_null) == pytest.approx(800, abs=114)  # 4.5 standard errors


def test_conditions_of_images_cycle_through_the_classes_or_are_one():
    assert conditioning.labels(3).of_image(np.arange(5))["label"].tolist() == [0, 1, 2, 0, 1]
    assert conditioning.labels(3, label=2).of_image(np.arange(3))["label"].tolist() == [2, 2, 2]
    assert conditioning.labels(3).null is None and conditioning.unconditional().of_image(np.arange(3)) == {}
    spec = conditioning.labels(3).spec(7)["label"]
    assert spec.shape == (7,) and spec.dtype == jnp.int32


def run_recorded(**options):
    """Runs the loop on integers; returns (what happened in which order, the last state)."""
    happened = []

    def step_fn(state, batch):
        happened.append(f"step {batch}")
        return state + options["steps_per_call"], {}

    hooks = [loop.Hook(4, lambda state: happened.append(f"save {state}"))]
    last = loop.run(
        options.pop("state", 0),
        step_fn,
        iter(range(100)),
        hooks=hooks,
        **{
            "first_step": 0,
            "num_steps": 6,
            "steps_per_call": 1,
            "stop": lambda call: False,
            "on_metrics": lambda step, metrics: happened.append(f"metrics {step}"),
        }
        | options,
    )
    return happened, last


def test_metrics_are_read_one_call_late_but_before_a_hook():
    happened, last = run_recorded(steps_per_call=2)
    assert happened == [
        *["step 0", "step 1", "metrics 2", "metrics 4", "save 4"],
        *["step 2", "metrics 6", "save 6"],
    ]
    assert last == 6


def test_the_loop_goes_on_from_the_first_step():
    happened, last = run_recorded(first_step=4, state=4, steps_per_call=1)
    assert happened == ["step 0", "step 1", "metrics 5", "metrics 6", "save 6"] and last == 6


def test_metrics_may_stop_the_loop_before_a_hook():
    def on_metrics(step, metrics):
        happened.append(f"metrics {step}")
        if step == 3:
            raise loop.StopError

    happened = []
    seen, last = run_recorded(steps_per_call=1, on_metrics=on_metrics)
    assert seen == ["step 0", "step 1", "step 2", "step 3"] and happened == ["metrics 1", "metrics 2", "metrics 3"]
    assert last == 4


def test_the_loop_stops_between_calls():
    stops = iter([False, False, True])
    happened, last = run_recorded(steps_per_call=1, stop=lambda call: next(stops))
    assert happened == ["step 0", "step 1", "metrics 1", "metrics 2"] and last == 2


def test_a_signal_is_heard_while_the_first_step_compiles():
    """A compiler holds the thread that calls it: were that the main one, the handler would run afterwards."""
    heard = threading.Event()

    def compiles(state, batch):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert heard.wait(timeout=60)
        return state, {}

    before = signal.signal(signal.SIGUSR1, lambda *arguments: heard.set())
    options = {"first_step": 0, "num_steps": 1, "steps_per_call": 1, "hooks": [], "stop": lambda call: False}
    loop.run(None, compiles, iter([None]), on_metrics=lambda step, metrics: None, **options)
    signal.signal(signal.SIGUSR1, before)
    assert heard.is_set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_steps", "checkpoint_every", "end", "steps"),
    [
        (4, 1, "saved at step 1; the same command resumes.", ["1"]),
        (4, 4, "any config may use the workdir.", []),
        (1, 1, "saved at step 1; that was the last step.", ["1"]),
    ],
)
def test_what_a_signal_in_the_first_call_leaves_is_what_is_said(
    tmp_path, capsys, monkeypatch, num_steps, checkpoint_every, end, steps
):
    """Of one step it is the last call, after which no other asks for signals."""

    def stop(call, caught):
        caught.extend([signal.SIGINT] * (call or num_steps == 1))
        return call > 0

    monkeypatch.setattr(sharding, "all_stop", stop)
    config = tiny.config_of({"train.num_steps": num_steps, "train.checkpoint_every": checkpoint_every})
    with tiny.one_device():
        assert train.run(config, storage.path(tmp_path)) == 128 + signal.SIGINT
    assert capsys.readouterr().out.splitlines()[-1].endswith(end)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == steps


def test_a_signal_is_caught_and_a_second_interrupt_ends_the_process(monkeypatch):
    ended, before = [], signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and this one in the background of a script
    monkeypatch.setattr(loop.os, "_exit", ended.append)
    with loop.catch_signals() as caught:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        assert caught == [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1] and ended == []
        os.kill(os.getpid(), signal.SIGINT)
        assert ended == [130]
    assert signal.getsignal(signal.SIGTERM) == signal.signal(signal.SIGHUP, before) == signal.SIG_DFL


def test_under_nohup_a_terminal_that_goes_away_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with loop.catch_signals() as caught:
        os.kill(os.getpid(), signal.SIGHUP)
        assert caught == []
    signal.signal(signal.SIGHUP, before)


def test_the_held_out_loss_has_the_same_levels_and_noises_every_time():
    """A network that returns p x_t where x_0 = 1 is wanted: the loss is 1 for p = 0, and noise for p = 1."""

    def apply(params, x_t, condition, cond, *, train=False, rngs=None):
        assert not train and rngs is None
        return params * x_t

    parts = training.parts(tiny.config_of({"predicts": "x_0"}))._replace(network=networks.Network(None, apply))
    batches = {"x": np.full((3, 16, 8, 8, 1), 255, np.uint8), "cond": {}}

    def loss_of(params, seed):
        return training_step.held_out_loss(state._replace(params=params), batches, parts=parts._replace(seed=seed))

    state = TrainState(jnp.zeros((), jnp.int32), None, {}, (), (), {})
    loss, other = (jax.jit(functools.partial(loss_of, seed=seed)) for seed in (parts.seed, 1))
    assert float(loss(0.0)) == pytest.approx(1, rel=1e-6)
    assert float(loss(1.0)) == float(loss(1.0)) > 0.1
    assert float(other(1.0)) != float(loss(1.0))


@pytest.mark.slow
def test_a_run_logs_the_loss_of_images_it_is_not_trained_on(tmp_path, one_device):
    rng = np.random.default_rng(0)
    for name in ("train", "held_out"):
        np.savez(tmp_path / f"{name}.npz", images=rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8))
    files = {"data.path": str(tmp_path / "train.npz"), "data.held_out": str(tmp_path / "held_out.npz")}
    config = tiny.config_of({"data.source": "npz", "train.sample_every": 2, "train.num_steps": 4, **files})
    assert train.run(config, storage.path(tmp_path / "run")) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "held_out_loss_raw" in line]
    assert [line["step"] for line in logged] == [2, 4]
    assert all(0.1 < line["held_out_loss_ema0.99"] < 10 for line in logged)


@pytest.mark.slow
@pytest.mark.parametrize("steps_per_call", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_broken_image_on_the_way_is_named_and_what_was_learned_is_saved(tmp_path, monkeypatch, steps_per_call, one_device):
    """An image of the sixth batch: the run ends with the five steps before it, and goes on as if nothing had been."""
    np.savez(tmp_path / "set.npz", images=np.random.default_rng(0).integers(0, 256, (120, 8, 8, 1), np.uint8))
    config = {"data.source": "npz", "data.path": str(tmp_path / "set.npz"), "data.device_cache_gib": 0.0}
    config |= {"train.num_steps": 8, "train.checkpoint_every": 8, "train.sample_every": 8, "train.log_every": 2}
    config |= {"train.steps_per_call": steps_per_call}
    broken, npz = feed.make_order(120, batch_size=16, seed=0)(5)[3], sources.npz

    def breaking(*, path):
        source = npz(path=path)

        def read(number):
            if number == broken:
                raise UserError("image file '7.png' cannot be read")
            return source.read(number)

        return source._replace(read=read)

    with monkeypatch.context() as patched:
        patched.setitem(choices.SOURCES, "npz", breaking)
        with pytest.raises(UserError, match="7.png"):
            train.run(tiny.config_of(config), storage.path(tmp_path / "run"))
    assert [step.name for step in (tmp_path / "run" / "checkpoints").iterdir()] == ["5"]
    states = []
    for name in ("run", "whole"):
        one = tiny.config_of(config | {"train.steps_per_call": 1})
        assert train.run(one, storage.path(tmp_path / name)) == 0
        like = jax.eval_shape(functools.partial(start.make_state, parts=training.parts(one)), jax.random.key(0))
        with checkpoint.Checkpoints(storage.path(tmp_path / name)) as checkpoints:
            states.append(checkpoints.restore_latest(like))
    leaves_equal(*states, **({"rtol": 0} if steps_per_call == 1 else {"atol": 2e-4}))


@pytest.mark.slow
def test_a_loss_history_is_resumed_exactly(tmp_path, capsys, one_device):
    """L_vlb with draws by second moment over 2 levels, so that the history fills at once: 2 + 2 steps are 4 steps."""
    changes = {"loss.name": "vlb", "model.learned_variance": True, "loss.timesteps": "loss_second_moment"}
    changes |= {"process.num_steps": 2, "sample.num_steps": 2, "train.sample_every": 100}
    changes |= {"train.warmup_steps": 0, "train.decay": "constant"}
    config = tiny.config_of(changes | {"train.num_steps": 4, "train.keep_checkpoints": 2})
    states = []
    for name in ("whole", "resumed"):
        if name == "resumed":
            shutil.copytree(tmp_path / "whole", tmp_path / name)
            shutil.rmtree(tmp_path / name / "checkpoints" / "4")
        assert train.run(config, storage.path(tmp_path / name)) == 0
        like = jax.eval_shape(functools.partial(start.make_state, parts=training.parts(config)), jax.random.key(0))
        with checkpoint.Checkpoints(storage.path(tmp_path / name)) as checkpoints:
            states.append(checkpoints.restore_latest(like))
    assert np.all(states[0].timestep_state.num_seen >= 10)
    leaves_equal(states[0], states[1], rtol=0)
    assert "resumed     at step 2" in capsys.readouterr().out
