"""What a config says of evaluation: which images are judged, with which they are compared, and in whose features."""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax import evaluation
from diffusion_jax.compose import inputs, processes
from diffusion_jax.compose.choices import MEDIA
from diffusion_jax.compose.config import Config
from diffusion_jax.data import audio, feed, sources, transforms
from diffusion_jax.data.sources import Source
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import kernel, sliced
from diffusion_jax.metrics.compare import Features
from diffusion_jax.runs import arrays, sharding, statistics, storage
from diffusion_jax.runs.statistics import Statistics

SPLITS = ("training", "held_out")
MOST_IN_TRAINING = 2000  # real images, whose features are found when a run starts
GIVEN = ("features", "spatial", "logits")  # arrays of a user's own file


class Images(NamedTuple):
    """A set of images, or of the features that a user found of them."""

    name: str
    num_images: int
    shape: tuple[int, ...]  # of one, (H, W, C)
    pieces: Callable[[int], Iterator[np.ndarray]]  # number of an image -> it and those after it, uint8 [n, H, W, C]
    read: Callable[[Sequence[int]], np.ndarray]  # numbers -> images, uint8 [n, H, W, C]
    made_from: dict[str, Any]  # what the images depend on
    features: Features | None = None  # of a file that has no images
    statistics: Statistics | None = None  # of a file that has both: of more images than are there


def extractor(config: Config) -> evaluation.Extractor:
    """Returns the network that the section `evaluate` names; UserError where its weights are missing."""
    settings = config.evaluate
    own = {"given": evaluation.check}
    own |= {} if config.data.medium == "images" else {"pixels": _values, "spectrogram": _spectra}
    if extract := own.get(settings.features):
        return evaluation.Extractor(extract, {"network": settings.features, "weights_sha256": "", "size": 0})
    if settings.size and settings.features != "efficientnet_lite0":
        raise UserError(f"{config.show('evaluate.size')} is for evaluate.features = 'efficientnet_lite0' alone; set 0.")
    options = {"weights_file": settings.weights, "size": settings.size, "batch_per_device": settings.batch_per_device}
    return evaluation.extractor(settings.features, **options)


def _values(arrays: np.ndarray) -> Features:
    """Returns the values of arrays in a row, as 'pixels' are of images. # [N, D]"""
    return {"features": arrays.reshape(len(arrays), -1)}


def _spectra(sounds: np.ndarray) -> Features:
    """Returns the coarse spectrograms of sounds, int16 [N, L, C]; see `audio.features`. # [N, 128]"""
    return {"features": audio.features(sounds)}


def references(config: Config) -> dict[str, Images | Statistics]:
    """Returns what images are compared with: `evaluate.reference`, or else the training set and the held-out one, if any."""
    settings = config.evaluate
    if settings.reference:
        return {"reference": of_file(config, "reference")}
    if settings.features == "given":
        raise UserError(f"{config.show('evaluate.features')} needs evaluate.reference, an .npz file with 'features' [N, D].")
    return {name: of_data_set(config, name) for name in SPLITS if name == "training" or config.data.held_out}


def of_data_set(config: Config, split: str) -> Images:
    """Returns the training set or the held-out set, or `evaluate.num_real` images evenly spaced in it.

    Raises UserError where there is no such set.
    """
    source = transforms.subsampled(inputs.of_split(config, split), config.evaluate.num_real)
    return _of_source(config, split, source, inputs.identity(config, split))


def _of_source(config: Config, name: str, source: Source, made_from: dict[str, Any]) -> Images:
    def read(numbers: Sequence[int]) -> np.ndarray:
        return feed.read(source, numbers)["x"]

    def pieces(first: int) -> Iterator[np.ndarray]:
        for start in range(first, source.num_images, config.evaluate.shard_size):
            yield read(range(start, min(start + config.evaluate.shard_size, source.num_images)))

    shape, made_from = source.read(0)["x"].shape, {"num_images": source.num_images, **made_from}
    return Images(name, source.num_images, shape, pieces, read, made_from)


def of_file(config: Config, name: str) -> Images | Statistics:
    """Returns what the field `evaluate.<name>` names: images of a dump, an .npz file or a folder; features; statistics.

    Raises UserError where it is none of these, or the images are not of one size.
    """
    field, path = f"evaluate.{name}", getattr(config.evaluate, name)
    file = _dump_in(storage.path(path))
    if file.suffix == ".npz":
        return _of_npz(config, name, file, field)
    if config.evaluate.features == "given":
        raise UserError(
            f"config field {field} = {path!r} must be an .npz file with 'features' where evaluate.features = 'given'."
        )
    known = {"sample_rate": config.data.sample_rate, "skip_broken": config.data.skip_broken}
    medium, shape = MEDIA[config.data.medium], processes.image_shape(config)
    if not medium.suffixes:
        raise UserError(f"config field {field} = {path!r} must be an .npz file, with {medium.stored}.")
    folder = sources.folder(path=str(file), field=field, medium=medium, image_shape=shape, **known)
    return _of_source(config, name, _of_one_size(folder, field), {"folder": path, "files": inputs.digest_of_files(file)})


def _dump_in(folder: storage.Path) -> storage.Path:
    """Returns the .npz file of a folder that --mode=sample made, or else the path as it is."""
    dumps = folder.glob("samples_*.npz") if folder.is_dir() else []
    return max(dumps, key=lambda dump: int("0" + re.sub(r"\D.*", "", dump.stem.removeprefix("samples_"))), default=folder)


