"""Precision and recall, and the neighbours they rest on, against recorded reference implementations (g8)."""

import numpy as np
import pytest
import recorded

from diffusion_jax.metrics import neighbours, precision_recall

G8 = recorded.load("g8_metrics")
NUM_NEIGHBOURS = [1, 3, 5]  # the columns of the recorded arrays


@pytest.mark.parametrize("column", range(3))
def test_precision_and_recall_are_those_of_two_published_evaluators(column, precision):
    found = precision_recall.figures(G8["feat2"], G8["feat1"], num_neighbours=NUM_NEIGHBOURS[column])
    for name, place in (("precision", 0), ("recall", 1)):
        assert found[name].value == pytest.approx(G8[f"pr.{name}"][column], rel=1e-12), "guided-diffusion"
        assert found[name].value == pytest.approx(G8["pr.torch_fidelity"][column, place], rel=1e-6)  # recorded in float32


@pytest.mark.parametrize("name", ["1", "2"])
def test_the_radii_are_those_of_a_published_evaluator(name, precision):
    features = G8[f"feat{name}"]
    found = neighbours.nearest(features, features, 5, own=np.arange(len(features)))
    squared = found.distances[:, [k - 1 for k in NUM_NEIGHBOURS]] ** 2
    np.testing.assert_allclose(squared, G8[f"pr.radii{name}"], rtol=1e-4)


def test_the_nearest_real_image_is_that_of_a_published_evaluator(precision):
    found = neighbours.nearest(G8["feat1"], G8["feat2"], 1)
    np.testing.assert_array_equal(found.indices[:, 0], G8["pr.nearest"])
