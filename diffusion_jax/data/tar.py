"""Images in shards, uncompressed .tar files as webdataset has them, each image read from its place when it is needed.

A member NAME.png (or of another suffix of `media.IMAGES.suffixes`) is an image. NAME.cls beside it is its class, a whole
number as text, and NAME.txt its caption; without that NAME.json may have it, as "caption" or "text". The images are in the
order of the shards' names, and in a shard in the order of its members.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from diffusion_jax.data import media, sources
from diffusion_jax.data.sources import INT32, Record, Source, UnreadableError
from diffusion_jax.errors import UserError, first_line
from diffusion_jax.runs import arrays, logs, storage

INDEX = "index.npz"  # a file beside the shards, so that a start reads it instead of the head of every member
BLOCK = 512  # bytes: a head has one, and content is filled up to whole ones [POSIX.1-1988, ustar]
MOST_OF_A_TEXT = 2**16  # bytes, of a class or a caption
MOST_OF_JSON = 2**20  # bytes
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Index(NamedTuple):
    """Where images are: the arrays of index.npz. What a set does not have is empty."""

    shards: np.ndarray  # names of the files, text [S]
    shard: np.ndarray  # in which of them an image is, int32 [N]
    start: np.ndarray  # its first byte there, int64 [N]
    size: np.ndarray  # its bytes, int64 [N]
    labels: np.ndarray  # its class, int32 [N] or [0]
    label_names: np.ndarray  # of the labels 0, 1, ..., text [C] or [0]
    captions: np.ndarray = np.zeros(0, np.uint8)  # of all images: the bytes of a JSON list of N texts, or [0]


class Member(NamedTuple):
    """An image of a shard."""

    start: int  # its first byte
    size: int  # its bytes
    label: int | None  # its class, where it has one
    caption: str | None = None  # where it has one that was asked for


def source(*, path: str, draft_size: int = 0, captions: bool = False) -> Source:
    """Returns the images of a folder of .tar files.

    Raises UserError where there are none, a shard is damaged or compressed, or only some images have a class or a caption;
    by `read`, where an image cannot be read.

    Args:
        path: of the folder. It may be in an object store where it has an index.npz, as `tools.shards` writes it.
        draft_size: as for `sources.decode`.
        captions: whether to read captions too.
    """
    root = storage.path(path)
    if not path or not root.is_dir():
        raise UserError(f"config field data.path = {path!r} is not a folder; it must be a folder of .tar files.")
    found = _stored(root) if (root / INDEX).exists() else _scanned(root, captions)

    def read(number: int) -> Record:
        file, start = root / str(found.shards[found.shard[number]]), int(found.start[number])
        try:
            pixels = sources.decode(file, (start, int(found.size[number])), draft_size=draft_size)
        except UnreadableError as error:
            place = f"image {number}, at byte {start:,} of shard {str(file)!r},"
            raise UserError(f"{place} cannot be read ({error.reason}); get or write the shard again.") from error
        return sources.labelled(pixels, int(found.labels[number]) if found.labels.size else 0)

    num_classes = max(int(found.labels.max(initial=-1)) + 1, len(found.label_names))
    names, texts = tuple(found.label_names.tolist()), _captions(found, root) if captions else ()
    return Source(len(found.start), read, names, num_classes, captions=texts)


def _captions(found: Index, root: storage.Path) -> tuple[str, ...]:
    if not found.captions.size:
        raise UserError(
            f"config field data.path = {str(root)!r} has no captions: each image NAME.png needs its text in NAME.txt beside "
            f"it, or as 'caption' in NAME.json, and an {INDEX} that was made without them must be removed or made again."
        )
    return tuple(json.loads(found.captions.tobytes()))


def index(shards: Sequence[str], members: Sequence[Sequence[Member]], label_names: Sequence[str] = ()) -> Index:
    """Returns the index of shards; UserError where some images have a class or a caption and others do not.

    Args:
        shards: their names.
        members: the images of each.
        label_names: of the classes.
    """
    flat = [member for each in members for member in each]
    labels = [member.label for member in flat if member.label is not None]
    captions = [member.caption for member in flat if member.caption is not None]
    for suffix, given in ((".cls", labels), (".txt, and no caption in a .json", captions)):
        if given and (missing := len(flat) - len(given)):
            raise UserError(
                f"{missing:,} of {len(flat):,} images in the shards have no {suffix} beside them; all must, or none."
            )
    return Index(
        np.array(shards, np.str_),
        np.repeat(np.arange(len(shards), dtype=np.int32), [len(each) for each in members]),
        np.array([member.start for member in flat], np.int64),
        np.array([member.size for member in flat], np.int64),
        np.array(labels, np.int32),
        np.array(label_names, np.str_),
        np.frombuffer(json.dumps(captions).encode() if captions else b"", np.uint8),
    )


def write_index(root: storage.Path, found: Index) -> None:
    """Writes index.npz beside the shards."""
    with storage.writing(root / INDEX) as file:
        np.savez_compressed(file, **found._asdict())


def _images(shard: BinaryIO, captions: bool) -> list[Member]:
    """Returns the images of a shard, in their order; ValueError, with the reason, where it is damaged or compressed."""
    places, labels, texts = [], {}, {}
    for name, start, size in _members(shard):
        stem, _, suffix = name.rpartition(".")
        if name.rpartition("/")[2].startswith("."):  # hidden, as what macOS keeps of a file in ._NAME
            continue
        if f".{suffix.lower()}" in media.IMAGES.suffixes:
            places.append((stem, start, size))
        elif suffix == "cls":
            shard.seek(start)
            labels[stem] = _label(name, shard.read(min(size, MOST_OF_A_TEXT)))
        elif suffix == "txt" and captions:
            shard.seek(start)
            texts[stem] = shard.read(min(size, MOST_OF_A_TEXT)).decode("utf-8", "replace").strip()
        elif suffix == "json" and captions and stem not in texts:
            shard.seek(start)
            texts[stem] = _caption(shard.read(min(size, MOST_OF_JSON)))
    return [Member(start, size, labels.get(stem), texts.get(stem)) for stem, start, size in places]


def _caption(content: bytes) -> str | None:
    """Returns the caption in a .json file, where img2dataset and others keep it; None for none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    text = found.get("caption", found.get("text")) if isinstance(found, dict) else None
    return text.strip() if isinstance(text, str) else None


