"""Checkpoints give back what was saved, byte for byte, and only what is asked for."""

import contextlib
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from files import listing
from orbax.checkpoint import v1 as ocp
from tiny import config_of

from diffusion_jax.compose import stored
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import checkpoint, sharding, storage
from diffusion_jax.training.state import TrainState


@functools.cache
def state_of(seed):
    """Returns a small state, of matrices, vectors and whole numbers."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {"dense": {"kernel": jax.random.normal(keys[0], (96, 64)), "bias": jax.random.normal(keys[1], (64,))}}
    moments = {"mu": params, "count": jnp.array(3, jnp.int32), "nu": jax.random.normal(keys[2], (8, 4))}
    zero = jnp.zeros((), jnp.int32)
    ema = {rate: jax.tree.map(lambda leaf: 2 * leaf, params) for rate in ("0.9", "0.99")}
    return TrainState(zero, params, ema, moments, zero, {"skipped": zero})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with the checkpoints 1 and 2 of `state_of(0)`."""
    workdir = tmp_path_factory.mktemp("saved")
    with checkpoint.Checkpoints(storage.path(workdir), keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(at_step(state_of(0), step))
    return workdir


@pytest.fixture
def run(saved, tmp_path):
    """The same, to change."""
    return shutil.copytree(saved, tmp_path / "run")


def like(state, where=None):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where or leaf.sharding), state)


def at_step(state, step):
    return state._replace(step=np.int32(step) + 0 * state.step)


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_restoring_gives_back_every_byte(tmp_path):
    state = at_step(state_of(0), 3)
    with checkpoint.Checkpoints(storage.path(tmp_path)) as checkpoints:
        assert checkpoints.restore_latest(like(state)) is None
        checkpoints.save(state)
    with checkpoint.Checkpoints(storage.path(tmp_path)) as checkpoints:
        restored = checkpoints.restore_latest(like(state))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert_same(restored, state)


def test_restoring_onto_eight_devices(tmp_path):
    state = at_step(state_of(0), 1)
    with checkpoint.Checkpoints(storage.path(tmp_path)) as checkpoints:
        checkpoints.save(state)
    where = sharding.replicated(sharding.make_mesh())
    with checkpoint.Checkpoints(storage.path(tmp_path)) as checkpoints:
        restored = checkpoints.restore_latest(like(state, where))
    assert {leaf.sharding for leaf in jax.tree.leaves(restored)} == {where}
    assert_same(restored, state)


def test_what_is_saved_is_the_state_of_that_moment(tmp_path):
    """The next step overwrites the arrays while they are still being written."""
    overwrite = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    state = jax.tree.map(lambda leaf: leaf + 0, at_step(state_of(0), 4))
    with checkpoint.Checkpoints(storage.path(tmp_path)) as checkpoints:
        checkpoints.save(state)
        for _ in range(20):
            state = overwrite(state)
    with checkpoint.Checkpoints(storage.path(tmp_path)) as checkpoints:
        assert_same(checkpoints.restore_latest(like(state)), at_step(state_of(0), 4))


def test_the_latest_remain(tmp_path):
    with checkpoint.Checkpoints(storage.path(tmp_path), keep=2) as checkpoints:
        for step in (1, 2, 3, 4, 4):
            checkpoints.save(at_step(state_of(0), step))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]


@pytest.mark.parametrize("ema", ["", "0.9", "0.99"])
def test_one_set_of_weights_is_restored_alone(tmp_path, ema):
    state = at_step(state_of(0), 1)
    state.ema["0.99"] = jax.tree.map(lambda leaf: leaf + 5, state.ema["0.9"])
    with checkpoint.Checkpoints(storage.path(tmp_path), keep=2) as checkpoints:
        checkpoints.save(at_step(state_of(1), 1))
        checkpoints.save(at_step(state, 2))
    step, params = checkpoint.restore_weights(
        storage.path(tmp_path), step=-1, like=like(state.params), ema=ema, all_ema=["0.9", "0.99"]
    )
    assert step == 2
    assert_same(params, state.ema[ema] if ema else state.params)


def test_a_missing_step_lists_those_there_are(saved):
    wanted = {"like": like(state_of(0).params), "ema": "", "all_ema": ["0.9", "0.99"]}
    with pytest.raises(UserError, match="does not have a checkpoint of step 5; it has 1, 2"):
        checkpoint.restore_weights(storage.path(saved), step=5, **wanted)


