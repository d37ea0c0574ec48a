"""The folders of examples/: small enough to ship, and they draw what they drew when they were made."""

import pathlib

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

import diffusion_jax as dj
from diffusion_jax.metrics import frechet

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("name", ["avatars32", "digits", "digits_classes", "digits_distilled"])
def test_the_weights_are_small_and_do_not_say_whose_disk_they_were_on(name):
    files = [file for file in (EXAMPLES / name / "checkpoints").rglob("*") if file.is_file()]
    assert 0 < sum(file.stat().st_size for file in files) < 2e6
    marks = [file.read_text() for file in files if file.name == "commit_success.txt"]  # orbax writes where it saved
    assert marks and not any("successful to /" in mark for mark in marks)


def test_the_weights_draw_the_images_that_they_drew():
    """As benchmarks/compatibility.py: at most one pixel in a thousand is off by more than two levels."""
    images = dj.load(EXAMPLES / "digits").sample(16, batch_per_device=2)
    with np.load(EXAMPLES / "digits" / "expected.npz", allow_pickle=False) as expected:
        levels = np.abs(images.astype(int) - expected["images"][:16])
    assert images.shape == (16, 8, 8, 1) and np.std(images) > 50 and np.mean(levels > 2) < 1e-3


def test_two_steps_of_the_distilled_model_are_as_good_as_four_of_its_teacher_or_better():
    """By the Frechet distance of the pixels: 0.14 of 300 images; with 2, 4 and 50 steps the teacher has 0.91, 0.31, 0.13."""
    images = dj.load(EXAMPLES / "digits_distilled").sample(300, batch_per_device=50)
    real = frechet.of_features(load_digits().data / 16)
    assert frechet.frechet_distance(images.reshape(300, -1) / 255, real).value < 0.2


@pytest.mark.slow
def test_faces_are_of_the_asked_style():
    """Styles 4 and 7, lorelei and notionists, are drawn in black and white; 1 and 10, bigEars and pixelArt, in colours."""
    images = dj.load(EXAMPLES / "avatars32").sample(13, num_steps=8, batch_per_device=13).astype(int)
    colourfulness = np.mean(np.max(images, axis=-1) - np.min(images, axis=-1), axis=(1, 2))
    assert np.all(colourfulness[[4, 7]] < 20) and np.all(colourfulness[[1, 10]] > 30)


@pytest.mark.parametrize(("guidance", "share"), [(1.0, 0.95), (1.5, 0.99)])
def test_digits_are_of_the_asked_class(guidance, share):
    """By nearest neighbours among real digits. benchmarks/guidance.py has the same of 2,000 images."""
    real, pixels = load_digits(), 16 / 255
    classifier = KNeighborsClassifier(3).fit(real.data, real.target)
    settings = {"sampler": "unipc", "num_steps": 10, "clip": "static", "batch_per_device": 25}
    images = dj.load(EXAMPLES / "digits_classes").sample(200, guidance=guidance, **settings)
    named = classifier.predict(images.reshape(200, -1) * pixels)
    assert np.mean(named == np.arange(200) % 10) >= share
