"""Stages of residual blocks, each at half the size of the one before: what a U-Net and its encoder alone have in common."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffusion_jax.errors import UserError
from diffusion_jax.networks import attention, layers

MOST_CHANNELS = 2**16  # of a stage, whose convolution would have 40 billion parameters


class Stages(NamedTuple):
    """What the stages are. The methods make their layers, inside a module that calls them.

    Stage i works at 1 / 2^i of the size with channels * multipliers[i] channels, so that height and width of images, and
    the length of signals [B, L, C], must be multiples of 2^(stages - 1). The first layer has `channels`, or those of the
    first stage where these are fewer, as in ADM at 512 pixels. The defaults are Ho et al.'s; others change the function to
    that of improved DDPM or ADM.

    Attributes:
        channels: what `multipliers` multiply; the embedding has four times as many.
        multipliers: width of each stage, relative to `channels`; a width is a whole number and a multiple of `num_groups`.
        num_res_blocks: residual blocks of each stage going down; one more going up.
        attention_stages: the stages with self-attention after each block.
        dropout: probability, inside each residual block.
        num_groups: groups of each normalisation.
        dtype: of the arithmetic; parameters are float32.
        norm_epsilon: of each normalisation.
        scale_shift_norm: see `layers.Style`.
        resample: between stages, a 3x3 'conv' or a whole 'res_block'. [Dhariwal & Nichol 2021, section 3]
        downsample_padding: of a 'conv' of stride 2: 'bottom_right', as TensorFlow pads, or 'all_sides', as torch code does.
        embedding_spacing: see `layers.embed_c_noise`.
        num_heads: of attention.
        head_channels: channels of each head, instead of a number of heads; 0 is off.
        num_remat_stages: stages, from the largest on, whose blocks are computed again in the backward pass instead of kept.
        middle_attention: whether the middle has self-attention.
        min_group_channels, project_resampled, skip_scale, qkv_scale: see `layers.Style`.
        num_frames: F of videos, [B, F, H, W, C]. Each frame is an image to all layers but `attention.OverFrames`, which
            follows each block. 0 is for all else.
        text_block: what follows a block in a stage with attention, where there is a text: 'attention' is self-attention and
            attention to the text, 'transformer' is `attention.TextTransformer`, as in Stable Diffusion.
    """

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
    head_channels: int = 0
    num_remat_stages: int = 0
    middle_attention: bool = True
    min_group_channels: int = 0
    project_resampled: bool = False
    skip_scale: float = 1.0
    qkv_scale: float = 1.0
    num_frames: int = 0
    text_block: Literal["attention", "transformer"] = "attention"

    @property
    def num_stages(self) -> int:
        """Returns how many there are."""
        return len(self.multipliers)

    @property
    def multiple_of(self) -> int:
        """Returns what height and width, or whatever sizes there are, must be multiples of."""
        return 2 ** (self.num_stages - 1)

    @property
    def summary(self) -> str:
        """Returns in words how large they are."""
        return f"stages of {', '.join(f'{self.channels * multiplier:g}' for multiplier in self.multipliers)} channels"

    def embed(self, c_noise: Array) -> Array:
        """Returns the embedding of c_noise. # [B, 4 * channels]"""
        return self.project(layers.embed_c_noise(c_noise, self.channels, spacing=self.embedding_spacing))

    def project(self, emb: Array) -> Array:
        """Returns what the blocks get of features of c_noise, [B, any]. # [B, 4 * channels]"""
        emb = layers.dense(4 * self.channels, self.dtype, name="embedding_0")(emb)
        return layers.dense(4 * self.channels, self.dtype, name="embedding_1")(nn.swish(emb))

    def down(self, x: Array, emb: Array | None, train: bool, text: Array | None = None) -> tuple[Array, list[Array]]:
        """Returns the output of the last stage, and that of each layer on the way, which is where skips begin.

        Args:
            x: [B, ..., C], such as [B, H, W, C].
            emb: of the noise level, and of what else there is, [B, 4 * channels]; None as `layers.ResBlock` has it.
            train: whether dropout drops; it then needs the rng "dropout".
            text: [B, L, D], which attention is then followed by attention to; see `attention.CrossAttention`.
        """
        h = self.conv_in(x)
        skips = [h]
        for i in range(self.num_stages):
            for j in range(self.num_res_blocks):
                h = self.block(h, emb, i, f"down_{i}_{j}", train, self.num_heads, text)
                skips.append(h)
            if i < self.num_stages - 1:
                h = self._downsample(h, emb, i, train)
                skips.append(h)
        return h, skips

    def conv_in(self, x: Array) -> Array:
        """Returns the first layer's output; ValueError for a size that the stages do not divide."""
        layers.check_size(x, self.multiple_of)
        return layers.conv(min(self.channels, self.width(0)), 3, self.dtype, name="conv_in")(x.astype(self.dtype))

    def middle(self, h: Array, emb: Array | None, train: bool, text: Array | None = None) -> Array:
        """Returns the output of two blocks, at the smallest size, with attention between them unless there is none.

        Arguments as for `down`.
        """
        last = self.num_stages - 1
        h = self.res(h, emb, last, "middle_0", train)
        h = self.attention(h, last, "middle_attention", self.num_heads, text) if self.middle_attention else h
        return self.res(self._over_frames(h, last, "middle_frames"), emb, last, "middle_1", train)

    def block(
        self, h: Array, emb: Array | None, stage: int, name: str, train: bool, num_heads: int, text: Array | None = None
    ) -> Array:
        """Returns a residual block's output, with attention after it where the stage has attention."""
        h = self.res(h, emb, stage, name, train)
        h = self.attention(h, stage, f"{name}_attention", num_heads, text) if stage in self.attention_stages else h
        return self._over_frames(h, stage, f"{name}_frames")

    def _over_frames(self, h: Array, stage: int, name: str) -> Array:
        if not self.num_frames:
            return h
        heads = self.heads(h.shape[-1], self.num_heads)
        return self._again(attention.OverFrames, stage)(self.num_frames, heads, self.style(), name=name)(h)

    def _again(self, kind: type[nn.Module], stage: int, **options: Any) -> type[nn.Module]:
        """Returns a kind of block, in the first stages as one that is computed again in the backward pass."""
        return nn.remat(kind, **options) if stage < self.num_remat_stages else kind

    def by_frame(self, of: Array | None, num_axes: int) -> Array | None:
        """Returns what belongs to a video as what belongs to each of its frames, one after the other; others as they are.

        Args:
            of: [B, F, ...] where it has more than `num_axes` axes, else [B, ...], which is of all frames.
            num_axes: of what belongs to a frame.
        """
        if not self.num_frames or of is None:
            return of
        return of.reshape(-1, *of.shape[2:]) if of.ndim > num_axes else jnp.repeat(of, self.num_frames, axis=0)

    def res(
        self,
        h: Array,
        emb: Array | None,
        stage: int,
        name: str,
        train: bool,
        resample: Callable[[Array], Array] | None = None,
    ) -> Array:
        """Returns a residual block's output; `resample` as `layers.ResBlock` has it."""
        block = self._again(layers.ResBlock, stage, static_argnums=(3,))
        return block(self.width(stage), self.style(), resample, name=name)(h, emb, train)

    def norm_out(self, h: Array) -> Array:
        """Returns the last normalisation's output, and a swish of it."""
        return nn.swish(layers.norm(self.style(), name="norm_out")(h))

    def width(self, stage: int) -> int:
        """Returns the channels of a stage."""
        return round(self.channels * self.multipliers[stage])

    def heads(self, channels: int, num_heads: int) -> int:
        """Returns how many heads an attention of some channels has, where there are not `head_channels` of each."""
        return channels // self.head_channels if self.head_channels else num_heads

    def style(self) -> layers.Style:
        """Returns what all blocks share."""
        return layers.Style(**{name: getattr(self, name) for name in layers.Style._fields})

    def attention(self, h: Array, stage: int, name: str, num_heads: int, text: Array | None = None) -> Array:
        """Returns an attention's output, with attention to the text after it where there is one; see `text_block`."""
        heads = self.heads(h.shape[-1], num_heads)
        if self.text_block == "transformer":
            return self._again(attention.TextTransformer, stage)(heads, self.style(), name=name)(h, text)
        h = self._again(attention.Attention, stage)(heads, self.style(), name=name)(h)
        if text is None:
            return h
        normed = layers.norm(self.style(), name=f"{name}_text_norm")(h)
        return h + self._again(attention.CrossAttention, stage)(heads, self.dtype, name=f"{name}_text")(normed, text)

    def upsample(self, h: Array, emb: Array | None, stage: int, train: bool) -> Array:
        """Returns h at twice the size."""
        name = f"up_{stage}_sample"
        if self.resample == "res_block":
            return self.res(h, emb, stage, name, train, layers.double)
        return layers.conv(h.shape[-1], 3, self.dtype, name=name)(layers.double(h))

    def _downsample(self, h: Array, emb: Array | None, stage: int, train: bool) -> Array:
        """Returns h at half the size."""
        name = f"down_{stage}_sample"
        if self.resample == "res_block":
            return self.res(h, emb, stage, name, train, layers.halve)
        padding = {"bottom_right": (0, 1), "all_sides": (1, 1)}[self.downsample_padding]
        return layers.conv(h.shape[-1], 3, self.dtype, stride=2, padding=padding, name=name)(h)


