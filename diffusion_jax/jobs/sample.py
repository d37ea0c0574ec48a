"""Generating images: python main.py --mode=sample --workdir=<workdir> [--out=<folder>]; the same command continues."""

from diffusion_jax import model
from diffusion_jax.compose import inputs, processes, sampling, stored
from diffusion_jax.compose.choices import MEDIA
from diffusion_jax.compose.config import Config
from diffusion_jax.runs import logs, pictures, sharding, shards, storage

STRIPS = 8  # for one image in strip.png there are so many in grid.png


def run(config: Config, workdir: storage.Path, out: storage.Path | None = None) -> int:
    """Generates `sample.num_images` images with the settings of the section `sample`; returns the exit code, 0.

    An autoencoder gives what it makes of the images of the held-out set, or else of the training set.
    They go into `out`, by default a folder of the workdir that is named after checkpoint and settings. More images than it
    has are added to those. The config is checked by `checks.check`.
    """
    config = stored.agreed_config(workdir, config)
    processes.check_makes_images(config)
    trained = model.with_guide(model.restore(workdir, config))
    settings = config.sample
    manifest = model.manifest_of_images(trained)
    out = out or workdir / "samples" / _name(trained, manifest)
    inputs.check_apart(config, out)
    logs.say("sampling", f"{settings.num_images:,} images into {out}")
    logs.say("warning", *sampling.warnings(config))
    result = model.write_dump(trained, out, manifest)
    logs.say("done", f"{result}; a picture is {out / 'grid.png'}")
    if settings.strip and sharding.is_first():
        _picture_strip(trained, out / "strip.png")
    return 0


def _picture_strip(trained: model.Model, file: storage.Path) -> None:
    """Writes the network's predictions of x_0 for the first images, one row each, from noise (left) to image (right)."""
    medium = MEDIA[trained.config.data.medium]
    predictions = model.strip(trained, medium.num_pictured // STRIPS).swapaxes(0, 1)  # [images, k, H, W, C]
    num_columns = predictions.shape[1]
    grid = medium.grid(predictions.reshape(-1, *predictions.shape[2:]), num_columns=num_columns)
    storage.write_bytes(file, pictures.encode_png(grid))
    logs.say("strip", f"{file}: the network's prediction of x_0 at {num_columns} times, one row for each image")


def _name(trained: model.Model, manifest: dict) -> str:
    """Returns a folder's name: the settings that people look for, and a digest of the others."""
    settings, digest = trained.config.sample, shards.digest(manifest)
    label = f"_label{settings.label}" if settings.label >= 0 else ""
    guided = f"_guidance{settings.guidance:g}" if settings.guidance != 1 else ""
    return f"step_{trained.step:07d}_{settings.sampler}{settings.num_steps}{label}{guided}_seed{settings.seed}_{digest}"
