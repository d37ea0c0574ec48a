"""What is given to edit: images and masks, read from the files that a config names, or from arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import errors, operators
from diffusion_jax.compose import edits, processes, tasks
from diffusion_jax.compose.config import Config
from diffusion_jax.compose.tasks import Task
from diffusion_jax.data import sources
from diffusion_jax.data.feed import Batch
from diffusion_jax.data.sources import UnreadableError
from diffusion_jax.errors import UserError
from diffusion_jax.runs import logs, storage


class Given(NamedTuple):
    """Images as they are read."""

    names: list[str]  # by which their results are called
    images: list[np.ndarray]  # uint8 [h, w, c] each


def read(config: Config) -> tuple[list[str], Batch]:
    """Returns the names of the images that the section `edit` names, and what is given of them, as `batch` does.

    Raises UserError where a file is missing, cannot be read or does not fit.
    """
    (names, images), task, mask = _read(config, "images"), edits.task_of(config), None
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
    task, names = edits.task_of(config), names or [str(number) for number in range(len(images))]
    if mask is not None and (task.free is None or task.free.sides):
        raise UserError(f"a mask does not fit task = {config.edit.task!r}; it is for 'inpaint' and 'repaint'.")
    wanted = _given_shape(config, task)
    images = [_with_channels(image, wanted[-1]) for image in _greyed(config, task, images, wanted)]
    x = np.stack(_alike(images, "edit.images", names))
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
    with errors.of(f"{config.show('edit.task')} does not fit this model: "):
        return jax.eval_shape(task.operator.apply, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).shape[1:]


def _greyed(config: Config, task: Task, images: Sequence[np.ndarray], wanted: tuple[int, ...]) -> Sequence[np.ndarray]:
    """Returns what 'colourise' measures of images that have colours already, and the others as they are; it says so."""
    shape = processes.image_shape(config)
    if task.operator is None or wanted != (*shape[:2], 1) or shape[-1] == 1:
        return images
    is_colour = [image.shape == shape and bool(np.any(image != image[..., :1])) for image in images]
    if num := sum(is_colour):
        logs.say("note", f"{num:,} of the images have colours; of these the brightness alone is used.")

    def grey(image: np.ndarray) -> np.ndarray:
        return np.asarray(jnp.round(task.operator.apply(jnp.asarray(image[None], jnp.float32))[0])).astype(np.uint8)

    return [grey(image) if found else image for image, found in zip(images, is_colour, strict=True)]


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
            f"{config.show('edit.box')} is (top, left, height, width), and reaches beyond the images, "
            f"which are {size[0]} x {size[1]}."
        )
    mask = np.zeros((*size, 1), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def _on_canvas(config: Config, sides: tuple[int, ...], x: np.ndarray) -> Batch:
    """Returns images on a canvas, grey beside them, whose size must be one that the network takes."""
    top, bottom, left, right = sides
    height, width = top + x.shape[1] + bottom, left + x.shape[2] + right
    multiple = processes.network(config).parts.multiple_of * processes.pixels_per_latent(config)
    if not any(sides) or height % multiple or width % multiple:
        raise UserError(
            f"{config.show('edit.sides')} makes {height} x {width} pixels of {x.shape[1]} x {x.shape[2]}; it must add some, "
            f"and make multiples of {multiple}."
        )
    pads = ((0, 0), (top, bottom), (left, right), (0, 0))
    canvas = np.pad(x, pads, constant_values=127)
    return {"x": canvas, "mask": np.pad(np.zeros((*x.shape[:3], 1), bool), pads, constant_values=True)}


def _read(config: Config, name: str) -> Given:
    """Returns the images that a field of the section `edit` names: of a file, a folder, or an .npz file."""
    path, field = getattr(config.edit, name), f"edit.{name}"
    file = storage.path(path)
    if not path or not file.exists():
        raise UserError(
            f"config field {field} = {path!r} {'does not exist' if path else 'is missing'}; it must be an image file, "
            "a folder or an .npz file."
        )
    if file.is_dir():
        files = sources.image_files(path, field)[0]
        with errors.of(f"config field {field}: "):
            named = sources.by_name(file, files)
        return Given(list(named), [_decoded(each, field) for each in named.values()])
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


def check_apart(config: Config, folder: storage.Path) -> None:
    """Raises UserError where a folder to write into lies among the given images, which would then include its pictures."""
    images = storage.path(config.edit.images)
    if images.is_dir() and storage.is_inside(folder, images):
        raise UserError(
            f"folder {str(folder)!r} lies in {config.show('edit.images')}, so that results would be taken for given images; "
            "choose another --out."
        )
