"""The images that a config names, and what they become: x_0, conditions, batches."""

import functools
import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from diffusion_jax import errors
from diffusion_jax.compose import coding, conditions, texts
from diffusion_jax.compose.choices import FEATURES, MEDIA, NETWORKS, SOURCES, chosen, named
from diffusion_jax.compose.config import Config
from diffusion_jax.compose.processes import image_shape, shape
from diffusion_jax.data import feed, transforms
from diffusion_jax.data.sources import Source
from diffusion_jax.errors import UserError
from diffusion_jax.networks import conditioning as conditionings
from diffusion_jax.networks.conditioning import Conditioning
from diffusion_jax.runs import logs, sharding, storage

FEW_IMAGES = 1000  # of 300 digits a network draws 97% again (docs/recipes.md)
OF_CONDITIONS = ("condition", "condition_factor", "condition_path", "condition_held_out")  # fields of the section `data`
OF_CODECS = ("codec", "latents", "latent_shape", "latent_scale", "latent_shift")  # likewise
MEDIA_OF = {
    "drums": ("sounds",),
    "folder": ("images", "sounds", "videos"),
    "moving_digits": ("videos",),
    "npz": ("images", "molecules", "points", "sounds", "videos"),
    "two_moons": ("points",),
}  # of sources that have others than images alone
OF_MEDIA = {  # fields that have other values for each medium
    "model.kind": {
        "images": tuple(kind for kind in NETWORKS if kind not in ("egnn", "mlp")),
        "molecules": ("egnn",),
        "points": ("mlp",),
        "sounds": ("unet",),
        "videos": ("unet",),
    },
    "evaluate.features": {
        "images": tuple(name for name in FEATURES if name != "spectrogram"),
        "molecules": ("given",),
        "points": ("given", "pixels"),
        "sounds": ("given", "pixels", "spectrogram"),
        "videos": ("given", "pixels"),
    },
}
OF_UINT8 = ("hybrid", "vdm", "vlb")  # losses
OF_IMAGES = {  # fields that are of images, and what they are of other media
    "data.center_crop": 0,
    "data.resize": False,
    "data.random_flip": False,
    "data.augment_rate": 0.0,
    "data.condition": "none",
    "data.codec": "",
    "train.evaluate_every": 0,
}
DRAFT = 2  # how much larger than the network's a JPEG is decoded at least: what then scales it still averages squares
NUM_HELD_OUT = 1024  # images at most of which the held-out loss is taken


def conditioning(config: Config) -> Conditioning:
    """Returns what the network is given besides x_t and c_noise."""
    section = config.model
    found = conditionings.unconditional()
    if section.num_classes:
        found = conditionings.labels(section.num_classes, section.null_label, label=config.sample.label)
    if config.model.text != "none":
        empty, prompts = (functools.partial(of, config) for of in (texts.empty, texts.of_prompts))
        found = conditionings.with_text(found, texts.shape(config), empty, prompts)
    num_channels = conditions.num_channels(config)
    return conditionings.with_image(found, (*config.data.image_size, num_channels)) if num_channels else found


def encode(config: Config) -> Callable[[feed.Batch, Array], tuple[Array, Any]]:
    """Returns (batch, keys of its images [B]) -> (x_0, cond), as the network gets them."""
    condition, codec = conditions.condition(config), coding.codec(config)

    def encoded(batch: feed.Batch, keys: Array) -> tuple[Array, Any]:
        x, cond = batch["x"], batch["cond"]
        x_0 = coding.standardised(config, x[:, 0]) if config.data.codec else codec.encode(x)
        return x_0, {**cond, "image": condition(x_0, keys, cond.get("image"))} if condition else cond

    return encoded


def batch_spec(config: Config, num_images: int) -> feed.Batch:
    """Returns `jax.ShapeDtypeStruct`s of the batch that `encode` takes."""
    image = jax.ShapeDtypeStruct((num_images, *image_shape(config)), MEDIA[config.data.medium].dtype)
    if config.data.codec:
        image = jax.ShapeDtypeStruct((num_images, 1 + config.data.random_flip, *shape(config)), np.float32)
    cond = {name: of for name, of in conditioning(config).spec(num_images).items() if name != "image"}
    return {"x": image, "cond": {**cond, "image": image} if config.data.condition == "paired" else cond}


