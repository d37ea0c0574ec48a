"""Where a published model is: on this machine, at a URL, or on the Hugging Face hub."""

import hashlib
import re
import urllib.request
from typing import BinaryIO

from diffusion_jax import errors
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import logs, storage

WAIT = 60  # seconds without a byte that end a download
PIECE = 2**20  # bytes
NOT_READ = ["*.fp16.*", "*non_ema*", "*pruned*", "safety_checker/*"]  # the same again in other files, and a classifier


def local(given: str) -> storage.Path:
    """Returns where a model lies on this machine; what is elsewhere is downloaded into the user's cache first, once.

    Raises RunError where a download fails, UserError where the hub's package is missing.

    Args:
        given: a path, a URL, or 'owner/name' of the Hugging Face hub, such as 'google/ddpm-cifar10-32', if it is no path.
    """
    if given.startswith(("http://", "https://")):
        return _of_url(given)
    place = storage.path(given)
    is_here = place.exists() or place.with_name(f"{place.name}.index").exists()
    return place if is_here or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", given) else _of_hub(given)


def _of_url(url: str) -> storage.Path:
    name = re.sub(r"[^\w.-]", "_", url.partition("?")[0].rpartition("/")[2]) or "weights"
    place = hashlib.sha256(url.encode()).hexdigest()[:8]  # many files have the same name, and a name may say whose they are
    file = storage.user_cache() / "weights" / place / name
    if file.exists():
        logs.say("weights", f"{file} was downloaded before; remove it to download it again")
        return file
    try:
        with urllib.request.urlopen(url, timeout=WAIT) as answer, storage.writing(file) as out:
            _copy(answer, out, int(answer.headers.get("Content-Length") or 0))
    except (OSError, ValueError) as error:  # URLError is an OSError
        raise RunError(f"{url} cannot be downloaded ({error}); try again, or give --from the file.") from error
    logs.say("weights", f"{url} is now {file}")
    return file


def _copy(answer: BinaryIO, out: BinaryIO, total: int) -> None:
    progress, done = logs.Progress("MB", total=max(total // 10**6, 1)), 0
    while piece := answer.read(PIECE):
        out.write(piece)
        done += len(piece)
        progress.update(done // 10**6)
    logs.clear_progress()
    if total and done != total:
        raise OSError(f"it ended after {done:,} of {total:,} bytes")


def _of_hub(name: str) -> storage.Path:
    """Returns the folder of a model of the hub; of its weights .safetensors are preferred to .bin."""
    missing = (
        f"flag --from = {name!r} is no path here; if it is a model of the Hugging Face hub: pip install huggingface_hub."
    )
    huggingface_hub = errors.needed("huggingface_hub", missing)
    try:
        for kind in ("*.safetensors", "*.bin"):
            wanted = ["*.json", "*/merges.txt", kind]
            folder = huggingface_hub.snapshot_download(name, allow_patterns=wanted, ignore_patterns=NOT_READ)
            if any(file.name.endswith(kind[1:]) for file in storage.files(storage.path(folder), (kind[1:],))):
                return storage.path(folder)
    except Exception as error:  # the hub's package has many names for what it does not get
        reason = errors.first_line(error)
        raise RunError(
            f"{name!r} of the Hugging Face hub cannot be downloaded ({type(error).__name__}: {reason})."
        ) from error
    raise UserError(f"{name!r} of the Hugging Face hub has no weights: neither .safetensors nor .bin.")
