"""The likelihood that a config asks for."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax import flow, likelihood, process, streams
from diffusion_jax.compose import processes, sampling
from diffusion_jax.compose.processes import Config
from diffusion_jax.data import codecs
from diffusion_jax.errors import UserError

Measure = Callable[[Any, Array, Array, dict[str, Any]], dict[str, Array]]


def likelihood_of(config: Config) -> Measure:
    """Returns (params, seed, image numbers [B], their batch) -> {name: of each image, [..., B]}.

    Of the section `likelihood`'s kind: the fields of `likelihood.Bound`, or 'bits', 'num_evaluations' and 'reached_end'. The
    noises of image i depend on (seed, i) alone.

    Raises:
        UserError: where the process or the sampler has no such likelihood.
    """
    if (kind := config["process"]["kind"]) != "chain":
        raise UserError(
            f"config field process.kind = {kind!r}: likelihoods are of runs trained with process.kind = 'chain'."
        )
    return {"bound": _bound, "flow": _flow}[config["likelihood"]["kind"]](config)


def _bound(config: Config) -> Measure:
    if config["sample"]["sampler"] != "ancestral":
        raise UserError(
            f"config field sample.sampler = {config['sample']['sampler']!r} draws from no chain of Gaussians, and so has no "
            "variational bound; set 'ancestral'."
        )
    grid, settings = sampling.grid(config), config["sample"]
    if grid.sigma[-1] > 0:
        raise UserError(
            "config field sample.end = 'lowest' leaves out the last term of the variational bound; set 'data', or end "
            "sample.times with 0."
        )
    denoiser_of, variance = sampling.denoiser_of(config, settings["clip"]), settings["variance"]

    def measure(params: Any, seed: Array, numbers: Array, batch: dict[str, Any]) -> dict[str, Array]:
        keys, x_0 = streams.keys(seed, "evaluate", numbers), codecs.from_uint8(batch["x"])

        def noise(step: Array) -> Array:
            return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step), x_0.shape[1:]))(keys)

        return likelihood.bound(denoiser_of(params, batch["cond"]), x_0, grid, noise, variance=variance)._asdict()

    return measure


def _flow(config: Config) -> Measure:
    table = processes.levels_with_signal(config, "likelihood.kind = 'flow'")
    denoiser_of, settings = sampling.denoiser_of(config, "none"), config["likelihood"]
    draw_probe = {"normal": jax.random.normal, "rademacher": jax.random.rademacher}[settings["probes"]]

    def measure(params: Any, seed: Array, numbers: Array, batch: dict[str, Any]) -> dict[str, Array]:
        keys, x_0 = streams.keys(seed, "evaluate", numbers), codecs.from_uint8(batch["x"])

        def draws(key: Array) -> tuple[Array, Array]:
            key_bin, key_probes = jax.random.split(key)
            shape = x_0.shape[1:]
            return jax.random.uniform(key_bin, shape), draw_probe(key_probes, (settings["num_probes"], *shape), x_0.dtype)

        uniform, probes = jax.vmap(draws)(keys)
        found = flow.log_density(
            denoiser_of(params, batch["cond"]),
            flow.dequantise(x_0, uniform),
            functools.partial(process.between, table),
            log_snr_first=float(table.log_snr[1]),
            log_snr_last=float(table.log_snr[-1]),
            probes=jnp.swapaxes(probes, 0, 1),
            rtol=settings["tolerance"],
            atol=settings["tolerance"],
        )
        bits = flow.bits_per_dim(found.log_density, x_0[0].size)
        return {"bits": bits, "num_evaluations": found.num_evaluations, "reached_end": found.reached_end}

    return measure
