"""The process and the network that a config names, and the denoiser that they make."""

import functools
from collections.abc import Callable, Iterator

import numpy as np
from jax import Array

from diffusion_jax import continuous, denoiser, networks, process
from diffusion_jax.compose.choices import PROCESSES, chosen
from diffusion_jax.compose.config import Config
from diffusion_jax.continuous import Process
from diffusion_jax.denoiser import Denoiser
from diffusion_jax.errors import UserError
from diffusion_jax.networks.unet import multiple_of
from diffusion_jax.process import Level


def image_shape(config: Config) -> tuple[int, int, int]:
    """Returns (height, width, channels)."""
    return (*config.data.image_size, config.data.channels)


def network(config: Config) -> networks.Network:
    """Returns the network.

    Raises:
        UserError: where fields of the section `model` do not fit together.
    """
    try:
        return networks.unet(image_shape(config), **dict(config.model))
    except UserError as error:
        raise UserError(f"config field model.{error}") from error


def make_denoiser(config: Config) -> Callable[[denoiser.Network], Denoiser]:
    """Returns (x_t, condition) -> output of the config's network, as a function, -> the denoiser."""
    return functools.partial(
        denoiser.make_denoiser,
        predicts=config.predicts,
        learned_variance=config.model.learned_variance,
        input_scale=denoiser.edm_input_scale if config.predicts == "edm" else None,
    )


def levels(config: Config) -> Level:
    """Returns the chain as a table of levels. # [T + 1]"""
    table = chosen(PROCESSES["discrete"], config.process)
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
    if config.process.kind == "discrete":
        return continuous.interpolated(levels(config), of=config.sample.interpolation)
    found = PROCESSES[config.process.kind]()
    _check_predicts(config, found.alpha(np.float64(found.last)))
    return found


def level_of(config: Config) -> Callable[[Array], Level]:
    """Returns t -> `Level` as training draws t: rows of a chain's table, or real-valued times."""
    if config.process.kind == "discrete":
        return functools.partial(process.at, levels(config))
    return functools.partial(continuous.level, process_of(config))


def _check_predicts(config: Config, last_alpha: float) -> None:
    if last_alpha == 0 and config.predicts in ("eps", "score"):
        raise UserError(
            f"config field predicts = {config.predicts!r} is impossible where this process leaves no signal at T: x_T is "
            "the noise itself, and says nothing of x_0; use 'v', 'velocity', 'edm' or 'x_0'."
        )


def contradictions(config: Config) -> Iterator[str]:
    """Yields a sentence for everything that does not fit together in the process and the size of the images."""
    num_stages, multiple = len(config.model.multipliers), multiple_of(config.model.multipliers)
    if any(size % multiple for size in config.data.image_size):
        yield (
            f"{config.show('data.image_size')} does not fit {num_stages} stages of model.multipliers; "
            f"height and width must be multiples of {multiple}."
        )
    section, kind = config.process, f"process.kind is {config.process.kind!r}"
    if section.schedule == "linear" and section.num_steps < 20:
        yield f"{config.show('process.num_steps')} is too short for schedule 'linear', which needs at least 20."
    if section.zero_terminal_snr and section.num_steps <= 1:
        yield f"{config.show('process.num_steps')} must be at least 2 with process.zero_terminal_snr = True."
    if section.kind != "discrete" and section.zero_terminal_snr:
        yield f"{config.show('process.kind')} has no schedule to rescale; set process.zero_terminal_snr = False."
    if section.kind != "discrete" and section.rescale_c_noise:
        yield f"{config.show('process.rescale_c_noise')} is for process.kind = 'discrete', and {kind}; set False."
