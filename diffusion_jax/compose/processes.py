"""The process and the network that a config names, and the denoiser that they make."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffusion_jax import denoiser, networks, process, schedules
from diffusion_jax.denoiser import Denoiser
from diffusion_jax.errors import UserError
from diffusion_jax.process import Process

Config = Mapping[str, Any]

SCHEDULES = {
    "constant": schedules.constant,
    "cosine": schedules.cosine,
    "jsd": schedules.jsd,
    "linear": schedules.linear_rescaled,
    "linear_raw": schedules.linear,
    "scaled_linear": schedules.scaled_linear,
    "sigmoid": schedules.sigmoid,
    "sigmoid_beta": schedules.sigmoid_beta,
    "warmup10": functools.partial(schedules.warmup, fraction=0.1),
    "warmup50": functools.partial(schedules.warmup, fraction=0.5),
}
PROCESSES = {"rectified_flow": process.rectified_flow, "ve": process.ve, "vp": process.vp}
PARAMETERIZATIONS = {
    "edm": denoiser.edm(),
    "eps": denoiser.EPS,
    "score": denoiser.SCORE,
    "v": denoiser.V,
    "velocity": denoiser.VELOCITY,
    "x_0": denoiser.X_0,
}
CLIPS = {
    "dynamic": lambda denoise: denoiser.limit_x_0(denoise, denoiser.dynamic_threshold),
    "none": lambda denoise: denoise,
    "static": denoiser.clip_x_0,
    "static_eps_kept": lambda denoise: denoiser.limit_x_0(denoise, denoiser.clip, recompute_eps=False),
}


def image_shape(config: Config) -> tuple[int, int, int]:
    """Returns (height, width, channels)."""
    return (*config["data"]["image_size"], config["data"]["channels"])


def network(config: Config) -> networks.Network:
    """Returns the network."""
    return networks.unet(image_shape(config), **config["model"])


def make_denoiser(config: Config) -> Callable[[denoiser.Network], Denoiser]:
    """Returns (x_t, c_noise) -> output of the config's network, as a function, -> the denoiser."""
    return functools.partial(
        denoiser.make_denoiser,
        parameterization=PARAMETERIZATIONS[config["predicts"]],
        learned_variance=config["model"]["learned_variance"],
    )


def process_of(config: Config) -> Process:
    """Returns the process.

    Raises:
        UserError: where its noisiest level leaves no signal, from which the network's output does not determine x_0.
    """
    section = config["process"]
    found = _chain(config) if section["kind"] == "chain" else PROCESSES[section["kind"]]()
    if config["predicts"] in ("eps", "score") and not has_signal(found):
        raise UserError(
            f"config field predicts = {config['predicts']!r} is impossible where this process leaves no signal at T: x_T is "
            "the noise itself, and says nothing of x_0; use 'v', 'velocity', 'edm' or 'x_0'."
        )
    return found


def _chain(config: Config) -> Process:
    section = config["process"]
    betas = SCHEDULES[section["schedule"]](section["num_steps"])
    betas = schedules.zero_terminal_snr(betas) if section["zero_terminal_snr"] else betas
    t = np.arange(-1, section["num_steps"], dtype=np.float64)  # 0-based, as published networks count
    c_noise = t * 1000 / section["num_steps"] if section["rescale_condition"] else t
    return process.chain(betas, c_noise=c_noise, interpolation=config["sample"]["interpolation"])


def has_signal(of: Process) -> bool:
    """Returns whether anything of the data is left at the noisiest level."""
    return bool(of.level(np.float64(of.last)).alpha > 0)


def checked_signal(of: Process, field: str) -> Process:
    """Returns the process, for what a field of the config wants of it.

    Raises:
        UserError: where nothing of the image is left between two rows of a discrete process.
    """
    if of.num_steps and not has_signal(of):
        raise UserError(f"config field {field} is impossible where the chain leaves no signal at T.")
    return of
