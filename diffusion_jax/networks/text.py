"""Encoders of text: BERT, the text half of CLIP, and the encoder of T5, as pure functions of token numbers.

Each gives one vector for each token. They are trained elsewhere and stay as they are: weights/text.py reads them.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}


class TextNetwork(NamedTuple):
    """An encoder of text as a pair of pure functions."""

    init: Callable[[Array], Any]  # key -> random params, of the shapes of the trained ones
    # (params, tokens int [N, L], mask bool [N, L]: False is padding) -> float32 [N, L, width]; of padding zeros
    apply: Callable[[Any, Array, Array], Array]
    width: int
    most_tokens: int  # that a text may have


class Sizes(NamedTuple):
    """What the encoders have in common."""

    vocabulary: int  # tokens that exist
    width: int  # of a token's vector
    depth: int  # blocks
    num_heads: int
    hidden: int  # width inside each MLP
    norm_epsilon: float


def bert(sizes: Sizes, *, most_tokens: int, num_types: int = 2) -> TextNetwork:
    """Returns BERT's encoder: each sum is normalised after it is taken. [Devlin et al. 2019]

    Args:
        sizes: of the network.
        most_tokens: positions that have an embedding.
        num_types: kinds of text; a text alone is of kind 0.
    """
    return _of_module(Bert(sizes, most_tokens, num_types), sizes, most_tokens)


def clip(sizes: Sizes, *, most_tokens: int, activation: Literal["gelu", "quick_gelu"] = "quick_gelu") -> TextNetwork:
    """Returns the text half of CLIP, in which a token sees those before it. [Radford et al. 2021, section 2.4]

    Args:
        sizes: of the network.
        most_tokens: positions that have an embedding.
        activation: inside each MLP; x sigmoid(1.702 x) in the published networks of OpenAI.
    """
    return _of_module(Clip(sizes, most_tokens, activation), sizes, most_tokens)


def t5(sizes: Sizes, *, head_width: int, num_buckets: int = 32, most_distance: int = 128) -> TextNetwork:
    """Returns the encoder of T5 1.1: gated MLPs and relative positions. [Raffel et al. 2020; Shazeer 2020, GEGLU]

    Args:
        sizes: of the network.
        head_width: channels of each head.
        num_buckets: distances that are told apart.
        most_distance: beyond which all distances are one.
    """
    return _of_module(T5(sizes, head_width, num_buckets, most_distance), sizes, 2**31 - 1)


def _of_module(module: nn.Module, sizes: Sizes, most_tokens: int) -> TextNetwork:
    def init(key: Array) -> Any:
        return module.init(key, jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool))["params"]

    def apply(params: Any, tokens: Array, mask: Array) -> Array:
        with jax.default_matmul_precision("highest"):
            return jnp.where(mask[..., None], module.apply({"params": params}, tokens, mask), 0)

    return TextNetwork(init, apply, sizes.width, most_tokens)


class Bert(nn.Module):
    """Tokens, positions and kinds become vectors; blocks of attention and an MLP change them."""

    sizes: Sizes
    most_tokens: int
    num_types: int

    @nn.compact
    def __call__(self, tokens: Array, mask: Array) -> Array:
        sizes = self.sizes
        x = _embed(sizes, tokens) + nn.Embed(self.most_tokens, sizes.width, name="positions")(jnp.arange(tokens.shape[1]))
        x = _norm(sizes, "norm")(x + nn.Embed(self.num_types, sizes.width, name="types")(jnp.zeros((1, 1), jnp.int32)))
        for i in range(sizes.depth):
            h = Attention(sizes, sizes.width // sizes.num_heads, name=f"block_{i}_attention")(x, mask[:, None, None])
            x = _norm(sizes, f"block_{i}_norm_0")(x + h)
            x = _norm(sizes, f"block_{i}_norm_1")(x + _mlp(sizes, x, "gelu", f"block_{i}"))
        return x


class Clip(nn.Module):
    """Tokens and positions become vectors; blocks change them, in which the norm comes first."""

    sizes: Sizes
    most_tokens: int
    activation: str

    @nn.compact
    def __call__(self, tokens: Array, mask: Array) -> Array:
        sizes, length = self.sizes, tokens.shape[1]
        x = _embed(sizes, tokens) + nn.Embed(self.most_tokens, sizes.width, name="positions")(jnp.arange(length))
        seen = mask[:, None, None] & jnp.tri(length, dtype=bool)
        for i in range(sizes.depth):
            h = _norm(sizes, f"block_{i}_norm_0")(x)
            x += Attention(sizes, sizes.width // sizes.num_heads, name=f"block_{i}_attention")(h, seen)
            x += _mlp(sizes, _norm(sizes, f"block_{i}_norm_1")(x), self.activation, f"block_{i}")
        return _norm(sizes, "norm")(x)


class T5(nn.Module):
    """Tokens become vectors; blocks change them, which know the distances of tokens."""

    sizes: Sizes
    head_width: int
    num_buckets: int
    most_distance: int

    @nn.compact
    def __call__(self, tokens: Array, mask: Array) -> Array:
        sizes = self.sizes
        x = _embed(sizes, tokens)
        buckets = distance_buckets(tokens.shape[1], self.num_buckets, self.most_distance)
        bias = nn.Embed(self.num_buckets, sizes.num_heads, name="distances")(buckets)  # [L, L, heads]
        bias = jnp.moveaxis(bias, -1, 0)[None]
        for i in range(sizes.depth):
            h = _rms_norm(sizes, f"block_{i}_norm_0")(x)
            attention = Attention(sizes, self.head_width, use_bias=False, scale=1.0, name=f"block_{i}_attention")
            x += attention(h, mask[:, None, None], bias)
            h = _rms_norm(sizes, f"block_{i}_norm_1")(x)
            dense = [nn.Dense(sizes.hidden, use_bias=False, name=f"block_{i}_{name}") for name in ("gate", "mlp_0")]
            h = nn.gelu(dense[0](h), approximate=True) * dense[1](h)
            x += nn.Dense(sizes.width, use_bias=False, name=f"block_{i}_mlp_1")(h)
        return _rms_norm(sizes, "norm")(x)


class Attention(nn.Module):
    """Attention of tokens among themselves; each head has an equal run of channels."""

    sizes: Sizes
    head_width: int
    use_bias: bool = True
    scale: float | None = None  # of q k; None is 1 / sqrt(head_width)

    @nn.compact
    def __call__(self, x: Array, mask: Array, bias: Array | None = None) -> Array:
        """Returns what tokens find, [N, L, D]; mask and bias are [N or 1, heads or 1, L or 1, L]."""
        heads = self.sizes.num_heads, self.head_width
        features = self.sizes.num_heads * self.head_width
        q, k, v = (
            nn.Dense(features, use_bias=self.use_bias, name=name)(x).reshape(*x.shape[:2], *heads)
            for name in ("query", "key", "value")
        )
        found = jax.nn.dot_product_attention(q, k, v, bias, mask, scale=self.scale).reshape(*x.shape[:2], features)
        return nn.Dense(self.sizes.width, use_bias=self.use_bias, name="out")(found)


def distance_buckets(length: int, num_buckets: int, most_distance: int) -> np.ndarray:
    """Returns which class of distances each pair of places has. # int [query, key]

    Half of the classes are for places that follow. Of each half, the first half are single distances; the others grow as
    their logarithms do, up to `most_distance`. [Raffel et al. 2020, section 2.1]
    """
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]
    half, distance = num_buckets // 2, np.abs(offset)
    single = half // 2
    scale = np.log(np.maximum(distance, 1) / np.float32(single)) / np.log(most_distance / single)
    large = np.minimum(single + (scale * (half - single)).astype(int), half - 1)
    return half * (offset > 0) + np.where(distance < single, distance, large)


def _embed(sizes: Sizes, tokens: Array) -> Array:
    return nn.Embed(sizes.vocabulary, sizes.width, name="tokens")(tokens)


def _mlp(sizes: Sizes, x: Array, activation: str, name: str) -> Array:
    h = ACTIVATIONS[activation](nn.Dense(sizes.hidden, name=f"{name}_mlp_0")(x))
    return nn.Dense(sizes.width, name=f"{name}_mlp_1")(h)


def _norm(sizes: Sizes, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(sizes.norm_epsilon, use_fast_variance=False, name=name)


def _rms_norm(sizes: Sizes, name: str) -> nn.RMSNorm:
    return nn.RMSNorm(sizes.norm_epsilon, use_fast_variance=False, name=name)
