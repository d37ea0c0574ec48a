"""Autoencoders: the first stage of latent diffusion, which makes images small. [Rombach et al. 2022, section 3.1]

With the published weights both are diffusers' networks: `autoencoder_kl` its AutoencoderKL, `autoencoder_tiny` its
AutoencoderTiny.

    first_stage = autoencoder.autoencoder_tiny((64, 64, 3), channels=64, num_blocks=(1, 3, 3), latent_channels=4,
                                               dtype="float32")
    params = first_stage.init(jax.random.key(0))
    latents = first_stage.encode(params, images).mean  # [B, 16, 16, 4] of images [B, 64, 64, 3] in [-1, 1]
    images = first_stage.decode(params, latents)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffusion_jax.errors import UserError
from diffusion_jax.networks import layers
from diffusion_jax.networks.layers import Precision
from diffusion_jax.networks.stages import MOST_CHANNELS, Stages, check
from diffusion_jax.process import Gaussian

LOG_VARIANCES = (-30.0, 20.0)  # of latents, the range to which they are clipped
LARGEST_LATENT = 3.0  # of a tiny autoencoder, which decodes 3 tanh(z / 3)


class TinyStages(NamedTuple):
    """What the stages of a tiny autoencoder are; stage i works at 1 / 2^i of the image's size.

    Attributes:
        channels: of every layer.
        num_blocks: residual blocks of each stage, from the largest on, going down and going up.
        dtype: of the arithmetic; parameters are float32.
    """

    channels: int
    num_blocks: Sequence[int]
    dtype: DTypeLike

    @property
    def num_stages(self) -> int:
        """Returns how many there are."""
        return len(self.num_blocks)

    @property
    def multiple_of(self) -> int:
        """Returns what height and width of images must be multiples of."""
        return 2 ** (self.num_stages - 1)

    @property
    def summary(self) -> str:
        """Returns in words how large they are."""
        return f"stages of {', '.join(map(str, self.num_blocks))} blocks of {self.channels} channels"

    def block(self, h: Array, name: str) -> Array:
        """Returns a residual block's output, inside a module that calls this."""
        return TinyBlock(self.channels, self.dtype, name=name)(h)


class Autoencoder(NamedTuple):
    """An autoencoder as pure functions; `encode` and `decode` take any H and W that are multiples of `parts.multiple_of`."""

    init: Callable[[Array], Any]  # key -> params, float32: {"encoder": ..., "decoder": ...}
    encode: Callable[[Any, Array], Gaussian]  # (params, x [B, H, W, C] in [-1, 1]) -> q(z | x) of latents [B, h, w, c]
    decode: Callable[[Any, Array], Array]  # (params, z [B, h, w, c]) -> x [B, H, W, C], about in [-1, 1]
    cast: Callable[[Any], Any]  # params -> the same in the type of the arithmetic, as `Network` has it
    shape: tuple[int, int, int]  # of one latent, (h, w, c)
    parts: Stages | TinyStages  # what it is made of


def autoencoder_kl(
    image_shape: tuple[int, int, int],
    *,
    channels: int,
    multipliers: Sequence[float],
    num_res_blocks: int,
    latent_channels: int,
    num_groups: int,
    dtype: str,
    norm_epsilon: float = 1e-6,
    middle_attention: bool = True,
    quant_conv: bool = True,
    precision: Precision = "highest",
) -> Autoencoder:
    """Returns the autoencoder whose latents have a variance and a prior, N(0, 1). [Rombach et al. 2022, appendix G]

    Log-variances are clipped to [-30, 20]. Stable Diffusion's has channels 128, multipliers (1, 2, 4, 4), 2 residual blocks,
    4 latent channels, 32 groups and 83,653,863 parameters. UserError where the options do not fit together.

    Args:
        image_shape: (H, W, C).
        channels: see `Stages`, as for multipliers, num_res_blocks, num_groups, norm_epsilon and middle_attention.
        multipliers: one for each stage; all but the last halve the image.
        num_res_blocks: of each stage in the encoder; one more in the decoder.
        latent_channels: c.
        num_groups: of each normalisation.
        dtype: 'float32' or 'bfloat16'.
        norm_epsilon: of each normalisation.
        middle_attention: whether the smallest stage attends.
        quant_conv: whether a 1x1 convolution ends the encoder and another begins the decoder; not in Stable Diffusion 3.
        precision: as for `networks.unet`.
    """
    sizes = channels, tuple(multipliers), num_res_blocks, (), 0.0, num_groups, jnp.dtype(dtype)
    stages = Stages(*sizes, norm_epsilon=norm_epsilon, middle_attention=middle_attention)
    check(stages)
    encoder, decoder = Encoder(latent_channels, stages, quant_conv), Decoder(image_shape[-1], stages, quant_conv)
    return _of_modules(encoder, decoder, image_shape, latent_channels, stages, precision)