def damage(step, kind):
    """Does to a checkpoint's folder what a full disk, a killed copy or a careless hand does."""
    files = sorted((file for file in step.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    if kind == "largest file cut short":
        files[-1].write_bytes(files[-1].read_bytes()[:100])
    elif kind == "all files empty":
        for file in files:
            file.write_bytes(b"")
    elif kind == "weights missing":
        shutil.rmtree(step / "weights")
    elif kind == "manifests missing":
        for file in step.rglob("manifest.ocdbt"):
            file.unlink()


def test_weights_are_looked_for_again_when_a_trainer_removes_them_meanwhile(saved, tmp_path, monkeypatch):
    run, load = tmp_path / "run", ocp.training.Checkpointer.load_checkpointables
    shutil.copytree(saved / "checkpoints" / "1", run / "checkpoints" / "1")

    def load_after_the_trainer(checkpointer, step, wanted):
        if (run / "checkpoints" / "1").exists():
            shutil.copytree(saved / "checkpoints" / "2", run / "checkpoints" / "2")
            shutil.rmtree(run / "checkpoints" / "1")
        return load(checkpointer, step, wanted)

    monkeypatch.setattr(ocp.training.Checkpointer, "load_checkpointables", load_after_the_trainer)
    wanted = {"like": like(state_of(0).params), "ema": "", "all_ema": ["0.9", "0.99"]}
    step, params = checkpoint.restore_weights(storage.path(run), step=-1, **wanted)
    assert step == 2
    assert_same(params, state_of(0).params)


def test_one_changed_bit_of_any_array_changes_its_checksum():
    saved = {"weights": {"params": [jnp.arange(6.0).reshape(2, 3), jnp.zeros((), jnp.int32)]}}
    plain = checkpoint.checksums(saved)["params"]
    for number, leaf in enumerate(saved["weights"]["params"]):
        for bit in range(8 * leaf.nbytes):
            flipped = np.array(leaf)
            flipped.reshape(-1).view(np.uint8)[bit // 8] ^= 1 << bit % 8
            changed = [*saved["weights"]["params"][:number], flipped, *saved["weights"]["params"][number + 1 :]]
            found = checkpoint.checksums({"weights": {"params": changed}})["params"]
            assert [one != other for one, other in zip(plain, found, strict=True)] == [number == 0, number == 1]


def test_a_checksum_does_not_depend_on_where_the_array_lies():
    array = jax.random.normal(jax.random.key(0), (64, 32))
    mesh = sharding.make_mesh(num_fsdp=8)
    split = jax.device_put(array, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp")))
    one, two = (checkpoint.checksums({"weights": {"params": leaf}}) for leaf in (array, split))
    assert one == two


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8])
@pytest.mark.parametrize("shape", [(), (1,), (7, 3, 2)])
def test_a_checksum_does_not_depend_on_where_it_is_taken(monkeypatch, dtype, shape):
    """By NumPy, by a program for the devices, and by its definition."""
    saved = {"weights": {"params": jnp.asarray(100 * jax.random.normal(jax.random.key(0), shape), dtype)}}
    on_host = checkpoint.checksums(saved)["params"]
    monkeypatch.setattr(checkpoint, "MOST_ON_HOST", -1)
    defined = sum((2 * i + 1) * byte for i, byte in enumerate(np.asarray(saved["weights"]["params"]).tobytes())) % 2**32
    assert on_host == checkpoint.checksums(saved)["params"] == [defined]


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_in_a_checkpoint_is_noticed_or_harmless(run, seed, capsys):
    """Anywhere in the files that hold the arrays: either the checkpoint before is used, or every byte is as it was saved."""
    state = state_of(0)
    rng = np.random.default_rng(seed)
    data = sorted(file for file in (run / "checkpoints" / "2").rglob("*") if file.is_file() and file.parent.name == "d")
    content = bytearray(data[seed % len(data)].read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    data[seed % len(data)].write_bytes(content)
    with checkpoint.Checkpoints(storage.path(run), keep=2) as checkpoints:
        restored = checkpoints.restore_latest(like(state))
    noticed = "the checkpoint of step 2 cannot be read" in capsys.readouterr().out
    assert_same(restored, at_step(state, 1 if noticed else 2))


def test_arrays_that_are_not_what_was_saved_are_noticed(tmp_path, capsys, monkeypatch):
    """As if the store had given back other bytes without a word."""
    state, folder, checksums = state_of(0), storage.path(tmp_path), checkpoint.checksums

    def zeros(saved):
        return {name: [0] * len(numbers) for name, numbers in checksums(saved).items()}

    with checkpoint.Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(at_step(state, 1))
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "checksums", zeros)
            checkpoints.save(at_step(state, 2))
    with checkpoint.Checkpoints(folder, keep=2) as checkpoints:
        assert_same(checkpoints.restore_latest(like(state)), at_step(state, 1))
    assert "are not what was saved" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["largest file cut short", "all files empty", "weights missing", "manifests missing"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(run, kind, capsys):
    state, folder = state_of(0), storage.path(run)
    weights = functools.partial(checkpoint.restore_weights, folder, like=like(state.params), ema="", all_ema=["0.9", "0.99"])
    damage(run / "checkpoints" / "2", kind)
    assert weights(step=-1)[0] == 1
    with checkpoint.Checkpoints(folder, keep=2) as checkpoints:
        restored = checkpoints.restore_latest(like(state))
        assert "warning     the checkpoint of step 2 cannot be read" in capsys.readouterr().out
        assert_same(restored, at_step(state, 1))
        checkpoints.save(at_step(state_of(1), 2))  # training comes to the same step again
    assert_same(weights(step=2)[1], state_of(1).params)
    for step in (1, 2):
        damage(run / "checkpoints" / str(step), kind)
    with pytest.raises(UserError, match=r"checkpoints' does not have a readable checkpoint; tried 1, 2\."):
        weights(step=-1)


JSON = {"empty": b"", "{}": b"{}", "a": b'{"a": [3]}', "deep": b"[" * 100_000, "half": None}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("content", JSON.values(), ids=JSON)
def test_any_json_of_a_checkpoint_is_restored_to_the_byte_or_a_sentence(run, content):
    """That which orbax keeps beside the arrays; with no checkpoint before to give way to."""
    shutil.rmtree(run / "checkpoints" / "1")
    for name, good in [(name, good) for name, good in listing(run).items() if good[:1] == b"{"]:
        (run / name).write_bytes(good[: len(good) // 2] if content is None else content)
        before = listing(run)
        with contextlib.suppress(UserError, RunError):
            restore_second(run)
        assert listing(run) == before
        (run / name).write_bytes(good)
    restore_second(run)


def restore_second(run):
    with checkpoint.Checkpoints(storage.path(run), keep=2) as checkpoints:
        assert_same(checkpoints.restore_latest(like(state_of(0))), at_step(state_of(0), 2))


@pytest.mark.parametrize("content", [b"[]", b'{"commit_timestamp_nsecs": []}', b"[" * 100_000], ids=["list", "time", "deep"])
def test_a_checkpoint_with_other_metadata_is_named(run, content):
    (run / "checkpoints/2/_CHECKPOINT_METADATA").write_bytes(content)
    with pytest.raises(UserError, match="checkpoints"):
        restore_second(run)


@pytest.mark.parametrize("name", ["abc", "-1", "007", "9" * 30, "3.0", ".3", "3 ", "\u0661"])
def test_other_folders_beside_a_checkpoint_do_no_harm(run, name):
    (run / "checkpoints" / name).mkdir()
    with contextlib.suppress(UserError):
        restore_second(run)


def test_a_store_that_is_down_is_not_taken_for_damage(saved, monkeypatch):
    """The checkpoint must not be passed over, and replaced later."""

    def down(*arguments):
        raise ValueError("UNAVAILABLE: the store does not answer")

    monkeypatch.setattr(ocp.training.Checkpointer, "load_checkpointables", down)
    sentence = "step 2 cannot be read .ValueError: UNAVAILABLE.* try again"
    with checkpoint.Checkpoints(storage.path(saved), keep=2) as checkpoints, pytest.raises(RunError, match=sentence):
        checkpoints.restore_latest(like(state_of(0)))


def test_the_config_is_stored_with_versions(tmp_path):
    config = config_of({})
    stored.write_config(storage.path(tmp_path), config)
    assert stored.read_config(storage.path(tmp_path)) == config
    text = json.loads((tmp_path / "config.json").read_text())
    assert text["format_version"] == stored.FORMAT_VERSION and text["versions"]["jax"] == jax.__version__
    assert stored.agreed_config(storage.path(tmp_path), config_of({"train.batch_size": 0})) == config
    with pytest.raises(UserError, match="model.channels: 8 -> 16"):
        stored.agreed_config(storage.path(tmp_path), config_of({"model.channels": 16}))


def test_what_is_not_as_when_the_run_was_saved_is_listed(tmp_path):
    """Other cores of a CPU add numbers up in another order."""
    workdir = storage.path(tmp_path)
    stored.write_config(workdir, config_of({}), device="cpu with 2 cores")
    assert stored.changed_since(workdir, "cpu with 2 cores") == ""
    text = (tmp_path / "config.json").read_text().replace(f'"jax": "{jax.__version__}"', '"jax": "0.9"')
    (tmp_path / "config.json").write_text(text)
    expected = f"jax 0.9 -> {jax.__version__}, device cpu with 2 cores -> cpu with 1 core"
    assert stored.changed_since(workdir, "cpu with 1 core") == expected
    stored.write_config(workdir, config_of({}), versions=[])  # of an earlier format, or damaged
    assert stored.changed_since(workdir, "cpu with 1 core") == ""
    assert sharding.device_name().startswith("cpu with ")


def test_of_many_fields_that_differ_a_few_are_said(tmp_path):
    """As of another config file beside a workdir."""
    stored.write_config(storage.path(tmp_path), config_of({}))
    with pytest.raises(UserError, match=r"\w: .*; \d+ more\); leave these fields and --config out, since") as raised:
        stored.agreed_config(storage.path(tmp_path), Config())
    assert str(raised.value).count("->") == 4


@pytest.mark.parametrize("images", [5, None, [], "all"])
def test_damage_to_what_is_known_of_the_images_is_a_sentence(tmp_path, images):
    stored.write_config(storage.path(tmp_path), config_of({}), images=images)
    with pytest.raises(UserError, match="config.json is damaged .images = "):
        stored.check_images(storage.path(tmp_path), {"num_images": 8, "class_names": []})
