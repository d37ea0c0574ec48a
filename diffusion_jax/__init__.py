"""diffusion_jax: the DDPM family as pure functions in JAX.

    import diffusion_jax as dj

    model = dj.load("runs/digits")
    images = model.sample(64, sampler="ddim", num_steps=50, seed=0)  # uint8 [64, H, W, C]

The names below, and every module, are imported when first used.
"""

import importlib
import importlib.util

__version__ = "0.1.0"

_NAMES = {
    "denoiser": ["Denoiser", "Prediction", "clip_x_0", "make_denoiser"],
    "losses": ["simple"],
    "model": ["Model", "load"],
    "process": ["Level", "at", "diffuse", "from_betas", "posterior"],
    "samplers": ["Sampler", "Samples", "ancestral", "ddim", "sample"],
    "schedules": ["cosine", "linear", "linear_rescaled"],
    "solvers": ["dpm_solver", "heun", "unipc"],
    "timesteps": ["trailing"],
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}
_MODULES = [*_NAMES, "continuous", "images", "streams"]

__all__ = sorted([*_MODULE_OF, *_MODULES])


def __getattr__(name: str):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    if importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
