"""Dumping images: python main.py --mode=sample --workdir=<workdir> [--out=<folder>]; the same command continues."""

import hashlib
import json

import jax
import numpy as np

from diffusion_jax import build, checkpoint, dump, logs, model, schema, storage
from diffusion_jax.build import Config


def run(config: Config, workdir: storage.Path, out: storage.Path | None = None) -> int:
    """Draws `sample.num_images` images with the settings of the section `sample`.

    Args:
        config: nested, checked by `schema.check`.
        workdir: of the training run.
        out: where the images go; by default a folder of the workdir, named after checkpoint and settings.

    Returns:
        The exit code, 0.
    """
    checkpoint.read_config(workdir)  # with --config given, nobody has looked yet whether this is the workdir of a run
    checkpoint.check_config(workdir, config)
    trained = model.restore(workdir, config)
    settings = config["sample"]
    out = out or workdir / "samples" / _name(trained)
    logs.say("sampling", f"{settings['num_images']:,} images into {out}")
    labels = build.labels(config)
    progress = logs.Progress("images", total=settings["num_images"])

    def on_progress(done: int) -> None:
        progress.update(done)
        progress.clear()
        logs.say("sample", progress.text())

    result = dump.write(
        out,
        lambda first: model.chunks(trained, first=first),
        num_images=settings["num_images"],
        chunk_size=model.chunk_size(config),
        manifest=_manifest(trained),
        labels=labels and labels(np.arange(settings["num_images"])),
        on_progress=on_progress,
    )
    logs.say("done", f"{result}; a picture is {out / 'grid.png'}")
    return 0


def _name(trained: model.Model) -> str:
    """Returns a folder's name: what one looks for, and a digest of the rest."""
    settings = trained.config["sample"]
    digest = hashlib.sha256(json.dumps(_manifest(trained), sort_keys=True).encode()).hexdigest()[:8]
    return f"step_{trained.step:07d}_{settings['sampler']}{settings['num_steps']}_seed{settings['seed']}_{digest}"


def _digest(params) -> str:
    """Returns what tells these weights from any others."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _manifest(trained: model.Model) -> dict:
    """Returns what the images depend on."""
    config = trained.config
    return {
        "format_version": schema.FORMAT_VERSION,
        "checkpoint_step": trained.step,
        "weights_sha256": _digest(trained.params),
        "sample": {**config["sample"], "step": trained.step},
        "chunk_size": model.chunk_size(config),
        "image_shape": build.image_shape(config),
        "quantisation": "round((x + 1) * 127.5) to uint8, clipped",
        "process": config["process"],
        "predicts": config["predicts"],
        "model": config["model"],
        "versions": checkpoint.versions(),
    }
