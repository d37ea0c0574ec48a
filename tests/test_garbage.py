"""Garbage in every flag and file that is read is a sentence or a right result: no trace, pickle, hang or half file.

`GARBAGE=long pytest -n 0 tests/test_garbage.py` tries 10,000 cases and more; without it they are few, and always the same.
"""

import ast
import contextlib
import functools
import gzip
import io
import json
import math
import os
import pathlib
import struct
import tempfile
import tracemalloc
import zipfile
import zlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image
from tiny import ROOT, config_of

import main
from diffusion_jax import model
from diffusion_jax.compose import checks, choices, command, sections, stored
from diffusion_jax.compose.config import FIELDS, Config
from diffusion_jax.data import sources, transforms
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import checkpoint, dump, lock, logs, shards, storage
from diffusion_jax.runs.shards import flatten
from diffusion_jax.training.state import TrainState

IS_LONG = os.environ.get("GARBAGE") == "long"
FUZZ = settings(
    max_examples=900 if IS_LONG else 75,
    derandomize=not IS_LONG,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
MEMORY = 2**26  # bytes that reading a file of some kilobytes may take: deflate makes at most 1,032 of one
sentence_at_most = contextlib.suppress(UserError, RunError)


@contextlib.contextmanager
def little_memory():
    """What the header promises must not be allocated before it is there. NumPy tells tracemalloc of its arrays."""
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= MEMORY


def listing(folder):
    """Returns every file of a folder with its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in pathlib.Path(folder).rglob("*") if file.is_file()}


HUGE = st.sampled_from([2**31 - 1, 2**31, 2**40, 2**62, 2**63, 2**64, 10**30, 10**400, 10**4000])
INTEGERS = st.integers() | HUGE | HUGE.map(lambda number: -number)
FLOATS = st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)
DEEP = st.tuples(st.sampled_from(["[", '{"a":', '{"config":', "[1,"]), st.integers(1, 50_000)).map(lambda p: p[0] * p[1])
JSON_TEXTS = st.one_of(JSON.map(json.dumps), DEEP, st.text(max_size=30), st.just("9" * 5000)).map(
    lambda text: text.encode(errors="surrogatepass")
)
TEXTS = JSON_TEXTS | st.binary(max_size=30)


# The command line.

ATOMS = st.one_of(
    INTEGERS.map(str),
    FLOATS.map(str),
    st.sampled_from(
        ["nan", "inf", "-inf", "None", "True", "False", "true", "1e999", "1_0", "1j", "0b1", "...", "", "-", "()"]
    ),
    st.integers(1, 5000).map(lambda num: "0x" + "f" * num),
    st.text(max_size=20),
    st.text(max_size=10).map(repr),
    st.sampled_from([*choices.SCHEDULES, "vp", "ode", "explicit", "x_0"]),
)
NESTED = st.tuples(st.sampled_from(["()", "[]", "{}", "(,", "(1,"]), st.integers(1, 3000)).map(
    lambda p: p[0][0] * p[1] + p[0][1:] * p[1]
)
VALUES = st.one_of(
    ATOMS,
    st.lists(ATOMS, max_size=5).map(lambda items: "(" + ",".join(items) + ",)"),
    st.lists(ATOMS, max_size=5).map(lambda items: "[" + ",".join(items) + "]"),
    st.tuples(ATOMS, st.integers(1, 20_000)).map(lambda p: "(" + f"{p[0][:3]}," * p[1] + ")"),
    st.tuples(ATOMS, ATOMS).map(lambda p: f"{{{p[0]}: {p[1]}}}"),
    NESTED,
    st.tuples(st.characters(), st.integers(1, 20_000)).map(lambda p: p[0] * p[1]),
)
FIELD_NAMES = st.sampled_from(sorted(FIELDS))
NAMES = st.one_of(
    FIELD_NAMES,
    st.tuples(FIELD_NAMES, st.sampled_from(["", ".", "x", "[0]", "-", " ", "\n", ".x", "['a']", "é", "()"])).map("".join),
    st.sampled_from(["model", "", ".", "..", "model.", "__class__", "lock", "items", "a.b", "[0]"]),
    st.text(max_size=12),
)
OVERRIDES = st.one_of(
    st.tuples(FIELD_NAMES, VALUES).map(lambda p: ["--config.{}={}".format(*p)]),
    st.tuples(NAMES, VALUES).map(lambda p: ["--config.{}={}".format(*p)]),
    st.tuples(FIELD_NAMES, VALUES).map(lambda p: [f"-config.{p[0]}", p[1]]),
    NAMES.map(lambda name: [f"--noconfig.{name}"]),
    NAMES.map(lambda name: [f"--config.{name}"]),
)


def run_main(*arguments):
    """Runs main.py without its job, and returns (exit code, the config that the job got); checks what was said."""
    got, err = [], io.StringIO()

    def job(config, workdir, **options):
        got.append(config)
        return 0

    with contextlib.ExitStack() as stack:
        for mode in main.MODES:
            stack.enter_context(mock.patch(f"diffusion_jax.jobs.{mode}.run", job))
        stack.enter_context(contextlib.redirect_stderr(err))
        code = main.main(["main.py", *arguments])
    said = err.getvalue()
    if code == 0:
        assert said == ""
        checks.check(got[0])
        return code, got[0]
    assert code == command.BAD_INPUT and not got
    assert said.startswith("error: ") and said.endswith("\n") and said.count("\n") == 1
    return code, None


TRAIN = [f"--config={ROOT}/configs/digits.py", "--workdir=x"]


@FUZZ
@given(st.lists(OVERRIDES, min_size=1, max_size=3))
def test_any_override_is_taken_or_refused_in_one_line(overrides):
    run_main(*TRAIN, *[argument for override in overrides for argument in override])


@pytest.mark.parametrize(
    "argument",
    [
        pytest.param("--config.sample.times=(1" + "0" * 400 + ",)", id="beyond floats"),
        pytest.param("--config.train.num_steps=0x" + "f" * 5000, id="beyond repr"),
        pytest.param("--config.model.multipliers=(" + "1," * 20_000 + ")", id="levels beyond repr"),
        pytest.param("--config.train.num_steps=a\nb", id="line end in a value"),
        pytest.param("--a\nb", id="line end in a flag"),
        pytest.param("--flagfile=/nowhere", id="no flag file"),
        "--config.sample.times=" + "(" * 5000,
        "--config.sample.times=nan",
        "--config.model.channels[0]=3",
        "--config.=3",
        "--config.model..channels=3",
        "--noconfig.train.seed",
        "--config.train.seed",
    ],
)
def test_an_override_that_cannot_be_is_refused_in_one_line(argument):
    assert run_main(*TRAIN, argument) == (command.BAD_INPUT, None)


# config.json.

GOOD = {"format_version": stored.FORMAT_VERSION, "config": config_of({}).model_dump(), "versions": {}}
VERSIONS = st.sampled_from([2, 3, 3.0, True, None, "3", [3], math.nan, math.inf, -1, 10**400])


@st.composite
def damaged_configs(draw):
    """A stored config of which some fields and sections are gone, of another type, or new."""
    flat = flatten(GOOD["config"])
    for name in draw(st.lists(FIELD_NAMES, max_size=3)):
        if draw(st.booleans()):
            flat[name] = draw(JSON)
        else:
            flat.pop(name, None)
    nested = sections.nested(flat)
    for name in draw(
        st.lists(st.sampled_from([*nested, "", "a.b", "model.channels", "lock", "__class__", "a\nb"]), max_size=2)
    ):
        nested[name] = draw(JSON)
    version = draw(st.just(stored.FORMAT_VERSION) | VERSIONS)
    return json.dumps({"format_version": version, "config": draw(st.just(nested) | JSON)}).encode()


CONFIGS = damaged_configs() | TEXTS


@FUZZ
@given(CONFIGS)
def test_any_config_json_is_a_config_or_a_sentence(text):
    with sentence_at_most:
        assert isinstance(stored.from_json(text.decode(errors="replace")), Config)


@FUZZ
@given(CONFIGS, st.just([]) | OVERRIDES, st.sampled_from(["sample", "likelihood"]))
def test_any_config_json_in_a_workdir_is_a_run_or_one_line(tmp_path, text, override, mode):
    (tmp_path / "config.json").write_bytes(text)
    run_main(f"--mode={mode}", f"--workdir={tmp_path}", *override)
    assert listing(tmp_path) == {"config.json": text}


@FUZZ
@given(CONFIGS)
def test_any_config_json_is_read_by_the_library_or_a_sentence(tmp_path, text):
    """By what loads a model, and by what resumes a run."""
    (tmp_path / "config.json").write_bytes(text)
    workdir, wanted = storage.path(tmp_path), config_of({"train.batch_size": 0})
    configs = []
    with sentence_at_most, mock.patch.object(model, "restore", lambda workdir, config: config):
        configs.append(model.load(workdir))
    with sentence_at_most:
        configs.append(stored.agreed_config(workdir, wanted))
    for config in configs:
        assert isinstance(config, Config)
    assert listing(tmp_path) == {"config.json": text}


def stored_config(config):
    return json.dumps({**GOOD, "config": config}).encode()


def stored_field(name, value):
    return stored_config(sections.nested(config_of({}).flat() | {name: value}))


NO_BATCH_SIZE = config_of({}).model_dump()
del NO_BATCH_SIZE["train"]["batch_size"]
NO_CONFIGS = {
    "a version that is no whole number": b'{"format_version": 3.0, "config": {}}',
    "deep": b"[" * 100_000,
    "a field of a field": stored_config({"a": 3, "a.b": 4}),
    "a field deep in a field": stored_config({"a": 3, "a.b.c": 4}),
    "names that ConfigDict refuses": stored_config({"__class__": 4}),
    "beyond floats": stored_field("train.learning_rate", 10**400),
    "no batch size": stored_config(NO_BATCH_SIZE),
    "a batch size that is none": stored_field("train.batch_size", "many"),
    "not UTF-8": b"\xff",
}


@pytest.mark.parametrize("text", list(NO_CONFIGS.values())[:4], ids=list(NO_CONFIGS)[:4])
def test_a_config_json_that_cannot_be_is_refused(text):
    with pytest.raises(UserError, match="config"):
        stored.from_json(text.decode())


@pytest.mark.parametrize(
    ("text", "more"),
    [
        *[pytest.param(text, [], id=name) for name, text in NO_CONFIGS.items()],
        pytest.param(stored_config({}), ["--config.sample.num_images=3"], id="an override of what is not there"),
        pytest.param(stored_config(GOOD["config"]), ["--config.model.channels[0]=3"], id="an override that is no name"),
        pytest.param(stored_config(GOOD["config"]), ["--config.=3"], id="an override without a name"),
        pytest.param(stored_config(GOOD["config"]), ["--flagfile=/nowhere"], id="no flag file"),
        pytest.param(stored_config(GOOD["config"]), ["--config.train.seed=a\nb"], id="line end"),
    ],
)
def test_a_stored_config_that_cannot_be_is_one_line(tmp_path, text, more):
    (tmp_path / "config.json").write_bytes(text)
    assert run_main("--mode=sample", f"--workdir={tmp_path}", *more) == (command.BAD_INPUT, None)


@pytest.mark.parametrize("text", NO_CONFIGS.values(), ids=NO_CONFIGS)
def test_a_run_with_a_config_json_that_cannot_be_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(UserError):
        stored.agreed_config(storage.path(tmp_path), config_of({"train.batch_size": 0}))


# Arrays: .npz files of images, and the shards of a dump.


def npy(head=None, data=b"\x07" * 8, raw=None, **changes):
    """Returns an .npy file with any header, by default that of uint8 [2, 2, 2, 1]."""
    head = {"descr": "|u1", "fortran_order": False, "shape": (2, 2, 2, 1)} | changes if head is None else head
    text = (repr(head).encode() if raw is None else raw)[:65_000] + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def zipped(members, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def in_directory(whole, at, value, size):
    """Returns an archive whose central directory, and if it is there the local header, says another number."""
    whole, start = bytearray(whole), whole.index(b"PK\x01\x02")
    whole[start + at : start + at + size] = value.to_bytes(size, "little")
    whole[at - 2 : at - 2 + size] = value.to_bytes(size, "little")
    return bytes(whole)


def corrupt(whole, first, last):
    return whole[:first] + bytes(byte ^ 255 for byte in whole[first:last]) + whole[last:]


def read_images(file):
    source = sources.npz(path=str(file))
    for number in {0, source.num_images - 1}:
        record = source.read(number)
        image, label = record["x"], record["cond"]["label"]
        assert image.dtype == np.uint8 and image.ndim == 3 and isinstance(label, int)


def read_shard(file):
    arrays = shards.decode(storage.path(file))
    assert all(isinstance(array, np.ndarray) for array in arrays.values())


READERS = {"sources.npz": read_images, "shards.decode": read_shard}
DESCRIPTIONS = st.one_of(
    st.sampled_from(
        ["|u1", "|u1", "|O", "<f4", "<i8", "|b1", "<U3", "|V9", "|V999999999", "<M8[s]", "<M8[x]", "", "u", "O"]
    ),
    st.sampled_from(
        [(), ((),), [], [("a", "|u1")], [("a",)], [("", "|O")], [1], {"names": ["a"], "formats": ["O"]}, None, 3]
    ),
    st.text(max_size=6),
)
SIZES = st.integers(-2, 4) | st.sampled_from([2**16, 2**31, 2**32, 2**40, 2**62, 2**63, 10**30, True, 2.0, "2", None])
HEADS = st.fixed_dictionaries(
    {"descr": DESCRIPTIONS, "fortran_order": st.booleans() | st.none(), "shape": st.lists(SIZES, max_size=6).map(tuple)},
    optional={"more": st.none()},
)
RAW_HEADS = st.one_of(
    st.binary(max_size=30),
    st.text("{}()[]'\",:=\n\t \\#-LdescrFalse0123", max_size=40).map(str.encode),
    st.tuples(st.sampled_from([b"(", b"[", b"-", b"{1:", b"not ", b"'", b"\n "]), st.integers(1, 9900)).map(
        lambda p: p[0] * p[1]
    ),
)
ARRAY_FILES = st.one_of(
    st.builds(npy, HEADS, st.binary(max_size=64)),
    st.builds(lambda shape: npy(shape=tuple(shape), data=b"\x07" * 64), st.lists(st.integers(0, 4), max_size=5)),
    st.builds(lambda raw, data: npy(raw=raw, data=data), RAW_HEADS, st.binary(max_size=16)),
    st.builds(lambda num: npy({"descr": "<i4", "fortran_order": False, "shape": (num,)}, bytes(4 * num)), st.integers(0, 3)),
    st.binary(max_size=40),
    st.builds(lambda more: b"\x93NUMPY" + more, st.binary(max_size=40)),
    st.just(npy()),
)
MEMBERS = st.sampled_from(
    ["images.npy", "images", "arr_0.npy", "labels.npy", "labels", "arr_1.npy", "../up.npy", "/a.npy", "x"]
)
# offsets and sizes, in its directory
NUMBERS_IN_ZIP = [(6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2)]


@st.composite
def archives(draw):
    """Zip files with any members; perhaps some bytes are others, or numbers in the directory."""
    members = draw(st.lists(st.tuples(MEMBERS, ARRAY_FILES), min_size=1, max_size=3, unique_by=lambda member: member[0]))
    if draw(st.booleans()):
        members[0] = ("images.npy", members[0][1])
    kinds = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    whole = zipped(dict(members).items(), compression=draw(kinds))
    if draw(st.booleans()):
        for at, size in draw(st.lists(st.sampled_from(NUMBERS_IN_ZIP), max_size=2)):
            whole = in_directory(whole, at, draw(st.integers(0, 256**size - 1) | st.integers(0, 99)), size)
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        first = draw(st.integers(0, len(whole) - 1))
        whole = corrupt(whole, first, first + draw(st.integers(1, 4)))
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.integers(0, 9)) == 0 else whole


@FUZZ
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS)
@given(archives() | ARRAY_FILES | st.binary(max_size=100))
def test_any_npz_is_arrays_or_a_sentence_and_takes_little_memory(tmp_path, reader, content):
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in" / "a.npz").write_bytes(content)
    with sentence_at_most, little_memory():
        READERS[reader](tmp_path / "in" / "a.npz")
    assert listing(tmp_path) == {"in/a.npz": content}


def one(content, **options):
    return zipped([("images.npy", content)], **options)


PACKED = one(npy(shape=(1000, 2, 2, 1), data=bytes(range(250)) * 16), compression=zipfile.ZIP_LZMA)
NPZ_CASES = {
    "objects": one(npy(descr="|O")),
    "negative": one(npy(shape=(-1, 2, 2, 1))),
    "two negatives": one(npy(shape=(-2, -1, 2, 2))),
    "a product that wraps": one(npy(shape=(2**32, 2**32, 1, 1))),
    "too short": one(npy(data=b"123")),
    "pickle": b"\x80\x04K\x01.",
    "64 TiB": one(npy(shape=(2**40, 8, 8, 1))),
    "10 GB": one(npy(shape=(10**9, 10, 1, 1))),
    "64 TiB, no archive": npy(shape=(2**40, 8, 8, 1)),
    "64 TiB of bytes": one(npy(descr="|V999999999")),
    "a directory that lies too": in_directory(
        in_directory(one(npy(shape=(4 * 10**9, 1, 1))), 20, 2**32 - 2, 4), 24, 2**32 - 2, 4
    ),
    "beyond int64": one(npy(shape=(10**30,))),
    "empty dtype": one(npy(descr=())),
    "unclosed header": one(npy(raw=b"((((")),
    "indented header": one(npy(raw=b"  a\n b\n  c\n   d L")),
    "deep header": one(npy(raw=b"-" * 9000 + b"1")),
    "a member that is no array": zipped([("images", b"abc")]),
    "a pickle as a member": one(b"\x80\x04K\x01."),
    "encrypted": in_directory(one(npy()), 8, 1, 2),
    "an unknown compression": in_directory(one(npy()), 10, 99, 2),
    "a later format": in_directory(one(npy()), 6, 99, 2),
    "damaged LZMA": corrupt(PACKED, 60, 90),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", NPZ_CASES.values(), ids=NPZ_CASES)
def test_an_npz_that_cannot_be_is_named_at_little_memory(tmp_path, reader, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz' (cannot be read|is damaged)"), little_memory():
        READERS[reader](tmp_path / "a.npz")


def test_an_npz_of_images_without_pixels_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(one(npy(shape=(2**62, 0, 1), data=b"")))
    with pytest.raises(UserError, match="must hold"):
        sources.npz(path=str(tmp_path / "a.npz"))


def test_a_scheme_that_is_none_is_refused():
    with pytest.raises(UserError):
        sources.npz(path="http://example.org/a.npz")


def evil(marker):
    """Returns an object whose unpickling makes a file."""

    class Evil:
        def __reduce__(self):
            return open, (str(marker), "w")

    return Evil()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["images", "arr_0", "labels", "arr_1", "other", "npy", "raw"])
def test_a_pickle_is_never_executed(tmp_path, reader, name):
    file, marker = tmp_path / "a.npz", tmp_path / "executed"
    objects = np.array([evil(marker), evil(marker)], object)
    with file.open("wb") as opened:
        if name == "npy":
            np.save(opened, objects, allow_pickle=True)
        elif name == "raw":
            opened.write(objects.dumps())
        else:
            others = {"images": np.zeros((2, 2, 2, 1), np.uint8)} if name not in ("images", "arr_0") else {}
            np.savez(opened, **others, **{name: objects})
    with contextlib.nullcontext() if (reader, name) == ("sources.npz", "other") else pytest.raises(UserError):
        READERS[reader](file)  # which never looks at arrays that it does not want
    assert not marker.exists()
    with contextlib.suppress(Exception):
        np.load(file, allow_pickle=True)[name if name not in ("npy", "raw") else 0]
    assert marker.exists()  # that is what it would have done


def test_members_of_an_archive_are_never_written(tmp_path):
    (tmp_path / "in").mkdir()
    content = zipped([("../up.npy", npy()), (f"{tmp_path}/absolute.npy", npy()), ("images.npy", npy())])
    (tmp_path / "in" / "a.npz").write_bytes(content)
    for read in READERS.values():
        read(tmp_path / "in" / "a.npz")
    assert listing(tmp_path) == {"in/a.npz": content}


# A dump that continues.

MANIFEST = {"seed": 0, "data": {"path": "a"}}


def write_dump(out):
    def draw(first):
        yield np.full((12 - first, 4, 4, 1), 7, np.uint8)

    with mock.patch.object(dump, "NUM_PICTURED", 8):
        return dump.write(out, draw, num_images=12, shard_size=4, manifest=MANIFEST, on_progress=lambda done: None)


def shard_of(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


IMAGES = np.full((4, 4, 4, 1), 7, np.uint8)
SHARDS = {
    "no such array": shard_of(images=IMAGES),
    "too few": shard_of(arr_0=IMAGES[:3]),
    "too many": shard_of(arr_0=IMAGES.repeat(2, axis=0)),
    "another shape": shard_of(arr_0=IMAGES[:, :2]),
    "floats": shard_of(arr_0=IMAGES.astype(np.float32)),
    "a scalar": shard_of(arr_0=np.uint8(3)),
}


def continue_dump(out, number, content):
    """Continues a dump of which a shard was changed; checks that what fails leaves everything as it was."""
    out = storage.path(out)
    for result in out.glob("samples_*"):
        result.unlink()
    (out / "grid.png").unlink(missing_ok=True)
    (out / "shards" / f"{4 * number:08d}.npz").write_bytes(content)
    before = listing(out)
    try:
        result = write_dump(out)
    except BaseException:
        assert listing(out) == before
        raise
    with np.load(result, allow_pickle=False) as arrays:
        assert arrays["arr_0"].shape == (12, 4, 4, 1) and arrays["arr_0"].dtype == np.uint8


@FUZZ
@pytest.mark.filterwarnings("ignore")
@given(archives() | st.sampled_from(list(SHARDS.values())), st.integers(0, 2))
def test_any_shard_is_continued_or_a_sentence_and_nothing_is_half_written(tmp_path, content, number):
    write_dump(storage.path(tmp_path))
    try:
        with sentence_at_most:
            continue_dump(tmp_path, number, content)
    finally:
        (tmp_path / "shards" / f"{4 * number:08d}.npz").write_bytes(shard_of(arr_0=IMAGES))


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_of_something_else_is_named(tmp_path, name, number):
    write_dump(storage.path(tmp_path))
    with pytest.raises(UserError, match=r"shards/\d{8}.npz'"):
        continue_dump(tmp_path, number, SHARDS[name])


@FUZZ
@given(TEXTS | JSON.map(lambda value: json.dumps({**MANIFEST, "seed": value}).encode()))
def test_any_manifest_is_that_of_the_results_or_a_sentence(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with sentence_at_most:
        shards.check_or_write_manifest(storage.path(tmp_path), MANIFEST)
        assert flatten(json.loads(content)) == flatten(MANIFEST)
    assert listing(tmp_path) == {"manifest.json": content}


def test_a_deep_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text('{"a":' * 50_000)
    with pytest.raises(UserError, match="manifest.json' is damaged"):
        shards.check_or_write_manifest(storage.path(tmp_path), MANIFEST)


def test_paths_in_a_manifest_lead_nowhere(tmp_path):
    """A manifest is compared, never followed."""
    (tmp_path / "out").mkdir()
    for path in ("../../up", str(tmp_path / "absolute"), "~"):
        (tmp_path / "out" / "manifest.json").write_text(json.dumps({**MANIFEST, "data": {"path": path}, path: path}))
        before = listing(tmp_path)
        with pytest.raises(UserError, match="holds other results"):
            write_dump(storage.path(tmp_path / "out"))
        assert listing(tmp_path) == before


# IDX files.


def idx_head(*shape, kind=8, zeros=0):
    return struct.pack(f">HBB{len(shape)}i", zeros, kind, len(shape), *shape)


IDX_SIZES = st.integers(-3, 4) | st.sampled_from([2**31 - 1, -(2**31), 2**16, 256])
IDX_FILES = st.one_of(
    st.builds(
        lambda shape, kind, data: idx_head(*shape, kind=kind) + data,
        st.lists(IDX_SIZES, max_size=5) | st.lists(st.integers(0, 3), min_size=3, max_size=3),
        st.just(8) | st.integers(0, 255),
        st.integers(0, 36).map(bytes) | st.binary(max_size=20),
    ),
    st.lists(st.integers(1, 3), min_size=3, max_size=3).map(lambda shape: idx_head(*shape) + bytes(math.prod(shape))),
    st.integers(-2, 5).map(lambda num: idx_head(num) + bytes(max(num, 0))),
    st.binary(max_size=30),
)


TWO_LABELS = idx_head(2) + b"\0\1"


def read_idx(folder, images, labels=TWO_LABELS, suffix=""):
    for file in folder.glob("*ubyte*"):
        file.unlink()
    (folder / f"train-images-idx3-ubyte{suffix}").write_bytes(images)
    (folder / "train-labels-idx1-ubyte").write_bytes(labels)
    source = sources.idx(path=str(folder), split="train")
    record = source.read(source.num_images - 1)
    image, label = record["x"], record["cond"]["label"]
    assert image.dtype == np.uint8 and image.ndim == 3 and min(image.shape) > 0 and isinstance(label, int)


@FUZZ
@given(
    IDX_FILES,
    IDX_FILES | st.just(TWO_LABELS),
    st.sampled_from(["", "gz", "no gz", "damaged"]),
    st.integers(0, 99),
)
def test_any_idx_file_is_images_or_a_sentence_and_takes_little_memory(tmp_path, images, labels, packed, place):
    content = images if packed in ("", "no gz") else gzip.compress(images)
    content = corrupt(content, place % len(content), place % len(content) + 1) if packed == "damaged" else content
    with sentence_at_most, little_memory():
        read_idx(tmp_path, content, labels, suffix=".gz" if packed else "")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(idx_head(-2, -2, 2) + bytes(8), id="negative"),
        pytest.param(idx_head(2, -1, -4) + bytes(8), id="negative pixels"),
        pytest.param(idx_head(2**31 - 1, 2**31 - 1, 2**31 - 1), id="huge"),
        pytest.param(idx_head(1000, 1000, 1000) + bytes(8), id="1 GB"),
        pytest.param(idx_head(-2, 2, 2) + bytes(8), id="one negative"),
    ],
)
def test_an_idx_file_that_cannot_be_is_named(tmp_path, content):
    with pytest.raises(UserError, match="is damaged|is not an IDX file"), little_memory():
        read_idx(tmp_path, content)


def test_an_idx_file_is_not_unpacked_beyond_its_head(tmp_path):
    content = gzip.compress(idx_head(2, 2, 2) + bytes(2 * MEMORY), 1)
    with pytest.raises(UserError, match="is damaged"), little_memory():
        read_idx(tmp_path, content, suffix=".gz")


# lock.json and metrics.jsonl.


@functools.cache
def own_host():
    """Returns what this machine signs with."""
    with tempfile.TemporaryDirectory() as folder, lock.owning(storage.path(folder)):
        return json.loads((pathlib.Path(folder) / "owner.json").read_text())["host"]


PIDS = st.integers(-2, 2**22) | INTEGERS | JSON
OWNERS = st.builds(
    lambda more, host, pid: json.dumps({**more, "host": host, "pid": pid}).encode(),
    st.dictionaries(st.sampled_from(["id", "sign", "ended"]), JSON),
    st.builds(own_host) | JSON,
    PIDS,
)


@FUZZ
@given(TEXTS | OWNERS)
def test_any_owner_file_is_an_owner_or_none(tmp_path, content):
    (tmp_path / "owner.json").write_bytes(content)
    with mock.patch.object(lock, "INTERVAL", 0.001), sentence_at_most:
        with lock.owning(storage.path(tmp_path)) as check:
            check()
        assert json.loads((tmp_path / "owner.json").read_text())["ended"] is True
    assert os.listdir(tmp_path) == ["owner.json"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('{"host": "%s", "pid": 1000000000000000000000000000000}', id="no process"),
    ],
)
def test_an_owner_that_cannot_be_is_none(tmp_path, monkeypatch, content):
    monkeypatch.setattr(lock, "INTERVAL", 0.01)
    (tmp_path / "owner.json").write_text(content.replace("%s", own_host()))
    with lock.owning(storage.path(tmp_path)):
        assert json.loads((tmp_path / "owner.json").read_text())["pid"] == os.getpid()


def resumed_record(folder, content):
    """Resumes a record at step 2, goes on to step 4, and returns the losses of its whole lines."""
    (folder / "metrics.jsonl").write_bytes(content)
    with logs.Logs(storage.path(folder), first_step=2, tensorboard=False) as log:
        log.metrics(4, {"loss": 0.25})
    return [line["loss"] for line in logs.read_metrics(storage.path(folder) / "metrics.jsonl") if "loss" in line]


LINE_2, LINE_4 = b'{"step": 2, "loss": 2.0}\n', b'{"step": 4, "loss": 1.0}\n'


@FUZZ
@given(st.lists(TEXTS, min_size=1, max_size=3), st.integers(0, 2))
def test_any_lines_between_leave_a_record_with_every_step_once(tmp_path, garbage, place):
    lines = [line.replace(b"\r", b"").replace(b"\n", b"") + b"\n" for line in garbage]
    record = [LINE_2, LINE_4]
    record[place:place] = lines
    with sentence_at_most:
        losses = resumed_record(tmp_path, b"".join(record))
        assert losses == [2.0, 0.25]
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


@pytest.mark.parametrize(
    "line",
    [b"3", b"null", b"[]", b"{}", b'{"step": "a"}', b'{"step": null}', b"[" * 100_000, b"9" * 5000, b"\xff"],
)
def test_a_line_that_is_none_is_left_out_of_a_resumed_record(tmp_path, capsys, line):
    losses = resumed_record(tmp_path, LINE_2 + line + b"\n" + LINE_4)
    assert losses == [2.0, 0.25] and "warning" not in capsys.readouterr().out


# Checkpoints: the JSON that orbax keeps beside the arrays.


def tiny_state():
    zero = jnp.zeros((), jnp.int32)
    weights = {"w": jnp.arange(3.0)}
    return TrainState(jnp.int32(3), weights, {"0.9": weights}, {"m": jnp.ones(3)}, zero, {"skipped": zero})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with a checkpoint, and the bytes of its JSON files."""
    workdir = tmp_path_factory.mktemp("run")
    with checkpoint.Checkpoints(storage.path(workdir)) as checkpoints:
        checkpoints.save(tiny_state())
    return workdir, {name: content for name, content in listing(workdir).items() if content[:1] == b"{"}


def restore(workdir):
    state = tiny_state()
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    with checkpoint.Checkpoints(storage.path(workdir)) as checkpoints:
        restored = checkpoints.restore_latest(like)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


@st.composite
def damaged_json(draw, content):
    """The same JSON with another value somewhere, or anything."""
    if draw(st.booleans()):
        return draw(TEXTS)
    tree = place = json.loads(content)
    while True:
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not (place[key] and isinstance(place[key], dict | list)) or draw(st.integers(0, 3)) == 0:
            place[key] = draw(JSON)
            return json.dumps(tree).encode()
        place = place[key]


@FUZZ
@pytest.mark.filterwarnings("ignore")
@given(st.data())
def test_any_json_of_a_checkpoint_is_restored_to_the_byte_or_a_sentence(saved, data):
    workdir, files = saved
    name = data.draw(st.sampled_from(sorted(files)))
    before = listing(workdir)
    try:
        (workdir / name).write_bytes(data.draw(damaged_json(files[name])))
        with sentence_at_most:
            restore(workdir)
    finally:
        (workdir / name).write_bytes(files[name])
    assert listing(workdir) == before


@pytest.mark.parametrize("content", [b"[]", b'{"commit_timestamp_nsecs": []}', b"[" * 100_000], ids=["list", "time", "deep"])
def test_a_checkpoint_with_metadata_of_something_else_is_named(saved, content):
    workdir, files = saved
    name = "checkpoints/3/_CHECKPOINT_METADATA"
    (workdir / name).write_bytes(content)
    try:
        with pytest.raises(UserError, match="checkpoints"):
            restore(workdir)
    finally:
        (workdir / name).write_bytes(files[name])


@pytest.mark.parametrize("name", ["abc", "-1", "007", "9" * 30, "3.0", ".3", "3 ", "\u0661"])
def test_folders_that_are_no_checkpoints_do_no_harm(saved, name):
    workdir, _ = saved
    (workdir / "checkpoints" / name).mkdir()
    try:
        with contextlib.suppress(UserError):
            restore(workdir)
    finally:
        (workdir / "checkpoints" / name).rmdir()


# Images.


def png(width, height):
    """Returns a PNG file that claims a size."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (1, 200_000_000)])
def test_an_image_of_too_many_pixels_is_refused(tmp_path, width, height):
    (tmp_path / "a.png").write_bytes(png(width, height))
    source = sources.folder(path=str(tmp_path))
    with pytest.raises(UserError, match=r"a.png' cannot be read \(DecompressionBombError.* exceeds limit of"):
        source.read(0)


def test_a_thin_image_is_not_scaled_beyond_the_limit_of_pixels(tmp_path):
    """1 x 60,000 pixels scaled to cover 256 x 256 would be 256 x 15,360,000."""
    Image.new("L", (1, 60_000)).save(tmp_path / "a.png")
    options = {"image_shape": (256, 256, 1), "center_crop": 0, "resize": True, "num_classes": 0}
    source = transforms.resized(sources.folder(path=str(tmp_path)), **options)

    def resize(image, size, *arguments, **options):
        assert math.prod(size) <= Image.MAX_IMAGE_PIXELS
        return Image.new(image.mode, size)

    with mock.patch.object(Image.Image, "resize", resize), contextlib.suppress(UserError):
        assert source.read(0)["x"].shape == (256, 256, 1)


def test_an_image_file_starts_no_other_program(tmp_path):
    """Pillow gives PostScript to Ghostscript, which executes it."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", format="EPS")
    with mock.patch.object(EpsImagePlugin, "Ghostscript", side_effect=OSError) as started, pytest.raises(UserError):
        sources.decode(storage.path(tmp_path / "a.png"))
    assert not started.called


