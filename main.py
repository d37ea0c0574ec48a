"""diffusion_jax: train diffusion models, and draw from them.

    python main.py --config=configs/digits.py --workdir=runs/digits     trains; the same command resumes
    python main.py --mode=sample --workdir=runs/digits [--out=DIR]      dumps images
    python main.py --mode=likelihood --workdir=runs/digits [--out=DIR]  measures bits per dimension
    python main.py ... --config.process.schedule=cosine                 changes any field of the config

Flags:
    --config    a file of configs/; the other modes find the workdir's own
    --workdir   the folder of the run; gs:// works too
    --mode      train (the default), sample or likelihood
    --out       the folder for what the other modes make; by default inside the workdir
"""

import importlib
import signal
import sys
from typing import Any

from absl import flags, logging

from diffusion_jax.compose import command, schema
from diffusion_jax.errors import UserError
from diffusion_jax.runs import storage

MODES = ("train", "sample", "likelihood")


def main(argv: list[str]) -> int:
    """Runs one job.

    Returns:
        The exit code: 0; 2 for bad input; 1 for a run that failed; 128 + n for one that signal n stopped.
    """
    logging.set_verbosity(logging.FATAL)  # what orbax says of a failed save comes as our own sentence
    return command.answer(argv, _help, _run)


def _run(argv: list[str]) -> int:
    values = _parse(argv)
    schema.check(config := values.config.to_dict())
    job = importlib.import_module(f"diffusion_jax.jobs.{values.mode}")
    sharding = importlib.import_module("diffusion_jax.runs.sharding")
    sharding.join_processes()
    if config["compilation_cache"]:
        importlib.import_module("diffusion_jax.runs.compiling").keep_compiled()
    if values.mode != "train":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX catches it where there are several processes
    out = {"out": storage.path(values.out)} if values.out else {}
    code = job.run(config, storage.path(values.workdir), **out)
    sharding.wait_for_all("end")  # the first may still write; at its exit JAX would wait for it five minutes and then abort
    return code


def _parse(argv: list[str]) -> flags.FlagValues:
    """Returns the parsed flags. Without --config, every mode but training takes the config stored in the workdir.

    Raises:
        UserError: for an unknown flag or field, or a value that cannot be read.
    """
    values = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", MODES, "", flag_values=values)
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_string("out", "", "", flag_values=values)
    command.parse(argv, values, lambda: _stored_config(argv))
    if not values.workdir:
        raise UserError("flag --workdir is missing; it must be the folder of the run.")
    if values.out and values.mode == "train":
        raise UserError(f"flag --out = {values.out!r} is for the other modes; training writes into --workdir.")
    return values


def _stored_config(argv: list[str]) -> dict[str, Any]:
    if command.value_of(argv, "mode") in (None, "train"):
        raise UserError("flag --config is missing; training needs one, such as --config=configs/digits.py.")
    if not (workdir := command.value_of(argv, "workdir")):
        raise UserError("flag --workdir is missing; it must be the folder of the run.")
    return schema.from_json(storage.read_text(storage.path(workdir) / "config.json", "the workdir of a run"))


def _help() -> str:
    """Returns what --help prints: how to start, and every field with what it takes."""
    width = max(map(len, schema.FIELDS))
    fields = [f"    {name:<{width}}  {rule.allowed}" for name, rule in schema.FIELDS.items()]
    return f"{__doc__}\nConfig fields (what they mean stands in configs/cifar10.py):\n" + "\n".join(fields)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
