"""A small classifier, to be trained on the data set itself, for images that no published feature network knows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax.networks import features, layers
from diffusion_jax.networks.features import FeatureNetwork

WIDTHS = (16, 32, 64, 128)  # of the stages; each but the first begins with halving the image


def classifier(num_classes: int) -> FeatureNetwork:
    """Returns the network: "features" [B, 128], the mean over space of its last layer, and "logits" [B, num_classes].

    It takes images of any size, as they are, from 8 x 8 pixels on.
    """
    return features.of_module(Classifier(num_classes), lambda images: images / 127.5 - 1)


class Classifier(nn.Module):
    """The network: 3 x 3 convolutions, each with a group normalisation and a ReLU, two a stage."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        """Returns features and logits of images [B, H, W, 3] in [-1, 1]."""
        for stage, width in enumerate(WIDTHS):
            for i in range(2 if stage else 1):
                stride = 2 if stage and i == 0 else 1
                x = layers.conv(width, 3, jnp.float32, stride=stride, name=f"conv_{stage}_{i}")(x)
                x = jax.nn.relu(layers.GroupNorm(8, 1e-5, jnp.float32, name=f"norm_{stage}_{i}")(x))
        x = jnp.mean(x, axis=(1, 2))
        return {"features": x, "logits": layers.dense(self.num_classes, jnp.float32, name="logits")(x)}
