"""The likelihood that a config names."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import errors, likelihood, streams
from diffusion_jax.compose import choices, inputs, processes, sampling
from diffusion_jax.compose.config import Config
from diffusion_jax.data.feed import Batch
from diffusion_jax.denoiser import Denoiser
from diffusion_jax.errors import UserError
from diffusion_jax.networks.conditioning import Cond
from diffusion_jax.process import Gaussian, Level

Measure = Callable[[Any, Array, Array, Batch], dict[str, Array]]
Measured = Callable[[Denoiser, Array, Cond, Array], dict[str, Array]]  # (denoise, x_0 [B, ...], cond, keys [B]) -> figures


def likelihood_of(config: Config) -> Measure:
    """Returns (params, seed, image numbers [B], their batch) -> {name: of each image, [..., B]}, at the highest precision.

    Of the section `likelihood`'s kind: the fields of `likelihood.Bound`, or of 'pf_ode' 'bits', 'num_evaluations' and
    'reached_end'. The noises of image i depend on (seed, i) alone. Raises UserError where the process, the sampler or
    latents have none.
    """
    check(config)
    config = config.with_values("model", precision="highest")
    measured = {"bound": _bound, "continuous": _continuous, "pf_ode": _pf_ode}[config.likelihood.kind](config)
    denoiser_of, encode = processes.denoiser_of(config), inputs.encode(config)

    def measure(params: Any, seed: Array, numbers: Array, batch: Batch) -> dict[str, Array]:
        x_0, cond = encode(batch, streams.keys(seed, "condition", numbers))
        return measured(denoiser_of(params, cond), x_0, cond, streams.keys(seed, "evaluate", numbers))

    return measure


def check(config: Config) -> None:
    """Raises UserError where the data have no likelihood of the kind that is asked."""
    if config.data.codec:
        raise UserError(
            f"{config.show('data.codec')} is not possible here: the likelihood of images does not follow from that of their "
            "latents; measure a model of pixels."
        )
    if choices.MEDIA[config.data.medium].dtype != np.uint8 and config.likelihood.kind != "pf_ode":
        raise UserError(
            f"{config.show('data.medium')} has no variational bound, whose last term is of uint8 images; set "
            "likelihood.kind = 'pf_ode'."
        )


def _bound(config: Config) -> Measured:
    grid, limited, variance = _chain(config), choices.CLIPS[config.sample.clip], config.sample.variance

    def measured(denoise: Denoiser, x_0: Array, cond: Cond, keys: Array) -> dict[str, Array]:
        def noise(step: Array) -> Array:
            return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step), x_0.shape[1:]))(keys)

        return likelihood.bound(limited(denoise), x_0, grid, noise, variance=variance)._asdict()

    return measured


def chain_of(config: Config) -> tuple[Level, Callable[[Any, Array, Array], Gaussian]]:
    """Returns the chain of the kind 'bound': its levels, and (params, x_t [B, ...], number of the step) -> p(x_s | x_t).

    At the highest precision. Raises UserError where there is none, or where the network is given more than x_t.
    """
    processes.check_images(config)
    check(config)
    if others := list(inputs.conditioning(config).spec(1)):
        raise UserError(f"the network is given {errors.some(others)} beside x_t; this is for a network of x_t alone.")
    grid, settings = _chain(config), config.sample
    denoiser_of = processes.denoiser_of(config.with_values("model", precision="highest"))
    limited = choices.CLIPS[settings.clip]

    def law(params: Any, x_t: Array, index: Array) -> Gaussian:
        return likelihood.reverse_law(limited(denoiser_of(params, {})), x_t, grid, index, variance=settings.variance)

    return grid, law


def _chain(config: Config) -> Level:
    """Returns the levels of the chain that is bounded; UserError where the config has none."""
    if not processes.process_of(config).num_steps:
        raise UserError(
            f"{config.show('process.kind')} has no steps to bound, as 'discrete' and 'learned' have; "
            "likelihood.kind = 'continuous' and 'pf_ode' are of every process."
        )
    if config.sample.sampler != "ancestral":
        raise UserError(
            f"{config.show('sample.sampler')} does not sample from a chain of Gaussians, and so has no variational bound; "
            "set 'ancestral'."
        )
    return _grid(config)


def _grid(config: Config) -> Level:
    grid = sampling.grid(config)
    if grid.sigma[-1] > 0:
        raise UserError(
            "config field sample.last_level = 'min_noise' leaves out the last term of the variational bound; set 'data', or "
            "end sample.times with 0."
        )
    return grid


def _continuous(config: Config) -> Measured:
    process, grid = processes.process_of(config), _grid(config)
    if not grid.alpha[0] > 0:
        raise UserError(
            "config field likelihood.kind = 'continuous' is impossible from a level without signal; set sample.grid = "
            "'explicit' and let sample.times begin below it."
        )

    def measured(denoise: Denoiser, x_0: Array, cond: Cond, keys: Array) -> dict[str, Array]:
        def noise(step: Array) -> tuple[Array, Array]:
            def draws(key: Array) -> tuple[Array, Array]:
                key_share, key_eps = jax.random.split(jax.random.fold_in(key, step))
                return jax.random.uniform(key_share), jax.random.normal(key_eps, x_0.shape[1:])

            return jax.vmap(draws)(keys)

        return likelihood.continuous_bound(denoise, x_0, grid, process, noise)._asdict()

    return measured


def _pf_ode(config: Config) -> Measured:
    process = processes.process_of(config)
    processes.check_signal(process, "likelihood.kind = 'pf_ode'")
    settings, medium = config.likelihood, choices.MEDIA[config.data.medium]
    draw_probe, width = choices.PROBES[settings.probes], medium.bin_width

    def measured(denoise: Denoiser, x_0: Array, cond: Cond, keys: Array) -> dict[str, Array]:
        def draws(key: Array) -> tuple[Array, Array]:
            key_bin, key_probes = jax.random.split(key)
            shape = x_0.shape[1:]
            return jax.random.uniform(key_bin, shape), draw_probe(key_probes, (settings.num_probes, *shape), x_0.dtype)

        uniform, probes = jax.vmap(draws)(keys)  # [B, K, ...] of probes
        probes, num_values = jnp.swapaxes(probes, 0, 1), x_0[0].size
        if medium.project:
            probes = jax.vmap(lambda v: medium.project(v, cond["label"]))(probes)
            num_values = medium.num_values(cond["label"])
        x = likelihood.dequantise(x_0, uniform, width) if width else x_0
        options = {"probes": probes, "tolerance": settings.tolerance, "num_values": num_values}
        found = likelihood.log_density(denoise, x, process, **options)
        bits = likelihood.bits_per_dim(found.log_density, num_values, width or 1.0)
        return {"bits": bits, "num_evaluations": found.num_evaluations, "reached_end": found.reached_end}

    return measured
