"""Attention: of places to each other, to the tokens of a text, and of the frames of a video."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffusion_jax.networks import layers


class Attention(nn.Module):
    """Self-attention over all places, as a residual branch; each head has an equal run of channels."""

    num_heads: int
    style: layers.Style

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        heads = (x.shape[0], -1, self.num_heads, channels // self.num_heads)
        project = partial(layers.conv, channels, 1, self.style.dtype)
        h = layers.norm(self.style, name="norm")(x)
        scale = self.style.qkv_scale
        q, k, v = (project(scale=scale, name=name)(h).reshape(heads) for name in ("query", "key", "value"))
        h = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        return (x + project(scale=0.0, name="out")(h)) * self.style.skip_scale


class CrossAttention(nn.Module):
    """Attention of pixels or patches to the tokens of a text, at first zeros. [Rombach et al. 2022, section 3.3]

    Attributes:
        num_heads: each has an equal run of channels.
        dtype: of the arithmetic.
        kernel_init: of query, key and value.
        use_bias: of query, key and value.
    """

    num_heads: int
    dtype: DTypeLike
    kernel_init: nn.initializers.Initializer = layers.half_width(1.0)
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array, text: Array | None) -> Array:
        """Returns what x finds in a text, [B, H, W, C], from x and [B, L, D]; without one what it finds in itself.

        A token of zeros is padding.
        """
        channels = x.shape[-1]
        heads = (x.shape[0], -1, self.num_heads, channels // self.num_heads)
        project, seen = partial(nn.Dense, channels, dtype=self.dtype), x if text is None else text
        q, k, v = (
            project(use_bias=self.use_bias, kernel_init=self.kernel_init, name=name)(given).reshape(heads)
            for name, given in {"query": x, "key": seen, "value": seen}.items()
        )
        mask = None if text is None else is_token(text)[:, None, None]
        h = jax.nn.dot_product_attention(q, k, v, mask=mask).reshape(x.shape)
        return project(kernel_init=nn.initializers.zeros, name="out")(h)


class TextTransformer(nn.Module):
    """Attention of pixels to each other, then to a text, then a gated MLP: a residual branch that is at first zero.

    Each of the three is a residual branch in it, and normalises its input by itself. The epsilons are those of the published
    networks. [Rombach et al. 2022, appendix E.2.1; Shazeer 2020, GEGLU]

    Attributes:
        num_heads: of both attentions.
        style: what all blocks share, but for `norm_epsilon`.
    """

    num_heads: int
    style: layers.Style

    @nn.compact
    def __call__(self, x: Array, text: Array) -> Array:
        """Returns x, [B, H, W, C], with what the branch adds; `text` is as for `CrossAttention`."""
        style, channels, dtype = self.style, x.shape[-1], self.style.dtype
        attention = partial(CrossAttention, self.num_heads, dtype, use_bias=False)
        h = layers.norm(style._replace(norm_epsilon=1e-6), name="norm_in")(x)
        h = layers.dense(channels, dtype, name="proj_in")(h)
        for name, seen in {"pixels": None, "text": text}.items():
            h += attention(name=name)(self._norm(name)(h), seen)
        h_mlp = layers.dense(8 * channels, dtype, name="mlp_0")(self._norm("mlp")(h))
        value, gate = jnp.split(h_mlp, 2, axis=-1)
        h += layers.dense(channels, dtype, name="mlp_1")(value * nn.gelu(gate, approximate=False))
        return x + nn.Dense(channels, dtype=dtype, kernel_init=nn.initializers.zeros, name="proj_out")(h)

    def _norm(self, of: str) -> nn.LayerNorm:
        return nn.LayerNorm(1e-5, dtype=self.style.dtype, use_fast_variance=False, name=f"norm_{of}")


class OverFrames(nn.Module):
    """What the frames of a video tell each other at each place: by convolution over time, and by attention.

    Both, and which frame it is, go into a residual branch that is at first zero, so that a network of images gives the same
    frames. Attention alone would not do: as long as it is uniform, all frames are told the same, and their order is lost.
    [after Ho et al. 2022, video diffusion, section 3]

    Attributes:
        num_frames: F.
        num_heads: of attention.
        style: what all blocks share.
    """

    num_frames: int
    num_heads: int
    style: layers.Style

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns frames that lie one after the other in the batch, with what the branch adds. # [B F, H, W, C]"""
        channels, dtype = x.shape[-1], self.style.dtype
        by_frame = (-1, self.num_frames, math.prod(x.shape[1:-1]), channels)
        h = x.reshape(by_frame).swapaxes(1, 2).reshape(-1, self.num_frames, channels)  # [B H W, F, C]
        h = layers.norm(self.style, name="norm")(h)
        h += layers.conv(channels, 3, dtype, name="conv")(nn.swish(h))
        h += layers.embed_c_noise(jnp.arange(self.num_frames, dtype=h.dtype), channels, spacing="half_open")
        heads = (*h.shape[:2], self.num_heads, channels // self.num_heads)
        q, k, v = (layers.dense(channels, dtype, name=name)(h).reshape(heads) for name in ("query", "key", "value"))
        h = jnp.concatenate([h, jax.nn.dot_product_attention(q, k, v).reshape(h.shape)], axis=-1)
        h = nn.Dense(channels, dtype=dtype, kernel_init=nn.initializers.zeros, name="out")(h)
        return x + h.reshape(-1, by_frame[2], self.num_frames, channels).swapaxes(1, 2).reshape(x.shape)


def is_token(text: Array) -> Array:
    """Returns which tokens of a text, [B, L, D], are not padding. # bool [B, L]"""
    return jnp.any(text != 0, axis=-1)


def pooled(text: Array, features: int, dtype: DTypeLike, *, name: str) -> Array:
    """Returns a linear function, at first zero, of the mean of a text's tokens. # [B, features]

    It joins the embedding of c_noise. [Saharia et al. 2022, Imagen, section 2.3]
    """
    num_tokens = jnp.sum(is_token(text), axis=1, keepdims=True)
    mean = jnp.sum(text.astype(jnp.float32), axis=1) / jnp.maximum(num_tokens, 1)
    return nn.Dense(features, dtype=dtype, kernel_init=nn.initializers.zeros, name=name)(mean)
