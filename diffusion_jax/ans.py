"""Asymmetric numeral systems: a stack of bits that symbols of known probabilities are pushed on and popped from.

Popping is decoding, and pushing undoes it exactly. A symbol of probability p takes log2(1 / p) bits. Many heads take a
symbol each at once, over one stack of words. [Duda 2014; Giesen 2014, interleaved entropy coders]
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

PRECISION = 28  # bits of a probability
TOTAL = 1 << PRECISION
WORD = 32  # bits of a word; a head has between one word and two
STIR = 165902235  # odd, near TOTAL over the golden ratio: multiples of consecutive numbers are spread evenly
UNSTIR = pow(STIR, -1, TOTAL)


class Lattice(NamedTuple):
    """Evenly spaced values: symbol k is first + k step, for k from 0 to num - 1."""

    first: float
    step: float
    num: int

    def values(self, symbols: np.ndarray) -> np.ndarray:
        """Returns the values of symbols, in float64."""
        return self.first + symbols * self.step


class Stack:
    """Bits that are pushed and popped, by heads of 64 bits and words of 32 bits below them.

    A new one has nothing below its heads. A pop that needs words which are not there takes them from a seeded generator:
    the initial bits of bits-back coding, which the receiver gets back.
    """

    def __init__(self, num_heads: int) -> None:
        self.words: list[int] = []
        self.num_initial = 0  # words taken from the generator
        self._initial = np.random.default_rng(0)
        self.heads = self._initial.integers(1 << WORD, 2 << WORD, num_heads, dtype=np.uint64)
        self._at_first = np.sum(np.log2(self.heads))

    @classmethod
    def of_bytes(cls, content: bytes, num_heads: int) -> "Stack":
        """Returns what `to_bytes` wrote; ValueError for what it cannot have written."""
        stack = cls(num_heads)
        if len(content) % 4 or len(content) < 8 * num_heads:
            raise ValueError(f"{len(content)} bytes cannot be {num_heads} heads and whole words")
        stack.heads = np.frombuffer(content, "<u8", num_heads).astype(np.uint64)
        stack.words = np.frombuffer(content, "<u4", offset=8 * num_heads).tolist()
        return stack

    def to_bytes(self) -> bytes:
        """Returns the heads and the words."""
        return self.heads.astype("<u8").tobytes() + np.array(self.words, "<u4").tobytes()

    def num_bits(self) -> float:
        """Returns the information pushed less that popped: how much longer than at first, without what was made up."""
        return float(np.sum(np.log2(self.heads)) - self._at_first + WORD * (len(self.words) - self.num_initial))

    def push(self, symbols: np.ndarray, mean: np.ndarray, std: np.ndarray, of: Lattice) -> None:
        """Pushes a symbol of each head, with the probability of its bin under N(mean, std^2). # [num_heads] each"""
        start = _cumulative(symbols, mean, std, of)
        size = _cumulative(symbols + 1, mean, std, of) - start
        full = self.heads >= size << np.uint64(2 * WORD - PRECISION)
        self.words += (self.heads[full] & np.uint64(2**WORD - 1)).tolist()
        heads = np.where(full, self.heads >> np.uint64(WORD), self.heads)
        self.heads = (heads // size << np.uint64(PRECISION)) + heads % size + start

    def pop(self, mean: np.ndarray, std: np.ndarray, of: Lattice) -> np.ndarray:
        """Returns a symbol for each head, which are distributed so where the bits are random. # int64 [num_heads]"""
        share = self.heads & np.uint64(TOTAL - 1)
        low, high = np.zeros(share.shape, np.int64), np.full(share.shape, of.num)
        while np.any(high - low > 1):
            middle = (low + high) // 2
            is_below = _cumulative(middle, mean, std, of) <= share
            low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
        start, end = (_cumulative(symbols, mean, std, of) for symbols in (low, low + 1))
        heads = (end - start) * (self.heads >> np.uint64(PRECISION)) + share - start
        empty = heads < 1 << WORD
        heads[empty] = heads[empty] << np.uint64(WORD) | self._words(int(np.sum(empty)))
        self.heads = heads
        return low

    def stir(self, factor: int = STIR) -> None:
        """Spreads the bits that the next pop reads; `stir(UNSTIR)` undoes it.

        After a push they are where the symbol lies in its distribution. A symbol popped right then would follow from the one
        pushed, and not be a sample: the dirty bits of Townsend et al. 2019.
        """
        below = np.uint64(TOTAL - 1)
        self.heads = self.heads & ~below | self.heads * np.uint64(factor) & below

    def _words(self, num: int) -> np.ndarray:
        """Returns words from the top of the stack, in the order of their heads, made up where there are too few."""
        if (missing := num - len(self.words)) > 0:
            self.words = self._initial.integers(2**WORD, size=missing).tolist() + self.words
            self.num_initial += missing
        taken, self.words = self.words[len(self.words) - num :], self.words[: len(self.words) - num]
        return np.array(taken, np.uint64)


def _cumulative(symbols: np.ndarray, mean: np.ndarray, std: np.ndarray, of: Lattice) -> np.ndarray:
    """Returns 2^PRECISION times the probability of all symbols below, each of at least one part; the end bins are open.

    Two parts are given to each, since a rounding of the normal distribution may take one away.
    """
    shares = ndtr((of.values(symbols - 0.5) - mean) / std)
    found = np.floor(shares * (TOTAL - 2 * of.num)).astype(np.int64) + 2 * symbols
    return np.where(symbols <= 0, 0, np.where(symbols >= of.num, TOTAL, found)).astype(np.uint64)
