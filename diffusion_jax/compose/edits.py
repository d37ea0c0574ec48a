"""What a config says of editing: its settings, and the function that edits what is given."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import editing, errors, process, streams
from diffusion_jax.compose import checks, coding, guiding, inputs, processes, sampling, tasks
from diffusion_jax.compose.choices import CLIPS, EDITS, chosen, taken
from diffusion_jax.compose.config import Config
from diffusion_jax.compose.tasks import Task
from diffusion_jax.data.feed import Batch
from diffusion_jax.errors import UserError

PATHS = ("images", "mask")  # fields of the section `edit`: not what a result depends on, which is their content


def settled(config: Config) -> Config:
    """Returns the config with the sampler of its task, and with a label that says what the images show.

    Raises UserError where its settings do not fit together.
    """
    processes.check_draws(config)
    task = task_of(config)
    processes.check_images(config)
    if config.data.condition != "none":
        raise UserError(
            f"{config.show('data.condition')}: a network that is shown an image does not edit; use --mode=sample."
        )
    if config.data.codec and task.operator:
        raise UserError(f"{config.show('edit.task')} measures pixels, which a network of latents does not see.")
    values = {"sampler": task.sampler, "eta": 0.0, "churn": (0.0, 0.0, 1e9, 1.0), "variance": "small", "strip": 0}
    config = config.with_values("sample", **values, corrector="none", last_level="data", label=_label(config))
    checks.check(config)
    if sampling.grid(config).sigma[-1] > 0:
        raise UserError(f"{config.show('sample.times')} does not lead to the data; end it with 0.")
    _visited(config, task)
    return config


def _visited(config: Config, task: Task) -> np.ndarray:
    """Returns the times that a task visits; UserError where it cannot."""
    with errors.of("config field edit."):
        return task.visit(sampling.grid_times(config))


def _label(config: Config) -> int:
    """Returns `sample.label`, or where it is -1 the null label; UserError where there is none, or guidance away from it."""
    label, num_classes = config.sample.label, config.model.num_classes
    if label >= 0 or num_classes == 0:
        return label
    if config.sample.guidance != 1 and not config.sample.guide and config.sample.negative_label < 0:
        shows = "which says what the images show; set it, or sample.guidance=1"
        raise UserError(f"{config.show('sample.guidance')} needs sample.label, {shows}.")
    if not config.model.null_label:
        raise UserError(
            f"{config.show('sample.label')} does not say of which class the images are, as this network must know; "
            f"set one from 0 to {num_classes - 1}."
        )
    return num_classes


def task_of(config: Config) -> Task:
    """Returns the task that the section `edit` names."""
    with errors.of("config field edit."):
        return chosen(EDITS[config.edit.task], config.edit)


def make_edit(config: Config, guide: Config | None = None) -> Callable[[Any, Array, Array, Batch], dict[str, Array]]:
    """Returns (weights, seed, image numbers [B], what `given.batch` gives) -> {name: of each image, [B, ...]}.

    They are 'edited', uint8 [B, H, W, C], whether it is 'finite', and 'num_evaluations'. Image i depends on (seed, i) and
    on what is given of it alone.

    Args:
        config: of the run, `settled`.
        guide: as for `guiding.denoiser_of`, which says what the weights are.
    """
    labelled = guiding.labelled(config, guide)
    if labelled is not config and config.sample.label < 0:
        raise UserError(f"{config.show('sample.label')} does not say to which class the classifier shall guide; set one.")
    task, codec, cond_of = task_of(config), coding.codec(config), inputs.conditioning(labelled).of_image
    denoiser_of, sampler = guiding.denoiser_of(config, guide), sampling.make_sampler(config)
    grid = processes.process_of(config).level(_visited(config, task))

    def edit(weights: Any, seed: Array, numbers: Array, given: Batch) -> dict[str, Array]:
        pixels, free = given["x"], given.get("mask")
        given = {name: codec.encode(rows) if rows.dtype == jnp.uint8 else rows for name, rows in given.items()}
        given |= {} if free is None else {"mask": coding.coarse(config, free)}
        shape = codec.shape if task.operator else given["x"].shape[1:]
        if guide:
            _check_takes(guide, shape)
        # not the noises of --mode=sample, from which an image of that seed came and would come again
        keys_noise, keys = jax.vmap(jax.random.split, out_axes=1)(streams.keys(seed, "edit", numbers))
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys_noise)
        denoise, limit = denoiser_of(weights, cond_of(numbers)), CLIPS[config.sample.clip]
        reverse = tasks.ReverseProcess(denoise, limit, sampler, grid, noise, keys)
        found = task.edit(reverse, given)
        finite = jnp.all(jnp.isfinite(found.x), axis=process.value_axes(found.x))
        evaluations = jnp.broadcast_to(found.num_evaluations, numbers.shape)
        edited = codec.decode(found.x)
        edited = edited if free is None else jnp.where(free, edited, pixels)  # a codec would change known pixels
        return {"edited": edited, "finite": finite, "num_evaluations": evaluations}

    return edit


def make_invert(config: Config, guide: Config | None = None) -> Callable[[Any, Array, Array, Batch], dict[str, Array]]:
    """Returns (weights, seed, image numbers [B], images "x") -> {"x": their latents, "num_evaluations"}, [B, ...] each.

    Arguments as for `make_edit`. Its images are those of 'interpolate', whose network is told the same of all.
    """
    codec, cond_of = coding.codec(config), inputs.conditioning(guiding.labelled(config, guide)).of_image
    denoiser_of, sampler = guiding.denoiser_of(config, guide), sampling.make_sampler(config)
    grid = sampling.grid(config)

    def invert(weights: Any, seed: Array, numbers: Array, given: Batch) -> dict[str, Array]:
        found = editing.inverted(denoiser_of(weights, cond_of(numbers)), sampler, codec.encode(given["x"]), grid)
        return {"x": found.x, "num_evaluations": jnp.broadcast_to(found.num_evaluations, numbers.shape)}

    return invert


def ends_of(pairs: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the images of pairs, each once [n, H, W, C], and which are the first and the second of each pair, [N] each."""
    ends, places = np.unique(np.concatenate([pairs["x"], pairs["other"]]), axis=0, return_inverse=True)
    return ends, *np.split(places.ravel(), 2)


def most_ends(config: Config, num_images: int) -> int:
    """Returns how many images at most are the ends of this many neighbours among the images between."""
    return 2 * min(num_images, 1 + -(-num_images // config.edit.num_between))


def _check_takes(guide: Config, shape: tuple[int, ...]) -> None:
    """Raises UserError where the network of a guide does not take images of a shape, as those of a larger canvas."""
    multiple, needs_own = processes.network(guide).parts.multiple_of, guide.model.pool == "attention"
    if any(size % multiple for size in shape[:2]) or (needs_own and shape != processes.image_shape(guide)):
        raise UserError(f"config field edit.sides makes {shape[0]} x {shape[1]} pixels, which the guide does not take.")


def made_from(config: Config, given: Batch) -> dict[str, Any]:
    """Returns what edited images depend on, for a manifest: the fields that the task takes, and the pixels."""
    fields = {name: value for name, value in taken(EDITS[config.edit.task], dict(config.edit)).items() if name not in PATHS}
    digests = {name: hashlib.sha256(rows.tobytes()).hexdigest() for name, rows in given.items()}
    return {"task": config.edit.task, **fields, "num_images": len(given["x"]), "given_sha256": digests}