def check(stages: Stages, *, num_heads_up: int = 0) -> None:
    """Raises UserError, a sentence that begins with the argument, for attributes that do not fit together.

    Args:
        num_heads_up: heads of attention going up; 0 is `num_heads`.
    """
    widths = [stages.channels * multiplier for multiplier in stages.multipliers]
    if max(widths) > MOST_CHANNELS:
        raise UserError(
            f"channels = {stages.channels} with multipliers = {tuple(stages.multipliers)} is not allowed; a stage has "
            f"at most {MOST_CHANNELS:,} channels."
        )
    normed = [min(stages.channels, widths[0]), *widths]
    normed += [2 * width for width in normed] + [sum(pair) for pair in itertools.pairwise(normed)]  # with their skips
    for width in normed:
        count = layers.count_groups(int(width), stages.num_groups, stages.min_group_channels)
        if abs(width / count - round(width / count)) * count > 1e-6:
            groups = f"num_groups = {count}" if count == stages.num_groups else f"{count}, its number of groups"
            raise UserError(
                f"channels = {stages.channels} with multipliers = {tuple(stages.multipliers)} is not allowed; a layer would "
                f"have {width:g} channels, which is not a multiple of {groups}."
            )
    widths = [round(width) for width in widths]
    if stages.channels % 2:
        raise UserError(f"channels = {stages.channels} must be even.")
    if not all(stage < stages.num_stages for stage in stages.attention_stages):
        raise UserError(
            f"attention_stages = {tuple(stages.attention_stages)} names a stage that multipliers lacks; "
            f"it has 0 to {stages.num_stages - 1}."
        )
    with_attention = range(stages.num_stages) if stages.num_frames else {*stages.attention_stages, stages.num_stages - 1}
    attended = [widths[stage] for stage in sorted(with_attention)]
    heads = {"num_heads": stages.num_heads, "num_heads_up": num_heads_up or stages.num_heads}
    for name, number in {"head_channels": stages.head_channels}.items() if stages.head_channels else heads.items():
        if any(width % number for width in attended):
            widths = ", ".join(map(str, attended))
            raise UserError(f"{name} = {number} must divide the channels of every stage with attention, here {widths}.")
