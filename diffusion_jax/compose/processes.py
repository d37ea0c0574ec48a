"""The process and the network that a config names, and the denoiser that they make."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax import Array

from diffusion_jax import continuous, denoiser, networks, process, schedules
from diffusion_jax.continuous import Process
from diffusion_jax.denoiser import Denoiser
from diffusion_jax.errors import UserError
from diffusion_jax.process import Level

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
PROCESSES = {"rectified_flow": continuous.rectified_flow, "ve": continuous.ve, "vp": continuous.vp}
CLIPS = {
    "dynamic": lambda denoise: denoiser.limit_x_0(denoise, denoiser.dynamic_threshold),
    "none": lambda denoise: denoise,
    "static": denoiser.clip_x_0,
    "static_eps_kept": lambda denoise: denoiser.limit_x_0(denoise, denoiser.clip, eps="kept"),
}


def image_shape(config: Config) -> tuple[int, int, int]:
    """Returns (height, width, channels)."""
    return (*config["data"]["image_size"], config["data"]["channels"])


def network(config: Config) -> networks.Network:
    """Returns the network."""
    return networks.unet(image_shape(config), **config["model"])


def make_denoiser(config: Config) -> Callable[[denoiser.Network], Denoiser]:
    """Returns (x_t, condition) -> output of the config's network, as a function, -> the denoiser."""
    return functools.partial(
        denoiser.make_denoiser,
        predicts=config["predicts"],
        learned_variance=config["model"]["learned_variance"],
        input_scale=denoiser.edm_input_scale if config["predicts"] == "edm" else None,
    )


def levels(config: Config) -> Level:
    """Returns the chain as a table of levels. # [T + 1]"""
    section = config["process"]
    betas = SCHEDULES[section["schedule"]](section["num_steps"])
    betas = schedules.zero_terminal_snr(betas) if section["zero_terminal_snr"] else betas
    t = np.arange(-1, section["num_steps"], dtype=np.float64)  # 0-based, as published networks count
    table = process.from_betas(betas, condition=t * 1000 / section["num_steps"] if section["rescale_condition"] else t)
    _check_predicts(config, table.alpha[-1])
    return table


def levels_with_signal(config: Config, field: str) -> Level:
    """Returns `levels`, for what a field of the config wants of them.

    Raises:
        UserError: where nothing of the image is left at T.
    """
    table = levels(config)
    if table.alpha[-1] == 0:
        raise UserError(f"config field {field} is impossible where the chain leaves no signal at T.")
    return table


def process_of(config: Config) -> Process:
    """Returns the process in real-valued time; of a chain, as `sample.interpolation` says."""
    if config["process"]["kind"] == "chain":
        return continuous.interpolated(levels(config), of=config["sample"]["interpolation"])
    found = PROCESSES[config["process"]["kind"]]()
    _check_predicts(config, found.alpha(np.float64(found.last)))
    return found


def level_of(config: Config) -> Callable[[Array], Level]:
    """Returns t -> `Level` as training draws t: rows of a chain's table, or real-valued times."""
    if config["process"]["kind"] == "chain":
        return functools.partial(process.at, levels(config))
    return functools.partial(continuous.level, process_of(config))


def _check_predicts(config: Config, last_alpha: float) -> None:
    if last_alpha == 0 and config["predicts"] in ("eps", "score"):
        raise UserError(
            f"config field predicts = {config['predicts']!r} is impossible where this process leaves no signal at T: x_T is "
            "the noise itself, and says nothing of x_0; use 'v', 'velocity', 'edm' or 'x_0'."
        )
