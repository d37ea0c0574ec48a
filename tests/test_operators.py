"""Measurements of images against their matrices, and against other programs."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import PIL.Image
import pytest
import scipy.ndimage

from diffusion_jax import operators
from diffusion_jax.errors import UserError

SHAPE = (4, 6, 3)
MASK = np.arange(24).reshape(4, 6, 1) % 3 == 0
OPERATORS = {
    "known": operators.known(MASK),
    "averaging": operators.averaging(2),
    "grey": operators.grey(),
    "blur": operators.gaussian_blur(0.5),
}
EACH = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


def matrices(operator):
    """Returns A and A^+ as matrices."""
    of_images = oracles.matrix(operator.apply, SHAPE)
    measured = jax.eval_shape(operator.apply, jnp.zeros((1, *SHAPE))).shape[1:]
    return of_images, oracles.matrix(operator.pseudoinverse, measured)


@EACH
def test_the_pseudoinverse_is_that_of_the_matrix(operator, x64):
    a, inverse = matrices(operator)
    np.testing.assert_allclose(inverse, np.linalg.pinv(a), atol=1e-12)


@EACH
def test_solve_inverts_the_covariance_of_what_is_measured(operator, x64):
    a, _ = matrices(operator)
    v = a @ np.random.default_rng(0).standard_normal(a.shape[1])
    measured = jax.eval_shape(operator.apply, jnp.zeros((1, *SHAPE))).shape
    found = operator.solve(jnp.asarray(v).reshape(measured), jnp.full((1, 1, 1, 1), 0.7), 0.04)
    np.testing.assert_allclose(np.ravel(found), np.linalg.solve(0.7 * a @ a.T + 0.04 * np.eye(len(a)), v), atol=1e-11)


def test_blur_leaves_out_what_is_below_the_cutoff(x64):
    """What is left of a value of A below 0.1 counts as nothing, in A^+ and in `solve` alike."""
    operator = operators.gaussian_blur(1.5, cutoff=0.1)
    a, inverse = matrices(operator)
    np.testing.assert_allclose(inverse, np.linalg.pinv(a, rcond=0.1), atol=1e-11)
    squared = oracles.matrix(lambda v: operator.solve(v, 1.0, 0.0), SHAPE)
    np.testing.assert_allclose(squared, np.linalg.pinv(a @ a.T, rcond=0.01), atol=1e-9)


@pytest.mark.parametrize("std", [0.5, 1.5, 4.0])
def test_blur_is_that_of_scipy(std, x64):
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    wanted = scipy.ndimage.gaussian_filter(np.asarray(x), std, axes=(1, 2), mode="reflect", truncate=4.0)
    np.testing.assert_allclose(operators.gaussian_blur(std).apply(x), wanted, atol=1e-12)


def test_grey_and_averaging_are_those_of_pillow():
    """To one of 255, which is 2 / 255 in [-1, 1]: Pillow rounds."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    x, picture = jnp.asarray(pixels[None] / 127.5 - 1, jnp.float32), PIL.Image.fromarray(pixels)
    grey = np.asarray(picture.convert("L"))[None, :, :, None] / 127.5 - 1
    small = np.asarray(picture.reduce(2))[None] / 127.5 - 1
    np.testing.assert_allclose(operators.grey().apply(x), grey, atol=1.01 / 127.5)
    np.testing.assert_allclose(operators.averaging(2).apply(x), small, atol=1.01 / 127.5)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda x: operators.averaging(3).apply(x), "factor = 3 does not divide images of 4 x 6."),
        (lambda x: operators.averaging(0), "factor = 0 is not allowed; it must be a whole number from 1 on."),
        (lambda x: operators.grey().apply(x[..., :1]), r"images of \[..., 1\] have no colours to make grey; it must"),
        (lambda x: operators.gaussian_blur(0.0), "std = 0.0 with cutoff = 0.03 is not allowed; both must be above 0."),
        (lambda x: operators.known(MASK).apply(x[:, :3]), r"mask of \[4, 6, 1\] does not fit images of \[2, 3, 6, 3\]; it"),
        (lambda x: operators.known(MASK * 0.5), "mask of values 0 to 0.5 is not allowed; 1 is free, 0 is known."),
        (lambda x: operators.averaging(2).apply(x[0]), r"an array of \[4, 6, 3\] is not a batch of images; it must be"),
    ],
)
def test_an_operator_that_does_not_fit_is_one_sentence(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make(jnp.zeros((2, *SHAPE)))
