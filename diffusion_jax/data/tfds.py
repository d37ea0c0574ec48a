"""Image sets of TensorFlow Datasets."""

import logging
import re
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from diffusion_jax import errors
from diffusion_jax.data import sources
from diffusion_jax.data.sources import Record, Source
from diffusion_jax.errors import UserError
from diffusion_jax.runs import storage

CAPTIONS = ("caption", "captions", "text")  # features that may have the captions; COCO's are several, each with a "text"
NAME = re.compile(r"\w+(/[\w.+-]+)?(:[\d*]+\.[\d*]+\.[\d*]+)?")  # name/config:version: another colon is for code of others


def source(*, name: str, path: str, split: str = "train", captions: bool = False) -> Source:
    """Returns a split of an image set of TensorFlow Datasets, downloaded and prepared first where it is not yet.

    Raises UserError where the set or the split is unknown, the set neither prepared nor to be had, or without captions.

    Args:
        name: of the set, such as 'cifar10:3.0.2'.
        path: the folder of prepared sets; "" is TFDS's own.
        split: such as 'train'.
        captions: whether to read captions too, of an image with several the first.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"config field data.name = {name!r} is not allowed; it must be name:1.2.3 or name/config:1.2.3.")
    logging.getLogger("absl").addFilter(_is_news)
    sentence = "config field data.source = 'tfds' needs a package: pip install tensorflow-datasets."
    tensorflow_datasets = errors.needed("tensorflow_datasets", sentence)
    _check_classes(storage.path(path or tensorflow_datasets.core.constants.DATA_DIR) / re.split("[:/]", name)[0])
    try:
        builder = tensorflow_datasets.builder(name, data_dir=path or None, file_format="array_record")
    except (AssertionError, ValueError) as error:  # of which TFDS's own, for a set that it does not know, is one
        raise UserError(
            f"config field data.name = {name!r} is not a data set that TFDS knows, or not prepared as array_record "
            f"({errors.first_line(error)})."
        ) from error
    if not builder.is_prepared():
        _prepare(name, builder)
    if split not in builder.info.splits:
        raise UserError(f"split {split!r} is unknown; {name!r} has {', '.join(builder.info.splits)}.")
    records = builder.as_data_source(split=split)

    def read(number: int) -> Record:
        stored = records[number]
        return sources.labelled(stored["image"], int(stored.get("label", 0)))

    label, texts = dict(builder.info.features).get("label"), ()
    if captions:
        undecoded = {"image": tensorflow_datasets.decode.SkipDecoding()}
        texts = _captions(name, builder.as_data_source(split=split, decoders=undecoded), list(builder.info.features))
    return Source(len(records), read, num_classes=getattr(label, "num_classes", 0), captions=texts)


def _captions(name: str, records: Any, features: Sequence[str]) -> tuple[str, ...]:
    if not (found := [key for key in CAPTIONS if key in features]):
        raise UserError(
            f"config field data.name = {name!r} has no captions: it needs one of the features {', '.join(CAPTIONS)}; it has "
            f"{', '.join(features)}."
        )
    stored = (records[number][found[0]] for number in range(len(records)))
    texts = [next(iter(text.get("text", ())), None) if isinstance(text, dict) else text for text in stored]
    if (bad := next((number for number, text in enumerate(texts) if not isinstance(text, bytes)), None)) is not None:
        raise UserError(f"config field data.name = {name!r}: feature {found[0]!r} of image {bad} holds no text.")
    return tuple(text.decode("utf-8", "replace").strip() for text in texts)


def _check_classes(folder: storage.Path) -> None:
    """Raises UserError where a prepared set names a Python class other than TFDS's own, because TFDS would import it."""
    prepared = storage.files(folder, (".json",)) if folder.is_dir() else ()
    for file in [file for file in prepared if file.name == "features.json"]:
        for name in _classes(storage.read_json(file, "a prepared data set")):
            if not name.startswith("tensorflow_datasets."):
                raise UserError(f"file {str(file)!r} names the class {name!r}; it must be one of tensorflow_datasets.")


def _classes(found: Any) -> Iterator[str]:
    """Yields the names of Python classes in a features.json: under 'pythonClassName', and in an old format 'type'."""
    if isinstance(found, list):
        found = dict(enumerate(found))
    for key, value in found.items() if isinstance(found, dict) else ():
        if isinstance(value, str):
            yield from [value] if key in ("pythonClassName", "type") and "." in value else []
        else:
            yield from _classes(value)


def _is_news(record: logging.LogRecord) -> bool:
    """Returns whether a log record of TFDS is useful to users."""
    return not any(text in record.getMessage() for text in ("has no dataset_info.json", "OpenCV is not installed"))


def _prepare(name: str, builder: Any) -> None:
    """Downloads and prepares a set. Raises UserError at once where there is no network: TFDS alone tries for minutes."""
    try:
        socket.getaddrinfo("storage.googleapis.com", 443)
    except OSError as error:
        raise UserError(
            f"config field data.name = {name!r} is not prepared in {str(builder.data_path)!r}, and there is no "
            "network to download it; set data.path to a folder of prepared sets."
        ) from error
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # whatever a set's own script raises, such as for a download that must be done by hand
        raise UserError(
            f"config field data.name = {name!r} cannot be prepared ({type(error).__name__}: {errors.first_line(error)})."
        ) from error
