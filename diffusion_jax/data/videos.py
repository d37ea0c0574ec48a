"""Videos, uint8 [F, H, W, C]: out of animated files, as pictures, as files that people can play."""

import io
import itertools
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from diffusion_jax.runs import pictures

SUFFIXES = (".apng", ".gif", ".png", ".webp")
FORMATS = ("GIF", "PNG", "WEBP")
MOST_FRAMES = 10_000  # of a file
FRAME_MS = 100  # of a written video
MIN_SIDE = 128  # of a written video, in pixels


def read(file: BinaryIO, *, shape: tuple[int, int, int, int], **_: int) -> np.ndarray:
    """Returns F frames of an animated file, evenly spaced, each scaled to cover H x W and cut in the middle, on white.

    Raises ValueError, in words that many files share, for what is no such file, or has fewer frames.

    Args:
        file: GIF, WebP or APNG.
        shape: (F, H, W, C), C 1 or 3.
    """
    num_frames, height, width, channels = shape
    try:
        with Image.open(file, formats=FORMATS) as image:
            found = min(getattr(image, "n_frames", 1), MOST_FRAMES)
            wanted = np.round(np.linspace(0, found - 1, num_frames)).astype(int)
            frames = [
                pictures.on_white(frame)
                for i, frame in enumerate(itertools.islice(ImageSequence.Iterator(image), found))
                if i in wanted
            ]
    except (UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("not GIF, WebP or APNG, or damaged") from error
    if len(frames) < num_frames:
        raise ValueError(f"of fewer than {num_frames} frames")
    mode, kernel = "L" if channels == 1 else "RGB", Image.Resampling.BOX
    fitted = [np.asarray(ImageOps.fit(frame, (width, height), kernel).convert(mode)) for frame in frames]
    return np.stack(fitted).reshape(shape)


def is_still(file: BinaryIO) -> bool:
    """Returns whether an image file has one frame alone; raises what Pillow does for a damaged one."""
    with Image.open(file, formats=FORMATS) as image:
        return getattr(image, "n_frames", 1) == 1


def webp(video: np.ndarray, **_: int) -> bytes:
    """Returns an animated WebP file's bytes, without loss, small frames enlarged by a whole factor.

    Args:
        video: uint8 [F, H, W, C], C 1 or 3.
    """
    factor, file = -(-MIN_SIDE // min(video.shape[1:3])), io.BytesIO()
    large = video.repeat(factor, axis=1).repeat(factor, axis=2)
    frames = [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).convert("RGB") for frame in large]
    options = {"save_all": True, "append_images": frames[1:], "duration": FRAME_MS, "loop": 0, "lossless": True}
    frames[0].save(file, format="WEBP", **options)
    return file.getvalue()


def grid(videos: np.ndarray, *, num_columns: int = 0) -> np.ndarray:
    """Returns a contact sheet: the frames of each of some videos in a row, uint8 [N, F, H, W, C]; see `pictures.grid`.

    With `num_columns` of videos in a row only the last frame of each is shown.
    """
    if num_columns:
        return pictures.grid(videos[:, -1], num_columns=num_columns)
    return pictures.grid(videos.reshape(-1, *videos.shape[2:]), num_columns=videos.shape[1], min_size=32)
