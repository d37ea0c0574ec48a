"""Bits-back coding with a chain: a lossless code of images whose length is the chain's variational bound.

An image has no code of its own under a model of latents x_1 .. x_T. So the sender pops x_1 from the stack as a sample of
q(x_1 | x_0), and pushes x_0 by p(x_0 | x_1). Then x_2 is popped by q(x_2 | x_1) and x_1 pushed by p(x_1 | x_2), and so on;
the prior takes x_T. The receiver does the inverse in reverse, and so gets back the bits that were popped. The code is longer
by log2 1 / p(x_0, x_1 .. x_T) and shorter by log2 1 / q(x_1 .. x_T | x_0): the bound, in expectation. [Hinton & van Camp
1993; Townsend et al. 2019, BB-ANS; in this order Kingma et al. 2019, Bit-Swap; of diffusion Ho et al. 2020, section 4.3]
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffusion_jax import ans, process
from diffusion_jax.ans import Lattice, Stack
from diffusion_jax.errors import UserError
from diffusion_jax.process import Level

PIXELS = Lattice(-1.0, 1 / 127.5, 256)  # uint8 values in [-1, 1]
BINS_PER_STD = 4  # of latents: bins are as narrow as a quarter of the narrowest Gaussian that codes them
MOST_STDS = 6  # from a pixel's extreme values, where the last bin begins, which is open
MOST_BINS = 2**20  # on either side of 0, since each takes two of the parts of `ans.TOTAL`
Law = Callable[[int, np.ndarray], tuple[np.ndarray, np.ndarray]]  # (level, x there [D]) -> mean and std of the one below [D]


class Chain(NamedTuple):
    """The latents of a chain, from the least noisy on: what q knows of them, and the bins in which they lie."""

    keep: np.ndarray  # mean of q(x_i | x_{i-1}) over x_{i-1}, [S]
    std: np.ndarray  # its standard deviation, [S]
    lattices: tuple[Lattice, ...]  # S of them


def chain(grid: Level) -> Chain:
    """Returns the latents of a grid, which falls from T to the data; UserError where levels are too close. # [S + 1]"""
    levels = Level(*(np.asarray(column, np.float64)[-2::-1] for column in grid))
    above = np.arange(1, len(levels.alpha))
    t, s = process.rows(levels, above), process.rows(levels, above - 1)
    share = np.sqrt(-np.expm1(process.log_snr_gap(t, s)))
    std = np.append(levels.sigma[0], t.sigma * share)
    keep = np.append(levels.alpha[0], t.alpha / s.alpha)
    width = np.minimum(std, np.append(s.sigma * share, levels.sigma[-1])) / BINS_PER_STD  # of q(x_i | x_{i+1}, x_0) too
    most = np.ceil((levels.alpha + MOST_STDS * levels.sigma) / width)  # bins on either side of 0
    if np.max(most) > MOST_BINS:
        raise UserError(f"the levels of {len(std)} steps are too close to code their differences; take fewer steps.")
    lattices = tuple(Lattice(-n * h, h, 2 * int(n) + 1) for n, h in zip(most, width, strict=True))
    return Chain(keep, std, lattices)


def push(stack: Stack, x_0: np.ndarray, of: Chain, law: Law) -> None:
    """Pushes an image.

    Args:
        stack: of D heads.
        x_0: uint8 values, [D].
        of: the latents.
        law: p(x_{i-1} | x_i), i from 1 on; the same function of the same numbers for sender and receiver, to the last bit.
    """
    below, lattice = x_0.astype(np.int64), PIXELS
    for i, own in enumerate(of.lattices):
        symbols = stack.pop(of.keep[i] * lattice.values(below), of.std[i], own)
        stack.push(below, *law(i + 1, own.values(symbols)), lattice)
        stack.stir()
        below, lattice = symbols, own
    stack.push(below, 0.0, 1.0, lattice)
    stack.stir()


def pop(stack: Stack, of: Chain, law: Law) -> np.ndarray:
    """Returns the image that was pushed last, with the arguments of `push`. # uint8 [D]"""
    stack.stir(ans.UNSTIR)
    symbols = stack.pop(0.0, 1.0, of.lattices[-1])
    for i in reversed(range(len(of.lattices))):
        own, lattice = of.lattices[i], of.lattices[i - 1] if i else PIXELS
        stack.stir(ans.UNSTIR)
        below = stack.pop(*law(i + 1, own.values(symbols)), lattice)
        stack.push(symbols, of.keep[i] * lattice.values(below), of.std[i], own)
        symbols = below
    return symbols.astype(np.uint8)
