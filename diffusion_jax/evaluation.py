"""Images become features, and features become figures, for arrays: what --mode=evaluate does to a workdir."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax import errors
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import compare
from diffusion_jax.metrics.compare import Compared, Features
from diffusion_jax.runs import compiling, sharding
from diffusion_jax.weights import features as weights

INCEPTION = ("inception", "inception_pytorch_fid")  # whose Frechet distance is FID
# Of its outputs; the inception score is published without the bias of the last layer.
OF_INCEPTION = {"features": "features", "spatial": "spatial", "logits": "logits_unbiased"}


class Extractor(NamedTuple):
    """A network whose features images are compared in, on the devices of this process."""

    extract: Callable[[np.ndarray], Features]  # images, uint8 [N, H, W, C] -> arrays [N, ...], "features" among them
    description: dict[str, Any]  # what the features depend on besides the images


def extractor(features: str, *, weights_file: str = "", size: int = 0, batch_per_device: int = 64) -> Extractor:
    """Returns a network by its name, with its weights; UserError says how to get those that are missing.

    Args:
        features: 'efficientnet_lite0', 'inception', 'inception_pytorch_fid', 'classifier' or 'pixels'.
        weights_file: of 'classifier', and the first time of 'inception'.
        size: height and width, in pixels, to which images are scaled for the network; 0 is its own.
        batch_per_device: images at once.
    """
    loaded, mesh = weights.load(features, weights_file, size), sharding.local_mesh()
    apply = jax.jit(loaded.network.apply, out_shardings=sharding.replicated(mesh), compiler_options=compiling.options(mesh))
    wanted = OF_INCEPTION if features in INCEPTION else {"features": "features"}
    params, batch_size = jax.device_put(loaded.params, sharding.replicated(mesh)), batch_per_device * mesh.size

    def on_batch(images: np.ndarray) -> Features:
        rows = np.minimum(np.arange(batch_size), len(images) - 1)  # of one shape, so that one program serves all
        found = jax.device_get(apply(params, jax.device_put(images[rows], sharding.batched(mesh))))
        return {ours: found[theirs][: len(images)] for ours, theirs in wanted.items()}

    description = {"network": features, "weights_sha256": loaded.sha256, "size": loaded.network.size}
    return Extractor(_in_batches(on_batch, batch_size), description)


def check(images: Any) -> None:
    """Raises UserError for what is not an array of images."""
    is_image = getattr(images, "dtype", None) == np.uint8 and np.ndim(images) == 4 and np.size(images) > 0
    if not is_image or images.shape[-1] not in (1, 3):
        wanted = "uint8 [N, H, W, C] with 1 or 3 channels, 0 to 255"
        raise UserError(f"images = {errors.shown(images)} are not allowed; they must be {wanted}.")


def evaluate(
    images: np.ndarray,
    real: np.ndarray,
    others: np.ndarray | None = None,
    *,
    features: Any = "efficientnet_lite0",
    **options,
) -> dict[str, Compared]:
    """Returns every figure of images against real ones, each with its standard error and beside its floor.

    Args:
        images: to judge, uint8 [N, H, W, C]; or features, floating point [N, D].
        real: to compare with, in the same form.
        others: real as well, such as held-out ones, which set the floor; None splits `real`.
        features: the name of a network, with **options as of `extractor`; or a function of images, uint8 [B, H, W, C] ->
            [B, D], such as your own network.

    Raises:
        UserError: for fewer than 20 images, other arrays, or a network whose weights are missing.

    Example:
        >>> figures = dj.evaluate(model.sample(1000), training_images, features="pixels")
        >>> figures["kernel_distance"].value.value, figures["kernel_distance"].floor.value
    """
    sets = [np.asarray(each) for each in (images, real, others) if each is not None]
    are_features = all(each.ndim == 2 for each in sets)
    if options and (are_features or callable(features)):
        raise UserError(f"option {next(iter(options))!r} does nothing without a network's name.")
    if are_features:
        return compare.compare(*({"features": each} for each in sets))
    if callable(features):
        extract = _in_batches(lambda images: {"features": np.asarray(features(images))}, 64)
    else:
        extract = extractor(features, **options).extract
    return compare.compare(*map(extract, sets))


def _in_batches(on_batch: Callable[[np.ndarray], Features], batch_size: int) -> Callable[[np.ndarray], Features]:
    """Returns a function of any number of images, of one of a batch."""

    def extract(images: np.ndarray) -> Features:
        check(images)
        parts = [on_batch(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return extract
