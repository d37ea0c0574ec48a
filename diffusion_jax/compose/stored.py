"""The config of a run, as it is stored beside its checkpoints: <workdir>/config.json."""

import json
from importlib import metadata
from typing import Any

import diffusion_jax
from diffusion_jax import errors
from diffusion_jax.compose.config import FIELDS, Config
from diffusion_jax.errors import UserError
from diffusion_jax.runs import storage
from diffusion_jax.runs.shards import flatten

KIND = "the workdir of a run: train first"  # what the folder must be
OWN_FOLDERS = {"data.codec": "codec", "model.text_folder": "text_encoder"}  # field -> the copy of its folder in a workdir
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
MOST_SHOWN = 4  # fields that differ
ADVICE = "leave these fields and --config out, since the workdir has its own config."  # where they do, and none is trained
ADVICE_TO_TRAIN = "use the stored values, or another workdir. If that run is of no use, remove the folder first."
LEFT_OPEN = {  # fields and the values with which they leave the choice to a run, once
    "train.batch_size": 0,
    "train.ema_warmup": "auto",
    "model.num_classes": -1,
    "model.precision": "default",
    "data.latent_shape": (),
    "data.latent_scale": 0.0,
}
FORMAT_VERSION = 16  # of config.json and of the checkpoints beside it
OLDEST_FORMAT = 2
VIDEOS_SINCE = 16  # the oldest format of runs on videos: before, frames were told of each other by attention alone
RENAMED = {  # in an earlier format -> now
    "process.rescale_condition": "process.rescale_c_noise",
    "model.attention_levels": "model.attention_stages",
    "model.num_remat_levels": "model.num_remat_stages",
    "loss.density": "loss.time_density",
    "train.split_update": "train.shard_optimizer",
    "data.resident_gib": "data.device_cache_gib",
    "sample.end": "sample.last_level",
}
VALUES_RENAMED = [  # field, in an earlier format, now
    ("process.kind", "chain", "discrete"),
    ("sample.last_level", "lowest", "min_noise"),
    ("sample.clip", "static_eps_kept", "static_keep_eps"),
    ("likelihood.kind", "flow", "pf_ode"),
    ("train.ema_warmup", False, "off"),
    ("train.ema_warmup", True, "on"),
]


def from_json(text: str) -> Config:
    """Returns the config in the text of a config.json, of any format so far.

    Raises UserError where it is something else, or of a network of videos that is not there any more.
    """
    stored = _parsed(text)
    try:
        version, flat = stored["format_version"], flatten(_tuples(stored["config"]))
    except (KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"config.json is damaged ({type(error).__name__}: {error}).") from error
    if type(version) is not int or not OLDEST_FORMAT <= version <= FORMAT_VERSION:
        raise UserError(
            f"config.json has format_version = {errors.shown(version)}; this version of diffusion_jax reads "
            f"{OLDEST_FORMAT} to {FORMAT_VERSION}."
        )
    if version < VIDEOS_SINCE and flat.get("data.medium") == "videos":
        raise UserError(
            f"config.json has format_version = {version}, of a network of videos that this version of diffusion_jax does "
            f"not have any more; it reads those of {VIDEOS_SINCE} to {FORMAT_VERSION}. Train in another workdir."
        )
    return Config.of_flat(flat if version == FORMAT_VERSION else _migrated(flat))


def _parsed(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"config.json is damaged ({type(error).__name__}: {error}).") from error


