"""What a config says of editing: which images and masks are given, and the function that edits them."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import errors, operators, process, streams
from diffusion_jax.compose import checks, guiding, inputs, processes, sampling, tasks
from diffusion_jax.compose.choices import CLIPS, EDITS, chosen, taken
from diffusion_jax.compose.config import Config
from diffusion_jax.compose.tasks import Task
from diffusion_jax.data import sources
from diffusion_jax.data.feed import Batch
from diffusion_jax.data.sources import UnreadableError
from diffusion_jax.errors import UserError
from diffusion_jax.networks.stages import multiple_of
from diffusion_jax.runs import storage

PATHS = ("images", "mask")  # fields of the section `edit`: not what a result depends on, which is their content


class Given(NamedTuple):
    """Images as they are read."""

    names: list[str]  # by which their results are called
    images: list[np.ndarray]  # uint8 [h, w, c] each


def settled(config: Config) -> Config:
    """Returns the config with the sampler of its task, and with a label that says what the images show.

    Raises UserError where its settings do not fit together.
    """
    processes.make_denoiser(config)  # the network draws images
    task = task_of(config)
    if config.data.condition != "none":
        raise UserError(
            f"{config.show('data.condition')}: a network that is shown an image does not edit; use --mode=sample."
        )
    values = {"sampler": task.sampler, "eta": 0.0, "churn": (0.0, 0.0, 1e9, 1.0), "variance": "small", "strip": 0}
    config = config.with_values("sample", **values, last_level="data", label=_label(config))
    checks.check(config)
    if sampling.grid(config).sigma[-1] > 0:
        raise UserError(f"{config.show('sample.times')} does not lead to the data; end it with 0.")
    _visited(config, task)
    return config


def _visited(config: Config, task: Task) -> np.ndarray:
    """Returns the times that a task visits; UserError where it cannot."""
    try:
        return task.visit(sampling.grid_times(config))
    except UserError as error:
        raise UserError(f"config field edit.{error}") from error


def _label(config: Config) -> int:
    """Returns `sample.label`, or where it is -1 the null label; UserError where there is none, or guidance away from it."""
    label, num_classes = config.sample.label, config.model.num_classes
    if label >= 0 or num_classes == 0:
        return label
    if config.sample.guidance != 1 and not config.sample.guide and config.sample.negative_label < 0:
        raise UserError(f"{config.show('sample.guidance')} needs sample.label, which says what the images show; set it.")
    if not config.model.null_label:
        raise UserError(
            f"{config.show('sample.label')} does not say of which class the images are, as this network must know; "
            f"set one from 0 to {num_classes - 1}."
        )
    return num_classes


def task_of(config: Config) -> Task:
    """Returns the task that the section `edit` names."""
    try:
        return chosen(EDITS[config.edit.task], config.edit)
    except UserError as error:
        raise UserError(f"config field edit.{error}") from error


def make_edit(config: Config, guide: Config | None = None) -> Callable[[Any, Array, Array, Batch], dict[str, Array]]:
    """Returns (weights, seed, image numbers [B], what `batch` gives) -> {name: of each image, [B, ...]}.

    They are 'edited', uint8 [B, H, W, C], whether it is 'finite', and 'num_evaluations'. Image i depends on (seed, i) and
    on what is given of it alone.

    Args:
        config: of the run, `settled`.
        guide: as for `guiding.denoiser_of`, which says what the weights are.
    """
    labelled = guiding.labelled(config, guide)
    if labelled is not config and config.sample.label < 0:
        raise UserError(f"{config.show('sample.label')} does not say to which class the classifier shall guide; set one.")
    task, codec, cond_of = task_of(config), inputs.codec(config), inputs.conditioning(labelled).of_image
    denoiser_of, sampler = guiding.denoiser_of(config, guide), sampling.make_sampler(config)
    grid = processes.process_of(config).level(_visited(config, task))

    def edit(weights: Any, seed: Array, numbers: Array, given: Batch) -> dict[str, Array]:
        given = {name: codec.encode(rows) if rows.dtype == jnp.uint8 else rows for name, rows in given.items()}
        shape = codec.shape if task.operator else given["x"].shape[1:]
        if guide:
            _check_takes(guide, shape)
        # not the noises of --mode=sample, from which an image of that seed came and would come again
        keys_noise, keys = jax.vmap(jax.random.split, out_axes=1)(streams.keys(seed, "edit", numbers))
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys_noise)
        denoise, limit = denoiser_of(weights, cond_of(numbers)), CLIPS[config.sample.clip]
        how = tasks.Sampling(denoise, limit, sampler, grid, noise, keys)
        found = task.edit(how, given)
        finite = jnp.all(jnp.isfinite(found.x), axis=process.value_axes(found.x))
        evaluations = jnp.broadcast_to(found.num_evaluations, numbers.shape)
        return {"edited": codec.decode(found.x), "finite": finite, "num_evaluations": evaluations}

    return edit


def _check_takes(guide: Config, shape: tuple[int, ...]) -> None:
    """Raises UserError where the network of a guide does not take images of a shape, as those of a larger canvas."""
    multiple, needs_own = multiple_of(guide.model.multipliers), guide.model.pool == "attention"
    if any(size % multiple for size in shape[:2]) or (needs_own and shape != processes.image_shape(guide)):
        raise UserError(f"config field edit.sides makes {shape[0]} x {shape[1]} pixels, which the guide does not take.")


def given(config: Config) -> tuple[list[str], Batch]:
    """Returns the names of the images that the section `edit` names, and what is given of them, as `batch` does.

    Raises UserError where a file is missing, cannot be read or does not fit.
    """
    (names, images), task, mask = _read(config, "images"), task_of(config), None
    if task.free and task.free.mask:
        masks = _read(config, "mask")
        free = [_is_white(each) for each in _of_names(masks, names, config)]
        mask = np.stack(_alike(free, "edit.mask", names if len(free) == len(names) else masks.names))
    found = batch(config, images, mask, names=names)
    return (_of_rows(names, task.num_between) if task.num_between else names), found


def batch(config: Config, images: Sequence[np.ndarray], mask: np.ndarray | None, *, names: Sequence[str] = ()) -> Batch:
    """Returns what is given of each image that is made: {"x": uint8 [N, ...], "mask": bool [N, H, W, 1] or missing}.

    Of 'interpolate' it is {"x": one image, "other": another, "weight": of the other, [N]}, N of each pair in order.

    Raises UserError for what does not fit the task or the model.

    Args:
        images: uint8 [h, w, c] each.
        mask: 1 where pixels are free, [H, W, 1] or [N, H, W, 1], or of all C; None where `edit.box` says so, or the task has
            none.
        names: of the images, for sentences; by default their numbers.
    """
    task, names = task_of(config), names or [str(number) for number in range(len(images))]
    if mask is not None and (task.free is None or task.free.sides):
        raise UserError(f"a mask does not fit task = {config.edit.task!r}; it is for 'inpaint' and 'repaint'.")
    wanted = _given_shape(config, task)
    x = np.stack(_alike([_with_channels(image, wanted[-1]) for image in images], "edit.images", names))
    if task.free and task.free.sides:
        wanted = x.shape[1:3] + wanted[2:]  # of any size
    if x.shape[1:] != wanted:
        is_of_size = x.shape[1:3] == wanted[:2]
        raise UserError(
            f"image {names[0]!r} is {list(x.shape[1:])}; edit.task = {config.edit.task!r} with this model takes "
            f"{list(wanted)}. {'Make it grey' if is_of_size else 'Scale it or cut it out'} first."
        )
    if task.num_between:
        return _in_pairs(x, task.num_between)
    return {"x": x} if task.free is None else _freed(config, task.free, x, mask)


def of_array(images: np.ndarray) -> list[np.ndarray]:
    """Returns the images of an array; UserError where it is not uint8 [N, H, W, C] with N above 0."""
    if getattr(images, "dtype", None) != np.uint8 or images.ndim != 4 or not images.size:
        raise UserError(f"images = {errors.shown(images)} is not allowed; it must be uint8 [N, H, W, C].")
    return list(np.asarray(images))


def _given_shape(config: Config, task: Task) -> tuple[int, ...]:
    """Returns the shape of what a task is given of an image of the model's; UserError where it cannot be given."""
    shape = processes.image_shape(config)
    if task.operator is None:
        return shape
    try:
        return jax.eval_shape(task.operator.apply, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).shape[1:]
    except UserError as error:
        raise UserError(f"config field edit.task = {config.edit.task!r} does not fit this model: {error}") from error