def encoded(kind, **options):
    file = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(file, format=kind, **options)
    return file.getvalue()


@st.composite
def image_files(draw):
    kind = draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
    exif = draw(st.just(b"") | st.binary(max_size=60).map(lambda more: b"Exif\0\0" + more))
    exif = draw(st.just(exif) | st.binary(max_size=60).map(lambda more: b"Exif\0\0II*\0\x08\0\0\0" + more))
    whole = encoded(kind, **({"exif": exif} if exif else {}))
    for _ in range(draw(st.integers(0, 3))):
        first = draw(st.integers(0, len(whole) - 1))
        changed = draw(st.binary(min_size=1, max_size=4))
        whole = whole[:first] + changed + whole[first + len(changed) :]
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.integers(0, 4)) == 0 else whole


@FUZZ
@pytest.mark.filterwarnings("ignore")
@given(image_files() | st.binary(max_size=60), st.sampled_from(sources.IMAGE_SUFFIXES))
def test_any_image_file_is_an_image_or_a_sentence(tmp_path, content, suffix):
    file = storage.path(tmp_path / f"a{suffix}")
    file.write_bytes(content)
    with sentence_at_most:
        pixels = sources.decode(file)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[-1] in (1, 3)


def save(file):
    file.parent.mkdir(exist_ok=True)
    Image.new("L", (4, 4)).save(file)