def contradictions(config: Config) -> Iterator[str]:
    """Yields a sentence for everything that does not fit together in how images are read."""
    data = config.data
    yield from _of_medium(config)
    needed = {"source": "'folder' or 'tar'", "resize": True, "center_crop": 0, "condition": "one that is not 'paired'"}
    is_so = (data.source in ("folder", "tar"), data.resize, not data.center_crop, data.condition != "paired")
    for (name, wanted), is_met in zip(needed.items(), is_so, strict=True):
        if data.jpeg_draft and not is_met:
            yield f"config field data.jpeg_draft = True needs data.{name} = {wanted}; found {getattr(data, name)!r}."
    for name, off in (("condition", "none"), ("codec", "")):
        if data.augment_rate and (found := getattr(data, name)) != off:
            yield f"{config.show('data.augment_rate')} moves images alone; it needs data.{name} = {off!r}, found {found!r}."
    if config.model.text != "none" and "captions" not in named(SOURCES[data.source]):
        sentence = f"needs captions: data.source = 'folder', 'npz', 'tar' or 'tfds'; found {data.source!r}."
        yield f"{config.show('model.text')} {sentence}"


def _of_medium(config: Config) -> Iterator[str]:
    """Yields a sentence for what does not fit `data.medium`: its sources, its sizes, and what only images have."""
    data, num_axes = config.data, MEDIA[config.data.medium].num_axes
    medium = f"data.medium = {data.medium!r}"
    media_of = MEDIA_OF.get(data.source, ("images",))
    if data.medium not in media_of:
        yield f"{config.show('data.source')} has {' or '.join(media_of)}; found {medium}."
    if len(data.image_size) != num_axes:
        yield f"{config.show('data.image_size')} does not fit {medium}; it must have {num_axes} number(s)."
    if MEDIA[data.medium].label is not None:
        yield from _of_labels_that_follow(config)
    for name, off in OF_IMAGES.items() if data.medium != "images" else ():
        if config.flat()[name] != off:
            yield f"{config.show(name)} is for data.medium = 'images', and not for {data.medium!r}; set {off!r}."
    if not MEDIA[data.medium].bin_width and config.sample.clip != "none":
        yield f"{config.show('sample.clip')} limits x_0 to [-1, 1], and {data.medium} have no limits; set 'none'."
    if MEDIA[data.medium].dtype != np.uint8 and config.loss.name in OF_UINT8:
        yield f"{config.show('loss.name')} is a bound of uint8 values, and {medium}; set 'simple'."
    for name, allowed in OF_MEDIA.items():
        if config.flat()[name] not in allowed[data.medium]:
            yield f"{config.show(name)} does not fit {medium}; it must be {' or '.join(map(repr, allowed[data.medium]))}."


def _of_labels_that_follow(config: Config) -> Iterator[str]:
    """Yields a sentence for labels without meaning where a label is a number of things: all have one, and it is not 0."""
    for name, off in {"model.null_label": False, "sample.negative_label": -1}.items():
        if config.flat()[name] != off:
            yield f"{config.show(name)} is not for {config.data.medium}, whose label is their size; set {off!r}."
    if config.sample.label == 0:
        yield f"{config.show('sample.label')} is the size of {config.data.medium}; it must be at least 1, or -1."


def source(config: Config) -> Source:
    """Returns the training set, with images of the configured shape."""
    return _source(config, split="")


def held_out(config: Config) -> Source | None:
    """Returns the held-out set, of which losses and likelihoods are taken, or None."""
    if not (split := config.data.held_out):
        return None
    with errors.of(f"config field data.held_out = {split!r}: "):
        found = _source(config, split=split)
    if config.model.num_classes and found.class_names and found.class_names != _unchecked(config).class_names:
        raise UserError(
            f"config field data.held_out = {split!r} has classes other than those of the training set: "
            f"{', '.join(found.class_names)}."
        )
    return found


