"""Where images come from. Each function returns a `Source`. An error names the file and its fault in one sentence."""

import collections
import functools
import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from diffusion_jax.data import captions as captions_of
from diffusion_jax.data import media
from diffusion_jax.data.media import Medium
from diffusion_jax.errors import UserError, needed, some
from diffusion_jax.runs import arrays, logs, pictures, storage

UNREADABLE = (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)  # what damaged files raise
# And no other, whatever the suffix: Pillow has Ghostscript execute PostScript.
IMAGE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
INT32 = np.iinfo(np.int32)
NUM_THREADS = 16  # that read and decode files; Pillow and TFDS release the interpreter while they do
MOST_NAMED = 10  # files in one sentence
FETCHED = "such as one by python -m diffusion_jax.tools.fetch (--help lists the sets)"
# {"x": as its medium has it, uint8 [H, W, C] of images, "cond": {"label": its class, "image": uint8 [H, W, any]}, or less}
Record = dict[str, Any]


class Source(NamedTuple):
    """One split of a data set, read by number, from any thread."""

    num_images: int
    read: Callable[[int], Record]  # number of an image -> its record
    class_names: tuple[str, ...] = ()  # of the labels 0, 1, ..., where they have names
    num_classes: int = 0  # of the labels; 0 where the set has none
    left_out: str = ""  # files that are not images, by kind: "2 .heic, 1 .txt"
    skipped: str = ""  # broken files that are left out: how many, why, and some of their names
    captions: tuple[str, ...] = ()  # of the images, where they were asked for


class UnreadableError(UserError):
    """A file, of an image or of another `kind`, cannot be used for a `reason`, in words that many files share.

    Other errors of reading concern all images.
    """

    def __init__(self, name: str, fault: str, reason: str, kind: str = "image"):
        super().__init__(f"{kind} file {name!r} {fault} it, or set data.skip_broken = True to leave out such files.")
        self.name, self.reason, self.kind = name, reason, kind


def labelled(pixels: np.ndarray, label: int) -> Record:
    """Returns the record of an image and its class."""
    return {"x": pixels, "cond": {"label": label}}


def of_arrays(images: np.ndarray, labels: np.ndarray) -> Source:
    """Returns arrays in memory, and the class of each, as a source."""
    num_classes = max(0, int(labels.max()) + 1)
    return Source(len(images), lambda number: labelled(images[number], int(labels[number])), num_classes=num_classes)


def seed_of_split(name: str, split: str) -> int:
    """Returns what decides a split of the set `name`, which a formula makes; UserError for one but '' and 'test'."""
    if split not in ("", "test"):
        raise UserError(f"split {split!r} is unknown; data.source = {name!r} has 'test' beside the training set.")
    return int(split == "test")


def digits(*, split: str = "") -> Source:
    """Returns scikit-learn's 1,797 handwritten digits, 8 x 8 x 1; grey levels 0 .. 16 as round(level * 255 / 16).

    Raises UserError for a split, since the set has none.
    """
    if split:
        raise UserError("data.source = 'digits' does not have splits; use \"\" to turn the held-out loss off.")
    sentence = "config field data.source = 'digits' needs a package: pip install scikit-learn."
    stored = needed("sklearn.datasets", sentence).load_digits()
    return of_arrays(np.round(stored.images * (255 / 16)).astype(np.uint8)[..., None], stored.target)


def npz(*, path: str, medium: Medium = media.IMAGES, captions: bool = False, field: str = "data.path") -> Source:
    """Returns the arrays 'images' (or 'arr_0'), uint8 [N, H, W, C] or [N, H, W], and 'labels' (or 'arr_1') of an .npz file.

    Of other media the first array is as the medium has it: of points floating point [N, D]. The names of the labels 0, 1,
    ... may be there as text, 'label_names'. Raises UserError where the file is missing or holds something else.

    Args:
        path: of the file.
        medium: what the first array is.
        captions: whether to read captions too: the array 'captions', text [N].
        field: of the config that names it, for sentences.
    """
    file = storage.path(path)
    if not path or not file.exists():
        raise UserError(f"config field {field} = {path!r} is not a file; it must be an .npz file, {FETCHED}.")
    wanted = ("images", "arr_0", "labels", "arr_1", "label_names", "captions")
    stored = arrays.of_user(file, field, lambda opened: arrays.read_npz(opened, wanted))
    images, labels = stored.get("images", stored.get("arr_0")), stored.get("labels", stored.get("arr_1"))
    if images is None or not medium.fits(images):
        found = "no such array" if images is None else f"{images.dtype} {list(images.shape)}"
        raise UserError(f"config field {field} = {path!r} must hold 'images' or 'arr_0' as {medium.stored}; found {found}.")
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise UserError(
            f"config field {field} = {path!r} holds images as [N, C, H, W], {list(images.shape)}; store them as "
            "[N, H, W, C]: images.transpose(0, 2, 3, 1)."
        )
    images = (images[..., None] if images.ndim == 1 + medium.num_axes else images).astype(medium.dtype, copy=False)
    labels = medium.label(images) if medium.label else labels
    name = f"config field {field} = {path!r}"
    texts = captions_of.of_array(stored.get("captions"), len(images), name) if captions else ()
    if labels is None:
        return of_arrays(images, np.zeros(len(images), np.int32))._replace(num_classes=0, captions=texts)
    is_whole = labels.dtype.kind in "iu" and INT32.min <= labels.min(initial=0) and labels.max(initial=0) <= INT32.max
    if not is_whole or labels.shape != images.shape[:1]:
        raise UserError(
            f"config field {field} = {path!r} must hold 'labels' or 'arr_1' as whole numbers below 2^31, [{len(images)}]; "
            f"found {labels.dtype} {list(labels.shape)}."
        )
    class_names = _label_names(name, stored["label_names"], labels) if "label_names" in stored else ()
    found = of_arrays(images, labels)._replace(captions=texts)
    return found._replace(class_names=class_names, num_classes=max(found.num_classes, len(class_names)))


