"""Distances of features against recorded reference implementations (g8)."""

import numpy as np
import pytest
import recorded

from diffusion_jax.metrics import frechet, inception_score, kernel

G8 = recorded.load("g8_metrics")


@pytest.mark.parametrize("reference", ["pytorch_fid", "torch_fidelity", "edm", "guided"])
def test_frechet_distance(reference):
    found = frechet.frechet_distance(G8["feat1"], frechet.of_features(G8["feat2"])).value
    np.testing.assert_allclose(found, G8[f"fid.{reference}"], rtol=1e-6)


@pytest.mark.parametrize("reference", ["pytorch_fid", "torch_fidelity", "edm", "symmetric_eigh"])
def test_frechet_distance_of_fewer_images_than_dimensions(reference):
    found = frechet.distance(*(frechet.of_features(G8[name][:32]) for name in ("feat1", "feat2")))
    np.testing.assert_allclose(found, G8[f"fid.rankdef.{reference}"], rtol=1e-6)


def test_moments():
    for number in (1, 2):
        found = frechet.moments(G8[f"feat{number}"])
        np.testing.assert_allclose(found.mean, G8[f"fid.mu{number}"], rtol=1e-12)
        np.testing.assert_allclose(found.covariance, G8[f"fid.sigma{number}"], rtol=1e-9, atol=1e-12)


def test_kernel_distance(x64):
    one, two = (G8[name].astype(np.float64) for name in ("feat1", "feat2"))
    subsets = [kernel.distance_to(two[j])(one[i]).value for i, j in zip(G8["kid.idx1"], G8["kid.idx2"], strict=True)]
    np.testing.assert_allclose(subsets, G8["kid.mmds"], rtol=1e-8)
    np.testing.assert_allclose(kernel.distance_to(two)(one[:260]).value, G8["kid.full"], rtol=1e-8)


def test_inception_score():
    found = inception_score.inception_score(G8["isc.logits"], num_splits=5)
    mean, std = G8["isc.torch_fidelity"]
    np.testing.assert_allclose(found.value, mean, rtol=1e-9)
    np.testing.assert_allclose(found.standard_error, std / np.sqrt(4), rtol=1e-9)  # theirs is the spread, over n
