"""The names that a config may say, and the function behind each. A new one is a function and a row here.

A function gets the fields of its section that it names: see `chosen`. Imports nothing slower than JAX.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from jax import Array

from diffusion_jax import (
    autoencoding,
    denoiser,
    distillation,
    grids,
    learned_schedule,
    likelihood,
    losses,
    multistep,
    process,
    samplers,
    schedules,
    sde,
    timesteps,
)
from diffusion_jax.compose import tasks
from diffusion_jax.data import codecs, conditions, drums, media, moving, points, sources, tar, tfds
from diffusion_jax.process import Process
from diffusion_jax.samplers import Sampler

FIRST_TRAINED = 1e-5  # time, of uniform draws [Song et al. 2021, score SDE, appendix C]


def named(function: Callable) -> set[str]:
    """Returns the names of a function's parameters, but for those that a `functools.partial` has set."""
    return inspect.signature(function).parameters.keys() - getattr(function, "keywords", {}).keys()


def taken(function: Callable, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of some values that a function names."""
    names = named(function)
    return {name: value for name, value in values.items() if name in names}


def chosen(function: Callable, section: Any, **given: Any) -> Any:
    """Returns what a row of a table makes of the fields of a section, and of what else is given, as far as it names them."""
    return function(**taken(function, dict(section) | given))


def discrete(
    schedule: str,
    num_steps: int,
    zero_terminal_snr: bool,
    rescale_c_noise: bool,
    interpolation: Literal["log_alpha", "log_snr"],
) -> Process:
    """Returns the process of a schedule of T betas."""
    betas = SCHEDULES[schedule](num_steps)
    betas = schedules.zero_terminal_snr(betas) if zero_terminal_snr else betas
    t = np.arange(-1, num_steps, dtype=np.float64)  # 0-based, as published networks count
    return process.chain(betas, c_noise=t * 1000 / num_steps if rescale_c_noise else t, interpolation=interpolation)


def consistency(of: Process, step: Array, ratio: float, stage_steps: int, huber: float) -> losses.Loss:
    """Returns `distillation.consistency` at a training step."""
    return distillation.consistency(of, gap=distillation.stage_gap(step, ratio=ratio, stage_steps=stage_steps), huber=huber)


def corrected(
    corrector: Callable[..., sde.Corrector], predictor: Sampler, correction_snr: float, num_corrections: int
) -> Sampler:
    """Returns a sampler with corrections at each level; see `sde.corrected`."""
    return sde.corrected(predictor, corrector(snr=correction_snr), num_corrections=num_corrections)


SCHEDULES = {
    "constant": schedules.constant,
    "cosine": schedules.cosine,
    "jsd": schedules.jsd,
    "latent_diffusion": functools.partial(schedules.scaled_linear, first=0.00085, last=0.012),
    "linear": schedules.linear_rescaled,
    "linear_raw": schedules.linear,
    "scaled_linear": schedules.scaled_linear,
    "sigmoid": schedules.sigmoid,
    "sigmoid_beta": schedules.sigmoid_beta,
    "warmup10": functools.partial(schedules.warmup, fraction=0.1),
    "warmup50": functools.partial(schedules.warmup, fraction=0.5),
}
PROCESSES = {
    "discrete": discrete,
    "learned": learned_schedule.chain,
    "rectified_flow": process.rectified_flow,
    "sub_vp": process.sub_vp,
    "ve": process.ve,
    "ve_sde": process.ve_sde,
    "vp": process.vp,
}
AUTOENCODERS = ("autoencoder_kl", "autoencoder_tiny")
# functions of networks/, which needs Flax: processes.NETWORKS
NETWORKS = (*AUTOENCODERS, "dit", "egnn", "mlp", "ncsnpp", "noisy_classifier", "unet")
TEXTS = ("folder", "minilm", "none")  # encoders of text
PARAMETERIZATIONS = {
    "edm": denoiser.edm(),
    "eps": denoiser.EPS,
    "scaled_score": denoiser.SCALED_SCORE,
    "score": denoiser.SCORE,
    "v": denoiser.V,
    "velocity": denoiser.VELOCITY,
    "x_0": denoiser.X_0,
}

LOSSES = {
    "consistency": consistency,
    "cross_entropy": losses.cross_entropy,
    "hybrid": losses.hybrid,
    "mean_flow": lambda of, power, equal_share: distillation.mean_flow(of, power=power),
    "progressive": lambda levels, teacher, num_steps: distillation.progressive(teacher, levels),
    "reconstruction": autoencoding.reconstruction,
    "reflow": lambda levels, teacher, num_steps: distillation.reflow(teacher, levels),
    "simple": losses.simple,
    "vdm": losses.vdm,
    "vlb": losses.vlb,
}
WEIGHTINGS = {"constant": None, "min_snr": losses.min_snr, "p2": losses.p2, "truncated_snr": losses.truncated_snr}
TIMESTEPS = {
    "loss_second_moment": timesteps.loss_second_moment,
    "stratified": timesteps.stratified,
    "uniform": timesteps.uniform,
}
TIME_DENSITIES = {  # quantile functions of real-valued t
    "log_normal": lambda u, time_mean, time_std: timesteps.log_normal(u, mean=time_mean, std=time_std),
    "log_uniform": timesteps.log_uniform,
    "logit_normal": timesteps.logit_normal,
    "uniform": functools.partial(timesteps.uniform_time, first=FIRST_TRAINED),
}
DENSITIES_OF = {  # process.kind -> the densities that fit its times
    "discrete": ("uniform",),
    "learned": ("uniform",),
    "rectified_flow": ("logit_normal", "uniform"),
    "sub_vp": ("uniform",),
    "ve": ("log_normal", "log_uniform"),
    "ve_sde": ("log_normal", "log_uniform"),
    "vp": ("uniform",),
}

SAMPLERS = {
    "ancestral": samplers.ancestral,
    "ancestral_2s": samplers.ancestral_2s,
    "consistency": samplers.consistency,
    "ddim": samplers.ddim,
    "dpm_solver": multistep.dpm_solver,
    "dpm_solver_sde": multistep.dpm_solver_sde,
    "dpm_solver_sde_singlestep": multistep.dpm_solver_sde_singlestep,
    "dpm_solver_singlestep": multistep.dpm_solver_singlestep,
    "euler": functools.partial(samplers.ddim, eta=0.0),
    "euler_ancestral": functools.partial(samplers.ddim, eta=1.0),
    "euler_maruyama": sde.euler_maruyama,
    "heun": samplers.heun,
    "lms": multistep.lms,
    "mean_flow": samplers.mean_flow,
    "ode": samplers.adaptive,
    "reverse_diffusion": sde.reverse_diffusion,
    "runge_kutta_2": samplers.runge_kutta_2,
    "unipc": multistep.unipc,
    "unipc_bh1": functools.partial(multistep.unipc, variant="bh1"),
}
CORRECTORS = {
    "annealed_langevin": functools.partial(corrected, sde.annealed_langevin),
    "langevin": functools.partial(corrected, sde.langevin),
    "langevin_batch": functools.partial(corrected, functools.partial(sde.langevin, norms="batch")),
}
GRIDS = {  # (process, S) or (process, times) -> t, falling
    "ddim_quadratic": grids.ddim_quadratic,
    "ddim_uniform": grids.ddim_uniform,
    "explicit": grids.explicit,
    "iddpm": grids.iddpm,
    "karras": grids.karras,
    "leading": grids.leading,
    "leading_offset": grids.leading_offset,
    "linspace": grids.linspace,
    "log_snr": grids.log_snr,
    "polyexponential": grids.polyexponential,
    "quadratic": grids.quadratic,
    "trailing": grids.trailing,
    "uniform": grids.uniform,
}
CLIPS = {
    "dynamic": functools.partial(denoiser.limit_x_0, limit=denoiser.dynamic_threshold),
    "none": lambda denoise: denoise,
    "static": denoiser.clip_x_0,
    "static_keep_eps": functools.partial(denoiser.limit_x_0, limit=denoiser.clip, recompute_eps=False),
}
PROBES = {  # (key, (K, *shape of an image), type) -> probes
    "basis": lambda key, shape, dtype: likelihood.basis_probes(shape[1:], dtype),
    "normal": jax.random.normal,
    "rademacher": jax.random.rademacher,
}

FEATURES = ("classifier", "efficientnet_lite0", "given", "inception", "inception_pytorch_fid", "pixels", "spectrogram")

SOURCES = {
    "digits": sources.digits,
    "drums": drums.drums,
    "folder": sources.folder,
    "idx": sources.idx,
    "moving_digits": moving.moving_digits,
    "npz": sources.npz,
    "tar": tar.source,
    "tfds": tfds.source,
    "two_moons": points.two_moons,
}
MEDIA = {
    "images": media.IMAGES,
    "molecules": media.MOLECULES,
    "points": media.POINTS,
    "sounds": media.SOUNDS,
    "videos": media.VIDEOS,
}

CONDITIONS = {  # of x_0, keys [B], and the stored images that belong to it
    "edges": conditions.edges,
    "grey": conditions.grey,
    "low_resolution": lambda x_0, condition_factor: conditions.low_resolution(x_0, condition_factor),
    "mask": conditions.random_mask,
    "paired": codecs.from_uint8,
}

EDITS = {
    "colourise": tasks.colourise,
    "deblur": tasks.deblur,
    "inpaint": tasks.inpaint,
    "interpolate": tasks.interpolate,
    "outpaint": tasks.outpaint,
    "repaint": tasks.repaint,
    "super_resolve": tasks.super_resolve,
    "vary": tasks.vary,
}

TABLES = {  # the choices whose functions take fields of their own section
    "process.kind": PROCESSES,
    "loss.name": LOSSES,
    "loss.time_density": TIME_DENSITIES,
    "sample.sampler": SAMPLERS,
    "sample.corrector": CORRECTORS,
    "sample.grid": GRIDS,
    "data.source": SOURCES,
    "data.condition": CONDITIONS,
    "edit.task": EDITS,
}