def _label_names(file: str, names: np.ndarray, labels: np.ndarray) -> tuple[str, ...]:
    """Returns the names of the labels of an .npz file; UserError where they are not text, or too few."""
    fewest = int(labels.max(initial=-1)) + 1
    if names.dtype.kind != "U" or names.ndim != 1 or len(names) < fewest:
        raise UserError(
            f"{file} must hold 'label_names' as text, one for each label, [{fewest}] or more; found "
            f"{names.dtype} {list(names.shape)}."
        )
    return tuple(names.tolist())


def idx(*, path: str, split: str = "train") -> Source:
    """Returns a split of a set in the IDX format of MNIST and Fashion-MNIST, as published or gzipped. # [28, 28, 1]

    Raises UserError where a file is missing or damaged.

    Args:
        path: the folder of train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k, with or without .gz.
        split: 'train' or 'test'.
    """
    prefixes = {"train": "train", "test": "t10k"}
    if split not in prefixes:
        raise UserError(f"split {split!r} is unknown; an IDX set has train and test.")
    images = _idx_array(path, f"{prefixes[split]}-images-idx3-ubyte", num_dimensions=3)
    labels = _idx_array(path, f"{prefixes[split]}-labels-idx1-ubyte", num_dimensions=1)
    if len(images) != len(labels):
        raise UserError(f"data.path = {path!r} has {len(images)} images, but {len(labels)} labels.")
    return of_arrays(images[..., None], labels)


