"""Images moved at random, of which the network is told how."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import main
from diffusion_jax import augmentation
from diffusion_jax.augmentation import Moves
from diffusion_jax.compose import checks, processes, training
from diffusion_jax.errors import UserError

NONE = Moves(jnp.zeros(2), *map(jnp.zeros, ((), (), (), ())), jnp.zeros(2))
X = jax.random.normal(jax.random.key(0), (8, 8, 2))
HALF_AN_EIGHTH = 1 / (8 * augmentation.SHIFT_STD)  # a shift by one pixel of eight


def moves(**changes) -> Moves:
    return NONE._replace(**{name: jnp.asarray(value, jnp.float32) for name, value in changes.items()})


def test_an_image_that_is_not_moved_stays_the_same_to_the_bit():
    np.testing.assert_array_equal(augmentation.moved(X, NONE), X)
    np.testing.assert_array_equal(augmentation.told(NONE), np.zeros(augmentation.NUM_TOLD))


def test_mirror_images_are_exact():
    np.testing.assert_array_equal(augmentation.moved(X, moves(flips=(1, 0))), X[:, ::-1])
    np.testing.assert_array_equal(augmentation.moved(X, moves(flips=(0, 1))), X[::-1])


def test_a_shift_goes_right_and_down():
    found = augmentation.moved(X, moves(shift=(2 * HALF_AN_EIGHTH, HALF_AN_EIGHTH)))
    np.testing.assert_array_equal(found[1:, 2:], X[:-1, :-2])


def test_a_quarter_turn_is_clockwise():
    np.testing.assert_allclose(augmentation.moved(X, moves(angle=math.pi / 2)), np.rot90(X, -1), atol=1e-5)


def test_moves_are_done_in_their_order():
    found = augmentation.moved(X, moves(flips=(1, 0), angle=math.pi / 2, shift=(HALF_AN_EIGHTH, 0)))
    np.testing.assert_allclose(found[:, 1:], np.rot90(X[:, ::-1], -1)[:, :-1], atol=1e-5)


def ellipse(across: float, down: float, angle: float = 0.0) -> np.ndarray:
    """Returns a Gaussian of these widths, in pixels, turned clockwise. # [33, 33, 1]"""
    y, x = np.mgrid[-16:17, -16:17]
    along, beside = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return np.exp(-0.5 * ((along / across) ** 2 + (beside / down) ** 2))[..., None]


def test_sizes_are_powers_of_two():
    factor = 2**augmentation.SCALE_STD
    found = augmentation.moved(jnp.asarray(ellipse(4, 4)), moves(scale=1))
    np.testing.assert_allclose(found, ellipse(4 * factor, 4 * factor), atol=0.01)
    found = augmentation.moved(jnp.asarray(ellipse(4, 4)), moves(stretch=1, stretch_angle=0.7))
    np.testing.assert_allclose(found, ellipse(4 * factor, 4 / factor, 0.7), atol=0.01)


def test_half_are_mirrored_and_each_other_move_has_its_rate():
    draw = jax.jit(jax.vmap(lambda key: augmentation.told(augmentation.draw(key, rate=0.25))))
    found = np.asarray(draw(jax.random.split(jax.random.key(1), 4000)))
    shares = np.mean(found != 0, axis=0)
    wanted = [0.5, 0.125, *[0.25] * 7]  # a mirror upside down is then again a coin's
    np.testing.assert_allclose(shares, wanted, atol=4 * 0.5 / 4000**0.5)
    np.testing.assert_allclose(np.std(found[:, [2, 7, 8]], axis=0), 0.5, atol=0.05)  # a quarter is standard normal


def test_what_is_told_does_not_jump_where_an_angle_does():
    ends = [augmentation.told(moves(angle=sign * math.pi, stretch=1, stretch_angle=sign * math.pi)) for sign in (-1, 1)]
    np.testing.assert_allclose(*ends, atol=1e-6)


@pytest.mark.parametrize("kind", ["unet", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("dit", "ncsnpp"))])
def test_a_network_that_is_told_nothing_draws_as_if_nothing_had_moved(kind):
    config = tiny.config_of({"data.augment_rate": 0.12, "model.kind": kind, "model.num_heads": 2})
    network = processes.network(config)
    rng, shapes = np.random.default_rng(0), jax.eval_shape(network.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: (0.2 * rng.standard_normal(leaf.shape)).astype(leaf.dtype), shapes)
    x, c_noise = jax.random.normal(jax.random.key(1), (2, 8, 8, 1)), jnp.arange(2.0)
    told, apply = jnp.zeros((2, augmentation.NUM_TOLD)), jax.jit(network.apply)
    alone = apply(params, x, c_noise, {})
    np.testing.assert_array_equal(alone, apply(params, x, c_noise, {"augmentation": told}))
    assert np.any(alone != apply(params, x, c_noise, {"augmentation": told.at[:, 2].set(1.0)}))


def test_training_moves_its_images_and_the_held_out_ones_stay():
    parts = training.parts(tiny.config_of({"data.augment_rate": 0.1, "data.random_flip": False}))
    (batch,), keys = tiny.batches(1), jax.random.split(jax.random.key(0), 18)
    x_0, cond = parts.prepare(batch, keys[:2], keys[2:])
    stored, of_held_out = parts.encode(batch, keys[2:])
    assert cond["augmentation"].shape == (16, augmentation.NUM_TOLD) and of_held_out == {}
    is_moved = np.any(cond["augmentation"] != 0, axis=1)
    assert 0 < is_moved.sum() < 16
    np.testing.assert_array_equal(np.any(x_0 != stored, axis=(1, 2, 3)), is_moved)


@pytest.mark.slow
def test_a_run_with_augmentation_trains_and_draws(tmp_path, capsys, one_device):
    words = ["", *tiny.flags(tmp_path / "run", num_steps=2), "--config.data.augment_rate=0.5"]
    assert main.main(words) == 0
    assert "half of them mirrored, other moves at a rate of 0.5; the network is told of each" in capsys.readouterr().out
    assert main.main(["", "--mode=sample", f"--workdir={tmp_path / 'run'}", "--config.sample.num_images=2"]) == 0


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"data.condition": "low_resolution"}, "it needs data.condition = 'none', found 'low_resolution'"),
        (
            {"model.kind": "noisy_classifier", "loss.name": "cross_entropy", "model.num_classes": 10},
            "data.augment_rate = 0.12 is for networks that draw",
        ),
    ],
)
def test_what_cannot_be_told_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        checks.check(tiny.config_of({"data.augment_rate": 0.12, **changes}))
