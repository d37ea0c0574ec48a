"""The frozen networks beside a run's own: the autoencoder of its latents, and the encoder of its texts.

A workdir has a copy of each, and its config.json their hashes: it draws without the folders that they came from, and never
by other networks of the same names.
"""

from typing import Any

from diffusion_jax.compose import coding, stored, texts, weights
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError
from diffusion_jax.runs import checkpoint, storage
from diffusion_jax.weights import text


def keep(config: Config, workdir: storage.Path) -> None:
    """Writes the networks that a run's config names by a folder into its workdir, unless they are there.

    `stored.read_config` finds them there. What config.json names is written before it, so that it marks a whole copy.
    """
    codec, encoder = (workdir / stored.OWN_FOLDERS[name] for name in ("data.codec", "model.text_folder"))
    if config.data.codec and not stored.has_config(codec):
        found, params = coding.first_stage(config.data.codec)
        write_alone(codec, 0, params, weights.alone(found))
    if config.model.text_folder and not stored.has_config(encoder):
        for name in text.FILE_NAMES:
            storage.write_bytes(encoder / name, storage.read_bytes(storage.path(config.model.text_folder) / name))


def write_alone(workdir: storage.Path, step: int, params: Any, config: Config) -> Config:
    """Writes a workdir with one set of weights; returns its config, which names its own copies of folders."""
    checkpoint.save_weights(workdir, step, params)
    keep(config, workdir)
    config = stored.with_own_folders(config, workdir)
    stored.write_config(workdir, config, weights_alone=True, frozen_sha256=hashes(config))
    return config


def hashes(config: Config) -> dict[str, str]:
    """Returns the SHA-256 of each network, by the field that names it: {"data.codec": "0a1b..."}; {} for none."""
    found = {"data.codec": coding.sha256(config.data.codec)} if config.data.codec else {}
    if config.model.text != "none":
        found["model.text_folder" if config.model.text_folder else "model.text"] = texts.encoder(config).sha256
    return found


def check(config: Config, workdir: storage.Path) -> None:
    """Raises UserError where a network that the config names is not the one that the workdir's run was trained with."""
    trained_with = stored.read_hashes(workdir) or hashes(stored.with_own_folders(config, workdir))
    for name, found in hashes(config).items():
        if (wanted := trained_with.get(name, found)) != found:
            raise UserError(
                f"{config.show(name)} has not the weights that workdir {str(workdir)!r} was trained with: their SHA-256 "
                f"begins with {found[:8]}, and must with {wanted[:8]}. {_todo(name, workdir)}"
            )


def _todo(name: str, workdir: storage.Path) -> str:
    if name not in stored.OWN_FOLDERS:
        return "Install the version of the package that it was trained with."
    return f"Set --config.{name} to a folder with those, or use another workdir."
