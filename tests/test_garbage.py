"""Garbage in every flag and file that is read is a sentence or a right result: no trace, pickle, hang or half file.

The tables say for each kind of file which damage gets which sentence. Then bytes are changed at random places, the same ones
every time.
"""

import contextlib
import gzip
import io
import json
import math
import os
import pathlib
import random
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import EpsImagePlugin, Image
from tiny import ROOT, config_of

import main
from diffusion_jax.compose import checks, command, sections, stored
from diffusion_jax.compose.config import FIELDS
from diffusion_jax.data import sources, transforms
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import checkpoint, dump, lock, logs, shards, storage
from diffusion_jax.training.state import TrainState

MEMORY = 2**26  # bytes that reading a file of some kilobytes may take: deflate makes at most 1,032 of one
sentence_at_most = contextlib.suppress(UserError, RunError)


@contextlib.contextmanager
def little_memory():
    """What a header promises must not be allocated before it is there. NumPy tells tracemalloc of its arrays."""
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


# How files are made.


def stored_config(config):
    return json.dumps({"format_version": stored.FORMAT_VERSION, "config": config, "versions": {}}).encode()


def stored_field(name, value):
    return stored_config(sections.nested(config_of({}).flat() | {name: value}))


def without_batch_size():
    flat = config_of({}).flat()
    del flat["train.batch_size"]
    return sections.nested(flat)


