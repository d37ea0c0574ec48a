"""Networks as pure functions. Nothing outside this package knows that they are Flax modules."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax import augmentation
from diffusion_jax.autoencoding import Coder
from diffusion_jax.errors import UserError
from diffusion_jax.networks import layers
from diffusion_jax.networks.autoencoder import Autoencoder
from diffusion_jax.networks.dit import Blocks, DiT
from diffusion_jax.networks.dit import check as check_blocks
from diffusion_jax.networks.egnn import EGNN
from diffusion_jax.networks.encoder import Encoder
from diffusion_jax.networks.layers import Precision
from diffusion_jax.networks.mlp import MLP, Layers
from diffusion_jax.networks.ncsnpp import STYLE, NCSNpp
from diffusion_jax.networks.stages import Stages, check
from diffusion_jax.networks.unet import UNet


class Network(NamedTuple):
    """A network as a triple of pure functions."""

    init: Callable[..., Any]  # key -> params, float32
    # (params, x_t [B, ..., C], c_noise [B] or [B, 2], cond: see the module, *, train, rngs) -> output [B, ..., C], of
    # `Encoder` [B]; `of_autoencoder` has its own
    apply: Callable[..., Any]
    # params -> the same in the type in which `apply` computes, so that a loop over `apply` need not convert them
    cast: Callable[[Any], Any] = lambda params: params
    parts: Stages | Blocks | Layers | None = None  # what it is made of, with `num_stages`, `multiple_of` and `summary`


def bind(
    network: Network, params: Any, cond: Any, *, train: bool = False, rngs: dict[str, Array] | None = None
) -> Callable[[Array, Array], Array]:
    """Returns (x_t, c_noise) -> output, a network with everything else settled: what `denoiser.make_denoiser` takes."""
    return functools.partial(network.apply, params, cond=cond, train=train, rngs=rngs)


def unet(
    image_shape: tuple[int, ...],
    *,
    dtype: str,
    precision: Precision = "highest",
    learned_variance: bool = False,
    cond_channels: int = 0,
    num_heads_up: int = 0,
    num_classes: int = 0,
    null_label: bool = False,
    jumps: bool = False,
    fourier_exponents: Sequence[int] = (),
    text_width: int = 0,
    augmented: bool = False,
    **options,
) -> Network:
    """Returns `UNet` for images of a shape; UserError where the options do not fit together.

    Args:
        image_shape: (H, W, C); of signals (L, C), of videos (F, H, W, C).
        dtype: 'float32' or 'bfloat16'.
        precision: of float32 products: 'default' is TF32 on a GPU and one bfloat16 pass on a TPU, 'high' takes three passes
            there, 'highest' is float32 everywhere.
        learned_variance: whether the output has twice the channels.
        cond_channels: channels of cond['image']; 0 for none.
        num_heads_up: see `UNet`, as for jumps and fourier_exponents.
        num_classes: labels 0 .. num_classes - 1 are an input; 0 for none.
        null_label: whether there is one more label, num_classes, for "unknown".
        text_width: numbers of each token of cond['text']; 0 for no text.
        augmented: whether cond['augmentation'] says how images were moved, as `augmentation.augment` does.
        **options: the other attributes of `Stages`.
    """
    num_frames = image_shape[0] if len(image_shape) == 4 else 0
    stages = Stages(dtype=jnp.dtype(dtype), num_frames=num_frames, **options)
    check(stages, num_heads_up=num_heads_up)
    ways = (num_heads_up, _num_labels(num_classes, null_label), jumps, tuple(fourier_exponents))
    module = UNet((1 + learned_variance) * image_shape[-1], stages, *ways)
    cond = _cond(image_shape, cond_channels, num_classes, text_width, augmented)
    return _of_module(module, image_shape, cond, stages, precision=precision)


def dit(
    image_shape: tuple[int, int, int],
    *,
    channels: int,
    depth: int,
    num_heads: int,
    patch_size: int,
    dtype: str,
    dropout: float = 0.0,
    embedding_spacing: Literal["closed", "half_open"] = "half_open",
    num_remat_stages: int = 0,
    precision: Precision = "highest",
    learned_variance: bool = False,
    cond_channels: int = 0,
    num_classes: int = 0,
    null_label: bool = False,
    jumps: bool = False,
    text_width: int = 0,
    augmented: bool = False,
) -> Network:
    """Returns `DiT` for images of a shape; UserError where the options do not fit together.

    Args:
        image_shape: (H, W, C).
        channels: of each token; `dit.SIZES` has the paper's of this and the two that follow. See `Blocks`, as for others.
        depth: how many blocks.
        num_heads: of attention.
        patch_size: side of the squares that become tokens, in pixels.
        dtype: 'float32' or 'bfloat16'.
        dropout: see `Blocks`.
        embedding_spacing: see `Blocks`.
        num_remat_stages: see `Blocks`.
        precision: as for `unet`, as are all the others.
    """
    blocks = Blocks(channels, depth, num_heads, patch_size, dropout, jnp.dtype(dtype), embedding_spacing, num_remat_stages)
    check_blocks(blocks)
    module = DiT((1 + learned_variance) * image_shape[-1], blocks, _num_labels(num_classes, null_label), jumps)
    cond = _cond(image_shape, cond_channels, num_classes, text_width, augmented)
    return _of_module(module, image_shape, cond, blocks, precision=precision, draw=lambda params, key: params)


def ncsnpp(
    image_shape: tuple[int, int, int],
    *,
    dtype: str,
    precision: Precision = "highest",
    learned_variance: bool = False,
    cond_channels: int = 0,
    embedding: Literal["positional", "fourier"] = "positional",
    resample_filter: Sequence[int] = (1, 1),
    progressive_input: Literal["none", "input_skip", "residual"] = "none",
    progressive: Literal["none", "output_skip"] = "none",
    num_classes: int = 0,
    augmented: bool = False,
    **options,
) -> Network:
    """Returns `NCSNpp` for images of a shape; UserError as for `unet`, and for a filter that `ncsnpp.halve` does not take.

    With the defaults it is DDPM++. Label num_classes is "unknown", and needs no parameter.

    Args:
        image_shape: (H, W, C).
        dtype: 'float32' or 'bfloat16'.
        precision: as for `unet`, as are learned_variance, cond_channels and augmented.
        embedding: see `NCSNpp`, as for resample_filter, progressive_input, progressive and num_classes.
        **options: the other attributes of `Stages`, but for `ncsnpp.STYLE`.
    """
    if len(resample_filter) % 2 or tuple(resample_filter) != tuple(resample_filter)[::-1]:
        raise UserError(
            f"resample_filter = {tuple(resample_filter)} is not allowed; it must be an even number of numbers that read the "
            "same backwards, such as (1, 1) or (1, 3, 3, 1)."
        )
    stages = Stages(dtype=jnp.dtype(dtype), **STYLE, **options)
    check(stages)
    ways = (embedding, tuple(resample_filter), progressive_input, progressive)
    module = NCSNpp((1 + learned_variance) * image_shape[-1], stages, *ways, num_classes)
    cond = _cond(image_shape, cond_channels, num_classes, augmented=augmented)
    return _of_module(module, image_shape, cond, stages, precision=precision)


def noisy_classifier(
    image_shape: tuple[int, int, int],
    *,
    num_classes: int,
    dtype: str,
    precision: Precision = "highest",
    pool: Literal["adaptive", "attention"] = "adaptive",
    **options,
) -> Network:
    """Returns `Encoder` for images of a shape: `apply` gives log p(label | x_t), [B]. UserError as for `unet`.

    Args:
        image_shape: (H, W, C).
        num_classes: K. Without a label in `cond`, `apply` gives the logits of all, [B, K].
        dtype: 'float32' or 'bfloat16'.
        precision: as for `unet`.
        pool: see `Encoder`.
        **options: the other attributes of `Stages`.
    """
    stages = Stages(dtype=jnp.dtype(dtype), **options)
    check(stages)
    return _of_module(Encoder(num_classes, stages, pool), image_shape, {}, stages, precision=precision)


def mlp(
    shape: tuple[int, ...],
    *,
    channels: int,
    depth: int,
    dtype: str,
    precision: Precision = "highest",
    learned_variance: bool = False,
    num_classes: int = 0,
    null_label: bool = False,
    jumps: bool = False,
) -> Network:
    """Returns `MLP` for arrays of a shape; UserError for an odd number of channels.

    Args:
        shape: (..., C), such as (2,) of points in the plane.
        channels: see `mlp.Layers`, as for depth.
        depth: how many blocks.
        dtype: 'float32' or 'bfloat16'.
        precision: as for `unet`, as is learned_variance.
        num_classes: as for `unet`, as is null_label.
        jumps: see `UNet`.
    """
    _check_even(channels)
    parts = Layers(channels, depth, jnp.dtype(dtype))
    module = MLP((1 + learned_variance) * shape[-1], parts, _num_labels(num_classes, null_label), jumps)
    return _of_module(module, shape, _cond(shape, 0, num_classes), parts, precision=precision)


def egnn(
    shape: tuple[int, int],
    *,
    channels: int,
    depth: int,
    num_classes: int,
    dtype: str,
    precision: Precision = "highest",
) -> Network:
    """Returns `EGNN` for sets of atoms; UserError for an odd number of channels, or labels that do not fit.

    Args:
        shape: (M, C): rows, and channels, the first three of which are places.
        channels: see `mlp.Layers`, as for depth.
        depth: how many layers.
        num_classes: M + 1: the label is the number of atoms.
        dtype: 'float32' or 'bfloat16'.
        precision: as for `unet`.
    """
    _check_even(channels)
    if num_classes != shape[0] + 1:
        raise UserError(f"num_classes = {num_classes} must be {shape[0] + 1}: the label is the number of atoms.")
    parts = Layers(channels, depth, jnp.dtype(dtype))
    return _of_module(EGNN(parts), shape, _cond(shape, 0, num_classes), parts, precision=precision)


def _num_labels(num_classes: int, null_label: bool) -> int:
    return num_classes + null_label if num_classes else 0


def _check_even(channels: int) -> None:
    if channels % 2:
        raise UserError(f"channels = {channels} must be even.")


def _cond(
    image_shape: tuple[int, ...], cond_channels: int, num_classes: int, text_width: int = 0, augmented: bool = False
) -> dict[str, Array]:
    """Returns an example of a network's conditions, for one image."""
    cond = {"augmentation": jnp.zeros((1, augmentation.NUM_TOLD))} if augmented else {}
    cond |= {"label": jnp.zeros(1, jnp.int32)} if num_classes else {}
    cond |= {"text": jnp.zeros((1, 1, text_width))} if text_width else {}
    return cond | ({"image": jnp.zeros((1, *image_shape[:-1], cond_channels))} if cond_channels else {})


