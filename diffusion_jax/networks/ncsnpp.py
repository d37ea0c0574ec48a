"""NCSN++ and DDPM++, the U-Nets of score SDE and of EDM. [Song et al. 2021, score SDE; Karras et al. 2022, EDM]"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.networks import layers
from diffusion_jax.networks.stages import Stages

FOURIER_SCALE = 16  # standard deviation of the frequencies, of which each angle is 2 pi times
SKIP_SCALE = math.sqrt(0.5)
STYLE = {"min_group_channels": 4, "project_resampled": True, "skip_scale": SKIP_SCALE, "qkv_scale": 0.1}  # of `Stages`


class NCSNpp(nn.Module):
    """Stages of residual blocks, joined by skip connections, with the image itself as a second way through them.

    Differs from `UNet` in blocks that resample and add up to unit variance, in attention after the last block of a stage
    only when going up, and in what is told of the noise.

    Attributes:
        out_channels: channels of the output.
        stages: what they are, `STYLE` included.
        embedding: of c_noise: 'positional' as in `UNet`, or 'fourier', random frequencies that are not trained, for which
            c_noise is the logarithm of the noise.
        resample_filter: see `halve`.
        progressive_input: how x_t, made smaller, goes into each stage: not at all, through a 1x1 convolution as it is
            ('input_skip'), or through a 3x3 convolution along with what was made of it before ('residual').
        progressive: whether every stage adds its own output to the enlarged one of the stage below ('output_skip').
        num_classes: labels 0 .. num_classes - 1 are an input; any other is "unknown". 0 for none.
    """

    out_channels: int
    stages: Stages
    embedding: Literal["positional", "fourier"] = "positional"
    resample_filter: Sequence[int] = (1, 1)
    progressive_input: Literal["none", "input_skip", "residual"] = "none"
    progressive: Literal["none", "output_skip"] = "none"
    num_classes: int = 0

    @nn.compact
    def __call__(self, x_t: Array, c_noise: Array, cond: Mapping[str, Array], *, train: bool) -> Array:
        """Returns the network's output: the shape of x_t, except for the channels. Arguments and errors as for `UNet`."""
        stages = self.stages
        emb = stages.project(layers.with_moves(self._features(c_noise, cond.get("label")), cond))
        x = jnp.concatenate([x_t, cond["image"]], axis=-1) if "image" in cond else x_t
        h, skips = self._down(x, emb, train)
        h, output = stages.middle(h, emb, train), None
        for i in reversed(range(stages.num_stages)):
            for j in range(stages.num_res_blocks + 1):
                h = stages.res(jnp.concatenate([h, skips.pop()], axis=-1), emb, i, f"up_{i}_{j}", train)
            if i in stages.attention_stages:
                h = stages.attention(h, i, f"up_{i}_attention", stages.num_heads)
            if i == 0 or self.progressive == "output_skip":
                output = self._output(h, output, i)
            if i > 0:
                h = stages.res(h, emb, i, f"up_{i}_sample", train, partial(double, taps=self.resample_filter))
        return output.astype(x_t.dtype)

    def _features(self, c_noise: Array, label: Array | None) -> Array:
        """Returns what is known of the noise level and the label. # [B, channels], of 'fourier' twice as many"""
        if self.embedding == "fourier":
            features = FourierFeatures(self.stages.channels, name="fourier")(c_noise)
        else:
            features = layers.embed_c_noise(c_noise, self.stages.channels, spacing=self.stages.embedding_spacing)
        if not self.num_classes:
            return features
        label = math.sqrt(self.num_classes) * jax.nn.one_hot(label, self.num_classes)  # of a unit variance
        return features + layers.dense(features.shape[-1], self.stages.dtype, name="label")(label)

    def _down(self, x: Array, emb: Array, train: bool) -> tuple[Array, list[Array]]:
        """Returns the output of the last stage, and that of each layer on the way, which is where skips begin."""
        stages, h = self.stages, self.stages.conv_in(x)
        skips = [h]
        for i in range(stages.num_stages):
            for j in range(stages.num_res_blocks):
                h = stages.block(h, emb, i, f"down_{i}_{j}", train, stages.num_heads)
                skips.append(h)
            if i < stages.num_stages - 1:
                h = stages.res(h, emb, i, f"down_{i}_sample", train, partial(halve, taps=self.resample_filter))
                h, x = self._joined(h, x, i)
                skips.append(h)
        return h, skips

    def _joined(self, h: Array, x: Array, stage: int) -> tuple[Array, Array]:
        """Returns h with the second way added, and that way itself at the size of h, from `x` at twice the size."""
        width, dtype, name = h.shape[-1], self.stages.dtype, f"down_{stage}_input"
        if self.progressive_input == "none":
            return h, x
        if self.progressive_input == "input_skip":
            x = halve(x, self.resample_filter)
            return h + layers.conv(width, 1, dtype, name=name)(x), x
        x = smooth(x, self.resample_filter, margin=len(self.resample_filter) // 2)
        x = layers.conv(width, 3, dtype, stride=2, padding="VALID", name=name)(x)
        h = (h + x) * SKIP_SCALE
        return h, h

    def _output(self, h: Array, below: Array | None, stage: int) -> Array:
        """Returns a stage's output, with the enlarged one of the stage below where there is one."""
        h = nn.swish(layers.norm(self.stages.style(), name=f"norm_out_{stage}")(h))
        output = layers.conv(self.out_channels, 3, self.stages.dtype, scale=0.0, name=f"conv_out_{stage}")(h)
        return output if below is None else double(below, self.resample_filter) + output


class FourierFeatures(nn.Module):
    """Sines and cosines of random frequencies, which are not trained. [Tancik et al. 2020; Song et al. 2021, score SDE]

    Attributes:
        num_frequencies: n.
    """

    num_frequencies: int

    @nn.compact
    def __call__(self, c_noise: Array) -> Array:
        """Returns [sin(2 pi w_i c), cos(2 pi w_i c)] for c_noise [B]. # [B, 2 n]"""
        w = self.param("frequencies", nn.initializers.normal(FOURIER_SCALE), (self.num_frequencies,), jnp.float32)
        c_noise = c_noise.astype(jnp.promote_types(c_noise.dtype, jnp.float32))
        angles = 2 * jnp.pi * c_noise[:, None] * jax.lax.stop_gradient(w)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def halve(x: Array, taps: Sequence[int]) -> Array:
    """Returns x filtered along both axes and every second pixel of it; (1, 1) is the mean of 2 x 2. # [B, H/2, W/2, C]

    Args:
        x: [B, H, W, C]; beyond the border are zeros.
        taps: of the filter, in any scale: an even number that read the same backwards.
    """
    return layers.halve(_smooth_rest(x, taps))


def double(x: Array, taps: Sequence[int]) -> Array:
    """Returns x with a zero after every pixel, filtered along both axes; (1, 1) repeats pixels. # [B, 2H, 2W, C]

    Arguments as for `halve`, of which it is the transpose, but for a factor of 4.
    """
    return _smooth_rest(layers.double(x), taps)


def _smooth_rest(x: Array, taps: Sequence[int]) -> Array:
    """Returns x filtered by what is left of a filter without its factor (1, 1), which averaging or repeating pixels is."""
    rest = np.polydiv(taps, (1, 1))[0]
    return smooth(x, rest, margin=len(rest) // 2)


def smooth(x: Array, taps: Sequence[float], *, margin: int) -> Array:
    """Returns x, with some zeros around it, filtered along both axes by taps scaled to the sum 1.

    A sum of slices: a convolution by channel took 26 times as long on a CPU.

    Args:
        x: [B, H, W, C].
        taps: n of them.
        margin: rows and columns of zeros on each side.

    Returns:
        [B, H + 2 margin - n + 1, W + 2 margin - n + 1, C].
    """
    weights = (np.asarray(taps) / np.sum(taps)).tolist()
    for axis in (1, 2):
        widened = jnp.pad(x, [(margin, margin) if each == axis else (0, 0) for each in range(4)])
        size = widened.shape[axis] - len(weights) + 1
        shifted = (jax.lax.slice_in_dim(widened, i, i + size, axis=axis) for i in range(len(weights)))
        x = sum(weight * part for weight, part in zip(weights, shifted, strict=True))
    return x
