"""Garbage in every file that is read is a sentence or a right result: no trace, pickle, hang or half file.

A table says for each kind of file which damage gets which sentence. Then bytes are changed at random places, the same ones
every time.
"""

import contextlib
import gzip
import io
import json
import os
import random
import re
import tracemalloc
import zipfile
from typing import NamedTuple
from unittest import mock

import files
import numpy as np
import pytest
from files import idx, in_directory, listing, npy, npz, png, repeated, zipped
from tiny import config_of

import main
from diffusion_jax.compose import command, sections, stored
from diffusion_jax.data import sources, tar
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import dump, lock, logs, shards, storage, writers

MEMORY = 2**26  # bytes that reading a file of some kilobytes may take: deflate makes at most 1,032 of one

# How files are read.


def read_records(source):
    """Returns image and label of the last record; looks at the first too."""
    for number in {0, source.num_images - 1}:
        record = source.read(number)
        image, label = record["x"], record["cond"]["label"]
        assert image.dtype == np.uint8 and image.ndim == 3 and min(image.shape) > 0 and isinstance(label, int)
    return image, label


def read_npz(folder):
    read_records(sources.npz(path=f"{folder}/a.npz"))


def read_shard(folder):
    assert all(isinstance(array, np.ndarray) for array in shards.decode(folder / "a.npz").values())


def read_idx(folder):
    read_records(sources.idx(path=str(folder), split="train"))


def read_image(folder):
    image, label = read_records(sources.folder(path=str(folder)))
    assert image.shape[-1] in (1, 3) and label == 0


def read_tar(folder):
    read_records(tar.source(path=str(folder)))


def agree(folder):
    shards.check_or_write_manifest(folder, MANIFEST)


def continue_dump(folder):
    options = {"num_images": 8, "shard_size": 4, "manifest": MANIFEST}
    result = dump.write(folder, lambda first: iter(()), look=dump.Look(num_pictured=8), **options)
    with np.load(result, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], IMAGES.repeat(2, axis=0))


def own(folder):
    here = [mock.patch("socket.gethostname", lambda: "here"), mock.patch("os.readlink", side_effect=OSError)]
    with here[0], here[1], mock.patch.object(lock, "INTERVAL", 0.01), lock.owning(folder) as check:
        check()
        assert json.loads((folder / "owner.json").read_text())["pid"] == os.getpid()
    assert os.listdir(folder) == ["owner.json"]


def resume_record(folder):
    """With the file as a line among others."""
    file = folder / "metrics.jsonl"
    file.write_bytes(b'{"step": 2, "loss": 2.0}\n' + file.read_bytes() + b'\n{"step": 4, "loss": 1.0}\n')
    said, options = contextlib.redirect_stdout(io.StringIO()), {"first_step": 2}
    with said as text, logs.Logs(folder, **options) as log:
        log.metrics(4, {"loss": 0.25})
    assert [line["loss"] for line in writers.read_metrics(file)] == [2.0, 0.25]
    assert "warning" not in text.getvalue() and os.listdir(folder) == ["metrics.jsonl"]


class Kind(NamedTuple):
    name: str  # of the file
    good: bytes | None  # what is read without a word; None where anything is
    read: object
    sentence: str | None  # what damage gets where the table does not say; None is a right result
    beside: tuple = ()  # name and content of another file


MANIFEST, IMAGES, IDX = {"seed": 0, "data": {"path": "a"}}, np.full((4, 4, 4, 1), 7, np.uint8), idx(2, 2, 2)
IDX_NAME, LABELS = "train-images-idx3-ubyte", ("train-labels-idx1-ubyte", idx(2))
SHARD, SHARD_BEFORE = "shards/00000004.npz", ("shards/00000000.npz", npz(arr_0=IMAGES))
OTHER = "00000004.npz' does not hold results of this run"
TAR = files.tar({"0.png": files.encoded("PNG"), "0.cls": b"7"})
INDEX = tar.index(["a.tar"], [[tar.Member(512, len(files.encoded("PNG")), 7)]])._asdict()
FLAT, NEW = config_of({}).flat(), config_of({"train.batch_size": 0})
NO_SIZE = {name: value for name, value in FLAT.items() if name != "train.batch_size"}


def one(content, **options):
    return zipped({"images.npy": content}, **options)


def manifest(**changes):
    return json.dumps(MANIFEST | changes).encode()


def config_json(config):
    return json.dumps({"format_version": stored.FORMAT_VERSION, "config": config, "versions": {}}).encode()


def config_json_with(name=None, value=None):
    return config_json(sections.nested(FLAT | ({name: value} if name else {})))


