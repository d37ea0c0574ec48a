"""Every path of a workdir, an output or a data set: folders and object stores (gs://) alike.

Writes are atomic: a reader finds the old file or the new one. In a folder that takes a temporary name and a rename; an
object store has no rename, but there an object appears whole or not at all. Nothing here trusts a listing, which may be
late.
"""

import contextlib
import io
import json
import os
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

from etils import epath

from diffusion_jax.errors import UserError

Path = epath.Path
FEWEST_FILES = 128  # open at once
MOST_TEXT = 2**24  # bytes of a config or a manifest


def path(name: str | os.PathLike) -> Path:
    """Returns a path, with ~ expanded."""
    scheme, colon, _ = str(name).partition("://")
    if colon and scheme not in ("gs", "s3", "az"):
        raise UserError(f"path {str(name)!r} has an unknown scheme; it must be a path of this machine, or gs://.")
    return epath.Path(name).expanduser()


def quoted(name: Path) -> str:
    """Returns a path as a shell takes it, for commands that are said."""
    return shlex.quote(str(name))


def absolute(name: Path) -> Path:
    """Returns a folder's absolute path, which orbax needs.

    Raises UserError where orbax would write elsewhere than Python: its paths are UTF-8 in any locale.
    """
    if is_object_store(name):
        return name
    found, encoding = os.path.abspath(name), sys.getfilesystemencoding()
    if found.encode("utf-8", "surrogatepass") != os.fsencode(found):
        raise UserError(f"path {found!r} is not UTF-8 where the locale is {encoding}; rename it, or set LC_ALL=C.UTF-8.")
    return epath.Path(found)


def check_folder(name: Path) -> None:
    """Raises UserError where a path cannot be a folder: on the way is a file, or a link to nothing."""
    way = [] if is_object_store(name) else [name, *name.parents]
    for place in way:
        if os.path.islink(place) and not os.path.exists(place):
            raise UserError(f"{str(place)!r} is a link to {os.readlink(place)!r}, where nothing is; it must be a folder.")
        if os.path.exists(place) and not os.path.isdir(place):
            raise UserError(f"{str(place)!r} is a file; it must be a folder.")


def allow_files() -> None:
    """Lets this process open at least `FEWEST_FILES` at once, which orbax needs; UserError where it may not."""
    try:
        import resource  # not on Windows, which has no such limit
    except ImportError:
        return
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= most < FEWEST_FILES:
        raise UserError(f"a process may open {most} files at once here; allow {FEWEST_FILES} or more by `ulimit -n`.")
    if 0 <= soft < FEWEST_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FEWEST_FILES, most))


def real(name: Path) -> Path:
    """Returns where a path leads, links followed."""
    return name if is_object_store(name) else epath.Path(os.path.realpath(name))


def is_inside(folder: Path, other: Path) -> bool:
    """Returns whether a folder is another one, or lies in it, links followed."""
    return real(other) in (real(folder), *real(folder).parents)


def check_own(folder: Path, names: Collection[str]) -> None:
    """Raises UserError where a file or a folder in a folder is a link: what is written there would be somebody else's."""
    for name in names:
        if not is_object_store(folder) and os.path.islink(folder / name):
            raise UserError(
                f"{str(folder / name)!r} is a link to {os.readlink(folder / name)!r}. A run writes and removes only what is "
                "in its own folder: remove the link, or link the whole folder."
            )


def is_object_store(name: Path) -> bool:
    """Returns whether a path has a scheme, as gs:// has."""
    return "://" in str(name)


def user_cache() -> Path:
    """Returns the user's cache folder: $XDG_CACHE_HOME/diffusion_jax, by default in ~/.cache."""
    return path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "diffusion_jax"


@contextlib.contextmanager
def writing(name: Path) -> Iterator[BinaryIO]:
    """Yields a file to write. It has a temporary name until it is whole; its folder is made where it is missing."""
    name.parent.mkdir(parents=True, exist_ok=True)
    if is_object_store(name):
        with tempfile.TemporaryFile() as local:
            yield local
            local.seek(0)
            with name.open("wb") as remote:
                shutil.copyfileobj(local, remote)
        return
    temporary = name.parent / f".{name.name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(name)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(name: Path, content: bytes) -> None:
    """Writes a file atomically, making its folder where it is missing."""
    with writing(name) as file:
        file.write(content)


