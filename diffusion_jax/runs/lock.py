"""One trainer for a workdir: owner.json, which the trainer rewrites every few seconds. Works where a clock differs."""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import logs, sharding, storage

INTERVAL = 10.0  # seconds from one sign of life to the next
# What a run writes: none of it may be a link to elsewhere.
WRITTEN = ("checkpoints", "config.json", "loss.png", "metrics.jsonl", "owner.json", "previews", "tensorboard", "wandb")


@contextlib.contextmanager
def owning(workdir: storage.Path) -> Iterator[Callable[[], None]]:
    """Locks a workdir for this run, by the first process. Yields check(), which raises RunError if another has taken it.

    A later sign of life that cannot be written is ignored. Raises UserError where another process gives signs of life, or
    the workdir cannot be written or leads elsewhere.
    """
    if not sharding.is_first():
        yield lambda: None
        return
    storage.check_own(workdir, WRITTEN)
    file, me = workdir / "owner.json", {"id": uuid.uuid4().hex, "host": _host(), "pid": os.getpid()}
    _wait_for(file)
    ended, taken_by = threading.Event(), {}

    def sign(number: int, **more) -> None:
        try:
            found = _read(file)
            if number and found.get("id", me["id"]) != me["id"]:
                taken_by.update(found)
            else:
                storage.write_text(file, json.dumps({**me, "sign": number, **more}) + "\n")
        except Exception as error:  # an object store's has many names; one that is down for a while is no harm
            if not number:
                raise UserError(f"workdir {str(workdir)!r} cannot be written: {error}.") from error

    def live() -> None:
        number = 0
        while not (ended.wait(INTERVAL) or taken_by):
            number += 1
            sign(number)

    def check() -> None:
        if taken_by:
            raise RunError(f"workdir {str(workdir)!r} was taken over by {_name(taken_by)}; this run ends without saving.")

    sign(0)
    thread = threading.Thread(target=live, name="owner", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join()
        if not taken_by:
            sign(1, ended=True)


def _wait_for(file: storage.Path) -> None:
    """Returns when it is certain that the workdir is not locked; UserError where it is."""
    found = _read(file)
    if not found or found.get("ended") or _is_dead(found):
        return
    logs.say("waiting", f"{2.5 * INTERVAL:.0f} s to see whether {_name(found)} still trains here")
    end = time.monotonic() + 2.5 * INTERVAL
    while time.monotonic() < end:
        time.sleep(INTERVAL / 10)
        if _read(file) != found:
            raise UserError(
                f"workdir {str(file.parent)!r} is in use by {_name(found)}; stop that run, or use another workdir."
            )


def _is_dead(found: dict) -> bool:
    """Returns whether a process of this machine is known to have ended."""
    if found.get("host") != _host() or not isinstance(found.get("pid"), int):
        return False
    try:
        os.kill(found["pid"], 0)  # asks only whether it is there
    except (ProcessLookupError, OverflowError):  # a number that no process can have
        return True
    except PermissionError:
        return False
    return found["pid"] == os.getpid()  # containers often start every process under the same number


def _host() -> str:
    """Returns this machine's name and the name of its PID namespace: containers may share the first only."""
    try:
        return f"{socket.gethostname()} ({os.readlink('/proc/self/ns/pid')})"
    except OSError:
        return socket.gethostname()


def _read(file: storage.Path) -> dict:
    """Returns what was signed last, {} for nothing."""
    try:
        found = json.loads(storage.read_bytes(file)) if file.exists() else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _name(found: dict) -> str:
    return f"process {found.get('pid')} of {found.get('host')}"