def _label(name: str, content: bytes) -> int:
    text = content.decode("ascii", "replace").strip()
    if not text.isdecimal() or len(text) > 10 or int(text) > INT32.max:
        raise ValueError(f"its {name!r} must be a whole number from 0 on, below 2^31")
    return int(text)


def _members(shard: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Yields (name, first byte, bytes) of the regular files of an archive."""
    length, head = shard.seek(0, io.SEEK_END), _block(shard, 0)
    if kind := next((kind for magic, kind in COMPRESSED.items() if head.startswith(magic)), ""):
        raise ValueError(f"it is compressed with {kind}, and cannot be read from any place; unpack it")
    shard.seek(0)
    with tarfile.open(fileobj=shard, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            if not 0 <= member.size <= length - member.offset_data:
                left = length - member.offset_data
                raise ValueError(f"it is cut short: {member.name!r} has {member.size:,} bytes, and {left:,} are left")
            if member.isreg() and not member.issparse():
                yield member.name, member.offset_data, member.size
        end = _block(shard, archive.offset)
    if len(end) < BLOCK:
        raise ValueError("it is cut short: an archive ends with a block of zeros")
    if any(end):
        raise ValueError(f"at byte {archive.offset:,} is no head of a tar archive")


def _block(shard: BinaryIO, place: int) -> bytes:
    shard.seek(place)
    return shard.read(BLOCK)


def _scanned(root: storage.Path, captions: bool) -> Index:
    """Returns the index of a folder without one, from the heads of all members."""
    if storage.is_object_store(root):
        sentence = "where every head would be a request; `python -m diffusion_jax.tools.shards` writes one"
        raise UserError(f"config field data.path = {str(root)!r} is in an object store and has no {INDEX}, {sentence}.")
    shards = sorted(file.name for file in root.iterdir() if file.suffix == ".tar")
    found = []
    for name in logs.with_progress(shards, "shards looked through"):
        try:
            with storage.reading(root / name) as opened:
                found.append(_images(opened, captions))
        except (OSError, ValueError, tarfile.TarError) as error:
            raise UserError(f"shard {str(root / name)!r} cannot be read: {first_line(error)}.") from error
    if not any(found):
        raise UserError(
            f"config field data.path = {str(root)!r} has no images in uncompressed .tar files; it must have some, with "
            f"{', '.join(media.IMAGES.suffixes)} files in them."
        )
    return index(shards, found)


def _stored(root: storage.Path) -> Index:
    """Returns the index in a folder; UserError where it is damaged, or is not of the shards beside it."""
    file = root / INDEX
    try:
        with storage.reading(file) as opened:
            found = Index(**arrays.read_npz(opened, Index._fields))
        _check(found)
    except Exception as error:  # zipfile and NumPy have a dozen names for what a damaged file is
        raise UserError(f"file {str(file)!r} is damaged ({type(error).__name__}); remove it, or write it again.") from error
    ends = np.zeros(len(found.shards), np.int64)
    np.maximum.at(ends, found.shard, found.start + found.size)
    for name, end in zip(found.shards.tolist(), ends.tolist(), strict=True):
        length = (root / name).stat().length if (root / name).exists() else 0
        if length < end:
            fault = f"has {length:,} bytes, and {INDEX} says {end:,} or more" if length else "is missing"
            raise UserError(f"shard {str(root / name)!r} {fault}; get it again, or write all shards again.")
    return found


def _check(found: Index) -> None:
    """Raises ValueError where arrays cannot be those of an index."""
    num_images, num_shards = len(found.start), len(found.shards)
    is_text = found.shards.dtype.kind == found.label_names.dtype.kind == "U" and found.label_names.ndim == 1
    are_names = all(re.fullmatch(r"[^/\\]+\.tar", name) for name in found.shards.tolist())
    rows = (found.shard, found.start, found.size, found.labels if found.labels.size else found.shard)
    are_whole = all(row.shape == (num_images,) and row.dtype.kind == "i" and row.min() >= 0 for row in rows)
    if not (is_text and are_names and are_whole and found.shard.max() < num_shards and rows[3].max() <= INT32.max):
        raise ValueError("not an index")
    texts = json.loads(found.captions.tobytes() or b"[]")
    if found.captions.dtype != np.uint8 or len(texts) not in (0, num_images) or {*map(type, texts)} - {str}:
        raise ValueError("not an index")
    if max(found.start.max(), found.size.max()) > 2**61 or 0 < len(found.label_names) <= found.labels.max(initial=-1):
        raise ValueError("not an index")
