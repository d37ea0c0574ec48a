"""What can be done to given images. A row of `choices.EDITS` takes fields of the section `edit`, and returns a `Task`.

Each task has the sampler that suits it (docs/editing.md).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax import Array

from diffusion_jax import editing, grids, operators, process, samplers
from diffusion_jax.denoiser import Denoiser
from diffusion_jax.errors import UserError
from diffusion_jax.operators import Operator
from diffusion_jax.process import Level
from diffusion_jax.samplers import Sampler, Samples

Batch = dict[str, Array]  # what is given of each image, as `given.batch` has it, encoded


class ReverseProcess(NamedTuple):
    """How images are generated: from noise, by a sampler on a grid."""

    denoise: Denoiser
    limit: Callable[[Denoiser], Denoiser]  # of x_0
    sampler: Sampler
    grid: Level
    noise: Array  # of each image, standard normal, [B, H, W, C]
    keys: Array  # [B]

    def run(self, denoise: Denoiser, sampler: Sampler | None = None) -> Samples:
        """Returns images from noise alone, by another denoiser or sampler than its own."""
        x_T = process.prior(process.rows(self.grid, 0), self.noise)
        return samplers.sample(denoise, sampler or self.sampler, x_T, self.grid, self.keys)


class Free(NamedTuple):
    """Where the pixels are that are generated: one of these says it."""

    mask: str = ""  # a path
    box: tuple[int, ...] = ()  # top, left, height, width
    sides: tuple[int, ...] = ()  # beside the image: how many at the top, bottom, left, right


class Task(NamedTuple):
    """What is asked of given images."""

    edit: Callable[[ReverseProcess, Batch], Samples]  # (by what process, what is given of each image: see `given.batch`)
    sampler: str = "ddim"  # a row of `choices.SAMPLERS`
    visit: Callable[[np.ndarray], np.ndarray] = lambda times: times  # times of a grid -> those that are visited
    operator: Operator | None = None  # what is given is A x_0; None: x_0 itself, or its known pixels
    free: Free | None = None  # for tasks that have a mask
    num_between: int = 0  # images of a row, of two that are given


def inpaint(mask: str, box: tuple[int, ...]) -> Task:
    """Returns the task of filling holes, by `editing.consistent`."""
    return Task(_fill, free=Free(mask=mask, box=box))


def outpaint(sides: tuple[int, ...]) -> Task:
    """Returns the task of continuing images beyond their edges, likewise."""
    return Task(_fill, free=Free(sides=sides))


def repaint(mask: str, box: tuple[int, ...], jump_length: int, num_resamples: int) -> Task:
    """Returns the task of filling holes by `editing.replaced`: better, with more evaluations."""

    def edit(reverse: ReverseProcess, given: Batch) -> Samples:
        return reverse.run(reverse.limit(reverse.denoise), editing.replaced(reverse.sampler, given["x"], given["mask"]))

    visit = functools.partial(grids.jumps, jump_length=jump_length, num_resamples=num_resamples)
    return Task(edit, "ancestral", visit, free=Free(mask=mask, box=box))


def vary(strength: float) -> Task:
    """Returns the task of making images that are like the given ones, by `editing.from_image`."""

    def edit(reverse: ReverseProcess, given: Batch) -> Samples:
        denoise, start = reverse.limit(reverse.denoise), (given["x"], reverse.noise)
        return editing.from_image(denoise, reverse.sampler, *start, reverse.grid, reverse.keys, strength=strength)

    return Task(edit)


def interpolate(num_between: int) -> Task:
    """Returns the task of going from one image to another, as `editing.interpolated`. A limit of x_0 has no inverse.

    Its batch has latents, with the evaluations that they took, in place of the images: see `edits.make_invert`.
    """

    def edit(reverse: ReverseProcess, given: Batch) -> Samples:
        latents = given["x"], given["other"]
        found = editing.from_latents(reverse.denoise, reverse.sampler, latents, given["weight"], reverse.grid)
        return found._replace(num_evaluations=found.num_evaluations + given["num_evaluations"])

    return Task(edit, "heun", _from_above_the_data, num_between=num_between)


def _from_above_the_data(times: np.ndarray) -> np.ndarray:
    """Returns times that lead from the least noise to the most, too; UserError where they are one step to the data."""
    if len(times) < 3:
        raise UserError("task = 'interpolate' is impossible in one step; set sample.num_steps = 2, or more sample.times.")
    return times


def super_resolve(factor: int) -> Task:
    """Returns the task of enlarging images, of which averages of factor x factor pixels are given."""
    return _solve(operators.averaging(factor))


def colourise() -> Task:
    """Returns the task of colouring grey images."""
    return _solve(operators.grey())


def deblur(blur_std: float, noise_std: float) -> Task:
    """Returns the task of sharpening blurred images, by `editing.pseudoinverse_guided`."""
    operator = operators.gaussian_blur(blur_std)

    def edit(reverse: ReverseProcess, given: Batch) -> Samples:
        guided = editing.pseudoinverse_guided(reverse.denoise, given["x"], operator, noise_std=noise_std)
        return reverse.run(reverse.limit(guided))

    return Task(edit, "ancestral", operator=operator)


def _fill(reverse: ReverseProcess, given: Batch) -> Samples:
    return _consistent(reverse, given["x"], operators.known(given["mask"]))


def _solve(operator: Operator) -> Task:
    return Task(lambda reverse, given: _consistent(reverse, given["x"], operator), operator=operator)


def _consistent(reverse: ReverseProcess, y: Array, operator: Operator) -> Samples:
    """Returns images that agree with what is given, the limit inside: it would change known pixels otherwise."""
    return reverse.run(editing.consistent(reverse.limit(reverse.denoise), y, operator, recompute_eps=False))
