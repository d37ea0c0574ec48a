"""The U-Net of Denoising Diffusion Probabilistic Models and of what grew from it. [Ho et al. 2020, appendix B]"""

from collections.abc import Mapping, Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffusion_jax.errors import UserError
from diffusion_jax.networks import layers

MOST_CHANNELS = 2**16  # of a stage, whose convolution would have 40 billion parameters


class UNet(nn.Module):
    """Stages of residual blocks going down, a middle, and the same stages going up, joined by skip connections.

    Stage i works at 1 / 2^i of the image's size with channels * multipliers[i] channels, so that height and width must be
    multiples of 2^(stages - 1). The first layer has `channels`, or those of the first stage where these are fewer, as in ADM
    at 512 pixels. The defaults are Ho et al.'s; others change the function to that of improved DDPM or ADM.

    Attributes:
        out_channels: channels of the output.
        channels: what `multipliers` multiply; the embedding has four times as many.
        multipliers: width of each stage, relative to `channels`; a width is a whole number and a multiple of `num_groups`.
        num_res_blocks: residual blocks of each stage going down; one more going up.
        attention_stages: the stages with self-attention after each block; the middle always has it.
        dropout: probability, inside each residual block.
        num_groups: groups of each normalisation.
        dtype: of the arithmetic; parameters are float32.
        norm_epsilon: of each normalisation.
        scale_shift_norm: see `layers.Style`.
        resample: between stages, a 3x3 'conv' or a whole 'res_block'. [Dhariwal & Nichol 2021, section 3]
        downsample_padding: of a 'conv' of stride 2: 'bottom_right', as TensorFlow pads, or 'all_sides', as torch code does.
        embedding_spacing: see `layers.embed_c_noise`.
        num_heads: of attention.
        num_heads_up: of attention going up; 0 is `num_heads`.
        head_channels: channels of each head, instead of a number of heads; 0 is off.
        num_remat_stages: stages, from the largest on, whose blocks are computed again in the backward pass instead of kept.
        num_classes: labels 0 .. num_classes - 1 are an input; 0 for none.
        null_label: whether there is one more label, num_classes, for "unknown".
    """

    out_channels: int
    channels: int
    multipliers: Sequence[float]
    num_res_blocks: int
    attention_stages: Sequence[int]
    dropout: float
    num_groups: int
    dtype: DTypeLike
    norm_epsilon: float = 1e-6
    scale_shift_norm: bool = False
    resample: Literal["conv", "res_block"] = "conv"
    downsample_padding: Literal["bottom_right", "all_sides"] = "bottom_right"
    embedding_spacing: Literal["closed", "half_open"] = "closed"
    num_heads: int = 1
    num_heads_up: int = 0
    head_channels: int = 0
    num_remat_stages: int = 0
    num_classes: int = 0
    null_label: bool = False

    @nn.compact
    def __call__(self, x_t: Array, c_noise: Array, cond: Mapping[str, Array], *, train: bool) -> Array:
        """Returns the network's output: the shape of x_t, except for the channels.

        Raises ValueError for a height or width that the stages do not divide.

        Args:
            x_t: [B, H, W, C].
            c_noise: the noise level, as an input of the network, [B].
            cond: 'label', int [B], where there are classes; 'image', [B, H, W, any], to go with x_t into the first layer.
            train: whether dropout drops; it then needs the rng "dropout".
        """
        multiple = multiple_of(self.multipliers)
        if x_t.shape[1] % multiple or x_t.shape[2] % multiple:
            raise ValueError(f"images of {x_t.shape[1]} x {x_t.shape[2]} do not fit: both must be multiples of {multiple}.")
        emb = self._embed(c_noise, cond.get("label"))
        h = jnp.concatenate([x_t, cond["image"]], axis=-1) if "image" in cond else x_t
        first_width = min(self.channels, self._width(0))
        h = layers.conv(first_width, 3, self.dtype, name="conv_in")(h.astype(self.dtype))
        skips = [h]
        last = len(self.multipliers) - 1

        for i in range(last + 1):
            for j in range(self.num_res_blocks):
                h = self._block(h, emb, i, f"down_{i}_{j}", train, self.num_heads)
                skips.append(h)
            if i < last:
                h = self._downsample(h, emb, i, train)
                skips.append(h)

        h = self._res(h, emb, last, "middle_0", train)
        h = self._attention(h, last, "middle_attention", self.num_heads)
        h = self._res(h, emb, last, "middle_1", train)

        for i in reversed(range(last + 1)):
            for j in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(h, emb, i, f"up_{i}_{j}", train, self.num_heads_up or self.num_heads)
            if i > 0:
                h = self._upsample(h, emb, i, train)

        h = nn.swish(layers.norm(self._style(), name="norm_out")(h))
        return layers.conv(self.out_channels, 3, self.dtype, scale=0.0, name="conv_out")(h).astype(x_t.dtype)

    def _width(self, stage: int) -> int:
        return round(self.channels * self.multipliers[stage])

    def _style(self) -> layers.Style:
        return layers.Style(self.num_groups, self.norm_epsilon, self.scale_shift_norm, self.dropout, self.dtype)

    def _embed(self, c_noise: Array, label: Array | None) -> Array:
        """Returns the embedding of c_noise, and of the label where there are classes. # [B, 4 * channels]"""
        emb = layers.embed_c_noise(c_noise, self.channels, spacing=self.embedding_spacing)
        emb = layers.dense(4 * self.channels, self.dtype, name="embedding_0")(emb)
        emb = layers.dense(4 * self.channels, self.dtype, name="embedding_1")(nn.swish(emb))
        if self.num_classes:
            rows = self.num_classes + self.null_label
            emb = emb + nn.Embed(rows, 4 * self.channels, dtype=self.dtype, name="label")(label)
        return emb

    def _block(self, h: Array, emb: Array, stage: int, name: str, train: bool, num_heads: int) -> Array:
        """Returns a residual block's output, with attention after it where the stage has attention."""
        h = self._res(h, emb, stage, name, train)
        return self._attention(h, stage, f"{name}_attention", num_heads) if stage in self.attention_stages else h

    def _res(self, h: Array, emb: Array, stage: int, name: str, train: bool, resample=None) -> Array:
        again = stage < self.num_remat_stages
        block = nn.remat(layers.ResBlock, static_argnums=(3,)) if again else layers.ResBlock
        return block(self._width(stage), self._style(), resample, name=name)(h, emb, train)

    def _attention(self, h: Array, stage: int, name: str, num_heads: int) -> Array:
        num_heads = h.shape[-1] // self.head_channels if self.head_channels else num_heads
        attention = nn.remat(layers.Attention) if stage < self.num_remat_stages else layers.Attention
        return attention(num_heads, self._style(), name=name)(h)

    def _downsample(self, h: Array, emb: Array, stage: int, train: bool) -> Array:
        """Returns h at half the size."""
        name = f"down_{stage}_sample"
        if self.resample == "res_block":
            return self._res(h, emb, stage, name, train, layers.halve)
        padding = {"bottom_right": ((0, 1), (0, 1)), "all_sides": ((1, 1), (1, 1))}[self.downsample_padding]
        return layers.conv(h.shape[-1], 3, self.dtype, stride=2, padding=padding, name=name)(h)

    def _upsample(self, h: Array, emb: Array, stage: int, train: bool) -> Array:
        """Returns h at twice the size."""
        name = f"up_{stage}_sample"
        if self.resample == "res_block":
            return self._res(h, emb, stage, name, train, layers.double)
        return layers.conv(h.shape[-1], 3, self.dtype, name=name)(layers.double(h))


