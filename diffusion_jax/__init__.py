"""diffusion_jax: the DDPM family as pure functions in JAX.

    import diffusion_jax as dj

    model = dj.load("runs/digits")
    images = model.sample(64, sampler="ddim", num_steps=50, seed=0)  # uint8 [64, H, W, C]

`load`, `Model` and `evaluate` are imported when first used, since they need Flax and orbax; the mathematics needs JAX alone.
"""

from typing import TYPE_CHECKING

from diffusion_jax import (
    augmentation,
    autoencoding,
    denoiser,
    distillation,
    editing,
    grids,
    guidance,
    learned_schedule,
    likelihood,
    losses,
    multistep,
    operators,
    process,
    samplers,
    schedules,
    sde,
    streams,
    timesteps,
)
from diffusion_jax.data.codecs import from_uint8, to_uint8
from diffusion_jax.denoiser import EPS, SCORE, VELOCITY, X_0, Denoiser, Prediction, V, clip_x_0, make_denoiser
from diffusion_jax.grids import trailing
from diffusion_jax.losses import simple
from diffusion_jax.multistep import dpm_solver, unipc
from diffusion_jax.process import Level, Process, chain, diffuse, posterior, prior, rows
from diffusion_jax.samplers import Sampler, Samples, ancestral, ddim, heun, sample
from diffusion_jax.schedules import cosine, linear, linear_rescaled

if TYPE_CHECKING:
    from diffusion_jax.evaluation import evaluate
    from diffusion_jax.model import Model, load

__version__ = "0.1.0"

__all__ = [
    "EPS",
    "SCORE",
    "VELOCITY",
    "X_0",
    "Denoiser",
    "Level",
    "Model",
    "Prediction",
    "Process",
    "Sampler",
    "Samples",
    "V",
    "ancestral",
    "augmentation",
    "autoencoding",
    "chain",
    "clip_x_0",
    "cosine",
    "ddim",
    "denoiser",
    "diffuse",
    "distillation",
    "dpm_solver",
    "editing",
    "evaluate",
    "from_uint8",
    "grids",
    "guidance",
    "heun",
    "learned_schedule",
    "likelihood",
    "linear",
    "linear_rescaled",
    "load",
    "losses",
    "make_denoiser",
    "multistep",
    "operators",
    "posterior",
    "prior",
    "process",
    "rows",
    "sample",
    "samplers",
    "schedules",
    "sde",
    "simple",
    "streams",
    "timesteps",
    "to_uint8",
    "trailing",
    "unipc",
]


def __getattr__(name: str):
    if name in ("Model", "load"):
        from diffusion_jax import model

        return getattr(model, name)
    if name == "evaluate":
        from diffusion_jax import evaluation

        return evaluation.evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
