"""examples/digits: small enough to ship, and it draws what it drew when it was made."""

import pathlib

import numpy as np

import diffusion_jax as dj

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "digits"


def test_the_weights_are_small():
    files = [file for file in (EXAMPLE / "checkpoints").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 2e6


def test_the_weights_draw_the_images_that_they_drew():
    """As benchmarks/compatibility.py: at most one pixel in a thousand is off by more than two levels."""
    images = dj.load(EXAMPLE).sample(16, batch_per_device=2)
    with np.load(EXAMPLE / "expected.npz", allow_pickle=False) as expected:
        levels = np.abs(images.astype(int) - expected["images"][:16])
    assert images.shape == (16, 8, 8, 1) and np.std(images) > 50 and np.mean(levels > 2) < 1e-3
