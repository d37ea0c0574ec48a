"""Bits per dimension, as the variational bound: python main.py --mode=likelihood --workdir=<workdir> [--out=<folder>].

The same command continues a run that was stopped, and gives the same numbers.
"""

import json
from typing import Any

import numpy as np

from diffusion_jax import build, checkpoint, data, dump, logs, model, plots, storage
from diffusion_jax.build import Config
from diffusion_jax.sources import Source


def run(config: Config, workdir: storage.Path, out: storage.Path | None = None) -> int:
    """Measures the bound of the images that the section `likelihood` names, for the chain of the section `sample`.

    Writes bound.json (means with standard errors), bound.npz (by image and by t), bound_terms.png, rate_distortion.csv and
    rate_distortion.png.

    Args:
        config: nested, checked by `schema.check`.
        workdir: of the training run.
        out: where the results go; by default a folder of the workdir.

    Returns:
        The exit code, 0.
    """
    checkpoint.read_config(workdir)
    checkpoint.check_config(workdir, config)
    build.bound(config)  # its settings fit together
    source = build.evaluated(config)
    trained = model.restore(workdir, config)
    manifest = _manifest(trained, source)
    out = out or workdir / "likelihood" / f"step_{trained.step:07d}_{dump.digest(manifest)}"
    logs.say("bound", f"of {source.num_images:,} images, {config['sample']['num_steps']:,} steps, into {out}")
    storage.make_dir(out)
    dump.claim(out, manifest)
    results = _summary(_by_image(trained, source, out), build.grid_rows(config)[:-1])
    _write(out, results, manifest)
    means = results["means"]
    logs.say("done", f"{means['bound_bits_per_dim']:.4f} +- {means['standard_error']:.4f} bits per dimension; {out}")
    return 0


def _manifest(trained: model.Model, source: Source) -> dict[str, Any]:
    """Returns what the numbers depend on."""
    config = trained.config
    chain = {name: config["sample"][name] for name in ("num_steps", "grid", "variance", "clip", "seed", "ema_rate")}
    return {
        "num_images": source.num_images,
        "data": config["data"],
        "chain": chain,
        "likelihood": config["likelihood"],
        **model.provenance(trained),
    }


def _by_image(trained: model.Model, source: Source, out: storage.Path) -> dict[str, np.ndarray]:
    """Returns what was found for each image, from the shards that are there and those that it adds. # [N] and [N, S]"""
    shard_size = trained.config["likelihood"]["shard_size"]
    progress = logs.Progress("images", total=source.num_images)
    shards = []
    for start in range(0, source.num_images, shard_size):
        shard = out / "shards" / f"{start:08d}.npz"
        if not shard.exists():
            _write_shard(shard, trained, source, np.arange(start, min(start + shard_size, source.num_images)))
        shards.append(dump.decode(shard))
        progress.update(min(start + shard_size, source.num_images))
        logs.say("likelihood", progress.text())
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


def _write_shard(shard: storage.Path, trained: model.Model, source: Source, numbers: np.ndarray) -> None:
    records = data.read(source, numbers.tolist())
    with_labels = trained.config["model"]["num_classes"] > 0
    bound = model.bounds(trained, data.as_batch(records, with_labels), numbers)
    with storage.writing(shard) as file:
        np.savez(file, **{name: np.moveaxis(column, -1, 0) for name, column in bound._asdict().items()})


def _summary(by_image: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, Any]:
    """Returns the means over images, by t and in all.

    Args:
        by_image: the fields of `likelihood.Bound`, [N] or [N, S].
        rows: t of each step, falling, [S].
    """
    by_image = {name: column.astype(np.float64) for name, column in by_image.items()}
    total, terms, prior = by_image["total"], by_image["terms"], by_image["prior"]
    received = np.mean(prior) + np.cumsum(np.mean(terms, axis=0)) - np.mean(terms, axis=0)  # before the step from t
    means = {
        "bound_bits_per_dim": float(np.mean(total)),
        "standard_error": float(np.std(total, ddof=1) / np.sqrt(len(total))) if len(total) > 1 else float("inf"),
        "decoder": float(np.mean(terms[:, -1])),
        "sum_of_kl": float(np.mean(np.sum(terms[:, :-1], axis=1))),
        "prior": float(np.mean(prior)),
    }
    by_t = {
        "t": rows,
        "terms": np.mean(terms, axis=0),
        "mse_x_0": np.mean(by_image["mse_x_0"], axis=0),
        "mse_eps": np.mean(by_image["mse_eps"], axis=0),
        "rate": received,
        "rmse": 127.5 * np.sqrt(np.mean(by_image["mse_x_0"], axis=0)),
    }
    return {"means": means, "by_t": by_t, "by_image": {"total": total, "decoder": terms[:, -1], "prior": prior}}


def _write(out: storage.Path, results: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Writes the results; bits are per dimension, rate and rmse are those of progressive lossy coding.

    The receiver of x_t has got `rate` bits, and its best guess of the image is off by `rmse` on the scale 0 to 255.
    [Ho et al. 2020, section 4.3]
    """
    by_t = results["by_t"]
    storage.write_text(out / "bound.json", json.dumps({**results["means"], "made_from": manifest}, indent=2) + "\n")
    with storage.writing(out / "bound.npz") as file:
        np.savez(file, **by_t, **results["by_image"])
    lines = [f"{t},{rate:.8g},{rmse:.8g}" for t, rate, rmse in zip(by_t["t"], by_t["rate"], by_t["rmse"], strict=True)]
    storage.write_text(out / "rate_distortion.csv", "\n".join(["t,rate_bits_per_dim,rmse_0_to_255", *lines]) + "\n")
    storage.write_bytes(out / "bound_terms.png", plots.bound_terms(by_t["t"], by_t["terms"]))
    storage.write_bytes(out / "rate_distortion.png", plots.rate_distortion(by_t["rate"], by_t["rmse"]))
