"""diffusion_jax: the DDPM family as pure functions in JAX.

    import diffusion_jax as dj

    model = dj.load("runs/digits")
    images = model.sample(64, sampler="ddim", num_steps=50, seed=0)  # uint8 [64, H, W, C]

`load` and `Model` are imported when first used, since they need Flax and orbax; the mathematics needs JAX alone.
"""

from typing import TYPE_CHECKING

from diffusion_jax import continuous, denoiser, losses, process, samplers, schedules, solvers, streams, timesteps
from diffusion_jax.data.codecs import from_uint8, to_uint8
from diffusion_jax.denoiser import Denoiser, Prediction, clip_x_0, make_denoiser
from diffusion_jax.losses import simple
from diffusion_jax.process import Level, at, diffuse, from_betas, posterior
from diffusion_jax.samplers import Sampler, Samples, ancestral, ddim, sample
from diffusion_jax.schedules import cosine, linear, linear_rescaled
from diffusion_jax.solvers import dpm_solver, heun, unipc
from diffusion_jax.timesteps import trailing

if TYPE_CHECKING:
    from diffusion_jax.model import Model, load

__version__ = "0.1.0"

__all__ = [
    *["Denoiser", "Level", "Model", "Prediction", "Sampler", "Samples"],
    *["ancestral", "at", "clip_x_0", "continuous", "cosine", "ddim", "denoiser", "diffuse", "dpm_solver"],
    *["from_betas", "from_uint8", "heun", "linear", "linear_rescaled", "load", "losses", "make_denoiser"],
    *["posterior", "process", "sample", "samplers", "schedules", "simple", "solvers", "streams"],
    *["timesteps", "to_uint8", "trailing", "unipc"],
]


def __getattr__(name: str):
    if name in ("Model", "load"):
        from diffusion_jax import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
