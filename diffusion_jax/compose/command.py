"""A command line: flags, a config with what the flags change in it, and errors as one sentence. Imports nothing slow."""

import ast
import difflib
import importlib.util
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from diffusion_jax.compose import sections
from diffusion_jax.compose.config import FIELDS, Config
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import storage
from diffusion_jax.runs.shards import flatten

RUN_FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
Flags = Mapping[str, str]
UNREADABLE = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)  # what ast.literal_eval raises


class Parsed(NamedTuple):
    """What a command line says.

    Attributes:
        flags: {name: value} of the program's own flags.
        config: with every --config.<field>.
        given: the fields that these name.
    """

    flags: Flags
    config: Config
    given: tuple[str, ...]


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
        sentence = str(error).replace("\r", "\\r").replace("\n", "\\n")  # some repeat what was given as it is
        print(f"error: {sentence}", file=sys.stderr)
        return BAD_INPUT if isinstance(error, UserError) else RUN_FAILED
    except OSError as error:  # a full disk, a folder that became read-only, a share that went away
        print(f"error: {error}; all written files are complete; the same command resumes.", file=sys.stderr)
        return RUN_FAILED
    except KeyboardInterrupt:
        print("stopped by Ctrl-C; all written files are complete; the same command resumes.", file=sys.stderr)
        return INTERRUPTED


def parse(argv: list[str], defaults: Flags, stored: Callable[[Flags], Config]) -> Parsed:
    """Returns what a command line says: --name=value or --name value, and the same of --config.<field>; the last one counts.

    Args:
        argv: as of the process.
        defaults: {name: value} of the program's flags, but for --config.
        stored: flags -> the config where there is no --config.

    Raises:
        UserError: for an unknown flag or field, or a value that is not allowed.
    """
    flags, changes = {**defaults, "config": ""}, {}
    for name, text in _pairs(argv[1:]):
        if name.startswith("config."):
            sections.check_name(field := name.removeprefix("config."), FIELDS)
            changes[field] = _value(text, type(FIELDS[field].default))
        else:
            _check_flag(name, flags)
            flags[name] = text
    file = flags.pop("config")
    base = flatten(_load(file)) if file else stored(flags).flat()
    return Parsed(flags, Config.of_flat(base | changes), tuple(changes))


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    """Yields (name, value) of each flag."""
    rest = iter(words)
    for word in rest:
        if not (match := re.fullmatch(r"--?([^-=][^=]*)(?:=(.*))?", word, re.DOTALL)):
            raise UserError(f"argument {word!r} is not understood; flags look like --name=value.")
        name, value = match.groups()
        if value is None and (value := next(rest, "--")).startswith("--"):
            raise UserError(f"flag --{name} has no value; flags look like --name=value.")
        yield name, value


def _check_flag(name: str, known: Flags) -> None:
    if name in known:
        return
    if name in FIELDS:
        raise UserError(f"flag --{name} is unknown; a field of the config is set by --config.{name}.")
    if not name[0].isalpha():
        raise UserError(f"flag --{name} is unknown.")
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean --{close[0]}? Known" if close else "known"
    raise UserError(f"flag --{name} is unknown; {hint}: {', '.join(f'--{flag}' for flag in sorted(known))}.")


def _value(text: str, kind: type) -> Any:
    """Returns a value as a field of some type has it; the text itself where it cannot be read, which no such field takes."""
    if kind is str:
        return text
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        with warnings.catch_warnings(action="ignore"):  # such as for 1if
            value = float(text) if text.lower() in ("inf", "nan") else ast.literal_eval(text)
    except UNREADABLE:
        return text
    return tuple(value) if isinstance(value, list) else value


def _load(given: str) -> dict[str, Any]:
    """Returns the nested config of a Python file, FILE or FILE:ARGUMENT for its get_config()."""
    file, colon, argument = given.partition(":")
    if not storage.path(file).exists():
        raise UserError(f"flag --config = {given!r} is not a file; see configs/.")
    if not file.endswith(".py"):
        raise UserError(f"flag --config = {given!r} is not a Python file with get_config(); see configs/.")
    spec = importlib.util.spec_from_file_location("config_file", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*[argument] * bool(colon))
    except UserError:
        raise
    except Exception as error:  # whatever a user's own file raises
        raise UserError(f"flag --config = {given!r} cannot be loaded ({type(error).__name__}: {error}).") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"flag --config = {given!r}: its get_config() must return a ConfigDict.")
    return config.to_dict()
