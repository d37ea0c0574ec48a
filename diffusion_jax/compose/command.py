"""A command line: flags, a config with what the flags change in it, and errors as one sentence."""

import ast
import contextlib
import difflib
import functools
import importlib
import importlib.util
import os
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from diffusion_jax import errors
from diffusion_jax.compose import sections, stored
from diffusion_jax.compose.config import FIELDS, Config
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import logs, storage
from diffusion_jax.runs.shards import flatten

RUN_FAILED, BAD_INPUT = 1, 2
PACKAGE, ABOVE = storage.path(__file__).parents[1:3]
CONFIGS = (PACKAGE if (PACKAGE / "configs").is_dir() else ABOVE) / "configs"  # of an installed package; of a clone
RESUMABLE = "all written files are complete; the same command resumes."
Job = Callable[[list[str]], int]  # argv, as of the process -> exit code; what it raises becomes a sentence
Flags = Mapping[str, str]  # name -> value
Changes = Mapping[str, Any]  # field of the config -> value
MOST_DIGITS = 9  # of a whole number
UNREADABLE = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)  # what ast.literal_eval raises


def answer(argv: list[str], help_text: Callable[[], str], job: Job) -> int:
    """Prints help where the user asks for it, or runs a job.

    Args:
        argv: as of the process.
        help_text: gives what to print.

    Returns:
        The exit code: the job's; 2 for bad input, 1 for a failure, 128 + the number of a signal: 130 for Ctrl-C.
    """
    logs.guard_console()
    logging.set_verbosity(logging.FATAL)  # what orbax says of a failed save comes as our own sentence
    if {"--help", "-h", "--helpfull"} & set(argv):
        print(help_text(), flush=True)
        return 0
    try:
        return job(argv)
    except KeyboardInterrupt:
        print(f"stopped by Ctrl-C; {RESUMABLE}", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return BAD_INPUT if isinstance(error, UserError) else RUN_FAILED


def program(help_text: str) -> Callable[[Job], Job]:
    """Returns a decorator by which a job becomes the `main` of a program: it answers as `answer` does."""

    def decorated(job: Job) -> Job:
        return functools.wraps(job)(lambda argv: answer(argv, lambda: help_text, job))

    return decorated


def interrupt(number: int, frame: Any) -> None:
    """Ends the process at a signal, with a sentence; JAX's callbacks would swallow an exception."""
    by = "Ctrl-C" if number == signal.SIGINT else f"signal {number}"
    print(f"stopped by {by}; {RESUMABLE}", file=sys.stderr, flush=True)
    os._exit(128 + number)


def sentence(error: Exception) -> str:
    """Returns in one line what a job raised; the trace of what nobody foresaw goes into a file."""
    if isinstance(error, (UserError, RunError)):
        return str(error).replace("\r", "\\r").replace("\n", "\\n")  # some repeat what was given as it is
    said = errors.first_line(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in said:
        return (
            f"memory does not suffice ({said or 'MemoryError'}); set train.num_microbatches = 2 or more, a smaller "
            "train.batch_size or sample.batch_per_device, model.num_remat_stages = 1 or more, or model.dtype = 'bfloat16'."
        )
    if isinstance(error, OSError):  # a full disk, a folder that became read-only, a share that went away
        return f"{error}; {RESUMABLE}"
    if said == errors.DISK_FULL:  # TensorStore has no OSError
        return f"{said}; {RESUMABLE}"
    file = storage.path(tempfile.gettempdir()) / f"diffusion_jax_{os.getpid()}.txt"
    with contextlib.suppress(OSError):
        storage.write_text(file, "".join(traceback.format_exception(error)))
    return f"{type(error).__name__}: {said}; please report it with the trace in {file}; {RESUMABLE}"


def parse(argv: list[str], defaults: Flags, *, fields: Collection[str] = FIELDS) -> tuple[Flags, Changes]:
    """Returns what a command line says: --name=value or --name value, and the same of --config.<field>; the last one counts.

    --flagfile=FILE stands for the flags in a file, as in absl: one a line, but for empty lines and comments with # or //.

    Args:
        argv: as of the process.
        defaults: the program's flags, but for --config.
        fields: of the config, that have an effect on the program.

    Raises:
        UserError: for an unknown flag or field, or a field without effect.
    """
    flags, changes = {**defaults, "config": "", "flagfile": ""}, {}
    for name, text in pairs(argv[1:]):
        if name.startswith("config."):
            sections.check_name(field := name.removeprefix("config."), FIELDS)
            if field not in fields:
                raise UserError(f"config field {field} has no effect on this program; leave it out.")
            changes[field] = value(field, text)
        else:
            _check_flag(name, flags, fields)
            flags[name] = text
    if flags["config"] and not fields:
        raise UserError("flag --config has no effect on this program; leave it out.")
    return flags, changes


def check_given(flags: Flags, allowed: Mapping[str, str]) -> None:
    """Raises UserError for the first of some flags that is not given; `allowed` says what each must be."""
    for name, wanted in allowed.items():
        if not flags[name]:
            raise UserError(f"flag --{name} is missing; it must be {wanted}.")


def check_allowed(flags: Flags, name: str, is_allowed: bool, wanted: str, *, it: str = "it") -> None:
    """Raises UserError, with what a flag must be, where its value is not allowed; `it` as of `errors.it`."""
    if not is_allowed:
        raise UserError(f"flag --{name} = {flags[name]!r} is not allowed; {it} must be {wanted}.")


def check_one_of(flags: Flags, name: str, allowed: Collection[str]) -> None:
    """Raises UserError where a flag is not one of some words."""
    wanted, it = f"one of {', '.join(allowed)}", errors.it(flags[name], allowed)
    check_allowed(flags, name, flags[name] in allowed, wanted, it=it)


def whole_number(flags: Flags, name: str, *, low: int = 1) -> int:
    """Returns a flag that is a whole number of at most nine digits; UserError where it is something else, or below `low`."""
    text = flags[name]
    is_allowed = text.isdecimal() and len(text) <= MOST_DIGITS and int(text) >= low
    check_allowed(flags, name, is_allowed, f"a whole number from {low} on, of at most {MOST_DIGITS} digits")
    return int(text)


def make_out(out: storage.Path, names: Collection[str]) -> None:
    """Makes the folder --out for files of some names; UserError where it has others than what a killed command left."""
    storage.check_folder(out)
    storage.make_dir(out)
    if others := sorted(file.name for file in out.iterdir() if file.name not in names and not file.name.startswith(".")):
        raise UserError(f"flag --out = {str(out)!r} has other files, such as {others[0]!r}; choose another folder.")


def config_of(flags: Flags, changes: Changes, workdir: str = "") -> Config:
    """Returns the config of the file that --config names, or else that of the run in a workdir, with changes.

    Raises:
        UserError: where there is neither, or for a value that is not allowed.
    """
    if flags["config"]:
        base = _load(flags["config"], changes)
    elif workdir:
        base = stored.read_config(storage.path(workdir)).flat()
    else:
        raise UserError("flag --config is missing; it must be a file of configs/, such as configs/digits.py.")
    return Config.of_flat(base | changes)


def pairs(words: list[str], within: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yields (name, value) of each flag; `within` are the files of flags that these words are in."""
    rest = iter(words)
    for word in rest:
        if not (match := re.fullmatch(r"--?([^-=][^=]*)(?:=(.*))?", word, re.DOTALL)):
            raise UserError(f"argument {word!r} is not understood; flags look like --name=value.")
        name, value = match.groups()
        if value is None and (value := next(rest, "--")).startswith("--"):
            raise UserError(f"flag --{name} has no value; flags look like --name=value.")
        if name == "flagfile" and value in within:
            raise UserError(f"flag --flagfile = {value!r} is in that file itself.")
        yield from pairs(_lines(value), (*within, value)) if name == "flagfile" else [(name, value)]


def _lines(flagfile: str) -> list[str]:
    """Returns the flags in a file."""
    if not flagfile or not (file := storage.path(flagfile)).exists():
        raise UserError(f"flag --flagfile = {flagfile!r} is not a file.")
    lines = [line.strip() for line in storage.read_text(file, "a file of flags").splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "//"))]


def _check_flag(name: str, known: Flags, fields: Collection[str]) -> None:
    if name in known:
        return
    if meant := [field for field in fields if name in (field, field.rpartition(".")[2])]:
        wanted = " or ".join(f"--config.{field}" for field in meant)
        raise UserError(f"flag --{name} is unknown; a field of the config is set by {wanted}.")
    if not name[0].isalpha():
        raise UserError(f"flag --{name} is unknown.")
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean --{close[0]}? Known" if close else sections.hint(name, fields, prefix="--config.")
    raise UserError(f"flag --{name} is unknown; {hint}: {', '.join(f'--{flag}' for flag in sorted(known))}.")


def value(field: str, text: str) -> Any:
    """Returns a value as a field has it; the text itself where it cannot be read, which no such field takes."""
    kind = type(FIELDS[field].default)
    if kind is str:
        return text
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        with warnings.catch_warnings(action="ignore"):  # such as for 1if
            found = float(text) if text.lower() in ("inf", "nan") else ast.literal_eval(text)
    except UNREADABLE:
        return text
    return tuple(found) if isinstance(found, list) else found


def _hint_of_configs(name: str) -> str:
    """Returns which config may have been meant, and which there are."""
    known = sorted(file.stem for file in CONFIGS.glob("[a-z]*.py"))
    close = difflib.get_close_matches(storage.path(name).stem, known, n=1)
    meant = f"did you mean configs/{close[0]}.py? " if close else ""
    return f"{meant}configs/ has {', '.join(known)}."


def _load(given: str, changes: Changes) -> dict[str, Any]:
    """Returns the flat config of a Python file, FILE or FILE:ARGUMENT for its get_config()."""
    name, colon, argument = given.partition(":")
    if not (file := storage.path(name)).exists() and name.startswith("configs/"):
        file = CONFIGS / name.removeprefix("configs/")
    if not file.exists():
        raise UserError(f"flag --config = {given!r} is not a file; {_hint_of_configs(name)}")
    if file.suffix != ".py":
        raise UserError(f"flag --config = {given!r} is not a Python file with get_config(); see configs/.")
    spec = importlib.util.spec_from_file_location("config_file", file)
    module = importlib.util.module_from_spec(spec)
    with contextlib.suppress(ModuleNotFoundError):  # of an installed package: by this name its configs import each other
        sys.modules.setdefault("configs", importlib.import_module("diffusion_jax.configs"))
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*[argument] * bool(colon))
        if not isinstance(config, ConfigDict):
            raise UserError(f"flag --config = {given!r}: its get_config() must return a ConfigDict.")
        return _with_references(config, changes)
    except UserError:
        raise
    except Exception as error:  # whatever a user's own file raises
        raise UserError(f"flag --config = {given!r} cannot be loaded ({type(error).__name__}: {error}).") from error


def _with_references(config: ConfigDict, changes: Changes) -> dict[str, Any]:
    """Returns the flat config whose references, such as config.train.get_ref("num_steps") // 8, are of changed fields."""
    before = flatten(config.to_dict())
    Config.of_flat(before | changes)  # what is not allowed is a sentence here, and no error of a reference
    with config.ignore_type():
        config.update_from_flattened_dict({name: value for name, value in changes.items() if name in before})
    return flatten(config.to_dict())
