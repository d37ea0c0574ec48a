"""Bits per dimension of images: python main.py --mode=likelihood --workdir=<workdir> [--out=<folder>].

The variational bound, its continuous limit, or the likelihood of the probability flow: three numbers, in files of three
names. The same command continues a run that was stopped, and gives the same bytes.
"""

import functools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from diffusion_jax import model
from diffusion_jax.compose import inputs, likelihoods, sample_conditions, sampling, stored
from diffusion_jax.compose.choices import MEDIA
from diffusion_jax.compose.config import Config
from diffusion_jax.data import feed
from diffusion_jax.data.sources import Source
from diffusion_jax.errors import RunError
from diffusion_jax.runs import logs, plots, sharding, shards, storage

OF_GENERATING = {"strip", "num_images", "label", "batch_per_device", "shard_size", "step"}  # fields of the section `sample`
OF_GENERATING |= {"guidance", "guidance_interval", "negative_label", "guide"}


def run(config: Config, workdir: storage.Path, out: storage.Path | None = None) -> int:
    """Measures the likelihood of the images that the section `likelihood` names; returns the exit code, 0.

    Of kind 'bound' it writes bound.json (means with standard errors), bound.npz (by image and by t), bound_terms.png,
    rate_distortion.csv and rate_distortion.png; of kind 'continuous' the same with its name in place of 'bound'; of kind
    'pf_ode' pf_ode.json and pf_ode.npz. They go into `out`, by default a folder of the workdir. The config is checked by
    `checks.check`.
    """
    config = stored.agreed_config(workdir, config)
    likelihoods.likelihood_of(config)  # its settings fit together
    source, kind = inputs.evaluated(config), config.likelihood.kind
    trained = model.restore(workdir, config)
    manifest = _manifest(trained, source)
    out = out or workdir / "likelihood" / f"{kind}_step_{trained.step:07d}_{shards.digest(manifest)}"
    logs.say(kind, f"of {source.num_images:,} images, into {out}")
    num_images, shard_size = source.num_images, config.likelihood.shard_size
    make = functools.partial(_by_image, trained, source)
    by_image = shards.read_all(shards.by_image(out, manifest, num_images, shard_size, make, label="likelihood"))
    if kind == "pf_ode":
        results = _pf_ode_results(by_image, MEDIA[config.data.medium].bin_width)
    else:
        results = _bound_results(kind, by_image, sampling.grid_times(trained.config)[:-1])
    if sharding.is_first():
        _write(out, kind, results, manifest)
    mean, error = results["means"][f"{kind}_bits_per_dim"], results["means"]["standard_error"]
    spread = "" if error is None else f" +- {error:.4f}"
    logs.say("done", f"{mean:.4f}{spread} bits per dimension ({kind}); {out}")
    return 0


def _manifest(trained: model.Model, source: Source) -> dict[str, Any]:
    """Returns what the numbers depend on: sections of the config as a whole, but for what surely has no part."""
    config = trained.config
    return {
        "num_images": source.num_images,
        **inputs.identity(config, "held_out" if config.likelihood.held_out else "training"),
        **sample_conditions.identity(config),
        "likelihood": config.likelihood.model_dump(),
        "sample": config.sample.model_dump(exclude=OF_GENERATING),
        **model.provenance(trained),
    }


def _by_image(trained: model.Model, source: Source, first: int) -> Iterator[shards.Rows]:
    """Yields what is found for each image from number `first` on, a shard at a time. # [n] and [n, S]"""
    size = trained.config.likelihood.shard_size
    for start in range(first, source.num_images, size):
        numbers = np.arange(start, min(start + size, source.num_images))
        found = model.measure(trained, feed.read(source, numbers.tolist()), numbers)
        yield {name: np.moveaxis(rows, -1, 0) for name, rows in found.items()}