KINDS = {
    "config.json": Kind("config.json", config_json_with(), lambda folder: stored.agreed_config(folder, NEW), "damaged"),
    "manifest": Kind("manifest.json", manifest(), agree, "damaged|other results"),
    "npz of images": Kind("a.npz", one(npy()), read_npz, "cannot be read"),
    "shard": Kind("a.npz", npz(arr_0=IMAGES), read_shard, "is damaged"),
    "shard of a dump": Kind(SHARD, npz(arr_0=IMAGES), continue_dump, "00000004.npz' is damaged", SHARD_BEFORE),
    "IDX": Kind(IDX_NAME, IDX, read_idx, "IDX file of unsigned bytes with 3 dimension", LABELS),
    "IDX, gzipped": Kind(IDX_NAME + ".gz", gzip.compress(IDX), read_idx, "cannot be read|IDX file of unsigned", LABELS),
    "PNG": Kind("a.png", files.encoded("PNG"), read_image, "a.png' cannot be read"),
    "JPEG": Kind("a.jpg", files.encoded("JPEG"), read_image, "a.jpg' cannot be read"),
    "WebP": Kind("a.webp", files.encoded("WEBP"), read_image, "a.webp' cannot be read"),
    "tar": Kind("a.tar", TAR, read_tar, "a.tar' cannot be read"),
    "index of tar files": Kind("index.npz", npz(**INDEX), read_tar, "index.npz' is damaged", ("a.tar", TAR)),
    "owner.json": Kind("owner.json", None, own, None),
    "line of metrics.jsonl": Kind("metrics.jsonl", None, resume_record, None),
}


def read_as(kind, content, folder):
    """Reads a file in a folder of its own, at little memory; where that fails, the folder is as it was.

    What a header promises must not be allocated before it is there. NumPy tells tracemalloc of its arrays.
    """
    for name, what in [(KINDS[kind].name, content), *([KINDS[kind].beside] if KINDS[kind].beside else [])]:
        storage.write_bytes(storage.path(folder) / name, what)
    if kind == "shard of a dump":
        agree(storage.path(folder))
    before = listing(folder)
    tracemalloc.start()
    try:
        KINDS[kind].read(storage.path(folder))
    except UserError:
        assert listing(folder) == before
        raise
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= MEMORY


# What is damaged: kind -> damage -> content, or (content, what its sentence says instead of the kind's).


