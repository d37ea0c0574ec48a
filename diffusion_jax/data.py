"""Data sets as uint8 images, and their order as a function of (seed, step): nothing needs saving to resume."""

import logging
import socket
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax import storage, streams
from diffusion_jax.errors import UserError

Batch = dict[str, Any]  # {"image": uint8 [B, H, W, C], "cond": conditions, a pytree, maybe empty}


class Source(NamedTuple):
    """A data set in memory."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int32 [N]; zeros where there are none


def digits() -> Source:
    """Returns scikit-learn's 1,797 handwritten digits, 8 x 8 x 1; grey levels 0 .. 16 as round(level * 255 / 16)."""
    from sklearn.datasets import load_digits

    stored = load_digits()
    images = np.round(stored.images * (255 / 16)).astype(np.uint8)
    return Source(images[..., None], stored.target.astype(np.int32))


def npz(*, path: str) -> Source:
    """Returns the arrays 'images' (or 'arr_0'), uint8 [N, H, W, C] or [N, H, W], and 'labels' (or 'arr_1') of an .npz file.

    Raises:
        UserError: where the file is missing or holds something else.
    """
    file = storage.path(path)
    if not path or not file.exists():
        raise UserError(f"config field data.path = {path!r} is not a file; data.source = 'npz' needs an .npz file.")
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            images = next((stored[name] for name in ("images", "arr_0") if name in stored), None)
            labels = next((stored[name] for name in ("labels", "arr_1") if name in stored), None)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"data.path = {path!r} cannot be read as an .npz file of arrays ({type(error).__name__})."
        ) from error
    if images is None or images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) == 0:
        found = "no such array" if images is None else f"{images.dtype} {list(images.shape)}"
        raise UserError(f"data.path = {path!r} must hold 'images' or 'arr_0' as uint8 [N, H, W, C]; found {found}.")
    images = images[..., None] if images.ndim == 3 else images
    return Source(images, np.zeros(len(images), np.int32) if labels is None else labels.astype(np.int32))


def tfds(*, name: str, path: str) -> Source:
    """Returns the train split of an image set of TensorFlow Datasets, downloaded and prepared first where it is not yet.

    Args:
        name: of the set, such as 'cifar10:3.0.2'.
        path: the folder of prepared sets; "" is TFDS's own.

    Raises:
        UserError: where the set is unknown, or neither prepared nor to be had.
    """
    logging.getLogger("absl").addFilter(lambda record: "has no dataset_info.json" not in record.getMessage())
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder(name, data_dir=path or None, file_format="array_record")
    except tensorflow_datasets.core.DatasetNotFoundError as error:
        raise UserError(f"config field data.name = {name!r} is no set that TFDS knows.") from error
    if not builder.is_prepared():
        _check_network(name, builder.data_path)
        builder.download_and_prepare(file_format="array_record")
    records = list(builder.as_data_source(split="train"))
    images = np.stack([record["image"] for record in records])
    return Source(images, np.array([record.get("label", 0) for record in records], np.int32))


def _check_network(name: str, folder: Any) -> None:
    """Raises UserError where nothing can be downloaded: TFDS alone would try again for minutes."""
    try:
        socket.getaddrinfo("storage.googleapis.com", 443)
    except OSError as error:
        raise UserError(
            f"config field data.name = {name!r} is not prepared in {str(folder)!r}, and there is no network to download it; "
            "set data.path to a folder of prepared sets."
        ) from error


def check_shape(source: Source, image_shape: tuple[int, int, int]) -> None:
    """Raises UserError where the images are not of the configured (height, width, channels)."""
    found = source.images.shape[1:]
    if found != image_shape:
        raise UserError(
            f"config fields data.image_size and data.channels say {list(image_shape)}, but the images are {list(found)}; "
            f"set data.image_size = {tuple(found[:2])} and data.channels = {found[2]}."
        )


def check_labels(source: Source, num_classes: int) -> None:
    """Raises UserError where the labels are not those of a network with so many classes."""
    if num_classes and not (source.labels.min() >= 0 and source.labels.max() < num_classes):
        raise UserError(
            f"config field model.num_classes = {num_classes} does not fit the labels, which are {source.labels.min()} to "
            f"{source.labels.max()}."
        )


def make_order(num_images: int, *, batch_size: int, seed: int) -> Callable[[int], np.ndarray]:
    """Returns step -> the indices of its batch, [B]: every epoch is a permutation of its own, and no image is left out."""
    permutations: dict[int, np.ndarray] = {}

    def permutation(epoch: int) -> np.ndarray:
        if epoch not in permutations:
            if len(permutations) > 1:
                permutations.pop(min(permutations))
            permutations[epoch] = np.random.default_rng((seed, streams.STREAMS["data"], epoch)).permutation(num_images)
        return permutations[epoch]

    def indices(step: int) -> np.ndarray:
        epochs, offsets = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), num_images)
        return np.concatenate([permutation(epoch)[offsets[epochs == epoch]] for epoch in np.unique(epochs)])

    return indices


def batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    with_labels: bool = False,
    part: int = 0,
    num_parts: int = 1,
) -> Iterator[Batch]:
    """Yields the batches of steps `first_step`, `first_step` + 1, ...

    Args:
        source: the images.
        batch_size: B over all hosts.
        seed: decides the order, together with the step.
        first_step: where to begin.
        with_labels: whether "cond" has the labels.
        part: which of `num_parts` equal parts of each batch to yield: a host's own.
        num_parts: the number of hosts.
    """
    order = make_order(len(source.images), batch_size=batch_size, seed=seed)
    size = batch_size // num_parts
    step = first_step
    while True:
        own = order(step)[part * size : (part + 1) * size]
        yield {"image": source.images[own], "cond": {"label": source.labels[own]} if with_labels else {}}
        step += 1


def stacked(iterator: Iterator[Batch], num_steps: int) -> Iterator[Batch]:
    """Yields the batches of `num_steps` steps as one, stacked along a new first axis."""
    while True:
        group = [next(iterator) for _ in range(num_steps)]
        yield jax.tree.map(lambda *leaves: np.stack(leaves), *group)