def _of_module(
    module: nn.Module,
    shape: tuple[int, ...],
    cond: Any,
    parts: Stages | Blocks | Layers,
    *,
    precision: Precision,
    draw: Callable[[Any, Array], Any] = layers.draw_kernels,
) -> Network:
    """Returns a module as a network.

    Args:
        module: what it is.
        shape: of x_t without the batch, (..., C).
        cond: an example of its conditions, for one image.
        parts: what it is made of.
        precision: of float32 products.
        draw: (what the layers begin with, key) -> parameters.
    """

    def init(key):
        x_t, c_noise = jnp.zeros((1, *shape)), jnp.zeros(1)
        key_module, key_kernels = jax.random.split(key)
        return draw(module.init(key_module, x_t, c_noise, cond, train=False)["params"], key_kernels)

    def apply(params, x_t, c_noise, cond, *, train=False, rngs=None):
        if x_t.ndim != 1 + len(shape) or x_t.shape[-1] != shape[-1]:
            axes = {1: "", 3: "H, W, "}.get(len(shape), "..., ")
            raise ValueError(f"x_t of {list(x_t.shape)} is not allowed; the network takes [B, {axes}{shape[-1]}].")
        with layers.products(precision, parts.dtype):
            return module.apply({"params": params}, x_t, c_noise, cond, train=train, rngs=rngs)

    return Network(init, apply, lambda params: layers.cast_kernels(params, parts.dtype), parts)


def of_autoencoder(found: Autoencoder) -> Network:
    """Returns an autoencoder as a network, whose `apply` takes 'encode' or 'decode' in the place of c_noise."""

    def apply(params, x, part, cond, *, train=False, rngs=None):
        return {"encode": found.encode, "decode": found.decode}[part](params, x)

    return Network(found.init, apply, found.cast, found.parts)


def coder(network: Callable[..., Any]) -> Coder:
    """Returns what `of_autoencoder` gives, bound to weights, as two functions."""
    return Coder(lambda x: network(x, "encode"), lambda z: network(z, "decode"))
