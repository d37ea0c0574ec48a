"""The Diffusion Transformer: attention over patches of x_t, in blocks that the noise modulates. [Peebles & Xie 2023]"""

import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from diffusion_jax.errors import UserError
from diffusion_jax.networks import attention, layers
from diffusion_jax.networks.stages import MOST_CHANNELS

NUM_FREQUENCIES = 256  # numbers that c_noise becomes
SIZES: dict[str, dict[str, int]] = {  # those of the paper; its DiT-XL/2 is "XL" with patch_size = 2
    "S": {"channels": 384, "depth": 12, "num_heads": 6},
    "B": {"channels": 768, "depth": 12, "num_heads": 12},
    "L": {"channels": 1024, "depth": 24, "num_heads": 16},
    "XL": {"channels": 1152, "depth": 28, "num_heads": 16},
}
ZEROS, NORMAL = nn.initializers.zeros, nn.initializers.normal(0.02)
OF_THREE = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")  # as of one layer for query, key and value


class Blocks(NamedTuple):
    """What the blocks are.

    Attributes:
        channels: of each token: a multiple of 4 and of `num_heads`.
        depth: how many blocks.
        num_heads: of attention.
        patch_size: side of the squares that become tokens, in pixels.
        dropout: probability, at the end of both branches of each block; the paper has none.
        dtype: of the arithmetic; parameters, norms and the sums from block to block are float32.
        embedding_spacing: see `layers.embed_c_noise`; 'closed' in diffusers.
        num_remat_stages: blocks, from the first on, that are computed again in the backward pass instead of kept.
    """

    channels: int
    depth: int
    num_heads: int
    patch_size: int
    dropout: float
    dtype: DTypeLike
    embedding_spacing: Literal["closed", "half_open"] = "half_open"
    num_remat_stages: int = 0

    @property
    def num_stages(self) -> int:
        """Returns how many there are."""
        return self.depth

    @property
    def multiple_of(self) -> int:
        """Returns what height and width of images must be multiples of."""
        return self.patch_size

    @property
    def summary(self) -> str:
        """Returns in words how large they are."""
        return f"{self.depth} blocks of {self.channels} channels, patches of {self.patch_size} x {self.patch_size}"


class DiT(nn.Module):
    """Patches of x_t become tokens, blocks with adaptive layer norm change them, and they become patches of the output.

    Attributes:
        out_channels: channels of the output.
        blocks: what they are.
        num_labels: labels 0 .. num_labels - 1 are an input, the last maybe "unknown"; 0 for none.
        jumps: see `UNet`.
    """

    out_channels: int
    blocks: Blocks
    num_labels: int = 0
    jumps: bool = False

    @nn.compact
    def __call__(self, x_t: Array, c_noise: Array, cond: Mapping[str, Array], *, train: bool) -> Array:
        """Returns the network's output: the shape of x_t, except for the channels. Arguments and errors as for `UNet`."""
        blocks, size = self.blocks, self.blocks.patch_size
        x = jnp.concatenate([x_t, cond["image"]], axis=-1) if "image" in cond else x_t
        text = cond.get("text")
        emb = layers.with_moves(self._embed(c_noise, cond.get("label"), text), cond)  # [B, D]
        h = _dense(blocks, blocks.channels, axis=(-3, -2, -1), name="patches")(split(x, size))  # [B, H / p, W / p, D]
        h += positions(*h.shape[1:])
        for i in range(blocks.depth):
            block = nn.remat(Block, static_argnums=(3,)) if i < blocks.num_remat_stages else Block
            h = block(blocks, name=f"block_{i}")(h, emb, train, text)
        h = modulated(h, *_modulation(blocks, emb, 2), blocks.dtype)
        h = _dense(blocks, (size, size, self.out_channels), kernel_init=ZEROS, name="out")(h)  # [B, H / p, W / p, p, p, C]
        return joined(h).astype(x_t.dtype)

    def _embed(self, c_noise: Array, label: Array | None, text: Array | None) -> Array:
        """Returns the embedding of c_noise, and of the label and the text where there are such. # [B, D]"""
        dense = functools.partial(_dense, self.blocks, self.blocks.channels, kernel_init=NORMAL)
        emb = layers.embed_c_noise(layers.start_of_jump(c_noise), NUM_FREQUENCIES, spacing=self.blocks.embedding_spacing)
        emb = dense(name="embedding_1")(nn.swish(dense(name="embedding_0")(emb)))
        emb = emb + layers.Jump(emb.shape[-1], self.blocks.dtype, name="jump")(c_noise) if self.jumps else emb
        emb = emb if text is None else emb + attention.pooled(text, emb.shape[-1], emb.dtype, name="text")
        return layers.with_label(emb, label, self.num_labels, embedding_init=NORMAL)