def _idx_array(path: str, name: str, *, num_dimensions: int) -> np.ndarray:
    """Returns an IDX file's array: 0, 0, type 8 (ubyte), number of dimensions, each as a big-endian int32, the bytes."""
    folder = storage.path(path)
    file = next((file for file in (folder / name, folder / f"{name}.gz") if path and file.exists()), None)
    if file is None:
        text = f"config field data.path = {path!r} has no {name} or {name}.gz"
        raise UserError(f"{text}; it must be the folder of an IDX set, {FETCHED}.")
    start = 4 + 4 * num_dimensions
    try:
        with storage.reading(file) as opened:
            most = opened.seek(0, io.SEEK_END) * arrays.DEFLATE
            opened.seek(0)
            stream = gzip.GzipFile(fileobj=opened) if file.name.endswith(".gz") else opened
            head = stream.read(start)
            shape = tuple(np.frombuffer(head[4:].ljust(4 * num_dimensions, b"\0"), ">i4").tolist())
            is_idx = head[:4] == bytes([0, 0, 8, num_dimensions]) and min(shape) > 0
            pixels = stream.read(min(math.prod(shape), most) + 1) if is_idx else b""
    except UNREADABLE as error:
        raise UserError(f"data file {str(file)!r} cannot be read ({type(error).__name__}: {error}).") from error
    if not is_idx:
        raise UserError(f"data file {str(file)!r} is not an IDX file of unsigned bytes with {num_dimensions} dimension(s).")
    if len(pixels) != math.prod(shape):
        follow = "more" if len(pixels) > math.prod(shape) else f"{len(pixels):,}"
        raise UserError(f"data file {str(file)!r} is damaged: its header says {list(shape)}, but {follow} bytes follow.")
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def folder(
    *,
    path: str,
    medium: Medium = media.IMAGES,
    image_shape: Sequence[int] = (),
    sample_rate: int = 0,
    skip_broken: bool = False,
    condition_path: str = "",
    draft_size: int = 0,
    captions: bool = False,
    field: str = "data.path",
    condition_field: str = "data.condition_path",
) -> Source:
    """Returns the images of a folder and its sub-folders, in the order of their names; see `decode` for which.

    The classes are the sub-folders in the order of their names as text ("10" comes before "2"); files that lie in none of
    them come first, as a class ".". Raises UserError where the folder does not exist or contains no images; by `read`,
    UnreadableError for a file that is not an image. A medium with a function `read` has the files that this reads.

    Args:
        path: of the folder.
        medium: what the files are.
        image_shape: for `medium.read`, as is sample_rate.
        skip_broken: whether to read every file once now, and to leave out those that cannot be read.
        condition_path: of a folder with an image of the size and name of each of these, but for the suffix; '' for none.
        draft_size: as for `decode`; not together with `condition_path`.
        captions: whether to read captions too; see `captions.of_files`.
        field: of the config that names the folder, for sentences.
        condition_field: the same of `condition_path`.
    """
    root = storage.path(path)
    files, left_out = image_files(path, field, medium, captions_of.SUFFIXES if captions else ())
    paths = [file.relative_to(root).parts for file in files]
    kinds = [folder if inside else "." for folder, *inside in paths]
    class_names = sorted(set(kinds))
    number = {name: label for label, name in enumerate(class_names)}
    labels = {file: number[kind] for file, kind in zip(files, kinds, strict=True)}
    pairs = _pairs(root, files, condition_path, condition_field) if condition_path else {}

    def read(file: storage.Path) -> Record:
        x = _read(file, medium, image_shape, sample_rate) if medium.read else decode(file, draft_size=draft_size)
        record = labelled(x, labels[file])
        return _with_pair(record, file, pairs[file]) if pairs else record

    whole, skipped = _whole(files, read) if skip_broken else (files, "")
    if not whole:
        raise UserError(f"config field {field} = {path!r} does not contain {medium.kind}s that can be read: {skipped}.")
    num_classes = 0 if class_names == ["."] else len(class_names)
    texts = captions_of.of_files(root, whole, field) if captions else ()
    return Source(len(whole), lambda number: read(whole[number]), tuple(class_names), num_classes, left_out, skipped, texts)


def _pairs(root: storage.Path, files: Sequence[storage.Path], path: str, field: str) -> dict[storage.Path, storage.Path]:
    """Returns {file of a folder: that of another with the same name, but for the suffix}; UserError for one without."""
    other = storage.path(path)
    found, named = by_name(other, image_files(path, field)[0]), by_name(root, files)
    if missing := [name for name in named if name not in found]:
        raise UserError(
            f"config field {field} = {path!r} has no image for {len(missing):,} of the {len(files):,} images: "
            f"{some(list(map(repr, missing)))}; each needs one of its name, whatever the suffix."
        )
    return {file: found[name] for name, file in named.items()}


def by_name(root: storage.Path, files: Sequence[storage.Path]) -> dict[str, storage.Path]:
    """Returns {name in a folder, without the suffix: file}; UserError where two files have one name."""
    found = {}
    for file in files:
        name = str(file.relative_to(root).with_suffix(""))
        if name in found:
            both = f"{found[name].name!r} and {file.name!r}"
            raise UserError(
                f"folder {str(root)!r} has {both}, which differ in the suffix alone; rename one: names must differ."
            )
        found[name] = file
    return found


def _with_pair(record: Record, file: storage.Path, other: storage.Path) -> Record:
    """Returns the record of a file with the image of another; UnreadableError where that has another size."""
    height, width, _ = record["x"].shape
    image = decode(other)
    if image.shape[:2] != (height, width):
        fault = f"is {image.shape[0]} x {image.shape[1]} pixels, and {str(file)!r} {height} x {width}; scale"
        raise UnreadableError(str(other), fault, "of another size than its image")
    return {**record, "cond": {**record["cond"], "image": image}}


def _whole(files: Sequence[storage.Path], read: Callable[[storage.Path], Any]) -> tuple[list[storage.Path], str]:
    """Returns (the files that can be read, how many cannot and why), while a terminal shows how far it is."""
    whole, failures = [], []
    with futures.ThreadPoolExecutor(NUM_THREADS) as pool:
        results = pool.map(functools.partial(attempted, read), files)
        for file, found in zip(logs.with_progress(files, "files checked"), results, strict=True):
            failures.append(found) if isinstance(found, UnreadableError) else whole.append(file)
    return whole, by_reason(failures, len(files)) if failures else ""


def attempted(read: Callable[[Any], Record], what: Any) -> Record | UnreadableError:
    """Returns what `read` returns, or the UnreadableError that it raises."""
    try:
        return read(what)
    except UnreadableError as error:
        return error


