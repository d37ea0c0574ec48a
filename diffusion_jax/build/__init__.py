"""The composition root: a config becomes the parts that it names. One file for each thing that a config speaks of.

A config is the nested dict of configs/*.py, already checked by `schema.check`. Nothing below builds anything from one; of
those above, jobs/ read the numbers of steps and the intervals from it, and model.py what to draw.
"""

from diffusion_jax.build.inputs import SOURCES, evaluated, held_out, is_resident, source
from diffusion_jax.build.likelihoods import likelihood_of
from diffusion_jax.build.processes import (
    CLIPS,
    PROCESSES,
    SCHEDULES,
    Config,
    image_shape,
    level_of,
    levels,
    make_denoiser,
    network,
    process_of,
)
from diffusion_jax.build.sampling import GRIDS, REAL_GRIDS, SAMPLERS, doubts, draw, grid, grid_times, labels, solve, strip
from diffusion_jax.build.training import DENSITIES, LOSSES, TIMESTEPS, WEIGHTINGS, parts, steps_per_call
