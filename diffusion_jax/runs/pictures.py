"""Pictures of images: grids, PNG."""

import base64
import io
import math

import numpy as np
from PIL import Image

MOST_BYTES = 250_000  # of a picture in a page
MOST_SIDE = 640  # of one made smaller: noise itself then has fewer bytes


def grid(images: np.ndarray, *, num_columns: int = 0, pad: int = 2, min_size: int = 64) -> np.ndarray:
    """Returns images side by side on white, small ones enlarged by whole factors.

    Args:
        images: uint8 [N, H, W, C].
        num_columns: images in a row; 0 for as many as rows, or one more.
        pad: pixels between images.
        min_size: the least height or width at which an image is shown.

    Returns:
        uint8 [rows * (H' + pad) + pad, columns * (W' + pad) + pad, C].
    """
    factor = -(-min_size // min(images.shape[1:3]))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    num, height, width, channels = images.shape
    num_columns = num_columns or math.ceil(math.sqrt(num))
    num_rows = -(-num // num_columns)
    canvas = np.full((num_rows, height + pad, num_columns, width + pad, channels), 255, np.uint8)
    for i, image in enumerate(images):
        canvas[i // num_columns, :height, i % num_columns, :width] = image
    canvas = canvas.reshape(num_rows * (height + pad), num_columns * (width + pad), channels)
    return np.pad(canvas, ((pad, 0), (pad, 0), (0, 0)), constant_values=255)


def on_white(image: Image.Image) -> Image.Image:
    """Returns a picture that may be transparent on white, in RGB."""
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def encode_png(image: np.ndarray) -> bytes:
    """Returns a PNG file's bytes.

    Args:
        image: uint8 [H, W, C]: of 1 or 2 channels the first is shown as grey, of more the first three as red, green, blue.
    """
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] < 3 else image[..., :3]).save(file, format="PNG", optimize=True)
    return file.getvalue()


def data_uri(png: bytes) -> str:
    """Returns a PNG file as a data URI: itself, or where it has over `MOST_BYTES` a JPEG of `MOST_SIDE` pixels a side.

    Raises ValueError where it is damaged.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            image.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # what PIL raises for damaged files
        raise ValueError(f"not a whole PNG file ({error})") from error
    kind = "png"
    if len(png) > MOST_BYTES:
        kind, file, image = "jpeg", io.BytesIO(), image.convert("RGB")
        image.thumbnail((MOST_SIDE, MOST_SIDE))
        image.save(file, format="JPEG", quality=80)
        png = file.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(png).decode()}"