def by_reason(failures: Sequence[UnreadableError], num_images: int) -> str:
    """Returns '3 of 90 images cannot be read: 1 not an image (...), ...': how many files for each reason, and some names."""
    names = collections.defaultdict(list)
    for failure in failures:
        names[failure.reason].append(failure.name)
    most = max(1, MOST_NAMED // len(names))
    listed = [f"{len(files):,} {reason} ({some(list(map(repr, files)), most)})" for reason, files in names.items()]
    return f"{len(failures):,} of {num_images:,} {failures[0].kind}s cannot be read: {', '.join(listed)}"


def image_files(
    path: str, field: str = "data.path", medium: Medium = media.IMAGES, known: Sequence[str] = ()
) -> tuple[list[storage.Path], str]:
    """Returns (the images of a folder and its sub-folders in the order of their names, what is left out but `known` kinds).

    Of another medium they are its files. Raises UserError where there is no such folder, it cannot be read, or it has none.
    """
    root, suffixes = storage.path(path), medium.suffixes
    if not path or not root.is_dir():
        raise UserError(f"config field {field} = {path!r} is not a folder; it must be a folder with {medium.kind}s.")
    try:
        found = sorted(storage.files(root, suffixes), key=lambda file: file.parts)
    except OSError as error:
        raise UserError(f"config field {field} = {path!r} cannot be read ({error}).") from error
    files = [file for file in found if file.suffix.lower() in suffixes]
    others = collections.Counter(file.suffix.lower() or "without a suffix" for file in found)
    left_out = ", ".join(f"{num:,} {kind}" for kind, num in sorted(others.items()) if kind not in (*suffixes, *known))
    if not files:
        raise UserError(
            f"config field {field} = {path!r} does not contain {medium.kind}s; it must contain {', '.join(suffixes)} files"
            f"{f', and has {left_out}' if left_out else ''}."
        )
    return files, left_out


def _read(file: storage.Path, medium: Medium, shape: Sequence[int], sample_rate: int) -> np.ndarray:
    """Returns what a medium reads of a file; UnreadableError where it cannot."""
    try:
        with storage.reading(file) as opened:
            return medium.read(opened, shape=shape, sample_rate=sample_rate)
    except UserError:
        raise
    except UNREADABLE as error:
        reason = _reason(error) if isinstance(error, OSError) else str(error)
        raise UnreadableError(str(file), f"cannot be read ({reason}); remove", reason, medium.kind) from error


def decode(file: storage.Path, part: tuple[int, int] | None = None, *, draft_size: int = 0) -> np.ndarray:
    """Returns an image file, rotated as its EXIF data says, in sRGB, on white. # uint8 [H, W, 1] or [H, W, 3]

    AVIF, BMP, GIF, JPEG, PNG, TIFF and WebP are read, and of several frames the first.

    Raises UnreadableError where the file is damaged, or grey with more than 8 bits. (Pillow reads 16-bit colours as 8 bits.)

    Args:
        file: the file.
        part: (first byte, bytes) of the image in it; None for the whole file.
        draft_size: the least height and width at which a JPEG may be decoded, by fewer cosines of each of its blocks: at
            1/2, 1/4 or 1/8 of its size, rounded up; 0 for its size.
    """
    try:
        with storage.reading(file, part) as opened, Image.open(opened, formats=IMAGE_FORMATS) as image:
            if draft_size:
                image.draft(None, (draft_size, draft_size))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
    except (*UNREADABLE, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = _reason(error)
        repeats = isinstance(error, UnidentifiedImageError)  # Pillow's words are what it was given
        said = reason if repeats else f"{type(error).__name__}: {error}"
        raise UnreadableError(str(file), f"cannot be read ({said}); remove", reason) from error
    if image.mode.startswith(("I", "F")):
        fault = "more than 8 bits a colour"
        raise UnreadableError(str(file), f"has {fault} (mode {image.mode}); convert", f"with {fault}")
    is_grey = image.mode in ("1", "L", "LA")
    image = _in_srgb(image)
    if image.has_transparency_data:
        image = pictures.on_white(image)
    mode = "L" if is_grey else "RGB"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _reason(error: Exception) -> str:
    """Returns in words that many files share why one cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return "too large"
    if isinstance(error, OSError) and error.strerror:  # of the system: no such file, no permission
        return error.strerror.lower()
    return "damaged or cut short"


def _in_srgb(image: Image.Image) -> Image.Image:
    """Returns a coloured image in sRGB where it has another colour profile; a damaged profile is ignored."""
    if image.mode == "P":
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if not image.info.get("icc_profile") or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        if "srgb" in (profile.profile.profile_description or "").lower():
            return image  # a conversion would move colours by one
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
