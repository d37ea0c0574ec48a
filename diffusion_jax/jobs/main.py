"""diffusion_jax: train diffusion models, and generate images with them.

    python main.py --config=configs/digits.py --workdir=runs/digits     trains; the same command resumes
    python main.py --mode=sample --workdir=runs/digits [--out=DIR]      dumps images
    python main.py --mode=edit --workdir=runs/digits [--out=DIR]        edits images of yours, as the section edit says
    python main.py --mode=evaluate --workdir=runs/digits [--out=DIR]    measures how good generated images are
    python main.py --mode=likelihood --workdir=runs/digits [--out=DIR]  measures bits per dimension
    python main.py --mode=verify --config=configs/cifar10.py [--workdir=runs/cifar10]  compares with what was published
    python main.py ... --config.sample.seed=1                           the same with any field of the config changed

Where the package is installed, diffusion-jax stands for python main.py, from any folder.

Flags:
    --config    a file of configs/; the other modes find the workdir's own
    --workdir   the folder of the run; gs:// works too
    --mode      train (the default), sample, edit, evaluate, likelihood or verify
    --out       the folder for what the other modes make; by default inside the workdir
    --flagfile  a file with flags, one a line
"""

import importlib
import signal
import sys
from collections.abc import Sequence

from diffusion_jax import jobs
from diffusion_jax.compose import command, describe, stored
from diffusion_jax.compose.command import Changes, Flags
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError
from diffusion_jax.jobs import published
from diffusion_jax.runs import compiling, sharding, storage

MODES = ("train", "sample", "edit", "evaluate", "likelihood", "verify")
FLAGS = {"mode": "train", "workdir": "", "out": ""}


def main(argv: Sequence[str] = ()) -> int:
    """Runs one job; the exit code is 0, 2 for bad input, 1 for a run that failed, 128 + n for one that signal n stopped.

    Args:
        argv: the name of the program and its flags; by default as the process has them.
    """
    return command.answer(list(argv or sys.argv), lambda: f"{__doc__}\nConfig fields:\n\n{describe.as_text()}", _run)


def _run(argv: list[str]) -> int:
    compiling.pin_numerics()
    flags, config, changes = parse(argv)
    storage.allow_files()
    workdir, out = (storage.path(flags[name]) if flags[name] else None for name in ("workdir", "out"))
    for folder in filter(None, (workdir and storage.absolute(workdir), out)):
        storage.check_folder(folder)
    job = importlib.import_module(f"diffusion_jax.jobs.{flags['mode']}")
    config = stored.with_own_folders(config, workdir, if_gone=True) if workdir else config
    jobs.start(config, changes)
    if flags["mode"] != "train":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX catches it where there are several processes
    named = {"preset": flags["config"]} if flags["mode"] == "verify" else {"out": out} if out else {}
    code = job.run(config, workdir, **named)
    sharding.wait_for_all("end")  # the first may still write; at its exit JAX would wait for it five minutes and then abort
    return code


def parse(argv: list[str]) -> tuple[Flags, Config, Changes]:
    """Returns what a command line says. Without --config, all modes but train and verify take the workdir's.

    Two given sets of images are evaluated without either.

    Raises UserError for an unknown flag or field, or a value that is not allowed.
    """
    flags, changes = command.parse(argv, FLAGS)
    _check(flags)
    if flags["mode"] == "evaluate" and not flags["workdir"] and not flags["config"]:
        return flags, Config.of_flat(Config().flat() | changes), changes
    return (
        flags,
        command.config_of(flags, changes, "" if flags["mode"] in ("train", "verify") else flags["workdir"]),
        changes,
    )


def _check(flags: Flags) -> None:
    command.check_one_of(flags, "mode", MODES)
    if flags["mode"] == "verify" and not flags["config"]:
        raise UserError(f"flag --config is missing; it must be a config with published figures: {published.CONFIGS}.")
    if not flags["workdir"] and flags["mode"] not in ("evaluate", "verify"):
        raise UserError("flag --workdir is missing; it must be the folder of the run.")
    if flags["out"] and flags["mode"] in ("train", "verify"):
        where = "into --workdir" if flags["mode"] == "train" else "nothing"
        raise UserError(
            f"flag --out = {flags['out']!r} does not fit --mode={flags['mode']}, which writes {where}; leave it out."
        )