def _mean_and_error(name: str, bits: np.ndarray) -> dict[str, float]:
    """Returns the mean over images, and its standard error, None for one image; RunError where the mean is not finite."""
    if not np.all(np.isfinite(bits)):
        raise RunError(f"bits per dimension are not finite for {int(np.sum(~np.isfinite(bits)))} of {len(bits)} images.")
    error = float(np.std(bits, ddof=1) / np.sqrt(len(bits))) if len(bits) > 1 else None
    return {name: float(np.mean(bits)), "standard_error": error}


def _pf_ode_results(by_image: dict[str, np.ndarray], width: float) -> dict[str, Any]:
    """Returns the means over images of what `likelihoods.likelihood_of` found of kind 'pf_ode'. # [N]

    Args:
        by_image: what it found.
        width: of the bins of what is stored; 0 of real numbers.
    """
    bits, reached = by_image["bits"].astype(np.float64), by_image["reached_end"]
    lost = int(np.sum(~reached))
    if lost == len(bits):
        raise RunError("the integration took too many steps for every image; raise likelihood.tolerance.")
    if lost:
        logs.say("warning", f"{lost} images are left out, because their integration took too many steps.")
    means = _mean_and_error("pf_ode_bits_per_dim", bits[reached]) | {
        "evaluations": float(np.mean(by_image["num_evaluations"])),
        "not_integrated": lost,
        "offset": f"log2({1 / width:g}), of uniform dequantisation of data in [-1, 1]" if width else "none: real numbers",
    }
    return {"means": means, "arrays": {"bits": bits, "reached_end": reached, "num_evaluations": by_image["num_evaluations"]}}


def _bound_results(kind: str, by_image: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, Any]:
    """Returns the means over images of a kind of bound, by t and in all.

    By t there are also rate and rmse of progressive lossy coding: the receiver of x_t has got `rate` bits per dimension, and
    its best guess of the image is off by `rmse` on the scale 0 to 255. [Ho et al. 2020, section 4.3]

    Args:
        kind: 'bound' or 'continuous'.
        by_image: the fields of `likelihood.Bound`, [N] or [N, S].
        rows: t of each step, falling, [S].
    """
    by_image = {name: column.astype(np.float64) for name, column in by_image.items()}
    total, terms, prior = by_image["total"], by_image["terms"], by_image["prior"]
    by_t = {name: np.mean(by_image[name], axis=0) for name in ("terms", "mse_x_0", "mse_eps")}
    means = _mean_and_error(f"{kind}_bits_per_dim", total) | {
        "decoder": float(by_t["terms"][-1]),
        "sum_of_kl": float(np.sum(by_t["terms"][:-1])),
        "prior": float(np.mean(prior)),
    }
    rate = np.mean(prior) + np.cumsum(by_t["terms"]) - by_t["terms"]  # before the step from t
    by_t |= {"t": rows, "rate": rate, "rmse": 127.5 * np.sqrt(by_t["mse_x_0"])}
    return {"means": means, "arrays": {**by_t, "total": total, "decoder": terms[:, -1], "prior": prior}}


def _write(out: storage.Path, kind: str, results: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Writes the results of a kind under its name."""
    arrays = results["arrays"]
    storage.write_text(out / f"{kind}.json", json.dumps({**results["means"], "made_from": manifest}, indent=2) + "\n")
    with storage.writing(out / f"{kind}.npz") as file:
        np.savez(file, **arrays)
    if kind != "pf_ode":
        rows = zip(arrays["t"], arrays["rate"], arrays["rmse"], strict=True)
        lines = ["t,rate_bits_per_dim,rmse_0_to_255", *(f"{t},{rate:.8g},{rmse:.8g}" for t, rate, rmse in rows)]
        storage.write_text(out / "rate_distortion.csv", "\n".join(lines) + "\n")
        storage.write_bytes(out / f"{kind}_terms.png", plots.bound_terms(arrays["t"], arrays["terms"]))
        storage.write_bytes(out / "rate_distortion.png", plots.rate_distortion(arrays["rate"], arrays["rmse"]))
