"""A command line: flags, a config with what the flags change in it, and errors as one sentence. Imports nothing slow."""

import re
import sys
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from diffusion_jax.compose import schema
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import storage

RUN_FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def answer(argv: list[str], help_text: Callable[[], str], job: Callable[[list[str]], int]) -> int:
    """Prints help where the user asks for it, or runs a job.

    Args:
        argv: as of the process.
        help_text: gives what to print.
        job: argv -> exit code; what it raises becomes a sentence.

    Returns:
        The exit code: the job's; 2 for bad input, 1 for a failure, 130 for Ctrl-C.
    """
    if {"--help", "-h", "--helpfull"} & set(argv):
        try:
            print(help_text(), flush=True)
        except BrokenPipeError:  # of `--help | head`
            sys.stdout = None
        return 0
    try:
        return job(argv)
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


def parse(argv: list[str], values: flags.FlagValues, stored: Callable[[], dict[str, Any]]) -> flags.FlagValues:
    """Returns the parsed flags, among them `config` with every --config.<field>; its values are not checked yet.

    Args:
        argv: as of the process.
        values: with the flags of the program defined, but for --config.
        stored: gives the nested config where there is no --config.

    Raises:
        UserError: for an unknown flag or field, or a value that cannot be read.
    """
    for argument in argv[1:]:
        if match := re.match(r"--?(?:no)?config\.([\w.]+)", argument):
            schema.check_name(match[1])
        if (match := re.match(r"--?(?:no)?([\w.]+)", argument)) and match[1] in schema.FIELDS:
            raise UserError(f"flag --{match[1]} is unknown; a field of the config is set by --config.{match[1]}.")
    given = value_of(argv, "config")
    _check_file(given)
    base = None if given else ConfigDict(stored())
    try:
        if given:
            config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
        else:
            config_flags.DEFINE_config_dict("config", base, "", flag_values=values, sys_argv=argv)
        rest = values(argv)[1:]
        config = values.config
    except Exception as wrapped:  # whatever a user's own Python file raises
        error = _unwrapped(wrapped)
        if match := re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL):
            schema.check_name(match[1])
            raise UserError(schema.not_allowed(match[1], match[2])) from error
        if isinstance(error, UserError | flags.Error):
            raise UserError(str(error)) from error
        what = f"flag --config = {given!r}" if given else "what the flags --config.<field> change"
        raise UserError(f"{what} cannot be loaded ({type(error).__name__}: {error}).") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"flag --config = {given!r}: its get_config() must return a ConfigDict.")
    if rest:
        raise UserError(f"argument {rest[0]!r} is not understood; flags look like --name=value.")
    return values


def value_of(argv: list[str], name: str) -> str | None:
    """Returns a flag's value before the flags are parsed: --name=value or --name value, the last one given."""
    found = None
    for i, argument in enumerate(argv):
        if match := re.fullmatch(rf"--?{name}=(.*)", argument):
            found = match[1]
        if argument in (f"--{name}", f"-{name}") and i + 1 < len(argv):
            found = argv[i + 1]
    return found


def _check_file(given: str | None) -> None:
    if not given:
        return
    if not storage.path(given.split(":")[0]).exists():
        raise UserError(f"flag --config = {given!r} is not a file; see configs/.")
    if not given.split(":")[0].endswith(".py"):
        raise UserError(f"flag --config = {given!r} is not a Python file with get_config(); see configs/.")


def _unwrapped(error: BaseException) -> BaseException:
    """Returns what a config file raised, without the traceback that ml_collections makes its message of."""
    while "Error whilst parsing config file" in str(error) and error.__context__:
        error = error.__context__
    return error