def test_hidden_files_are_left_out_and_links_are_what_they_lead_to(tmp_path):
    """A set may be put together of links; its classes are the names of the links."""
    root, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    for name in (root / "cats" / "a.png", root / "cats" / ".b.png", root / ".hidden" / "c.png", elsewhere / "d.png"):
        name.parent.mkdir(parents=True, exist_ok=True)
        save(name)
    (root / "dogs").symlink_to(elsewhere)
    (root / "cats" / "e.png").symlink_to(elsewhere / "d.png")
    source = sources.folder(path=str(root))
    assert [source.read(number)["cond"]["label"] for number in range(source.num_images)] == [0, 0, 1]
    assert source.class_names == ("cats", "dogs")


def test_a_link_that_leads_nowhere_and_a_folder_named_like_an_image_are_named(tmp_path):
    (tmp_path / "a.png").symlink_to("nowhere")
    (tmp_path / "b.png").mkdir()
    source = sources.folder(path=str(tmp_path))
    for number, name in enumerate(["a.png", "b.png"]):
        with pytest.raises(UserError, match=f"{name}' cannot be read"):
            source.read(number)


def test_links_that_lead_in_a_circle_are_not_followed(tmp_path):
    save(tmp_path / "cats" / "a.png")
    (tmp_path / "cats" / "again").symlink_to("..")
    assert sources.folder(path=str(tmp_path)).num_images == 1


# The code itself.

EXECUTES = {"pickle", "_pickle", "cPickle", "cloudpickle", "marshal", "shelve", "dill", "joblib", "torch", "yaml"}
PEERS = {"profiles.py", "torch_peer.py"}  # PyTorch is what they measure; they read no file with it
MODULES = [
    ROOT / "main.py",
    *sorted(file for name in ("diffusion_jax", "benchmarks", "configs") for file in (ROOT / name).rglob("*.py")),
]
EVERY_MODULE = pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


@EVERY_MODULE
def test_no_module_has_what_could_execute_a_file(file):
    tree = ast.parse(file.read_text())
    assert not EXECUTES & set(imported(tree)) - ({"torch"} if file.name in PEERS else set())
    assert "torch.load" not in file.read_text()
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"eval", "exec", "compile", "__import__"}


@EVERY_MODULE
def test_every_np_load_says_that_it_takes_no_pickle(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert said.get("allow_pickle") == "False", f"line {node.lineno}"
