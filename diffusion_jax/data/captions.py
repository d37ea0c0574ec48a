"""The captions of images, as users have them: lines of a metadata.jsonl, or a .txt file beside each image."""

import json
from collections.abc import Sequence

import numpy as np

from diffusion_jax.errors import UserError, some
from diffusion_jax.runs import storage

SUFFIXES = (".jsonl", ".txt")
METADATA = "metadata.jsonl"  # {"file_name": of an image in the folder, "text": its caption}, as Hugging Face's imagefolder


def of_files(root: storage.Path, files: Sequence[storage.Path], field: str) -> tuple[str, ...]:
    """Returns the captions of images of a folder, from its metadata.jsonl, or without that from NAME.txt beside NAME.png.

    Raises UserError where an image has none, or a file cannot be read.
    """
    kind = "a folder of images with captions"
    if (root / METADATA).exists():
        found = _of_lines(str(root / METADATA), storage.read_text(root / METADATA, kind))
        captions = [found.get(str(file.relative_to(root))) for file in files]
    else:
        beside = [file.with_suffix(".txt") for file in files]
        captions = [storage.read_text(text, kind).strip() if text.exists() else None for text in beside]
    if missing := [repr(str(file.relative_to(root))) for file, text in zip(files, captions, strict=True) if text is None]:
        raise UserError(
            f"config field {field} = {str(root)!r} has no caption for {len(missing):,} of {len(files):,} images: "
            f'{some(missing)}; each needs a line {{"file_name": ..., "text": ...}} of {METADATA}, or where that '
            "is not there a .txt file of its name."
        )
    return tuple(captions)


def _of_lines(file: str, text: str) -> dict[str, str]:
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, caption = row["file_name"], row["text"]
            if not isinstance(name, str) or not isinstance(caption, str):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f'line {number:,} of {file!r} is not understood; it must be {{"file_name": "...", "text": "..."}}.'
            ) from error
        found[name] = caption
    return found


def of_array(stored: np.ndarray | None, num_images: int, file: str) -> tuple[str, ...]:
    """Returns the captions in an .npz file's array 'captions'; UserError where they are not text, one for each image."""
    if stored is None or stored.dtype.kind != "U" or stored.shape != (num_images,):
        found = "no such array" if stored is None else f"{stored.dtype} {list(stored.shape)}"
        raise UserError(
            f"{file} must hold 'captions' as text, [{num_images}], for a network with model.text; found {found}."
        )
    return tuple(stored.tolist())
