"""The U-Net of Denoising Diffusion Probabilistic Models and of what grew from it. [Ho et al. 2020, appendix B]"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from diffusion_jax.networks import attention, layers
from diffusion_jax.networks.stages import Stages


class UNet(nn.Module):
    """Stages of residual blocks going down, a middle, and the same stages going up, joined by skip connections.

    Attributes:
        out_channels: channels of the output.
        stages: what they are.
        num_heads_up: heads of attention going up; 0 is as many as going down.
        num_labels: labels 0 .. num_labels - 1 are an input, the last maybe "unknown"; 0 for none.
        jumps: whether c_noise may be of two levels, as `process.jump` has it.
        fourier_exponents: n of the `layers.fourier_features` of x_t that go with it into the first layer.
    """

    out_channels: int
    stages: Stages
    num_heads_up: int = 0
    num_labels: int = 0
    jumps: bool = False
    fourier_exponents: Sequence[int] = ()

    @nn.compact
    def __call__(self, x_t: Array, c_noise: Array, cond: Mapping[str, Array], *, train: bool) -> Array:
        """Returns the network's output: the shape of x_t, except for the channels.

        Raises ValueError for a size that the stages do not divide.

        Args:
            x_t: [B, H, W, C], or with another number of axes of space, such as [B, L, C]; videos are [B, F, H, W, C].
            c_noise: the noise level, as an input of the network, [B]; with `jumps` also [B, 2].
            cond: 'label', int [B], where there are classes; 'image', [B, H, W, any], to go with x_t into the first layer;
                'text', [B, L, D], for attention, and its mean beside c_noise unless `text_block` is 'transformer'. A token
                of zeros is padding. 'augmentation', [B, 9], is missing where no image was moved.
            train: whether dropout drops; it then needs the rng "dropout".
        """
        stages, text = self.stages, cond.get("text")
        emb = layers.with_moves(self._embed(c_noise, cond.get("label"), text), cond)
        h = jnp.concatenate([x_t, cond["image"]], axis=-1) if "image" in cond else x_t
        if self.fourier_exponents:
            h = jnp.concatenate([h, layers.fourier_features(x_t, self.fourier_exponents)], axis=-1)
        h, emb, text = stages.by_frame(h, 4), stages.by_frame(emb, 2), stages.by_frame(text, 3)
        h, skips = stages.down(h, emb, train, text)
        h = stages.middle(h, emb, train, text)
        for i in reversed(range(stages.num_stages)):
            for j in range(stages.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = stages.block(h, emb, i, f"up_{i}_{j}", train, self.num_heads_up or stages.num_heads, text)
            if i > 0:
                h = stages.upsample(h, emb, i, train)
        h = stages.norm_out(h)
        h = layers.conv(self.out_channels, 3, stages.dtype, scale=0.0, name="conv_out")(h)
        return h.reshape(*x_t.shape[:-1], -1).astype(x_t.dtype)

    def _embed(self, c_noise: Array, label: Array | None, text: Array | None) -> Array:
        """Returns the embedding of c_noise, and of the label and the text where there are such. # [B, 4 * channels]"""
        emb = self.stages.embed(layers.start_of_jump(c_noise))
        emb = emb + layers.Jump(emb.shape[-1], self.stages.dtype, name="jump")(c_noise) if self.jumps else emb
        if text is not None and self.stages.text_block == "attention":
            emb = emb + attention.pooled(text, emb.shape[-1], self.stages.dtype, name="text")
        return layers.with_label(emb, label, self.num_labels)
