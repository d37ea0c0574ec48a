"""Every path of a workdir, an output or a data set: folders and object stores (gs://) alike.

Writes are atomic: a reader finds the old file or the new one. In a folder that takes a temporary name and a rename; an
object store has no rename, but there an object appears whole or not at all. Nothing here trusts a listing, which may be
late.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from etils import epath

from diffusion_jax.errors import UserError

Path = epath.Path


def path(name: str | os.PathLike) -> Path:
    """Returns a path, with ~ expanded."""
    scheme, colon, _ = str(name).partition("://")
    if colon and scheme not in ("gs", "s3", "az"):
        raise UserError(f"path {str(name)!r} has an unknown scheme; it must be a path of this machine, or gs://.")
    return epath.Path(name).expanduser()


def absolute(name: Path) -> Path:
    """Returns a folder's absolute path, which orbax needs."""
    return name if is_object_store(name) else epath.Path(os.path.abspath(name))


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


def read_text(name: Path, kind: str) -> str:
    """Returns a text file's content.

    Args:
        name: of the file.
        kind: what its folder should be, for the error.

    Raises:
        UserError: if the file does not exist.
    """
    if not name.exists():
        folder = repr(str(name.parent))
        found = f"{folder} has no {name.name}" if name.parent.exists() else f"there is no folder {folder}"
        raise UserError(f"{found}; it must be {kind}.")
    try:
        return name.read_text()
    except UnicodeDecodeError as error:
        raise UserError(f"file {str(name)!r} is damaged: it is not text ({error}).") from error


def append_text(name: Path, content: str) -> None:
    """Adds whole lines to a text file; an object store rewrites the object."""
    if is_object_store(name):
        write_text(name, (name.read_text() if name.exists() else "") + content)
        return
    name.parent.mkdir(parents=True, exist_ok=True)
    with name.open("a") as file:
        file.write(content)


def files(folder: Path, suffixes: tuple[str, ...], above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yields the files of a folder and its sub-folders that end so, in any case; names that begin with a dot are hidden.

    Links are followed, but not to a folder `above`: that would not end.
    """
    real = str(folder) if is_object_store(folder) else os.path.realpath(folder)
    if real in above:
        return
    for child in folder.iterdir():
        if child.name.startswith("."):
            continue
        if child.suffix.lower() in suffixes:
            yield child
        elif child.is_dir():
            yield from files(child, suffixes, above | {real})


def make_dir(name: Path) -> None:
    """Makes a folder and its parents.

    Raises:
        UserError: where that is impossible.
    """
    try:
        name.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder {str(name)!r} cannot be made: {error.strerror}.") from error
