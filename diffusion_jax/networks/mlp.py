"""A residual MLP over the channels of points: the smallest network that a diffusion model can have."""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
from jax import Array
from jax.typing import DTypeLike

from diffusion_jax.networks import layers


class Layers(NamedTuple):
    """What the layers are.

    Attributes:
        channels: width of the hidden layers; an even number.
        depth: residual blocks.
        dtype: of the arithmetic; parameters are float32.
    """

    channels: int
    depth: int
    dtype: DTypeLike

    @property
    def num_stages(self) -> int:
        """Returns how many blocks there are."""
        return self.depth

    @property
    def multiple_of(self) -> int:
        """Returns what the sizes of arrays must be multiples of."""
        return 1

    @property
    def summary(self) -> str:
        """Returns in words how large they are."""
        return f"{self.depth} blocks of {self.channels} channels"


class MLP(nn.Module):
    """Linear layers with swish, in residual blocks, each of which is told the noise level.

    It acts on the last axis alone. So each point of an array [B, ..., C] has the same function.

    Attributes:
        out_channels: channels of the output.
        parts: what they are.
        num_labels: labels 0 .. num_labels - 1 are an input, the last maybe "unknown"; 0 for none.
        jumps: see `UNet`.
    """

    out_channels: int
    parts: Layers
    num_labels: int = 0
    jumps: bool = False

    @nn.compact
    def __call__(self, x_t: Array, c_noise: Array, cond: Mapping[str, Array], *, train: bool) -> Array:
        """Returns the network's output: the shape of x_t, except for the channels. Arguments as for `UNet`."""
        width, dtype = self.parts.channels, self.parts.dtype
        emb = self._embed(c_noise, cond.get("label"))
        emb = emb.reshape(len(emb), *[1] * (x_t.ndim - 2), -1)  # [B, 1, ..., 1, E]
        h = layers.dense(width, dtype, name="in")(x_t.astype(dtype))
        for i in range(self.parts.depth):
            told = layers.dense(width, dtype, name=f"told_{i}")(emb)
            inner = layers.dense(width, dtype, name=f"block_{i}_0")(nn.swish(h + told))
            h += layers.dense(width, dtype, name=f"block_{i}_1")(nn.swish(inner))
        zeros = nn.initializers.zeros
        return nn.Dense(self.out_channels, dtype=dtype, kernel_init=zeros, name="out")(nn.swish(h)).astype(x_t.dtype)

    def _embed(self, c_noise: Array, label: Array | None) -> Array:
        """Returns the embedding of c_noise, and of the label where there are such. # [B, channels]"""
        width, dtype = self.parts.channels, self.parts.dtype
        emb = layers.embed_c_noise(layers.start_of_jump(c_noise), width, spacing="closed")
        emb = nn.swish(layers.dense(width, dtype, name="embedding_0")(emb))
        emb = emb + layers.Jump(width, dtype, name="jump")(c_noise) if self.jumps else emb
        return layers.with_label(emb, label, self.num_labels)