def _of_npz(config: Config, name: str, file: storage.Path, field: str) -> Images | Statistics:
    if not file.exists():
        raise UserError(f"config field {field} = {str(file)!r} does not exist; it must be an .npz file or a folder.")
    held = arrays.of_user(file, field, arrays.names)
    if config.evaluate.features == "given":
        return _given(name, file, field)
    if not statistics.holds(held):
        return of_images(config, file, name, field)
    if held & {"images", "arr_0"}:  # as guided-diffusion's: statistics of all, and some of the images
        known = statistics.read(file) if name == "reference" and config.evaluate.features in evaluation.INCEPTION else None
        return of_images(config, file, name, field)._replace(statistics=known)
    if name == "dump":
        raise UserError(f"config field {field} = {str(file)!r} holds statistics; what is judged must be images.")
    return statistics.read(file)


def of_images(config: Config, file: storage.Path, name: str = "dump", field: str = "evaluate.dump") -> Images:
    """Returns the images in an .npz file, such as a dump; UserError where it has none."""
    source = sources.npz(path=str(file), medium=MEDIA[config.data.medium], field=field)
    manifest = file.parent / "manifest.json"
    made_from = {"file": str(file), "sha256": _sha256(file)}
    with contextlib.suppress(UserError):  # a dump of ours says how it was made
        made_from |= {"dump": storage.read_json(manifest, "a dump")} if manifest.exists() else {}
    return _of_source(config, name, source, made_from)


def _given(name: str, file: storage.Path, field: str) -> Images:
    """Returns the features in a user's file."""
    found = arrays.of_user(file, field, lambda opened: arrays.read_npz(opened, GIVEN))
    if "features" not in found or any(rows.ndim != 2 or rows.dtype.kind != "f" for rows in found.values()):
        shapes = ", ".join(f"{key} {rows.dtype}{list(rows.shape)}" for key, rows in found.items()) or "no such array"
        raise UserError(
            f"config field {field} = {str(file)!r} must hold 'features', floating point [N, D]; it has {shapes}."
        )
    made_from = {"file": str(file), "sha256": _sha256(file)}
    return Images(name, len(found["features"]), (), _no_images, _no_images, made_from, found)


def _no_images(*_: Any) -> Any:
    raise UserError("features of a file have no images to show.")


def _of_one_size(source: Source, field: str) -> Source:
    """Returns a source whose `read` raises UserError where an image has another shape than the first."""
    shape = source.read(0)["x"].shape

    def read(number: int) -> sources.Record:
        record = source.read(number)
        if record["x"].shape != shape:
            found = f"image {number} is {list(record['x'].shape)}, and image 0 is {list(shape)}"
            raise UserError(f"config field {field}: {found}; all must be of one size and of as many channels.")
        return record

    return source._replace(read=read)


def in_training(config: Config) -> Callable[[np.ndarray], dict[str, float]]:
    """Returns images -> two figures that few images allow, against the held-out set, or else against the training set.

    Of the set at most 2,000 images are taken. The first process alone may call it. Raises UserError where the network's
    weights are missing, a real image cannot be read, or there is only one: now, and not when the first figures are due.
    """
    num_real = min(config.evaluate.num_real or MOST_IN_TRAINING, MOST_IN_TRAINING)
    network, few = extractor(config), config.with_values("evaluate", num_real=num_real)
    images = of_data_set(few, "held_out" if config.data.held_out else "training")
    if images.num_images < 2:
        raise UserError(f"the real images to compare with are {images.num_images}; they must be 2 or more.")
    real = network.extract(images.read(range(images.num_images)))["features"] if sharding.is_first() else None
    kernel_distance = None if real is None else kernel.distance_to(real)

    def figures(images: np.ndarray) -> dict[str, float]:
        features = network.extract(images)["features"]
        found = {"kernel_distance": kernel_distance(features)}
        found |= {"sliced_wasserstein": sliced.sliced_wasserstein(features, real)}
        errors = {f"{name}_standard_error": figure.standard_error for name, figure in found.items()}
        return {name: figure.value for name, figure in found.items()} | errors

    return figures


def check_alike(judged: Images, reference: Images | Statistics) -> None:
    """Raises UserError where images have another shape than those they are compared with."""
    if judged.features is None and len(judged.shape) == 3 and judged.shape[-1] not in (1, 3):
        raise UserError(f"the images of {judged.name} are {list(judged.shape)}; they must have 1 or 3 channels.")
    if isinstance(reference, Statistics) or judged.features is not None:
        return
    if judged.shape != reference.shape:
        raise UserError(
            f"the images of {judged.name} are {list(judged.shape)}, and those of {reference.name} are "
            f"{list(reference.shape)}; figures compare images of one size, prepared in one way."
        )


def check_statistics(config: Config, reference: Statistics, network: dict[str, Any]) -> None:
    """Raises UserError where statistics are of another network, or of another size of its input.

    Those of other programs do not say of which they are. They are taken for Inception's, with either resize.
    """
    known, name = reference.made_from.get("features"), config.show("evaluate.reference")
    if known is None and config.evaluate.features not in evaluation.INCEPTION:
        raise UserError(
            f"{name} does not say of which network its statistics are; only Inception's may be so: set "
            "evaluate.features = 'inception', or make them by python -m diffusion_jax.tools.reference_stats."
        )
    if known is not None and known != network:
        parts = [f"{key} {known.get(key)!r}, now {network[key]!r}" for key in network if known.get(key) != network[key]]
        raise UserError(f"{name} holds statistics of other features: {'; '.join(parts)}.")


def _sha256(file: storage.Path) -> str:
    digest = hashlib.sha256()
    with storage.reading(file) as opened:
        while block := opened.read(2**24):
            digest.update(block)
    return digest.hexdigest()
