"""Paths: atomic writes in a folder, and the whole job on an object store that has no rename and lists late."""

import os
import time

import numpy as np
import pytest
import tiny
from etils import epath
from etils.epath import backend as epath_backend
from etils.epath import gpath
from orbax.checkpoint._src.path import gcs_utils

import main
from diffusion_jax.errors import UserError
from diffusion_jax.runs import storage


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = storage.path(tmp_path) / "folder" / "file"
    storage.write_text(file, "old")
    monkeypatch.setattr(
        epath_backend.os_backend.__class__, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        storage.write_text(file, "new")
    assert file.read_text() == "old" and os.listdir(file.parent) == ["file"]


def test_a_write_replaces_and_an_append_adds(tmp_path):
    file = storage.path(tmp_path) / "a" / "b"
    storage.write_text(file, "one\n")
    storage.write_text(file, "two\n")
    storage.append_text(file, "three\n")
    assert file.read_text() == "two\nthree\n"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/run' cannot be made: Not a directory"):
        storage.make_dir(storage.path(tmp_path) / "file" / "run")


def test_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(storage.path("~/runs")) == "/home/somebody/runs"


class ObjectStore(epath_backend.Backend):
    """gs:// as a folder: no rename, no append, and listings that miss what is younger than `late` seconds.

    But for what is inside a checkpoint: orbax lists that as soon as it is written, which real stores allow.
    """

    late = 0.5

    def __init__(self, root):
        self._root = str(root)
        self._os = epath_backend.os_backend
        self.written = set()

    def _local(self, path):
        return str(path).replace("gs://", self._root + "/", 1)

    def open(self, path, mode):
        assert mode[0] in "rw", f"an object store cannot open {path} with mode {mode}"
        if mode[0] == "w":
            self.written.add(str(path))
            os.makedirs(os.path.dirname(self._local(path)), exist_ok=True)
        return self._os.open(self._local(path), mode)

    def exists(self, path):
        return self._os.exists(self._local(path))

    def isdir(self, path):
        return self._os.isdir(self._local(path))

    def listdir(self, path):
        local = self._local(path)
        return [name for name in os.listdir(local) if self._is_listed(os.path.join(local, name))]

    def _is_listed(self, local):
        return "/checkpoints/" in os.path.dirname(local) + "/" or time.time() - os.stat(local).st_mtime > self.late

    def glob(self, path):
        found = self._os.glob(self._local(path))
        return [name.replace(self._root + "/", "gs://", 1) for name in found if self._is_listed(name)]

    def walk(self, top, **options):
        for folder, folders, files in self._os.walk(self._local(top), **options):
            yield folder.replace(self._root + "/", "gs://", 1), folders, files

    def makedirs(self, path, *, exist_ok=False, mode=None):
        self._os.makedirs(self._local(path), exist_ok=exist_ok)

    def mkdir(self, path, *, exist_ok=False, mode=None):
        self._os.mkdir(self._local(path), exist_ok=exist_ok)

    def rmtree(self, path):
        self._os.rmtree(self._local(path))

    def remove(self, path):
        self._os.remove(self._local(path))

    def rename(self, path, dst):
        raise AssertionError(f"an object store has no rename: {path}")

    replace = rename

    def copy(self, path, dst, overwrite):
        self._os.copy(self._local(path), self._local(dst), overwrite)

    def stat(self, path):
        return self._os.stat(self._local(path))


@pytest.fixture
def object_store(tmp_path, monkeypatch):
    """Makes every gs:// path live in `ObjectStore`: ours through epath, orbax's arrays through its key-value store."""
    store = ObjectStore(tmp_path)
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", store)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    monkeypatch.setattr(
        gcs_utils, "get_kvstore_for_gcs", lambda path: {"driver": "file", "path": path.replace("gs://", f"{tmp_path}/", 1)}
    )
    return store


@pytest.mark.slow
def test_the_whole_job_runs_on_an_object_store(object_store, capsys):
    """Trains, resumes, and dumps images: with no rename, no append, and listings that come late."""
    workdir = "gs://bucket/run"
    assert main.main(["main.py", *tiny.flags(workdir, num_steps=4)]) == 0
    time.sleep(2 * ObjectStore.late)  # a resumed run comes later than a listing
    assert main.main(["main.py", *tiny.flags(workdir, num_steps=6)]) == 0
    assert "resumed     at step 4" in capsys.readouterr().out
    assert main.main(["main.py", "--mode=sample", f"--workdir={workdir}", "--config.sample.num_images=5"]) == 0
    lines = epath.Path(f"{workdir}/metrics.jsonl").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ['{"step": 2', '{"step": 4', '{"step": 6']
    [dump] = [path for path in object_store.written if path.endswith("samples_5x8x8x1.npz")]
    with epath.Path(dump).open("rb") as file, np.load(file) as stored:
        assert stored["arr_0"].shape == (5, 8, 8, 1)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "is damaged: it is not JSON"),
        (b"[" * 100_000, "is damaged: it is not JSON"),
        (b"\xff", "is damaged: it is not text"),
    ],
)
def test_a_json_file_that_cannot_be_read_is_one_sentence(tmp_path, content, sentence):
    (tmp_path / "found.json").write_bytes(content)
    with pytest.raises(UserError, match=sentence) as found:
        storage.read_json(storage.path(str(tmp_path / "found.json")), "results")
    assert str(found.value).count("found.json") == 1
