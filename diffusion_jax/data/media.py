"""What the arrays of a data set are: how they are stored, what they are as x_0, and how people look at them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax import Array
from jax.typing import DTypeLike

from diffusion_jax import likelihood
from diffusion_jax.data import audio, codecs, molecules, videos
from diffusion_jax.runs import pictures

WINDOW = 3.0  # half the side of the square of a picture of points
NUM_BINS = 64  # of its sides
BIN = 3  # pixels of a bin's side


class Medium(NamedTuple):
    """A kind of array. What is stored, read and generated is [N, *size, C]."""

    kind: str  # of one array, in words
    dtype: DTypeLike  # of what is stored and generated
    num_axes: int  # how many numbers `size` has
    stored: str  # in words, what an .npz file holds
    fits: Callable[[np.ndarray], bool]  # whether an array of an .npz file is that
    encode: Callable[[Array], Array]  # what is stored -> x_0, floating point of the same shape
    decode: Callable[[Array], Array]  # x_0 -> what is stored
    bin_width: float  # of what is stored, in the unit of x_0; 0 of real numbers
    decoded: str  # in words, what `decode` does: for manifests
    grid: Callable[..., np.ndarray]  # (arrays, num_columns=0) -> a picture of them all, uint8 [H, W, C]; see `pictures.grid`
    num_pictured: int = 64  # arrays in a picture
    suffixes: tuple[str, ...] = ()  # of the files of a folder that hold one each
    read: Callable[..., np.ndarray] | None = None  # of such a file, as `audio.read`; None is `sources.decode`
    write: Callable[[np.ndarray, int], bytes] | None = None  # (array, sample rate) -> a file that people can play
    written: str = ""  # its suffix
    label: Callable[[np.ndarray], np.ndarray] | None = None  # arrays -> their labels, where these follow from them
    # (x, label) -> the projection onto the subspace where arrays of that label lie; None where they lie everywhere
    project: Callable[[Array, Array], Array] | None = None
    num_values: Callable[[Array], Array] | None = None  # label -> the dimension of that subspace


def point_grid(points: np.ndarray, *, num_columns: int = 0) -> np.ndarray:
    """Returns how many points lie where in the plane of their first two coordinates, darker where there are more.

    The picture shows (-3, 3) in both, the second coordinate upwards. The darkest bin of all is black, and grey is
    proportional to the square root of the number.

    Args:
        points: [N, D], D 1 or more; the second coordinate of one is 0.
        num_columns: points i, i + num_columns, i + 2 num_columns, ... make a panel each; 0 makes one of all.

    Returns:
        uint8 [192 + 4, (192 + 2) * panels + 2, 1].
    """
    panels = [points[i :: num_columns or 1, :2] for i in range(num_columns or 1)]
    edges = np.linspace(-WINDOW, WINDOW, NUM_BINS + 1)
    counts = np.stack([np.histogram2d(panel[:, 0], panel[:, -1] * (points.shape[1] > 1), bins=edges)[0] for panel in panels])
    grey = 255 - np.round(255 * np.sqrt(counts / max(1, counts.max()))).astype(np.uint8)
    tiles = grey.swapaxes(1, 2)[:, ::-1, :, None]  # rows downwards, columns to the right
    return pictures.grid(tiles, num_columns=len(tiles), min_size=BIN * NUM_BINS)


def _are_images(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.ndim in (3, 4) and array.size > 0


def _are_videos(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.ndim == 5 and array.shape[-1] in (1, 3) and array.size > 0


def _are_points(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and array.ndim == 2 and array.size > 0 and bool(np.all(np.isfinite(array)))


def _are_sounds(array: np.ndarray) -> bool:
    return array.dtype == np.int16 and array.ndim in (2, 3) and array.size > 0


IMAGES = Medium(
    kind="image",
    dtype=np.uint8,
    num_axes=2,
    stored="uint8 [N, H, W, C], 0 to 255",
    fits=_are_images,
    encode=codecs.from_uint8,
    decode=codecs.to_uint8,
    bin_width=likelihood.UINT8_BIN,
    decoded="round((x + 1) * 127.5) to uint8, clipped",
    grid=pictures.grid,
    suffixes=(".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"),
)
POINTS = Medium(
    kind="point",
    dtype=np.float32,
    num_axes=0,
    stored="finite floating-point numbers [N, D]",
    fits=_are_points,
    encode=lambda points: points,
    decode=lambda x: x,
    bin_width=0.0,
    decoded="none",
    grid=point_grid,
    num_pictured=16_384,
)
VIDEOS = IMAGES._replace(
    kind="video",
    num_axes=3,
    stored="uint8 [N, F, H, W, C], 0 to 255, C 1 or 3",
    fits=_are_videos,
    grid=videos.grid,
    num_pictured=9,
    suffixes=videos.SUFFIXES,
    read=videos.read,
    write=videos.webp,
    written=".webp",
)
MOLECULES = POINTS._replace(
    kind="molecule",
    num_axes=1,
    stored=f"finite floating-point numbers [N, M, {3 + len(molecules.TYPES)}]",
    fits=molecules.is_valid,
    encode=molecules.centred,
    grid=molecules.grid,
    num_pictured=36,
    write=molecules.xyz,
    written=".xyz",
    label=molecules.num_atoms,
    project=molecules.project,
    num_values=molecules.num_values,
)
SOUNDS = Medium(
    kind="sound",
    dtype=np.int16,
    num_axes=1,
    stored="int16 [N, L, C]",
    fits=_are_sounds,
    encode=audio.from_int16,
    decode=audio.to_int16,
    bin_width=1 / audio.FULL_SCALE,
    decoded="round(32768 x) to int16, clipped",
    grid=audio.grid,
    num_pictured=16,
    suffixes=audio.SUFFIXES,
    read=audio.read,
    write=audio.wav,
    written=".wav",
)