def _migrated(flat: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of an earlier format as those of the present one; what it could not say yet was as the defaults."""
    flat = {RENAMED.get(name, name): value for name, value in flat.items() if name != "model.remat"}  # changed no result
    for name, old, new in VALUES_RENAMED:
        if flat.get(name) == old:
            flat[name] = new
    return {name: field.default for name, field in FIELDS.items()} | {"model.precision": "highest"} | flat


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def to_json(config: Config, **more: Any) -> str:
    """Returns config.json's text: the config, the format's and the packages' versions, and what else is given."""
    stored = {"format_version": FORMAT_VERSION, "config": config.model_dump(), "versions": versions(), **more}
    return json.dumps(stored, indent=2) + "\n"


def write_config(workdir: storage.Path, config: Config, **more: Any) -> None:
    """Writes a run's config, the versions of the packages, and the other values given."""
    storage.write_text(workdir / "config.json", to_json(config, **more))


def check_images(workdir: storage.Path, seen: dict[str, Any]) -> None:
    """Raises UserError if the run was begun on other images. `seen` is stored beside the config.

    Names of classes that were not known then, as those of an .npz file once were not, are no difference.
    """
    stored = _parsed(storage.read_text(workdir / "config.json", KIND)).get("images", seen)
    if not isinstance(stored, dict):
        raise UserError(f"config.json is damaged (images = {errors.shown(stored)}).")
    before = {name: stored.get(name) or new for name, new in seen.items()}
    if differences := [f"{name}: {before[name]} -> {new}" for name, new in seen.items() if before[name] != new]:
        raise UserError(
            f"workdir {str(workdir)!r} was begun on other images ({'; '.join(differences)}); the order of the "
            "batches and the labels would change. Use those images, or another workdir with train.init_from."
        )


def changed_since(workdir: storage.Path, device: str) -> str:
    """Returns what is not as when a run was last saved, 'jax 0.10.2 -> 0.11.0, ...': packages and device; '' for nothing."""
    stored = _parsed(storage.read_text(workdir / "config.json", KIND))
    before = stored["versions"] if isinstance(stored.get("versions"), dict) else {}
    before, now = before | {"device": stored.get("device", device)}, versions() | {"device": device}
    return ", ".join(f"{name} {before[name]} -> {new}" for name, new in now.items() if before.get(name, new) != new)


def check_resumable(workdir: storage.Path) -> None:
    """Raises UserError if a workdir holds weights alone, as `tools.export` and `tools.import_weights` mark them."""
    if _parsed(storage.read_text(workdir / "config.json", KIND)).get("weights_alone"):
        raise UserError(
            f"workdir {str(workdir)!r} holds weights alone, which cannot be resumed; use another workdir with "
            f"--config.train.init_from={storage.quoted(workdir)}."
        )


def has_config(workdir: storage.Path) -> bool:
    """Returns whether a run has begun in a folder."""
    return (workdir / "config.json").exists()


def read_config(workdir: storage.Path) -> Config:
    """Returns a run's config, with the copies of folders that are in its workdir; UserError where it is no workdir."""
    return with_own_folders(from_json(storage.read_text(workdir / "config.json", KIND)), workdir)


def read_hashes(workdir: storage.Path) -> dict[str, str]:
    """Returns the SHA-256 of each frozen network that a run was trained with, by field; {} where they were not kept yet."""
    found = _parsed(storage.read_text(workdir / "config.json", KIND)).get("frozen_sha256", {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"config.json is damaged (frozen_sha256 = {errors.shown(found)}).")
    return found


def with_own_folders(config: Config, workdir: storage.Path, *, if_gone: bool = False) -> Config:
    """Returns the config with the copies of folders that are in its workdir, or only of those that are gone otherwise."""
    own = {
        name: str(workdir / folder)
        for name, folder in OWN_FOLDERS.items()
        if (given := config.flat()[name]) and has_config(workdir / folder)
        if not (if_gone and storage.path(given).exists())
    }
    return Config.of_flat(config.flat() | own)


def agreed_config(workdir: storage.Path, config: Config, *, advice: str = ADVICE) -> Config:
    """Returns the config as the workdir's run has it: what it leaves open is what the run chose.

    Raises UserError, which ends with the advice, where a field differs that may not change.
    """
    stored = read_config(workdir)
    if differences := changed(stored, config):
        more = [f"{len(differences) - MOST_SHOWN} more"] * (len(differences) > MOST_SHOWN)
        shown = "; ".join(differences[:MOST_SHOWN] + more)
        raise UserError(f"workdir {str(workdir)!r} was trained with another config ({shown}); {advice}")
    return Config.of_flat(config.flat() | {name: stored.flat()[name] for name in LEFT_OPEN})


def changed(stored: Config, config: Config) -> list[str]:
    """Returns 'field: stored -> new' for every field that differs and may not change on resume.

    A new value that leaves the choice to the run is not a difference.
    """
    new = config.identity()
    return [
        f"{name}: {old!r} -> {new[name]!r}"
        for name, old in stored.identity().items()
        if old != new[name] and new[name] != LEFT_OPEN.get(name)
    ]


def versions() -> dict[str, str]:
    """Returns the installed version of each package that a result depends on."""
    return {"diffusion_jax": diffusion_jax.__version__} | {name: metadata.version(name) for name in PACKAGES}
