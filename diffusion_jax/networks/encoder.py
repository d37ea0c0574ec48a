"""The encoder half of a U-Net as a classifier of noisy images. [Dhariwal & Nichol 2021, section 4]"""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffusion_jax.networks import layers
from diffusion_jax.networks.stages import Stages


class Encoder(nn.Module):
    """The stages going down, the middle, and a pool over space that gives a logit for each class.

    Attributes:
        num_classes: K.
        stages: what they are.
        pool: 'adaptive' is the mean over space, 'attention' is `AttentionPool`.
    """

    num_classes: int
    stages: Stages
    pool: Literal["adaptive", "attention"] = "adaptive"

    @nn.compact
    def __call__(self, x_t: Array, c_noise: Array, cond: Mapping[str, Array], *, train: bool) -> Array:
        """Returns log p(label | x_t), at least float32, [B]; where `cond` has no label the logits of all labels, [B, K].

        Arguments and errors as for `UNet`; of `cond` the label alone is used, in 0 .. K - 1.
        """
        stages, dtype = self.stages, jnp.promote_types(self.stages.dtype, jnp.float32)
        emb = stages.embed(c_noise)
        h, _ = stages.down(x_t, emb, train)
        h = stages.norm_out(stages.middle(h, emb, train)).astype(dtype)
        if self.pool == "attention":
            h = AttentionPool(stages.heads(h.shape[-1], stages.num_heads), dtype, name="pool")(h)
        h = jnp.mean(h, axis=(1, 2), keepdims=True)
        logits = layers.conv(self.num_classes, 1, dtype, scale=0.0, name="logits")(h)[:, 0, 0]
        if "label" not in cond:
            return logits
        return jnp.take_along_axis(jax.nn.log_softmax(logits), cond["label"][:, None], axis=-1)[:, 0]


class AttentionPool(nn.Module):
    """The mean over space, as one more place after which it asks all places by attention. [Radford et al. 2021, section 2.4]

    Places have learned embeddings, so that the size of the image is that of the parameters.
    """

    num_heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns what the mean finds. # [B, 1, 1, C]"""
        batch, height, width, channels = x.shape
        places = x.reshape(batch, height * width, channels)
        places = jnp.concatenate([jnp.mean(places, axis=1, keepdims=True), places], axis=1)
        start = nn.initializers.normal(channels**-0.5)
        places += self.param("places", start, places.shape[1:], jnp.float32).astype(x.dtype)
        heads = (batch, -1, self.num_heads, channels // self.num_heads)
        q, k, v = (
            layers.dense(channels, self.dtype, name=name)(rows).reshape(heads)
            for name, rows in {"query": places[:, :1], "key": places, "value": places}.items()
        )
        return jax.nn.dot_product_attention(q, k, v).reshape(batch, 1, 1, channels)
