"""What a source's images become on their way to a batch. Each function takes a `Source` or pixels, and returns one."""

import math

import numpy as np
from PIL import Image

from diffusion_jax.data.sources import Record, Source
from diffusion_jax.errors import UserError


def resized(source: Source, *, image_shape: tuple[int, ...], center_crop: int, resize: bool, num_classes: int) -> Source:
    """Returns a source whose images have the configured shape.

    An image that goes with each, `cond["image"]`, is treated alike, and gets as many channels. `read` raises UserError where
    an image or its label does not fit.

    Args:
        image_shape: (height, width, channels), or the shape of other arrays, which are neither cut nor scaled.
        center_crop: side of the square that is cut out of the middle first, in pixels; 0 for none.
        resize: whether to scale by area until the image just covers `image_shape`, and to cut out the middle; otherwise
            another size is an error.
        num_classes: that the network knows; with 0 `cond` has no label.
    """
    *size, channels = image_shape

    def fitting(pixels: np.ndarray) -> np.ndarray:
        if center_crop:
            _check_crop(pixels, center_crop)
            pixels = crop(pixels, center_crop, center_crop)
        if resize and pixels.shape != image_shape:
            pixels = crop(resize_to_cover(pixels, *size), *size)
        _check_shape(pixels, image_shape)
        return pixels.copy()  # a view would keep the whole photograph in memory

    def read(number: int) -> Record:
        record = source.read(number)
        pixels, given, cond = record["x"], record["cond"], {}
        if num_classes:
            _check_label(given["label"], num_classes, source.class_names)
            cond = {"label": np.int32(given["label"])}
        if "image" in given:
            cond["image"] = fitting(_with_channels(given["image"], channels))
        return {"x": fitting(_with_channels(pixels, channels) if resize else pixels), "cond": cond}

    return source._replace(read=read)


def subsampled(source: Source, num_images: int) -> Source:
    """Returns a source of at most this many images, evenly spaced; 0 for all."""
    kept = min(num_images or source.num_images, source.num_images)
    captions = tuple(source.captions[number * source.num_images // kept] for number in range(kept if source.captions else 0))
    read = lambda number: source.read(number * source.num_images // kept)  # noqa: E731
    return source._replace(num_images=kept, read=read, captions=captions)


def _with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Returns an image as grey or as RGB, where it is the other. # uint8 [H, W, channels]"""
    if (pixels.shape[-1], channels) == (1, 3):
        return pixels.repeat(3, axis=-1)
    if (pixels.shape[-1], channels) == (3, 1):
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return pixels


def resize_to_cover(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns an image scaled to cover (height, width): by area where it shrinks, bicubically where it grows."""
    if pixels.shape[-1] > 4:
        raise UserError(f"an image of {pixels.shape[-1]} channels cannot be scaled; set data.resize = False.")
    scale = max(height / pixels.shape[0], width / pixels.shape[1])
    size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    if math.prod(size) > Image.MAX_IMAGE_PIXELS:
        raise UserError(
            f"an image of {list(pixels.shape)} would be scaled to {size[1]} x {size[0]} pixels to cover {height} x {width}; "
            "remove it, or set data.center_crop."
        )
    kernel = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).resize(size, kernel)
    return np.asarray(image).reshape(size[1], size[0], pixels.shape[-1])


def crop(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the middle of an image."""
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def _check_crop(pixels: np.ndarray, center_crop: int) -> None:
    if min(pixels.shape[:2]) < center_crop:
        raise UserError(
            f"config field data.center_crop = {center_crop} is larger than an image of {list(pixels.shape)}; 0 for none."
        )


def _check_shape(pixels: np.ndarray, image_shape: tuple[int, ...]) -> None:
    found = pixels.shape
    if found != image_shape:
        what, other = ("images", ", or data.resize = True") if len(found) == 3 else ("data", "")
        raise UserError(
            f"config fields data.image_size and data.channels say {list(image_shape)}, but the {what} are {list(found)}; "
            f"set data.image_size = {tuple(found[:-1])} and data.channels = {found[-1]}{other}."
        )


def _check_label(label: int, num_classes: int, names: tuple[str, ...]) -> None:
    if not 0 <= label < num_classes:
        named = f", of {', '.join(names)}" if names else ""
        raise UserError(
            f"config field model.num_classes = {num_classes} does not fit the data, which has an image of class {label}"
            f"{named}."
        )