def multiple_of(multipliers: Sequence[float]) -> int:
    """Returns what height and width must be multiples of."""
    return 2 ** (len(multipliers) - 1)


def check(network: UNet) -> None:
    """Raises UserError, a sentence that begins with the argument, for attributes that do not fit together."""
    num_stages, widths = len(network.multipliers), [network.channels * multiplier for multiplier in network.multipliers]
    if max(widths) > MOST_CHANNELS:
        raise UserError(
            f"channels = {network.channels} with multipliers = {tuple(network.multipliers)} is not allowed; a stage has "
            f"at most {MOST_CHANNELS:,} channels."
        )
    ratios = [width / network.num_groups for width in (min(network.channels, widths[0]), *widths)]
    if wrong := [ratio * network.num_groups for ratio in ratios if abs(ratio - round(ratio)) > 1e-6]:
        raise UserError(
            f"channels = {network.channels} with multipliers = {tuple(network.multipliers)} is not allowed; a layer would "
            f"have {wrong[0]:g} channels, which is not a multiple of num_groups = {network.num_groups}."
        )
    widths = [round(width) for width in widths]
    if network.channels % 2:
        raise UserError(f"channels = {network.channels} must be even.")
    if not all(stage < num_stages for stage in network.attention_stages):
        raise UserError(
            f"attention_stages = {tuple(network.attention_stages)} names a stage that multipliers lacks; "
            f"it has 0 to {num_stages - 1}."
        )
    attended = [widths[stage] for stage in sorted({*network.attention_stages, num_stages - 1})]
    heads = {"num_heads": network.num_heads, "num_heads_up": network.num_heads_up or network.num_heads}
    for name, number in {"head_channels": network.head_channels}.items() if network.head_channels else heads.items():
        if any(width % number for width in attended):
            widths = ", ".join(map(str, attended))
            raise UserError(f"{name} = {number} must divide the channels of every stage with attention, here {widths}.")