def autoencoder_tiny(
    image_shape: tuple[int, int, int],
    *,
    channels: int,
    num_blocks: Sequence[int],
    latent_channels: int,
    dtype: str,
    precision: Precision = "highest",
) -> Autoencoder:
    """Returns an autoencoder of plain convolutions whose latents have no variance: the log-variance is -inf.

    `decode` limits latents to 3 tanh(z / 3). TAESD [github.com/madebyollin/taesd], which has learned to give and to take the
    latents of Stable Diffusion, has channels 64, blocks (1, 3, 3, 3), 4 latent channels and 2,445,063 parameters. UserError
    for more channels than a stage may have.

    Args:
        image_shape: (H, W, C).
        channels: see `TinyStages`, as for num_blocks.
        num_blocks: one number for each stage; all stages but the last halve the image.
        latent_channels: c.
        dtype: 'float32' or 'bfloat16'.
        precision: as for `networks.unet`.
    """
    if channels > MOST_CHANNELS:
        raise UserError(f"channels = {channels} is not allowed; a stage has at most {MOST_CHANNELS:,} channels.")
    stages = TinyStages(channels, tuple(num_blocks), jnp.dtype(dtype))
    encoder, decoder = TinyEncoder(latent_channels, stages), TinyDecoder(image_shape[-1], stages)
    return _of_modules(encoder, decoder, image_shape, latent_channels, stages, precision)


class Encoder(nn.Module):
    """The encoder of `autoencoder_kl`: stages going down, the middle, and mean and log-variance of each latent."""

    latent_channels: int
    stages: Stages
    quant_conv: bool

    @nn.compact
    def __call__(self, x: Array) -> Gaussian:
        """Returns q(z | x), [B, h, w, c], of images, [B, H, W, C] in [-1, 1]."""
        stages, features = self.stages, 2 * self.latent_channels
        h, _ = stages.down(x, None, train=False)
        h = stages.norm_out(stages.middle(h, None, train=False))
        h = layers.conv(features, 3, stages.dtype, name="conv_out")(h)
        h = layers.conv(features, 1, stages.dtype, name="quant_conv")(h) if self.quant_conv else h
        mean, log_variance = jnp.split(h.astype(x.dtype), 2, axis=-1)
        return Gaussian(mean, jnp.clip(log_variance, *LOG_VARIANCES))


class Decoder(nn.Module):
    """The decoder of `autoencoder_kl`: the middle, and stages going up, without skip connections."""

    out_channels: int
    stages: Stages
    quant_conv: bool

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """Returns images, [B, H, W, C], of latents, [B, h, w, c]."""
        stages, h = self.stages, z.astype(self.stages.dtype)
        h = layers.conv(z.shape[-1], 1, stages.dtype, name="quant_conv")(h) if self.quant_conv else h
        h = layers.conv(stages.width(stages.num_stages - 1), 3, stages.dtype, name="conv_in")(h)
        h = stages.middle(h, None, train=False)
        for i in reversed(range(stages.num_stages)):
            for j in range(stages.num_res_blocks + 1):
                h = stages.res(h, None, i, f"up_{i}_{j}", train=False)
            h = stages.upsample(h, None, i, train=False) if i > 0 else h
        return layers.conv(self.out_channels, 3, stages.dtype, name="conv_out")(stages.norm_out(h)).astype(z.dtype)


