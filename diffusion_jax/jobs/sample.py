"""Dumping images: python main.py --mode=sample --workdir=<workdir> [--out=<folder>]; the same command continues."""

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
    checkpoint.read_config(workdir)
    checkpoint.check_config(workdir, config)
    trained = model.restore(workdir, config)
    settings = config["sample"]
    out = out or workdir / "samples" / _name(trained)
    logs.say("sampling", f"{settings['num_images']:,} images into {out}")
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
        on_progress=on_progress,
    )
    logs.say("done", f"{result}; a picture is {out / 'grid.png'}")
    return 0


def _name(trained: model.Model) -> str:
    settings = trained.config["sample"]
    return (
        f"step_{trained.step:07d}_ema{settings['ema_rate']:g}_{settings['sampler']}{settings['num_steps']}_{settings['grid']}"
        f"_{settings['num_images']}_seed{settings['seed']}"
    )


def _manifest(trained: model.Model) -> dict:
    """Returns what the images depend on."""
    config = trained.config
    return {
        "format_version": schema.FORMAT_VERSION,
        "checkpoint_step": trained.step,
        "sample": {**config["sample"], "step": trained.step},
        "chunk_size": model.chunk_size(config),
        "image_shape": build.image_shape(config),
        "quantisation": "round((x + 1) * 127.5) to uint8, clipped",
        "process": config["process"],
        "predicts": config["predicts"],
        "model": config["model"],
        "versions": checkpoint.versions(),
    }
