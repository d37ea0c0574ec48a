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
import re
import signal
import sys

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from diffusion_jax import schema, storage
from diffusion_jax.errors import RunError, UserError

MODES = ("train", "sample", "likelihood")
RUN_FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main(argv: list[str]) -> int:
    """Runs one job.

    Returns:
        The exit code: 0; 2 for bad input; 1 for a run that failed; 128 + n for one that signal n stopped.
    """
    if {"--help", "-h", "--helpfull"} & set(argv):
        print(_help())
        return 0
    logging.set_verbosity(logging.FATAL)  # what orbax says of a failed save comes as our own sentence
    try:
        values = _parse(argv)
        schema.check(config := values.config.to_dict())
        job = importlib.import_module(f"diffusion_jax.jobs.{values.mode}")
        importlib.import_module("diffusion_jax.sharding").join_processes()
        if values.mode != "train":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX catches it where there are several processes
        out = {"out": storage.path(values.out)} if values.out else {}
        return job.run(config, storage.path(values.workdir), **out)
    except (UserError, RunError) as error:
        sentence = str(error).replace("\r", "\\r").replace("\n", "\\n")  # absl's repeat what was given as it is
        print(f"error: {sentence}", file=sys.stderr)
        return BAD_INPUT if isinstance(error, UserError) else RUN_FAILED
    except OSError as error:  # a full disk, a folder that became read-only, a share that went away
        print(f"error: {error}; what is written is complete, and the same command goes on.", file=sys.stderr)
        return RUN_FAILED
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; what is written is complete, and the same command goes on.", file=sys.stderr)
        return INTERRUPTED


def _parse(argv: list[str]) -> flags.FlagValues:
    """Returns the parsed flags. Without --config, every mode but training takes the config stored in the workdir.

    Raises:
        UserError: for an unknown flag or field, or a value that cannot be read.
    """
    for argument in argv[1:]:
        if match := re.match(r"--?(?:no)?config\.([\w.]+)", argument):
            schema.check_name(match[1])
    values = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", MODES, "", flag_values=values)
    flags.DEFINE_string("workdir", "", "", flag_values=values)
    flags.DEFINE_string("out", "", "", flag_values=values)
    if given := _flag(argv, "config"):
        if not storage.path(given.split(":")[0]).exists():
            raise UserError(f"flag --config = {given!r} is not a file; see configs/.")
        if not given.split(":")[0].endswith(".py"):
            raise UserError(f"flag --config = {given!r} is not a Python file with get_config(); see configs/.")
    stored = None if given else _stored_config(argv)
    try:
        if given:
            config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
        else:
            config_flags.DEFINE_config_dict("config", stored, "", flag_values=values, sys_argv=argv)
        rest = values(argv)[1:]
        config = values.config
    except Exception as wrapped:  # whatever a user's own Python file raises
        error = _unwrapped(wrapped)
        if isinstance(error, UserError | flags.Error):
            raise UserError(str(error)) from error
        what = f"flag --config = {given!r}" if given else "what the flags --config.<field> change"
        raise UserError(f"{what} cannot be loaded ({type(error).__name__}: {error}).") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"flag --config = {given!r}: its get_config() must return a ConfigDict.")
    if rest:
        raise UserError(f"argument {rest[0]!r} is not understood; flags look like --workdir=runs/digits.")
    if not values.workdir:
        raise UserError("flag --workdir is missing; it must be the folder of the run.")
    if values.out and values.mode == "train":
        raise UserError(f"flag --out = {values.out!r} is for the other modes; training writes into --workdir.")
    return values


def _unwrapped(error: BaseException) -> BaseException:
    """Returns what a config file raised, without the traceback that ml_collections makes its message of."""
    while "Error whilst parsing config file" in str(error) and error.__context__:
        error = error.__context__
    return error


def _stored_config(argv: list[str]) -> ConfigDict:
    if _flag(argv, "mode") in (None, "train"):
        raise UserError("flag --config is missing; training needs one, such as --config=configs/digits.py.")
    if not (workdir := _flag(argv, "workdir")):
        raise UserError("flag --workdir is missing; it must be the folder of the run.")
    config = schema.from_json(storage.read_text(storage.path(workdir) / "config.json", "the workdir of a run"))
    schema.check(config)
    return ConfigDict(config)


def _flag(argv: list[str], name: str) -> str | None:
    """Returns a flag's value before the flags are parsed: --name=value or --name value, the last one given."""
    found = None
    for i, argument in enumerate(argv):
        if match := re.fullmatch(rf"--?{name}=(.*)", argument):
            found = match[1]
        if argument in (f"--{name}", f"-{name}") and i + 1 < len(argv):
            found = argv[i + 1]
    return found


def _help() -> str:
    """Returns what --help prints: how to start, and every field with what it takes."""
    width = max(map(len, schema.FIELDS))
    fields = [f"    {name:<{width}}  {rule.allowed}" for name, rule in schema.FIELDS.items()]
    return f"{__doc__}\nConfig fields (what they mean stands in configs/cifar10.py):\n" + "\n".join(fields)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