ANYTHING = {
    "empty": b"",
    "not UTF-8": b"\xff",
    "deep": b"[" * 100_000,
    "a long number": b"9" * 5000,
    "another JSON": b'{"a": [null, 1e999, NaN]}',
    "a pickle": b"\x80\x04K\x01.",
}
LIES = in_directory(one(npy(shape=(4 * 10**9, 1, 1))), 20, 2**32 - 2, 4)
ARCHIVES = {
    "one array many times": repeated("images.npy", npy()),
    "objects": one(npy(descr="|O")),
    "negative": one(npy(shape=(-1, 2, 2, 1))),
    "two negatives": one(npy(shape=(-2, -1, 2, 2))),
    "a product that wraps": one(npy(shape=(2**32, 2**32, 1, 1))),
    "too short": one(npy(data=b"123")),
    "64 TiB": one(npy(shape=(2**40, 8, 8, 1))),
    "10 GB": one(npy(shape=(10**9, 10, 1, 1))),
    "64 TiB, not an archive": npy(shape=(2**40, 8, 8, 1)),
    "64 TiB of bytes": one(npy(descr="|V999999999")),
    "a directory that lies too": in_directory(LIES, 24, 2**32 - 2, 4),
    "deflated beyond its size": in_directory(one(bytes(2 * MEMORY), compression=zipfile.ZIP_DEFLATED), 24, 2**31, 4),
    "beyond int64": one(npy(shape=(10**30,))),
    "empty dtype": one(npy(descr=())),
    "unclosed header": one(npy(head=b"((((")),
    "indented header": one(npy(head=b"  a\n b\n  c\n   d L")),
    "deep header": one(npy(head=b"-" * 9000 + b"1")),
    "a member that is not an array": zipped({"images": b"abc"}),
    "a pickle as a member": one(b"\x80\x04K\x01."),
    "encrypted": in_directory(one(npy()), 8, 1, 2),
    "an unknown compression": in_directory(one(npy()), 10, 99, 2),
    "a later format": in_directory(one(npy()), 6, 99, 2),
    "LZMA": one(npy(), compression=zipfile.ZIP_LZMA),
}
DAMAGES = {
    "config.json": {
        "a version that is not a whole number": (b'{"format_version": 3.0, "config": {}}', "format_version = 3.0"),
        "a field of a field": (config_json({"a": 3, "a.b": 4}), "config"),
        "a field deep in a field": (config_json({"a": 3, "a.b.c": 4}), "config"),
        "a name of Python's": (config_json({"__class__": 4}), "config"),
        "beyond floats": (config_json_with("train.learning_rate", 10**400), "train.learning_rate"),
        "no batch size": (config_json(sections.nested(NO_SIZE)), "train.batch_size"),
        "a batch size of letters": (config_json_with("train.batch_size", "many"), "train.batch_size = 'many'"),
        "a line end in a name": (config_json_with("a\nb.c", 3), "config"),
    },
    "manifest": {
        "deep objects": (b'{"a":' * 50_000, "manifest.json' is damaged"),
        "another seed": (manifest(seed=10**400), "other results .different seed."),
        "a path up": (manifest(data={"path": "../../up"}, **{"../../up": "../../up"}), "other results"),
        "an absolute path": (manifest(data={"path": "/absolute"}, **{"/absolute": "/absolute"}), "other results"),
        "a path home": (manifest(data={"path": "~"}, **{"~": "~"}), "other results"),
    },
    "npz of images": ARCHIVES | {"no pixels": (one(npy(shape=(2**62, 0, 1), data=b"")), "must hold 'images'")},
    "shard": ARCHIVES,
    "shard of a dump": {
        "no such array": (npz(images=IMAGES), OTHER),
        "too few": (npz(arr_0=IMAGES[:3]), OTHER),
        "too many": (npz(arr_0=IMAGES.repeat(2, axis=0)), OTHER),
        "another shape": (npz(arr_0=IMAGES[:, :2]), OTHER),
        "floats": (npz(arr_0=IMAGES.astype(np.float32)), OTHER),
        "a scalar": (npz(arr_0=np.uint8(3)), OTHER),
    },
    "IDX": {
        "negative": (idx(-2, -2, 2, data=bytes(8)), "IDX file of unsigned bytes"),
        "one negative": (idx(-2, 2, 2, data=bytes(8)), "IDX file of unsigned bytes"),
        "floats": (idx(2, 2, 2, data=bytes(32), kind=13), "IDX file of unsigned bytes"),
        "labels": idx(8),
        "huge": (idx(2**31 - 1, 2**31 - 1, 2**31 - 1, data=b""), "is damaged"),
        "1 GB": (idx(1000, 1000, 1000, data=bytes(8)), "is damaged: its header says .1000, 1000, 1000., but 8 bytes"),
    },
    "IDX, gzipped": {
        "more than its header says": (gzip.compress(idx(2, 2, 2, data=bytes(2 * MEMORY)), 1), "is damaged: .* more bytes"),
        "cut short": (gzip.compress(IDX)[:-12], "cannot be read"),
        "a wrong checksum": (gzip.compress(IDX)[:-8] + bytes(8), "cannot be read"),
    },
    "PNG": {
        "10 gigapixels": (png(100_000, 100_000), "a.png' cannot be read .DecompressionBombError.* exceeds limit"),
        "the most pixels": (png(2**31 - 1, 2**31 - 1), "a.png' cannot be read .DecompressionBombError.* exceeds limit"),
        "thin": (png(1, 200_000_000), "a.png' cannot be read .DecompressionBombError.* exceeds limit"),
    },
    "tar": {
        "gzipped": (gzip.compress(TAR), "a.tar' cannot be read: it is compressed with gzip"),
        "cut in an image": (TAR[:560], "a.tar' cannot be read: it is cut short: '0.png' has"),
        "cut after an image": (TAR[:1024], "a.tar' cannot be read: it is cut short: an archive ends with"),
        "a class of letters": (files.tar({"0.png": b"", "0.cls": b"cat"}), "its '0.cls' must be a whole number from 0 on"),
        "a huge class": (files.tar({"0.png": b"", "0.cls": b"9" * 99}), "its '0.cls' must be a whole number from 0 on"),
        "no images": (files.tar({"0.txt": b""}), "has no images in uncompressed .tar files"),
        "an image that is none": (files.tar({"0.png": b"text"}), "image 0, at byte 512 of shard .*a.tar', cannot be read"),
        "a class for one of two": (
            files.tar({"0.png": b"", "0.cls": b"1", "1.png": b""}),
            "1 of 2 images in the shards have no .cls beside them",
        ),
    },
    "index of tar files": {
        "no arrays": npz(),
        "a path": npz(**INDEX | {"shards": np.array(["../a.tar"])}),
        "floats": npz(**INDEX | {"start": np.zeros(1)}),
        "a negative place": npz(**INDEX | {"start": np.full(1, -1)}),
        "another shard": npz(**INDEX | {"shard": np.ones(1, np.int32)}),
        "no images": npz(**INDEX | dict.fromkeys(["shard", "start", "size", "labels"], np.zeros(0, np.int64))),
        "a name for some classes": npz(**INDEX | {"label_names": np.array(["cat"])}),
        "a shard that is missing": (npz(**INDEX | {"shards": np.array(["b.tar"])}), "b.tar' is missing; get it again"),
        "captions of others": npz(**INDEX | {"captions": np.frombuffer(b'["a", "b"]', np.uint8)}),
        "captions that are no texts": npz(**INDEX | {"captions": np.frombuffer(b"[1]", np.uint8)}),
        "more than there is": (npz(**INDEX | {"size": np.full(1, 2**40)}), "a.tar' has 10,240 bytes, and index.npz says"),
    },
    "owner.json": {"a number": b"3", "a list": b"[]", "a huge process": b'{"host": "here", "pid": ' + b"9" * 30 + b"}"},
    "line of metrics.jsonl": {
        **{"a number": b"3", "null": b"null", "a list": b"[]", "no step": b"{}", "a step of letters": b'{"step": "a"}'},
        **{"a step of null": b'{"step": null}', "half": b'{"step": 3'},
    },
}
ROWS = {
    f"{kind}: {damage}": (kind, *(row if isinstance(row, tuple) else (row, KINDS[kind].sentence)))
    for kind in KINDS
    for damage, row in (ANYTHING | DAMAGES.get(kind, {})).items()
}