class TinyEncoder(nn.Module):
    """The encoder of `autoencoder_tiny`; inside it images are in [0, 1]."""

    latent_channels: int
    stages: TinyStages

    @nn.compact
    def __call__(self, x: Array) -> Gaussian:
        """Returns the latents as the mean of a Gaussian without variance; as for `Encoder`."""
        stages, padding = self.stages, (1, 1)
        layers.check_size(x, stages.multiple_of)
        h = layers.conv(stages.channels, 3, stages.dtype, name="conv_in")((x.astype(stages.dtype) + 1) / 2)
        for i, num_blocks in enumerate(stages.num_blocks):
            if i > 0:
                options = {"stride": 2, "padding": padding, "use_bias": False}
                h = layers.conv(stages.channels, 3, stages.dtype, **options, name=f"down_{i - 1}_sample")(h)
            for j in range(num_blocks):
                h = stages.block(h, f"down_{i}_{j}")
        mean = layers.conv(self.latent_channels, 3, stages.dtype, name="conv_out")(h).astype(x.dtype)
        return Gaussian(mean, jnp.full_like(mean, -jnp.inf))


class TinyDecoder(nn.Module):
    """The decoder of `autoencoder_tiny`; inside it images are in [0, 1]."""

    out_channels: int
    stages: TinyStages

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """Returns images, [B, H, W, C], of latents, [B, h, w, c]."""
        stages, h = self.stages, jnp.tanh(z / LARGEST_LATENT) * LARGEST_LATENT
        h = nn.relu(layers.conv(stages.channels, 3, stages.dtype, name="conv_in")(h.astype(stages.dtype)))
        for i, num_blocks in reversed(list(enumerate(stages.num_blocks))):
            for j in range(num_blocks):
                h = stages.block(h, f"up_{i}_{j}")
            if i > 0:
                h = layers.conv(stages.channels, 3, stages.dtype, use_bias=False, name=f"up_{i}_sample")(layers.double(h))
        return layers.conv(self.out_channels, 3, stages.dtype, name="conv_out")(h).astype(z.dtype) * 2 - 1


class TinyBlock(nn.Module):
    """A residual block of three convolutions with a ReLU after each, after the last one of the sum."""

    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the block's output. # [B, h, w, features]"""
        h = nn.relu(layers.conv(self.features, 3, self.dtype, name="conv1")(x))
        h = nn.relu(layers.conv(self.features, 3, self.dtype, name="conv2")(h))
        return nn.relu(x + layers.conv(self.features, 3, self.dtype, scale=0.0, name="conv3")(h))


def _of_modules(
    encoder: nn.Module,
    decoder: nn.Module,
    image_shape: tuple[int, int, int],
    latent_channels: int,
    parts: Stages | TinyStages,
    precision: Precision,
) -> Autoencoder:
    """Returns two modules as an autoencoder."""
    height, width, channels = image_shape
    shape = height // parts.multiple_of, width // parts.multiple_of, latent_channels

    def init(key):
        key_kernels, key_encoder, key_decoder = jax.random.split(key, 3)
        params = {
            "encoder": encoder.init(key_encoder, jnp.zeros((1, *image_shape)))["params"],
            "decoder": decoder.init(key_decoder, jnp.zeros((1, *shape)))["params"],
        }
        return layers.draw_kernels(params, key_kernels)

    def applied(module, name, given, num_channels):
        def apply(params, x):
            if x.ndim != 4 or x.shape[-1] != num_channels:
                raise ValueError(f"{given} of {list(x.shape)} are not allowed; the {name} takes [B, H, W, {num_channels}].")
            with layers.products(precision, parts.dtype):
                return module.apply({"params": params[name]}, x)

        return apply

    encode = applied(encoder, "encoder", "images", channels)
    decode = applied(decoder, "decoder", "latents", latent_channels)
    return Autoencoder(init, encode, decode, lambda params: layers.cast_kernels(params, parts.dtype), shape, parts)