def write_text(name: Path, content: str) -> None:
    """Writes a text file atomically."""
    write_bytes(name, content.encode())


@contextlib.contextmanager
def reading(name: Path, part: tuple[int, int] | None = None) -> Iterator[BinaryIO]:
    """Yields a file to read, the way in which every file of a user is opened: a pipe or a device never keeps it waiting.

    Raises OSError where it cannot be read, or is not a regular file.

    Args:
        name: of the file.
        part: (first byte, bytes) of what to yield of it; None for all.
    """
    if part:
        with reading(name) as whole:
            whole.seek(part[0])
            yield io.BytesIO(whole.read(part[1]))
        return
    if is_object_store(name):
        with name.open("rb") as file:
            yield file
        return
    descriptor = os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
    if not is_regular:
        os.close(descriptor)
        raise OSError(f"{str(name)!r} is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def read_bytes(name: Path) -> bytes:
    """Returns a file's content; errors as for `reading`."""
    with reading(name) as file:
        return file.read()


def read_text(name: Path, kind: str) -> str:
    """Returns the content of a text file, of at most `MOST_TEXT` bytes.

    Raises UserError where it cannot be read, is not text, or is not there: its folder must be `kind`, it then says.
    """
    if not name.exists():
        folder = repr(str(name.parent))
        found = f"{folder} has no {name.name}" if name.parent.exists() else f"there is no folder {folder}"
        raise UserError(f"{found}; it must be {kind}.")
    try:
        with reading(name) as file:
            if file.seek(0, io.SEEK_END) > MOST_TEXT:
                raise UserError(f"file {str(name)!r} is damaged: it is larger than {MOST_TEXT:,} bytes.")
            file.seek(0)
            return file.read().decode()
    except OSError as error:
        raise UserError(f"file {str(name)!r} cannot be read ({error}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"file {str(name)!r} is damaged: it is not text ({error}).") from error


def read_json(name: Path, kind: str) -> Any:
    """Returns what a JSON file holds; UserError where it is damaged, and as for `read_text`."""
    text = read_text(name, kind)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"file {str(name)!r} is damaged: it is not JSON ({error}).") from error


def append_text(name: Path, content: str) -> None:
    """Adds whole lines to a text file; an object store rewrites the object."""
    if is_object_store(name):
        write_text(name, (name.read_text() if name.exists() else "") + content)
        return
    name.parent.mkdir(parents=True, exist_ok=True)
    with name.open("a") as file:
        file.write(content)


def files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Yields what lies in a folder and its sub-folders and is not a folder; names that begin with a dot are hidden.

    Links are followed, and each folder is visited once. So links that lead to each other end. An object store is not asked
    what has one of the suffixes: it is a file. Raises OSError where a folder cannot be read.
    """
    waiting, seen = [folder], set()
    while waiting:
        here = waiting.pop()
        if (place := real(here)) in seen:
            continue
        seen.add(place)
        found, folders = _entries(here, suffixes)
        yield from found
        waiting += reversed(folders)


def _entries(folder: Path, suffixes: tuple[str, ...]) -> tuple[list[Path], list[Path]]:
    """Returns (what is not a folder, the sub-folders) of a folder, both by name."""
    if is_object_store(folder):
        shown = sorted(child for child in folder.iterdir() if not child.name.startswith("."))
        folders = [child for child in shown if child.suffix.lower() not in suffixes and child.is_dir()]
        return [child for child in shown if child not in folders], folders
    with os.scandir(folder) as scanned:
        shown = sorted((entry for entry in scanned if not entry.name.startswith(".")), key=lambda entry: entry.name)
    folders = [folder / entry.name for entry in shown if entry.is_dir()]
    return [folder / entry.name for entry in shown if not entry.is_dir()], folders


def make_dir(name: Path) -> None:
    """Makes a folder and its parents; UserError where that is impossible."""
    try:
        name.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder {str(name)!r} cannot be made: {error.strerror}.") from error