@pytest.mark.parametrize(("kind", "content", "sentence"), ROWS.values(), ids=ROWS)
def test_a_damaged_file_is_named_or_counts_as_not_there(tmp_path, kind, content, sentence):
    with pytest.raises(UserError, match=sentence) if sentence else contextlib.nullcontext():
        read_as(kind, content, tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].good is not None])
def test_changed_bytes_are_a_sentence_or_no_harm(tmp_path, kind):
    good, dice = KINDS[kind].good, random.Random(kind)
    read_as(kind, good, tmp_path / "good")
    for number in range(60):
        content = bytearray(good)
        for _ in range(dice.choice([1, 1, 2, 4])):
            first = dice.randrange(len(content))
            content[first : first + dice.choice([0, 1, 2, 4])] = dice.randbytes(dice.choice([1, 2, 4]))
        content = bytes(content[: dice.randrange(len(content))] if number % 5 == 0 else content)
        with contextlib.suppress(UserError, RunError):
            read_as(kind, content, tmp_path / str(number))


@pytest.mark.parametrize("row", [row for row in ROWS if row.startswith("config.json")])
def test_a_damaged_config_json_is_one_line_of_the_command(tmp_path, capsys, row):
    _, content, sentence = ROWS[row]
    (tmp_path / "config.json").write_bytes(content)
    assert main.main(["main.py", "--mode=sample", f"--workdir={tmp_path}"]) == command.BAD_INPUT
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.index("\n") == len(said) - 1 and re.search(sentence, said)


# Pickles, and names that lead out of a folder.


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("kind", ["npz of images", "shard"])
@pytest.mark.parametrize("name", ["images", "arr_0", "labels", "arr_1", "other", "npy", "raw"])
def test_a_pickle_is_never_executed(tmp_path, kind, name):
    marker, file = tmp_path / "executed", io.BytesIO()
    objects = np.array([Evil(marker), Evil(marker)], object)
    if name == "npy":
        np.save(file, objects, allow_pickle=True)
    elif name == "raw":
        file.write(objects.dumps())
    else:
        others = {"images": np.zeros((2, 2, 2, 1), np.uint8)} if name not in ("images", "arr_0") else {}
        np.savez(file, **others, **{name: objects})
    # Images alone are looked for, so that another array does no harm.
    with contextlib.nullcontext() if (kind, name) == ("npz of images", "other") else pytest.raises(UserError):
        read_as(kind, file.getvalue(), tmp_path / "in")
    assert not marker.exists()
    with contextlib.suppress(Exception):
        np.load(tmp_path / "in" / "a.npz", allow_pickle=True)[name if name not in ("npy", "raw") else 0]
    assert marker.exists()  # that is what it would have done


def test_members_of_an_archive_are_never_written(tmp_path):
    content = zipped({"../up.npy": npy(), f"{tmp_path}/absolute.npy": npy(), "images.npy": npy()})
    for kind in ("npz of images", "shard"):
        read_as(kind, content, tmp_path / "in")
    assert listing(tmp_path) == {"in/a.npz": content}


def test_an_unknown_scheme_is_refused():
    with pytest.raises(UserError, match="unknown scheme"):
        sources.npz(path="http://example.org/a.npz")
