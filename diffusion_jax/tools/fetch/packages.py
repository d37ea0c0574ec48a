"""Packages of Debian, npm and PyPI: got by the ordinary client, which checks what it gets, or given as a file."""

import contextlib
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import logs, storage
from diffusion_jax.tools.fetch import archives
from diffusion_jax.tools.fetch.archives import Wanted

MOST_PACKED = 2**30  # bytes of a package
HINTS = {
    "espeak-ng": "it speaks (apt install espeak-ng, or brew install espeak-ng)",
    "apt-get": "it comes with Debian and Ubuntu; elsewhere give --package=FILE.deb, the package from the site of Debian",
    "npm": "it comes with Node.js (https://nodejs.org, or apt install npm)",
    "node": "it is Node.js (https://nodejs.org, or apt install nodejs)",
}


class Package(NamedTuple):
    """A package as it was got."""

    name: str
    version: str
    sha256: str  # of the package's file
    content: bytes
    file: str  # its name, for sentences

    def files(self, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
        """Yields (path, content) of the files that are wanted; UserError where the package is damaged.

        Paths are those that a Debian package installs, without the first '/', those of an npm package after
        'package/'.
        """
        with understood(self.file):
            yield from _files(self.content, self.file, "data", wanted)

    def about(self) -> dict[str, str]:
        """Returns what about.json says of it."""
        return {"package": self.name, "version": self.version, "sha256": self.sha256}


def of_apt(name: str, *, tried: str, given: str = "") -> Package:
    """Returns a Debian package as apt-get has it for this machine.

    Raises UserError where apt-get is missing, or the file is another package; RunError where the download fails.

    Args:
        tried: the version of which the documents speak; another one is used, and said.
        given: the package's file, where it is here already.
    """
    return _got(name, tried, ["apt-get", "download", name], ".deb", given)


def of_npm(name: str, *, tried: str, given: str = "") -> Package:
    """Returns a package of npm, in the version that was tried where it is not given; errors and arguments as of `of_apt`."""
    return _got(name, tried, ["npm", "pack", "--loglevel=error", "--ignore-scripts", f"{name}@{tried}"], ".tgz", given)


def of_pip(name: str, *, tried: str, given: str = "") -> Package:
    """Returns a package of PyPI, as `of_npm` does one of npm."""
    download = ["download", "--quiet", "--no-deps", "--only-binary=:all:", f"{name}=={tried}"]
    return _got(name, tried, [sys.executable, "-m", "pip", *download], ".whl", given)


@contextlib.contextmanager
def understood(file: str) -> Iterator[None]:
    """Raises UserError, which names a package, where what is read from it in this context cannot be."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # tarfile, the compressions, JSON and Pillow have dozens of names for a damaged file
        raise UserError(f"package {file!r} is damaged, or not as expected ({type(error).__name__}: {error}).") from error


def ask(command: Sequence[str], folder: str) -> str:
    """Returns what a client prints that is run in a folder.

    Raises UserError where it is not installed, RunError with its own words if it fails.
    """
    try:
        ended = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
    except FileNotFoundError as error:
        raise UserError(missing(command[0])) from error
    if ended.returncode:
        hint = "; `apt-get update` brings its lists up to date" if command[0] == "apt-get" else ""
        raise RunError(f"`{' '.join(command)}` failed: {_complaint(ended.stderr) or f'exit code {ended.returncode}'}{hint}.")
    return ended.stdout


def _complaint(said: str) -> str:
    """Returns the first errors that a client printed, in one line."""
    lines = said.splitlines()
    errors = [line.removeprefix("npm error ") for line in lines if line.startswith(("E: ", "npm error "))] or lines
    return "; ".join(line.strip() for line in errors[:4]).rstrip(".")[:300]


def missing(client: str) -> str:
    """Returns the sentence of a client that is not installed."""
    return f"{client} is needed, and not installed; {HINTS[client]}."


def _got(name: str, tried: str, command: Sequence[str], suffix: str, given: str) -> Package:
    package = _read(name, storage.path(given), suffix) if given else _downloaded(name, command, suffix)
    if package.version != tried:
        logs.say("warning", f"{name} is of version {package.version}; the documents speak of {tried}.")
    return package


def _downloaded(name: str, command: Sequence[str], suffix: str) -> Package:
    with tempfile.TemporaryDirectory() as folder:
        logs.say("package", f"{' '.join(command)} ...")
        ask(command, folder)
        found = [file for file in storage.path(folder).iterdir() if file.suffix == suffix]
        if not found:
            raise RunError(f"`{' '.join(command)}` did not leave a {suffix} file.")
        return _read(name, found[0], suffix)


def _read(name: str, file: storage.Path, suffix: str) -> Package:
    """Returns a package from its file; UserError where that is not it."""
    if file.suffix != suffix or not file.exists() or file.is_dir():
        fault = f"is not a {suffix} file" if file.exists() else "does not exist"
        raise UserError(f"flag --package = {str(file)!r} {fault}; it must be the package {name}, a {suffix} file.")
    if file.stat().length > MOST_PACKED:
        raise UserError(f"package {str(file)!r} has more than {MOST_PACKED:,} bytes.")
    content = storage.read_bytes(file)
    with understood(file.name):
        found, version = _identity(content, file.name)
    if found != name:
        raise UserError(f"package {str(file)!r} is {found!r}; it must be {name!r}.")
    digest = hashlib.sha256(content).hexdigest()
    logs.say("package", f"{name} {version}, {len(content) / 1e6:.1f} MB, sha256 {digest}")
    return Package(name, version, digest, content, file.name)


def _identity(content: bytes, file: str) -> tuple[str, str]:
    """Returns the (name, version) that a package says of itself."""
    inside = {"deb": "control", "whl": "METADATA"}.get(file[-3:], "package.json")
    found = _files(content, file, "control", lambda path: path.rpartition(".dist-info/")[2] == inside)
    text = b"".join(content for _, content in found).decode()
    if inside == "package.json":
        said = json.loads(text)
        return str(said["name"]), str(said["version"])
    fields = dict(re.findall(r"^(Name|Package|Version): *(\S+)", text, flags=re.MULTILINE))
    return fields.get("Name") or fields["Package"], fields["Version"]


def _files(content: bytes, file: str, part: str, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    if file.endswith(".deb"):
        yield from archives.deb(content, part, wanted)
        return
    if file.endswith(".whl"):
        yield from archives.whl(content, wanted)
        return
    for path, unpacked in archives.tgz(content, lambda path: wanted(path.removeprefix("package/"))):
        yield path.removeprefix("package/"), unpacked