def npy(head=None, data=b"\x07" * 8, raw=None, **changes):
    """Returns an .npy file with any header, by default that of uint8 [2, 2, 2, 1]."""
    head = {"descr": "|u1", "fortran_order": False, "shape": (2, 2, 2, 1)} | changes if head is None else head
    text = (repr(head).encode() if raw is None else raw) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def zipped(members, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def one(content, **options):
    return zipped([("images.npy", content)], **options)


def in_directory(whole, at, value, size):
    """Returns an archive with another number in its central directory and, where it is there too, in the local header."""
    whole, start = bytearray(whole), whole.index(b"PK\x01\x02")
    whole[start + at : start + at + size] = value.to_bytes(size, "little")
    whole[at - 2 : at - 2 + size] = value.to_bytes(size, "little")
    return bytes(whole)


def shard_of(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def idx_head(*shape, kind=8):
    return struct.pack(f">HBB{len(shape)}i", 0, kind, len(shape), *shape)


def png(width, height):
    """Returns a PNG file that claims a size."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def encoded(kind):
    file = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(file, format=kind)
    return file.getvalue()


# How files are read: kind -> (name, a good one, what reads it).

MANIFEST = {"seed": 0, "data": {"path": "a"}}
IMAGES = np.full((4, 4, 4, 1), 7, np.uint8)
METADATA = "checkpoints/3/_CHECKPOINT_METADATA"


def tiny_state():
    zero = jnp.zeros((), jnp.int32)
    weights = {"w": jnp.arange(3.0)}
    return TrainState(jnp.int32(3), weights, {"0.9": weights}, {"m": jnp.ones(3)}, zero, {"skipped": zero})


def read_config(folder):
    stored.agreed_config(storage.path(folder), config_of({"train.batch_size": 0}))


def read_manifest(folder):
    shards.check_or_write_manifest(storage.path(folder), MANIFEST)


def read_npz(folder):
    source = sources.npz(path=f"{folder}/a.npz")
    for number in {0, source.num_images - 1}:
        record = source.read(number)
        image, label = record["x"], record["cond"]["label"]
        assert image.dtype == np.uint8 and image.ndim == 3 and isinstance(label, int)


def read_shard(folder):
    assert all(isinstance(array, np.ndarray) for array in shards.decode(storage.path(folder) / "a.npz").values())


def continue_dump(folder):
    with mock.patch.object(dump, "NUM_PICTURED", 8):
        options = {"num_images": 8, "shard_size": 4, "manifest": MANIFEST, "on_progress": lambda done: None}
        result = dump.write(storage.path(folder), lambda first: iter(()), **options)
    with np.load(result, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], IMAGES.repeat(2, axis=0))


def read_idx(folder):
    source = sources.idx(path=str(folder), split="train")
    record = source.read(source.num_images - 1)
    image, label = record["x"], record["cond"]["label"]
    assert image.dtype == np.uint8 and image.ndim == 3 and min(image.shape) > 0 and isinstance(label, int)


def read_image(folder):
    record = sources.folder(path=str(folder)).read(0)
    pixels, label = record["x"], record["cond"]["label"]
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[-1] in (1, 3) and label == 0


def restore(folder):
    state = tiny_state()
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    with checkpoint.Checkpoints(storage.path(folder)) as checkpoints:
        jax.tree.map(np.testing.assert_array_equal, checkpoints.restore_latest(like), state)


IDX = idx_head(2, 2, 2) + bytes(range(8))
KINDS = {
    "config.json": ("config.json", stored_config(config_of({}).model_dump()), read_config, "damaged"),
    "manifest": ("manifest.json", json.dumps(MANIFEST).encode(), read_manifest, "damaged|other results"),
    "npz of images": ("a.npz", one(npy()), read_npz, "cannot be read"),
    "shard": ("a.npz", shard_of(arr_0=IMAGES), read_shard, "is damaged"),
    "shard of a dump": ("shards/00000004.npz", shard_of(arr_0=IMAGES), continue_dump, "00000004.npz' is damaged"),
    "IDX": ("train-images-idx3-ubyte", IDX, read_idx, "IDX file of unsigned bytes with 3 dimension"),
    "IDX, gzipped": (
        "train-images-idx3-ubyte.gz",
        gzip.compress(IDX),
        read_idx,
        "cannot be read|IDX file of unsigned bytes",
    ),
    "PNG": ("a.png", encoded("PNG"), read_image, "a.png' cannot be read"),
    "JPEG": ("a.jpg", encoded("JPEG"), read_image, "a.jpg' cannot be read"),
    "WebP": ("a.webp", encoded("WEBP"), read_image, "a.webp' cannot be read"),
}
BESIDE = {  # kind -> name of another file that it needs, and its content
    "shard of a dump": ("shards/00000000.npz", shard_of(arr_0=IMAGES)),
    "IDX": ("train-labels-idx1-ubyte", idx_head(2) + b"\0\1"),
    "IDX, gzipped": ("train-labels-idx1-ubyte", idx_head(2) + b"\0\1"),
}


def read_as(kind, content, folder):
    """Reads a file in a folder of its own, at little memory; where that fails, the folder is as it was."""
    name, _, read, _ = KINDS[kind]
    for place, what in ((name, content), *([BESIDE[kind]] if kind in BESIDE else [])):
        storage.write_bytes(storage.path(folder) / place, what)
    if kind == "shard of a dump":
        read_manifest(folder)
    before = listing(folder)
    with little_memory():
        try:
            read(folder)
        except UserError:
            assert listing(folder) == before
            raise


# What is damaged: kind -> damage -> (content, what the sentence says).

ARCHIVES = {
    "objects": one(npy(descr="|O")),
    "negative": one(npy(shape=(-1, 2, 2, 1))),
    "two negatives": one(npy(shape=(-2, -1, 2, 2))),
    "a product that wraps": one(npy(shape=(2**32, 2**32, 1, 1))),
    "too short": one(npy(data=b"123")),
    "64 TiB": one(npy(shape=(2**40, 8, 8, 1))),
    "10 GB": one(npy(shape=(10**9, 10, 1, 1))),
    "64 TiB, not an archive": npy(shape=(2**40, 8, 8, 1)),
    "64 TiB of bytes": one(npy(descr="|V999999999")),
    "a directory that lies too": in_directory(
        in_directory(one(npy(shape=(4 * 10**9, 1, 1))), 20, 2**32 - 2, 4), 24, 2**32 - 2, 4
    ),
    "deflated beyond its size": in_directory(one(bytes(2 * MEMORY), compression=zipfile.ZIP_DEFLATED), 24, 2**31, 4),
    "beyond int64": one(npy(shape=(10**30,))),
    "empty dtype": one(npy(descr=())),
    "unclosed header": one(npy(raw=b"((((")),
    "indented header": one(npy(raw=b"  a\n b\n  c\n   d L")),
    "deep header": one(npy(raw=b"-" * 9000 + b"1")),
    "a member that is not an array": zipped([("images", b"abc")]),
    "a pickle as a member": one(b"\x80\x04K\x01."),
    "encrypted": in_directory(one(npy()), 8, 1, 2),
    "an unknown compression": in_directory(one(npy()), 10, 99, 2),
    "a later format": in_directory(one(npy()), 6, 99, 2),
    "LZMA": one(npy(), compression=zipfile.ZIP_LZMA),
}
ANYTHING = {
    "empty": b"",
    "not UTF-8": b"\xff",
    "deep": b"[" * 100_000,
    "a long number": b"9" * 5000,
    "another JSON": b'{"a": [null, 1e999, NaN]}',
    "a pickle": b"\x80\x04K\x01.",
}
DAMAGES = {
    "config.json": {
        "a version that is not a whole number": (b'{"format_version": 3.0, "config": {}}', "format_version = 3.0"),
        "a field of a field": (stored_config({"a": 3, "a.b": 4}), "config"),
        "a field deep in a field": (stored_config({"a": 3, "a.b.c": 4}), "config"),
        "a name of Python's": (stored_config({"__class__": 4}), "config"),
        "beyond floats": (stored_field("train.learning_rate", 10**400), "train.learning_rate"),
        "no batch size": (stored_config(without_batch_size()), "train.batch_size"),
        "a batch size that is not a number": (stored_field("train.batch_size", "many"), "train.batch_size = 'many'"),
        "a line end in a name": (stored_field("a\nb.c", 3), "config"),
    },
    "manifest": {
        "deep objects": (b'{"a":' * 50_000, "manifest.json' is damaged"),
        "another seed": (json.dumps({**MANIFEST, "seed": 10**400}).encode(), "other results .different seed."),
        **{
            f"a path {path}": (json.dumps({**MANIFEST, "data": {"path": path}, path: path}).encode(), "other results")
            for path in ("../../up", "/absolute", "~")
        },
    },
    "npz of images": {
        **{name: (content, "cannot be read") for name, content in ARCHIVES.items()},
        "images without pixels": (one(npy(shape=(2**62, 0, 1), data=b"")), "must hold 'images'"),
    },
    "shard": {name: (content, "is damaged") for name, content in ARCHIVES.items()},
    "shard of a dump": {
        "no such array": (shard_of(images=IMAGES), "00000004.npz' does not hold results of this run"),
        "too few": (shard_of(arr_0=IMAGES[:3]), "00000004.npz' does not hold results of this run"),
        "too many": (shard_of(arr_0=IMAGES.repeat(2, axis=0)), "00000004.npz' does not hold results of this run"),
        "another shape": (shard_of(arr_0=IMAGES[:, :2]), "00000004.npz' does not hold results of this run"),
        "floats": (shard_of(arr_0=IMAGES.astype(np.float32)), "00000004.npz' does not hold results of this run"),
        "a scalar": (shard_of(arr_0=np.uint8(3)), "00000004.npz' does not hold results of this run"),
    },
    "IDX": {
        "negative": (idx_head(-2, -2, 2) + bytes(8), "IDX file of unsigned bytes"),
        "one negative": (idx_head(-2, 2, 2) + bytes(8), "IDX file of unsigned bytes"),
        "floats": (idx_head(2, 2, 2, kind=13) + bytes(32), "IDX file of unsigned bytes"),
        "labels": (idx_head(8) + bytes(8), "IDX file of unsigned bytes with 3 dimension"),
        "huge": (idx_head(2**31 - 1, 2**31 - 1, 2**31 - 1), "is damaged"),
        "1 GB": (idx_head(1000, 1000, 1000) + bytes(8), "is damaged: its header says .1000, 1000, 1000., but 8 bytes"),
    },
    "IDX, gzipped": {
        "more than its header says": (gzip.compress(idx_head(2, 2, 2) + bytes(2 * MEMORY), 1), "is damaged: .* more bytes"),
        "cut short": (gzip.compress(IDX)[:-12], "cannot be read"),
        "a wrong checksum": (gzip.compress(IDX)[:-8] + bytes(8), "cannot be read"),
    },
    "PNG": {
        "10 gigapixels": (png(100_000, 100_000), "a.png' cannot be read .DecompressionBombError.* exceeds limit"),
        "the most pixels": (png(2**31 - 1, 2**31 - 1), "a.png' cannot be read .DecompressionBombError.* exceeds limit"),
        "thin": (png(1, 200_000_000), "a.png' cannot be read .DecompressionBombError.* exceeds limit"),
    },
}
ROWS = [(kind, damage, *row) for kind, damages in DAMAGES.items() for damage, row in damages.items()]
ROWS += [(kind, damage, content, KINDS[kind][3]) for kind in KINDS for damage, content in ANYTHING.items()]


@pytest.mark.parametrize(
    ("kind", "content", "sentence"), [row[:1] + row[2:] for row in ROWS], ids=[f"{row[0]}: {row[1]}" for row in ROWS]
)
def test_a_damaged_file_is_named(tmp_path, kind, content, sentence):
    with pytest.raises(UserError, match=sentence):
        read_as(kind, content, tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_changed_bytes_are_a_sentence_or_no_harm(tmp_path, kind):
    good, dice = KINDS[kind][1], random.Random(kind)
    read_as(kind, good, tmp_path / "good")
    for number in range(60):
        content = bytearray(good)
        for _ in range(dice.choice([1, 1, 2, 4])):
            first = dice.randrange(len(content))
            content[first : first + dice.choice([0, 1, 2, 4])] = dice.randbytes(dice.choice([1, 2, 4]))
        content = bytes(content[: dice.randrange(len(content))] if number % 5 == 0 else content)
        with sentence_at_most:
            read_as(kind, content, tmp_path / str(number))


# Pickles, and names that lead out of a folder.


def evil(marker):
    """Returns an object whose unpickling makes a file."""

    class Evil:
        def __reduce__(self):
            return open, (str(marker), "w")

    return Evil()


@pytest.mark.parametrize("read", [read_npz, read_shard])
@pytest.mark.parametrize("name", ["images", "arr_0", "labels", "arr_1", "other", "npy", "raw"])
def test_a_pickle_is_never_executed(tmp_path, read, name):
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
    with contextlib.nullcontext() if (read, name) == (read_npz, "other") else pytest.raises(UserError):
        read(tmp_path)  # images alone are looked for, so that another array does no harm
    assert not marker.exists()
    with contextlib.suppress(Exception):
        np.load(file, allow_pickle=True)[name if name not in ("npy", "raw") else 0]
    assert marker.exists()  # that is what it would have done


def test_members_of_an_archive_are_never_written(tmp_path):
    content = zipped([("../up.npy", npy()), (f"{tmp_path}/absolute.npy", npy()), ("images.npy", npy())])
    storage.write_bytes(storage.path(tmp_path) / "in/a.npz", content)
    read_npz(tmp_path / "in")
    read_shard(tmp_path / "in")
    assert listing(tmp_path) == {"in/a.npz": content}


def test_an_unknown_scheme_is_refused():
    with pytest.raises(UserError, match="unknown scheme"):
        sources.npz(path="http://example.org/a.npz")


# The command line.

TRAIN = [f"--config={ROOT}/configs/digits.py", "--workdir=x"]
VALUES = ["nan", "-1e999", "None", "(" * 5000, "(1" + "0" * 400 + ",)", "0x" + "f" * 5000, "{'a': []}", "é\n", "''"]
ARGUMENTS = {
    "beyond floats": "--config.sample.times=(1" + "0" * 400 + ",)",
    "beyond repr": "--config.train.num_steps=0x" + "f" * 5000,
    "stages beyond repr": "--config.model.multipliers=(" + "1," * 20_000 + ")",
    "a line end in a value": "--config.train.num_steps=a\nb",
    "a line end in a flag": "--a\nb",
    "no flag file": "--flagfile=/nowhere",
    "deep": "--config.sample.times=" + "(" * 5000,
    "not a number": "--config.sample.times=nan",
    "an index": "--config.model.channels[0]=3",
    "no name": "--config.=3",
    "half a name": "--config.model..channels=3",
    "a negation": "--noconfig.train.seed",
    "no value": "--config.train.seed",
}


def run_main(capsys, *arguments):
    """Runs main.py without its job, and returns its exit code; checks what it said."""
    got = []

    def job(config, workdir, **options):
        checks.check(config)
        got.append(config)
        return 0

    with contextlib.ExitStack() as stack:
        for mode in main.MODES:
            stack.enter_context(mock.patch(f"diffusion_jax.jobs.{mode}.run", job))
        code = main.main(["main.py", *arguments])
    said = capsys.readouterr().err
    if code == 0:
        assert said == "" and len(got) == 1
    else:
        assert code == command.BAD_INPUT and not got
        assert said.startswith("error: ") and said.endswith("\n") and said.count("\n") == 1
    return code


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("mode", ["train", "sample"])
def test_an_argument_that_cannot_be_is_one_line(tmp_path, capsys, mode, name):
    storage.write_bytes(storage.path(tmp_path) / "config.json", KINDS["config.json"][1])
    begin = TRAIN if mode == "train" else ["--mode=sample", f"--workdir={tmp_path}"]
    assert run_main(capsys, *begin, ARGUMENTS[name]) == command.BAD_INPUT


def test_every_field_takes_or_refuses_a_value_in_one_line(capsys):
    for number, name in enumerate(sorted(FIELDS)):
        run_main(capsys, *TRAIN, f"--config.{name}={VALUES[number % len(VALUES)]}")


@pytest.mark.parametrize("content", [row[2] for row in ROWS if row[0] == "config.json"], ids=repr)
def test_a_damaged_config_json_is_one_line_of_the_command(tmp_path, capsys, content):
    (tmp_path / "config.json").write_bytes(content)
    assert run_main(capsys, "--mode=sample", f"--workdir={tmp_path}") == command.BAD_INPUT


# owner.json and metrics.jsonl: what cannot be read counts as not there.


@pytest.mark.parametrize(
    "content", [*ANYTHING.values(), b"3", b"[]", b'{"host": "here", "pid": ' + b"9" * 30 + b"}"], ids=repr
)
def test_a_damaged_owner_is_nobody(tmp_path, monkeypatch, content):
    monkeypatch.setattr(lock, "INTERVAL", 0.01)
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    monkeypatch.setattr(os, "readlink", mock.Mock(side_effect=OSError))
    (tmp_path / "owner.json").write_bytes(content)
    with lock.owning(storage.path(tmp_path)) as check:
        check()
        assert json.loads((tmp_path / "owner.json").read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == ["owner.json"]


@pytest.mark.parametrize(
    "line",
    [*ANYTHING.values(), b"3", b"null", b"[]", b"{}", b'{"step": "a"}', b'{"step": null}', b'{"step": 3'],
    ids=lambda line: repr(line[:20]),
)
def test_a_damaged_line_is_left_out_of_a_resumed_record(tmp_path, capsys, line):
    file = storage.path(tmp_path) / "metrics.jsonl"
    file.write_bytes(b'{"step": 2, "loss": 2.0}\n' + line + b'\n{"step": 4, "loss": 1.0}\n')
    with logs.Logs(storage.path(tmp_path), first_step=2, tensorboard=False) as log:
        log.metrics(4, {"loss": 0.25})
    assert [line["loss"] for line in logs.read_metrics(file)] == [2.0, 0.25]
    assert "warning" not in capsys.readouterr().out and os.listdir(tmp_path) == ["metrics.jsonl"]


# Checkpoints: the JSON that orbax keeps beside the arrays.


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    with checkpoint.Checkpoints(storage.path(workdir)) as checkpoints:
        checkpoints.save(tiny_state())
    return workdir


@pytest.fixture
def run(saved, tmp_path):
    """A workdir with a checkpoint, to damage."""
    return shutil.copytree(saved, tmp_path / "run")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"a": [3]}', b"[" * 100_000, None], ids=["empty", "{}", "a", "deep", "half"]
)
def test_any_json_of_a_checkpoint_is_restored_to_the_byte_or_a_sentence(run, content):
    for name, good in [(name, good) for name, good in listing(run).items() if good[:1] == b"{"]:
        (run / name).write_bytes(good[: len(good) // 2] if content is None else content)
        before = listing(run)
        with sentence_at_most:
            restore(run)
        assert listing(run) == before
        (run / name).write_bytes(good)
    restore(run)


@pytest.mark.parametrize("content", [b"[]", b'{"commit_timestamp_nsecs": []}', b"[" * 100_000], ids=["list", "time", "deep"])
def test_a_checkpoint_with_other_metadata_is_named(run, content):
    (run / METADATA).write_bytes(content)
    with pytest.raises(UserError, match="checkpoints"):
        restore(run)


@pytest.mark.parametrize("name", ["abc", "-1", "007", "9" * 30, "3.0", ".3", "3 ", "\u0661"])
def test_other_folders_beside_a_checkpoint_do_no_harm(run, name):
    (run / "checkpoints" / name).mkdir()
    with contextlib.suppress(UserError):
        restore(run)


# Images.


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
