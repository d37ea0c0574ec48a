"""The stack of bits: pushing undoes popping, and what a symbol takes is its information."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from diffusion_jax.ans import UNSTIR, Lattice, Stack

LATTICE = Lattice(-3.0, 0.05, 121)


def laws(seed: int, num_heads: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns means and standard deviations, some of them absurd: far away, narrower than a bin or wider than all."""
    draws = np.random.default_rng(seed)
    return draws.normal(scale=3, size=num_heads), 10.0 ** draws.uniform(-4, 3, num_heads)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 8))
def test_popping_is_undone_by_pushing_and_pushing_by_popping(seed, num_heads, num_rounds):
    stack, found = Stack(num_heads), []
    start = stack.heads
    for number in range(num_rounds):
        found.append(stack.pop(*laws(seed + number, num_heads), LATTICE))
        assert np.all((found[-1] >= 0) & (found[-1] < LATTICE.num))
    symbols = np.random.default_rng(seed).integers(LATTICE.num, size=(num_rounds, num_heads))  # as unlikely as can be
    for number in range(num_rounds):
        stack.push(symbols[number], *laws(number, num_heads), LATTICE)
        stack.stir()
    stack = Stack.of_bytes(stack.to_bytes(), num_heads)
    for number in reversed(range(num_rounds)):
        stack.stir(UNSTIR)
        np.testing.assert_array_equal(stack.pop(*laws(number, num_heads), LATTICE), symbols[number])
    for number in reversed(range(num_rounds)):
        stack.push(found[number], *laws(seed + number, num_heads), LATTICE)
    np.testing.assert_array_equal(stack.heads, start)
    assert stack.num_initial == 0  # nothing was made up a second time


def test_symbols_take_their_information():
    draws, num_heads, num_rounds = np.random.default_rng(0), 4, 2000
    mean, std = draws.uniform(-1, 1, (num_rounds, num_heads)), np.full((num_rounds, num_heads), 0.2)
    symbols = np.clip(np.round((mean + std * draws.normal(size=mean.shape) + 3) / 0.05), 0, 120).astype(np.int64)
    edges = LATTICE.values(symbols - 0.5), LATTICE.values(symbols + 0.5)
    information = -np.sum(np.log2(ndtr((edges[1] - mean) / std) - ndtr((edges[0] - mean) / std)))
    stack = Stack(num_heads)
    for row in zip(symbols, mean, std, strict=True):
        stack.push(*row, LATTICE)
    assert stack.num_bits() == pytest.approx(information, rel=2e-4)


def test_popped_symbols_are_distributed_as_asked():
    stack = Stack(500)
    found = np.stack([LATTICE.values(stack.pop(np.float64(0.7), np.float64(0.4), LATTICE)) for _ in range(20)])
    assert np.mean(found) == pytest.approx(0.7, abs=0.02) and np.std(found) == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("content", [b"", b"1234567", b"x" * 17])
def test_other_bytes_are_no_stack(content):
    with pytest.raises(ValueError, match="cannot be 2 heads"):
        Stack.of_bytes(content, 2)