def _freed(config: Config, free: tasks.Free, x: np.ndarray, mask: np.ndarray | None) -> Batch:
    """Returns images with their masks; those of sides are on a larger canvas."""
    if free.sides:
        return _on_canvas(config, free.sides, x)
    if (mask is None) == (not free.box):
        said = "both are" if free.box else "neither is"
        raise UserError(f"edit.task = {config.edit.task!r} needs either edit.mask or edit.box; {said} given.")
    mask = _of_box(config, x.shape[1:3]) if mask is None else np.asarray(mask)
    operators.check_mask(mask, x.shape)
    mask = np.broadcast_to(mask.astype(bool), (*x.shape[:-1], mask.shape[-1]))
    if not np.all(np.any(mask, axis=(1, 2, 3))):
        raise UserError("the mask has no free pixel (white in a file, 1 in an array), so that nothing would be generated.")
    return {"x": x, "mask": mask}


def _in_pairs(x: np.ndarray, num_between: int) -> Batch:
    """Returns the first image of each pair and the second, for each image between."""
    if len(x) % 2:
        raise UserError(f"edit.task = 'interpolate' takes images in pairs; {len(x)} are given.")
    one, other = (ends.repeat(num_between, 0) for ends in (x[::2], x[1::2]))
    return {"x": one, "other": other, "weight": np.tile(np.linspace(0, 1, num_between, dtype=np.float32), len(x) // 2)}


def _of_rows(names: Sequence[str], num_between: int) -> list[str]:
    """Returns the names of the images between those of each pair."""
    pairs = [f"{one}_to_{other.rpartition('/')[2]}" for one, other in zip(names[::2], names[1::2], strict=True)]
    return [f"{pair}_{number:02d}" for pair in pairs for number in range(num_between)]


def _of_box(config: Config, size: tuple[int, ...]) -> np.ndarray:
    """Returns a mask that is free inside `edit.box`. # bool [H, W, 1]"""
    top, left, height, width = config.edit.box
    if top + height > size[0] or left + width > size[1]:
        raise UserError(
            f"{config.show('edit.box')} is (top, left, height, width), and leaves images of {size[0]} x {size[1]}."
        )
    mask = np.zeros((*size, 1), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def _on_canvas(config: Config, sides: tuple[int, ...], x: np.ndarray) -> Batch:
    """Returns images on a canvas, grey beside them, whose size must be one that the network takes."""
    top, bottom, left, right = sides
    pads = ((0, 0), (top, bottom), (left, right), (0, 0))
    canvas, multiple = np.pad(x, pads, constant_values=127), multiple_of(config.model.multipliers)
    height, width = canvas.shape[1:3]
    if not any(sides) or height % multiple or width % multiple:
        raise UserError(
            f"{config.show('edit.sides')} makes {height} x {width} pixels of {x.shape[1]} x {x.shape[2]}; it must add some, "
            f"and make multiples of {multiple}."
        )
    return {"x": canvas, "mask": np.pad(np.zeros((*x.shape[:3], 1), bool), pads, constant_values=True)}


def _read(config: Config, name: str) -> Given:
    """Returns the images that a field of the section `edit` names: of a file, a folder, or an .npz file."""
    path, field = getattr(config.edit, name), f"edit.{name}"
    file = storage.path(path)
    if not path or not file.exists():
        raise UserError(
            f"config field {field} = {path!r} does not exist; it must be an image file, a folder or an .npz file."
        )
    if file.is_dir():
        files = sources.image_files(path, field)[0]
        names = [str(each.relative_to(file).with_suffix("")) for each in files]
        if twice := [str(each) for each, name in zip(files, names, strict=True) if names.count(name) > 1]:
            raise UserError(f"config field {field}: {errors.some(twice, 2)} have the same name; rename one.")
        return Given(names, [_decoded(each, field) for each in files])
    if file.suffix == ".npz":
        source = sources.npz(path=path, field=field)
        return Given([f"{i:06d}" for i in range(source.num_images)], [source.read(i)["x"] for i in range(source.num_images)])
    return Given([file.stem], [_decoded(file, field)])


def _decoded(file: storage.Path, field: str) -> np.ndarray:
    try:
        return sources.decode(file)
    except UnreadableError as error:
        raise UserError(f"config field {field}: image file {str(file)!r} cannot be used ({error.reason}).") from error


def _of_names(masks: Given, names: Sequence[str], config: Config) -> list[np.ndarray]:
    """Returns one mask for all, or the mask of each name."""
    if len(masks.names) == 1 and not storage.path(config.edit.mask).is_dir():
        return masks.images
    of_name = dict(zip(*masks, strict=True))
    if missing := [name for name in names if name not in of_name]:
        raise UserError(f"{config.show('edit.mask')} has no mask for {errors.some(list(map(repr, missing)))}.")
    return [of_name[name] for name in names]


def _is_white(image: np.ndarray) -> np.ndarray:
    """Returns where an image is nearer to white than to black. # bool [H, W, 1]"""
    return image.mean(-1, keepdims=True) > 127.5


def _alike(images: list[np.ndarray], field: str, names: Sequence[str]) -> list[np.ndarray]:
    """Returns images; UserError where they have several sizes."""
    for name, image in zip(names, images, strict=False):
        if image.shape != images[0].shape:
            raise UserError(
                f"config field {field}: image {name!r} is {list(image.shape)} and {names[0]!r} is {list(images[0].shape)}; "
                "all must be of one size."
            )
    return images


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Returns an image as grey or as RGB, where nothing is lost. # uint8 [H, W, channels]"""
    if (image.shape[-1], channels) == (1, 3):
        return image.repeat(3, axis=-1)
    is_grey = image.shape[-1] == 3 and np.all(image == image[..., :1])
    return image[..., :1] if is_grey and channels == 1 else image


def made_from(config: Config, given: Batch) -> dict[str, Any]:
    """Returns what edited images depend on, for a manifest: the fields that the task takes, and the pixels."""
    fields = {name: value for name, value in taken(EDITS[config.edit.task], dict(config.edit)).items() if name not in PATHS}
    digests = {name: hashlib.sha256(rows.tobytes()).hexdigest() for name, rows in given.items()}
    return {"task": config.edit.task, **fields, "num_images": len(given["x"]), "given_sha256": digests}


def check_apart(config: Config, folder: storage.Path) -> None:
    """Raises UserError where a folder to write into lies among the given images, which would then include its pictures."""
    images = storage.real(storage.path(config.edit.images))
    if images.is_dir() and images in (storage.real(folder), *storage.real(folder).parents):
        raise UserError(
            f"folder {str(folder)!r} lies in {config.show('edit.images')}, so that results would be taken for given images; "
            "choose another --out."
        )
