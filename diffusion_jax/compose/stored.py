"""The config of a run, as it is stored beside its checkpoints: <workdir>/config.json."""

import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import diffusion_jax
from diffusion_jax.compose import schema
from diffusion_jax.errors import UserError
from diffusion_jax.runs import storage

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def write_config(workdir: storage.Path, config: Mapping[str, Any], **more: Any) -> None:
    """Writes a run's config, with the versions of what runs it, and what else is given as JSON can have it."""
    storage.write_text(workdir / "config.json", schema.to_json(config, versions(), **more))


def check_images(workdir: storage.Path, seen: dict[str, Any]) -> None:
    """Raises UserError where a run was begun on other images, as far as `seen`, stored beside its config, tells."""
    stored = json.loads(storage.read_text(workdir / "config.json", "the workdir of a run")).get("images", seen)
    if differences := [f"{name}: {stored.get(name)} -> {seen[name]}" for name in seen if stored.get(name) != seen[name]]:
        raise UserError(
            f"workdir {str(workdir)!r} was begun on other images ({'; '.join(differences)}), whose order and labels would "
            "change; take those, or another workdir with train.init_from."
        )


def has_config(workdir: storage.Path) -> bool:
    """Returns whether a run has begun in a folder."""
    return (workdir / "config.json").exists()


def read_config(workdir: storage.Path) -> dict[str, Any]:
    """Returns a run's nested config.

    Raises:
        UserError: where the folder is no workdir.
    """
    return schema.from_json(storage.read_text(workdir / "config.json", "the workdir of a run"))


def agreed_config(workdir: storage.Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the config as the workdir's run has it: where the batch size is left to choose, it is that of the run.

    Raises:
        UserError: where the workdir belongs to another run: a field differs that may not change.
    """
    stored = read_config(workdir)
    if differences := schema.changed(stored, config):
        raise UserError(
            f"workdir {str(workdir)!r} was trained with another config ({'; '.join(differences)}); "
            "use the stored values or another workdir."
        )
    return schema.with_values(config, "train", batch_size=stored["train"]["batch_size"])


def versions() -> dict[str, str]:
    """Returns the installed version of each package that a result depends on."""
    return {"diffusion_jax": diffusion_jax.__version__} | {name: metadata.version(name) for name in PACKAGES}