def of_split(config: Config, split: str, *, otherwise: str = "") -> Source:
    """Returns the 'training' or the 'held_out' set; UserError where the config names none, with what else may be done."""
    if (found := source(config) if split == "training" else held_out(config)) is None:
        raise UserError(f"config field data.held_out = '' is empty; set it to the held-out images{otherwise}.")
    return found


def with_num_classes(config: Config) -> Config:
    """Returns the config with its own `model.num_classes`, or where that is -1 with what the training set has.

    Raises UserError where that has no classes.
    """
    if config.model.num_classes != -1:
        return config
    if not (num_classes := num_stored_classes(config)):
        wanted = "sub-folders, one for each class" if config.data.source == "folder" else "labels"
        raise UserError(f"config field model.num_classes = -1 is not possible: the data have no {wanted}. Set 0 for none.")
    return config.with_values("model", num_classes=num_classes)


def num_stored_classes(config: Config) -> int:
    """Returns how many classes the training set has; 0 for none."""
    return _unchecked(config).num_classes


def _unchecked(config: Config) -> Source:
    """Returns the training set as it is stored; it is not asked whether it can be read."""
    return chosen(SOURCES[config.data.source], config.data, medium=MEDIA[config.data.medium], skip_broken=False)


def _source(config: Config, *, split: str) -> Source:
    section, make = config.data, SOURCES[config.data.source]
    given = {"split" if "split" in named(make) else "path": split} if split else {}  # some have a path for each split
    given |= {"condition_path": section.condition_held_out, "condition_field": "data.condition_held_out"} if split else {}
    given |= {"draft_size": DRAFT * max(section.image_size) if section.jpeg_draft else 0}
    given |= {"medium": MEDIA[section.medium], "image_shape": image_shape(config), "captions": config.model.text != "none"}
    stored, num_classes = chosen(make, section, **given), config.model.num_classes
    if stored.skipped:
        logs.say("skipped", stored.skipped)
    found = chosen(transforms.resized, section, source=stored, image_shape=image_shape(config), num_classes=num_classes)
    return texts.captioned(config, found) if given["captions"] else found


def check_apart(config: Config, folder: storage.Path) -> None:
    """Raises UserError where a folder to write into lies among the images, which would then include its pictures."""
    path = config.data.path  # '' where nobody said yet where they are, as of a published model
    if config.data.source == "folder" and path and storage.is_inside(folder, storage.path(path)):
        raise UserError(
            f"folder {str(folder)!r} lies in config field data.path = {config.data.path!r}, so that pictures written there "
            "would be taken for images of the data set; choose another --workdir or --out."
        )


def is_resident(config: Config, num_images: int) -> bool:
    """Returns whether this many images fit in the cache on the devices."""
    leaves = jax.tree.leaves(batch_spec(config, num_images))
    num_bytes = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves if leaf.ndim > 1)
    return num_bytes <= config.data.device_cache_gib * 2**30


def records(config: Config, source: Source, mesh: Mesh) -> feed.Records | None:
    """Returns all images of a source on every device; None if they are too many."""
    if not is_resident(config, source.num_images):
        feed.import_grain()
        source.read(0)  # what is wrong with all images is said now
        return None
    return sharding.put_global(read(source), sharding.replicated(mesh))


def read(source: Source) -> feed.Records:
    """Returns all images of a source, while a terminal shows how far it is."""
    progress = logs.Progress("images read", total=source.num_images)
    found = feed.read(source, on_progress=progress.update)
    logs.clear_progress()
    return found


def held_out_batches(config: Config, source: Source | None, mesh: Mesh) -> feed.Batch | None:
    """Returns batches of images that are not trained on, stacked: always the same; None of no source."""
    if source is None:
        return None
    batches = feed.held_out_batches(transforms.subsampled(source, NUM_HELD_OUT), **batching(config))
    return sharding.put_local_part(batches, sharding.batched(mesh, axis=1))


def batching(config: Config) -> dict[str, Any]:
    """Returns how images become batches: arguments of `feed.make_feed`."""
    train = config.train
    own = {"part": jax.process_index(), "num_parts": jax.process_count()}
    return {"batch_size": train.batch_size, "seed": train.seed, **own}


