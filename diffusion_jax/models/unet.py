"""The U-Net of Denoising Diffusion Probabilistic Models. [Ho et al. 2020, appendix B]"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffusion_jax.models import layers


class UNet(nn.Module):
    """Levels of residual blocks going down, a middle, and the same levels going up, joined by skip connections.

    Level i works at 1 / 2^i of the image's size with channels * multipliers[i] channels, so that height and width must be
    multiples of 2^(levels - 1).

    Attributes:
        out_channels: channels of the output.
        channels: width of the first level, a multiple of `num_groups`.
        multipliers: width of each level, relative to the first.
        num_res_blocks: residual blocks of each level going down; one more going up.
        attention_levels: the levels with self-attention after each block; the middle always has it.
        dropout: probability, inside each residual block.
        num_groups: groups of each normalisation.
        dtype: of the arithmetic; parameters are float32.
    """

    out_channels: int
    channels: int
    multipliers: Sequence[int]
    num_res_blocks: int
    attention_levels: Sequence[int]
    dropout: float
    num_groups: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x_t: Array, condition: Array, *, train: bool) -> Array:
        """Returns the network's output in x_t's shape but for the channels, float32.

        Args:
            x_t: [B, H, W, C].
            condition: what the network is told of the level, [B].
            train: whether dropout drops; it then needs the rng "dropout".
        """
        embedding = self._embed(condition)
        h = layers.conv(self.channels, 3, self.dtype, name="conv_in")(x_t.astype(self.dtype))
        skips = [h]
        last = len(self.multipliers) - 1

        for i in range(last + 1):
            for j in range(self.num_res_blocks):
                h = self._block(h, embedding, i, f"down_{i}_{j}", train)
                skips.append(h)
            if i < last:
                h = layers.downsample(h, self.dtype, name=f"down_{i}_sample")
                skips.append(h)

        h = self._res(h, embedding, last, "middle_0", train)
        h = layers.Attention(self.num_groups, self.dtype, name="middle_attention")(h)
        h = self._res(h, embedding, last, "middle_1", train)

        for i in reversed(range(last + 1)):
            for j in range(self.num_res_blocks + 1):
                h = self._block(jnp.concatenate([h, skips.pop()], axis=-1), embedding, i, f"up_{i}_{j}", train)
            if i > 0:
                h = layers.upsample(h, self.dtype, name=f"up_{i}_sample")

        h = nn.swish(layers.norm(self.num_groups, self.dtype, name="norm_out")(h))
        return layers.conv(self.out_channels, 3, self.dtype, scale=0.0, name="conv_out")(h).astype(x_t.dtype)

    def _embed(self, condition: Array) -> Array:
        """Returns the embedding of the level. # [B, 4 * channels]"""
        embedding = layers.embed_condition(condition, self.channels)
        embedding = layers.dense(4 * self.channels, self.dtype, name="embedding_0")(embedding)
        return layers.dense(4 * self.channels, self.dtype, name="embedding_1")(nn.swish(embedding))

    def _res(self, h: Array, embedding: Array, level: int, name: str, train: bool) -> Array:
        features = self.channels * self.multipliers[level]
        return layers.ResBlock(features, self.dropout, self.num_groups, self.dtype, name=name)(h, embedding, train=train)

    def _block(self, h: Array, embedding: Array, level: int, name: str, train: bool) -> Array:
        """Returns a residual block's output, with attention after it where the level has attention."""
        h = self._res(h, embedding, level, name, train)
        if level in self.attention_levels:
            h = layers.Attention(self.num_groups, self.dtype, name=f"{name}_attention")(h)
        return h
