"""A published model as it lies on a disk: the tensors of one file or of several, and the settings beside them."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffusion_jax import errors
from diffusion_jax.errors import UserError, some
from diffusion_jax.runs import storage
from diffusion_jax.weights import maps, tensors

NAMES = ("diffusion_pytorch_model", "pytorch_model", "model")  # of files of weights in a folder
EMA, SLOTS = "/ExponentialMovingAverage", ("/Adam", "/Adam_1")  # what TensorFlow adds to a variable's name
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")  # the first is preferred


class Source(NamedTuple):
    """What was read."""

    name: str  # of the file or the folder
    tensors: maps.Tensors
    settings: Mapping[str, Mapping[str, Any]] = {}  # what stands beside them: {"config": {...}, "scheduler_config": {...}}


class Published(NamedTuple):
    """A published model, understood."""

    fields: Mapping[str, Any]  # of our config: {"model.channels": 128, ...}
    tensors: maps.Tensors  # of the network alone
    map_of: Callable[[Any, Mapping[str, Any]], maps.Map]  # (our parameters, the fields of the section `model`) -> their map
    notes: tuple[str, ...] = ()  # sentences: what was assumed, and what was left out
    needed: tuple[tuple[str, ...], ...] = ()  # what the source does not say: of each tuple one field must be given


def read(place: storage.Path) -> Source:
    """Returns what is in a file of weights, or in a folder as diffusers writes it: a pipeline's or a model's.

    Raises UserError where there is none, or it cannot be read, is damaged or incomplete.
    """
    if place.with_name(f"{place.name}.index").exists():
        return Source(place.name, _of_tensorflow(place))
    if not place.exists():
        raise UserError(f"flag --from = {str(place)!r} does not exist; it must be a file of weights or a folder with one.")
    if not place.is_dir():
        return Source(place.name, tensors.read(place))
    model = next((place / name for name in ("unet", "transformer") if (place / name).is_dir()), place)
    beside = {"config": model / "config.json", "scheduler_config": place / "scheduler" / "scheduler_config.json"}
    if not beside["scheduler_config"].exists():
        beside["scheduler_config"] = place / "scheduler_config.json"
    settings = {name: read_json(file) for name, file in beside.items() if file.exists()}
    return Source(place.name, _of_folder(model), settings)


def _of_tensorflow(prefix: storage.Path) -> maps.Tensors:
    """Returns the variables of a TensorFlow checkpoint, of each its EMA where there is one."""
    missing = f"{str(prefix)!r} is a checkpoint of TensorFlow, which reads it: pip install tensorflow-cpu."
    tensorflow = errors.needed("tensorflow", missing)
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
        variables = {name: reader.get_tensor(name) for name in sorted(names)}
    except Exception as error:  # TensorFlow has many names for a file that is cut short or missing
        raise UserError(
            f"checkpoint {str(prefix)!r} cannot be read ({type(error).__name__}: {errors.first_line(error)})."
        ) from error
    averaged = {name.removesuffix(EMA): tensor for name, tensor in variables.items() if name.endswith(EMA)}
    return averaged or {name: tensor for name, tensor in variables.items() if not name.endswith(SLOTS)}


def _of_folder(folder: storage.Path) -> maps.Tensors:
    """Returns the tensors of a folder, whose weights may be in one file or in several with an index."""
    for suffix in SUFFIXES:
        for stem in (stem + variant for variant in ("", ".fp16") for stem in NAMES):
            if (index := folder / f"{stem}{suffix}.index.json").exists():
                return _of_shards(folder, index)
            if (file := folder / f"{stem}{suffix}").exists():
                return tensors.read(file)
    names = some([name + SUFFIXES[0] for name in NAMES])
    raise UserError(f"folder {str(folder)!r} has no file of weights; it must have {names}, or the same in .bin or .pt.")


def _of_shards(folder: storage.Path, index: storage.Path) -> maps.Tensors:
    places, found = read_json(index).get("weight_map"), {}
    if not isinstance(places, dict) or not all(isinstance(file, str) and "/" not in file for file in places.values()):
        raise UserError(f"file {str(index)!r} is damaged: it has no weight_map of names of files.")
    for file in sorted(set(places.values())):
        if not (folder / file).exists():
            raise UserError(f"folder {str(folder)!r} has no {file}, which {index.name} names; download it again.")
        found |= tensors.read(folder / file)
    if missing := [name for name in places if name not in found]:
        raise UserError(f"folder {str(folder)!r} lacks {len(missing)} tensors that {index.name} names: {some(missing)}.")
    return found


def read_json(file: storage.Path) -> dict[str, Any]:
    found = storage.read_json(file, "a folder of weights")
    if not isinstance(found, dict):
        raise UserError(f"file {str(file)!r} is damaged: it is not a dictionary.")
    return found


def check_options(options: Mapping[str, Any], allowed: Mapping[str, Collection[Any]]) -> None:
    """Raises UserError for the first option of a config.json that is not among those that our network computes."""
    for name, values in allowed.items():
        if (found := options.get(name)) not in values:
            raise UserError(f"config.json has {name} = {found!r}; it must be {' or '.join(map(repr, values))}.")


def part(found: maps.Tensors, key: str) -> maps.Tensors:
    """Returns the tensors of the network that has a tensor `key`, without what stands before their names; {} for none.

    Of several, such as a checkpoint's 'model' and 'ema', it is the EMA, or else the one with the shortest name.
    """
    prefixes = [name.removesuffix(key) for name in found if name == key or name.endswith((f".{key}", f"/{key}"))]
    if not prefixes:
        return {}
    prefix = min(prefixes, key=lambda prefix: ("ema" not in prefix.lower(), len(prefix), prefix))
    return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}


def in_float32(found: maps.Tensors) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns tensors as float32, and a sentence where they had another precision; UserError where one is not finite."""
    kinds = sorted({str(tensor.dtype) for tensor in found.values()} - {"float32"})
    if wrong := [name for name, tensor in found.items() if not jnp.issubdtype(tensor.dtype, jnp.floating)]:
        raise UserError(f"tensors {some(wrong)} are not of real numbers, as those of a network are.")
    converted = {name: np.asarray(tensor, np.float32) for name, tensor in found.items()}
    if wrong := [name for name, tensor in converted.items() if not np.all(np.isfinite(tensor))]:
        raise UserError(f"{len(wrong)} tensors have numbers that are not finite: {some(wrong)}.")
    return converted, [f"the weights are {' and '.join(kinds)}; they are written as float32."] if kinds else []
