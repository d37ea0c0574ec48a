"""One trainer for a workdir, whether its processes share a machine or not."""

import errno
import json
import os
import re
import subprocess
import sys
import time

import pytest
import tiny

import main
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import lock, storage


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "INTERVAL", 0.1)
    return storage.path(tmp_path)


def signed(workdir, **changes):
    """Writes what another process would have written last."""
    found = {"id": "other", "host": "elsewhere", "pid": 7, "sign": 3} | changes
    (workdir / "owner.json").write_text(json.dumps(found))


def test_signs_of_life_go_on_and_the_end_is_said(workdir):
    with lock.owning(workdir):
        first = json.loads((workdir / "owner.json").read_text())
        time.sleep(0.5)
        later = json.loads((workdir / "owner.json").read_text())
    assert first["pid"] == os.getpid() and later["sign"] > first["sign"] and later["id"] == first["id"]
    assert json.loads((workdir / "owner.json").read_text())["ended"]
    with lock.owning(workdir):
        pass


def test_a_second_trainer_on_another_machine_is_told_of_the_first(workdir, monkeypatch):
    """Its clock is not asked: what counts is that the file changes."""
    with lock.owning(workdir):
        monkeypatch.setattr(lock.socket, "gethostname", lambda: "elsewhere")
        sentence = rf"is in use by process {os.getpid()} of .*; stop that run, or use another"
        with pytest.raises(UserError, match=sentence), lock.owning(workdir):
            pass


def test_an_owner_without_signs_of_life_is_waited_for_and_then_followed(workdir, capsys):
    signed(workdir)
    start = time.monotonic()
    with lock.owning(workdir):
        assert 0.2 < time.monotonic() - start < 5
    assert "waiting     0 s to see whether process 7 of elsewhere still trains here" in capsys.readouterr().out


def test_an_owner_on_this_machine_whose_process_is_gone_is_followed_at_once(workdir, capsys):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with lock.owning(workdir):
        here = json.loads((workdir / "owner.json").read_text())["host"]
    signed(workdir, host=here, pid=gone.pid)
    with lock.owning(workdir):
        assert "waiting" not in capsys.readouterr().out


def test_a_run_whose_workdir_was_taken_ends_without_another_word_in_it(workdir):
    with lock.owning(workdir) as check:
        check()
        signed(workdir)
        time.sleep(0.5)
        with pytest.raises(RunError, match="was taken over by process 7 of elsewhere; this run ends without saving"):
            check()
    assert json.loads((workdir / "owner.json").read_text())["id"] == "other"


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"pid": "x"}', '{"host": 1}'])
def test_a_broken_owner_file_is_no_owner(workdir, text):
    (workdir / "owner.json").write_text(text)
    with lock.owning(workdir):
        pass


def test_a_workdir_that_cannot_be_written_is_refused(workdir, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(storage, "write_text", refuse)
    with pytest.raises(UserError, match="cannot be written: .*Read-only file system"), lock.owning(workdir):
        pass


def test_a_sign_of_life_that_cannot_be_written_later_stops_nothing(workdir, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with lock.owning(workdir) as check:
        monkeypatch.setattr(storage, "write_text", refuse)
        time.sleep(0.3)
        check()


FULL_DISK = """
import resource, sys, main
sys.path.insert(0, "tests")
import tiny
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
with tiny.one_device():
    sys.exit(main.main(["main.py", *{flags!r}]))
"""


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [(20_000, "a checkpoint could not be saved"), (150, "File too large")],
)
@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_the_run_goes_on_when_there_is_room(trained, tmp_path, limit, sentence, one_device):
    """`trained` compiles what is asked for here: what a full disk cannot keep."""
    flags = tiny.flags(tmp_path / "run", **tiny.TRAINED)
    options = {"cwd": tiny.ROOT, "capture_output": True, "text": True, "timeout": 300, "check": False}
    full = subprocess.run([sys.executable, "-c", FULL_DISK.format(limit=limit, flags=flags)], **options)
    [said] = re.findall(r"error: .*", full.stderr)  # orbax's threads complain too, even within a line
    assert full.returncode == 1 and sentence in said
    assert main.main(["main.py", *flags]) == 0 and (tmp_path / "run" / "checkpoints" / "2").is_dir()


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", "previews"])
def test_a_workdir_that_leads_into_another_is_refused(tmp_path, name):
    (tmp_path / "theirs" / name).mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).symlink_to(tmp_path / "theirs" / name)
    refused = pytest.raises(UserError, match=f"mine/{name}' is a link to '.*theirs/{name}'")
    with refused, lock.owning(storage.path(tmp_path / "mine")):
        pass