class Block(nn.Module):
    """Attention, then an MLP, each after a norm and before a gate that the embedding sets: adaLN-Zero.

    All gates begin as 0, and a block as the identity. Where there is a text, attention to it stands between them, without
    norm or gate. [Chen et al. 2023, PixArt-alpha, section 2.3]
    """

    blocks: Blocks

    @nn.compact
    def __call__(self, x: Array, embedding: Array, train: bool, text: Array | None = None) -> Array:
        """Returns the tokens after the block, [B, h, w, D], from those before it, the embedding, [B, D], and a text."""
        blocks = self.blocks
        drop = nn.Dropout(blocks.dropout, deterministic=not train, name="dropout")
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = _modulation(blocks, embedding, 6)
        x += gate_1 * drop(self._attention(modulated(x, shift_1, scale_1, blocks.dtype)))
        if text is not None:
            x += attention.CrossAttention(blocks.num_heads, blocks.dtype, nn.initializers.xavier_uniform(), name="text")(
                x, text
            )
        return x + gate_2 * drop(self._mlp(modulated(x, shift_2, scale_2, blocks.dtype)))

    def _attention(self, x: Array) -> Array:
        blocks, channels = self.blocks, self.blocks.channels
        heads = x.shape[0], -1, blocks.num_heads, channels // blocks.num_heads
        names = ("query", "key", "value")
        q, k, v = (_dense(blocks, channels, kernel_init=OF_THREE, name=name)(x).reshape(heads) for name in names)
        return _dense(blocks, channels, name="out")(jax.nn.dot_product_attention(q, k, v).reshape(x.shape))

    def _mlp(self, x: Array) -> Array:
        h = nn.gelu(_dense(self.blocks, 4 * self.blocks.channels, name="mlp_0")(x), approximate=True)
        return _dense(self.blocks, self.blocks.channels, name="mlp_1")(h)


def modulated(x: Array, shift: Array, scale: Array, dtype: DTypeLike) -> Array:
    """Returns the layer norm of tokens, scaled and shifted; its statistics are at least float32. # [B, h, w, D]"""
    norm = nn.LayerNorm(1e-6, dtype=dtype, use_bias=False, use_scale=False, use_fast_variance=False)
    return norm(x) * (1 + scale) + shift


def positions(height: int, width: int, channels: int) -> np.ndarray:
    """Returns [sin(w_i x), cos(w_i x), sin(w_i y), cos(w_i y)] of the tokens in row y and column x.

    w_i = 10000^(-i / n) for i = 0 .. n - 1, n = channels / 4: the frequencies of [Vaswani et al. 2017, section 3.5], in two
    dimensions. They are no parameters, so that the size of an image is free.

    Returns:
        float32 [height, width, channels].
    """
    num = channels // 4
    frequencies = 10000.0 ** (-np.arange(num) / num)
    of_y, of_x = (np.arange(size)[:, None] * frequencies for size in (height, width))
    of_y, of_x = (np.concatenate([np.sin(angles), np.cos(angles)], axis=-1) for angles in (of_y, of_x))
    shape = height, width, 2 * num
    table = np.concatenate([np.broadcast_to(of_x, shape), np.broadcast_to(of_y[:, None], shape)], axis=-1)
    return table.astype(np.float32)


def split(x: Array, size: int) -> Array:
    """Returns the squares of an image. # [B, H / size, W / size, size, size, C]

    Raises ValueError for a height or width that they do not divide.
    """
    batch, height, width, channels = x.shape
    layers.check_size(x, size)
    return x.reshape(batch, height // size, size, width // size, size, channels).swapaxes(2, 3)


def joined(patches: Array) -> Array:
    """Returns the image of squares, as `split` makes them. # [B, H, W, C]"""
    batch, rows, columns, size, _, channels = patches.shape
    return patches.swapaxes(2, 3).reshape(batch, rows * size, columns * size, channels)


def check(blocks: Blocks) -> None:
    """Raises UserError, a sentence that begins with the argument, for attributes that do not fit together."""
    if blocks.channels > MOST_CHANNELS:
        raise UserError(f"channels = {blocks.channels} is not allowed; a token has at most {MOST_CHANNELS:,} channels.")
    if blocks.channels % 4:
        raise UserError(f"channels = {blocks.channels} must be a multiple of 4: sines and cosines of rows and columns.")
    if blocks.channels % blocks.num_heads:
        raise UserError(f"num_heads = {blocks.num_heads} must divide channels = {blocks.channels}.")


def _modulation(blocks: Blocks, embedding: Array, num: int) -> list[Array]:
    """Returns shifts, scales and gates of tokens, which begin as 0. # num times [B, 1, 1, D]"""
    h = _dense(blocks, num * blocks.channels, kernel_init=ZEROS, name="modulation")(nn.swish(embedding))
    return jnp.split(h[:, None, None], num, axis=-1)


def _dense(blocks: Blocks, features: int | tuple[int, ...], **options: Any) -> nn.DenseGeneral:
    """Returns a linear layer, which begins as [Glorot & Bengio 2010] unless the options say otherwise."""
    return nn.DenseGeneral(features, dtype=blocks.dtype, **{"kernel_init": nn.initializers.xavier_uniform()} | options)