def summary(config: Config, source: Source) -> Iterator[tuple[str, str]]:
    """Yields a label and what it says of the training set: how many images, what becomes of them, and of classes."""
    data, num_classes, names = config.data, config.model.num_classes, source.class_names
    where = "on the devices" if is_resident(config, source.num_images) else "read as needed"
    size = " x ".join(map(str, image_shape(config)))
    yield "data", f"{data.source}: {source.num_images:,} {data.medium}, {size}, {where}"
    yield from _summary_of_images(config) if data.medium == "images" else ()
    if data.medium == "images" and source.num_images < FEW_IMAGES and not data.augment_rate:
        yield "note", "so few images are soon learned by heart; docs/recipes.md, Few images, has an answer."
    if source.captions:
        distinct, name = len(set(source.captions)), config.model.text_folder or config.model.text
        yield "captions", f"{distinct:,} distinct, as {config.model.text_length} tokens of {name}"
    if source.left_out:
        yield "left out", f"{source.left_out}: files that are not read"
    kind = "sub-folders" if data.source == "folder" else "classes"
    if num_classes and names:
        yield "classes", ", ".join(f"{label} {name}" for label, name in enumerate(names))
    elif not num_classes and names and source.num_classes:
        yield "classes", f"{len(names):,} {kind}, not used; --config.model.num_classes=-1 trains with them"
    if num_classes > len(names) > 0:
        text = f"config field model.num_classes = {num_classes} is more than the data has; the others are not trained."
        yield "warning", text


def _summary_of_images(config: Config) -> Iterator[tuple[str, str]]:
    data, (height, width, _) = config.data, image_shape(config)
    crop = f"the middle {data.center_crop} x {data.center_crop} pixels of each, " if data.center_crop else ""
    size = f"scaled to cover {height} x {width}, the rest cut off" if data.resize else "not scaled"
    flip = "half of them mirrored (--config.data.random_flip=False for none)" if data.random_flip else "none mirrored"
    yield "images", f"{crop}{size}; {flip}"
    if data.augment_rate:
        yield (
            "augmented",
            f"half of them mirrored, other moves at a rate of {data.augment_rate:g}; the network is told of each",
        )
    if data.condition != "none":
        factor = f" by {data.condition_factor}" if data.condition == "low_resolution" else ""
        yield "condition", f"{data.condition}{factor}, {conditions.num_channels(config)} channel(s) beside x_t"


def data_fingerprint(config: Config, source: Source) -> dict[str, Any]:
    """Returns what must not change about the data when a run resumes: the order and the labels depend on it."""
    classes = list(source.class_names) if config.model.num_classes else []
    captions = {"captions": texts.digest(source.captions)} if source.captions else {}
    return {"num_images": source.num_images, "class_names": classes, **captions}


def identity(config: Config, split: str) -> dict[str, Any]:
    """Returns what the images of 'training' or 'held_out' depend on, for a manifest."""
    path = config.data.path if split == "training" else config.data.held_out
    ignored = {"random_flip", "device_cache_gib", *OF_CONDITIONS, *OF_CODECS}
    # which folders that were written before do not name
    later = {"jpeg_draft": False, "medium": "images", "sample_rate": 16_000}
    ignored |= {name for name, off in later.items() if getattr(config.data, name) == off}
    found = {"data": config.data.model_dump(exclude=ignored), "split": split}
    return found | ({"files": digest_of_files(storage.path(path))} if path else {})


def digest_of_files(place: storage.Path) -> str:
    """Returns what changes when files do: a digest of names, sizes and times of a folder's files, or of one file's.

    Of an object store it is of the name alone: asking for each file there would take long.
    """
    if storage.is_object_store(place) or not place.exists():
        return hashlib.sha256(str(place).encode()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(storage.files(place, ())) if place.is_dir() else [place]:
        found = file.stat()
        digest.update(f"{file} {found.length} {found.mtime}\n".encode())
    return digest.hexdigest()


def evaluated(config: Config) -> Source:
    """Returns the images to measure, evenly spaced in the held-out set (UserError if there is none) or the training set."""
    settings = config.likelihood
    otherwise = ", or set likelihood.held_out = False to use the training set"
    found = of_split(config, "held_out" if settings.held_out else "training", otherwise=otherwise)
    return transforms.subsampled(found, settings.num_images)
