"""Digits that move in straight lines: videos whose law is known, and what tells whether others keep it."""

import numpy as np

from diffusion_jax.data import sources
from diffusion_jax.data.sources import Record, Source, labelled
from diffusion_jax.errors import UserError

NUM_VIDEOS = 9000  # of each split
NUM_HELD_OUT = 297  # of the 1,797 digits, which move in the split 'test' alone
SIDE = 8  # of a digit, in pixels
DIRECTIONS = np.array([(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)])  # pixels in each frame: the classes
NAMES = tuple(f"{down:+d},{right:+d}" for down, right in DIRECTIONS.tolist())


def moving_digits(*, image_size: tuple[int, int, int], split: str = "") -> Source:
    """Returns 9,000 videos in nine classes: one of scikit-learn's digits moves by a pixel a frame, or rests, on black.

    Raises UserError for a split other than '' and 'test', and where the frames are too small for the way.

    Args:
        image_size: (frames, height, width).
        split: of the set.
    """
    seed = sources.seed_of_split("moving_digits", split)
    num_frames, height, width = image_size
    if min(height, width) < SIDE + num_frames - 1:
        raise UserError(
            f"config field data.image_size = {tuple(image_size)!r} is too small: digits of 8 pixels move by "
            f"{num_frames - 1}, so that height and width must be at least {SIDE + num_frames - 1}."
        )
    digits = sources.digits()
    first, last = (digits.num_images - NUM_HELD_OUT, digits.num_images) if split else (0, digits.num_images - NUM_HELD_OUT)

    def read(number: int) -> Record:
        rng, label = np.random.default_rng([seed, number]), number % len(DIRECTIONS)
        way = (num_frames - 1) * DIRECTIONS[label]
        room = np.array([height, width]) - SIDE - np.abs(way)
        start = rng.integers(0, room + 1) + np.maximum(0, -way)
        video = np.zeros((num_frames, height, width, 1), np.uint8)
        digit = digits.read(int(rng.integers(first, last)))["x"]
        for frame, (top, left) in zip(video, start + np.arange(num_frames)[:, None] * DIRECTIONS[label], strict=True):
            frame[top : top + SIDE, left : left + SIDE] = digit
        return labelled(video, label)

    return Source(NUM_VIDEOS, read, NAMES, len(DIRECTIONS))


def moves(videos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the direction in which each frame follows from the one before, and what is left of the difference.

    Args:
        videos: uint8 [N, F, H, W, 1].

    Returns:
        Numbers of `DIRECTIONS`, and root mean squares over the pixels, 0 to 255. # both [N, F - 1]
    """
    before, after = (part.astype(np.float32) for part in (videos[:, :-1], videos[:, 1:]))
    padded = np.pad(before, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = videos.shape[2:4]
    left = [
        np.sqrt(np.mean((padded[:, :, 1 - down : 1 - down + height, 1 - right : 1 - right + width] - after) ** 2, (2, 3, 4)))
        for down, right in DIRECTIONS
    ]
    return np.argmin(left, axis=0), np.min(left, axis=0)
