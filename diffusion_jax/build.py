"""The composition root: a config becomes the parts that it names.

A config is the nested dict of configs/*.py, already checked by `schema.check`. No file of a lower layer sees one; of those
above, jobs/ read the numbers of steps and the intervals from it, and model.py what to draw.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import (
    denoiser,
    flow,
    images,
    likelihood,
    losses,
    models,
    process,
    samplers,
    schedules,
    sources,
    streams,
    timesteps,
    train_state,
)
from diffusion_jax.errors import UserError
from diffusion_jax.loop import Parts
from diffusion_jax.process import Level
from diffusion_jax.sources import Source

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
LOSSES = {
    "hybrid": lambda *, predicts, weighting, levels: losses.hybrid(predicts=predicts, levels=levels),
    "simple": lambda *, predicts, weighting, levels: losses.simple(predicts=predicts, weighting=weighting),
    "vlb": lambda *, predicts, weighting, levels: losses.vlb(levels=levels, variance="learned_range"),
}
WEIGHTINGS = {"constant": None, "min_snr": losses.min_snr, "p2": losses.p2, "truncated_snr": losses.truncated_snr}
TIMESTEPS = {
    "loss_second_moment": timesteps.loss_second_moment,
    "stratified": timesteps.stratified,
    "uniform": timesteps.uniform,
}
SAMPLERS = {
    "ancestral": lambda *, eta, variance: samplers.ancestral(variance=variance),
    "ddim": lambda *, eta, variance: samplers.ddim(eta=eta),
}
GRIDS = {
    "ddim_quadratic": timesteps.ddim_quadratic,
    "ddim_uniform": timesteps.ddim_uniform,
    "iddpm": lambda num_steps, num_sampled: timesteps.iddpm(num_steps, (num_sampled,)),
    "leading": timesteps.leading,
    "linspace": timesteps.linspace,
    "trailing": timesteps.trailing,
}
CLIPS = {
    "dynamic": lambda denoise: denoiser.limit_x_0(denoise, denoiser.dynamic_threshold),
    "none": lambda denoise: denoise,
    "static": denoiser.clip_x_0,
    "static_eps_kept": lambda denoise: denoiser.limit_x_0(denoise, denoiser.clip, eps="kept"),
}
SOURCES = {
    "digits": lambda *, name, path, split: sources.digits(split=split),
    "folder": lambda *, name, path, split: sources.folder(path=split or path),
    "idx": lambda *, name, path, split: sources.idx(path=path, split=split or "train"),
    "npz": lambda *, name, path, split: sources.npz(path=split or path),
    "tfds": lambda *, name, path, split: sources.tfds(name=name, path=path, split=split or "train"),
}

MIN_DDIM_STEPS = 20  # published: FID 4.7 with 50, 6.8 with 20, 13.4 with 10 [Song et al. 2021, DDIM, table 1]
MAX_STEPS_PER_CALL = 10  # of the automatic choice; fused steps hide the host, and more of them hide nothing more


def image_shape(config: Config) -> tuple[int, int, int]:
    """Returns (height, width, channels)."""
    return (*config["data"]["image_size"], config["data"]["channels"])


def levels(config: Config) -> Level:
    """Returns the process as a table of levels. # [T + 1]"""
    section = config["process"]
    betas = SCHEDULES[section["schedule"]](section["num_steps"])
    betas = schedules.zero_terminal_snr(betas) if section["zero_terminal_snr"] else betas
    t = np.arange(-1, section["num_steps"], dtype=np.float64)  # 0-based, as published networks count
    table = process.from_betas(betas, condition=t * 1000 / section["num_steps"] if section["rescale_condition"] else t)
    if table.alpha[-1] == 0 and config["predicts"] in ("eps", "score"):
        raise UserError(
            f"config field predicts = {config['predicts']!r} is impossible where this process leaves no signal at T: x_T is "
            "the noise itself, and says nothing of x_0; use 'v', 'velocity' or 'x_0'."
        )
    return table


def network(config: Config) -> models.Network:
    """Returns the network."""
    return models.unet(image_shape(config), **config["model"])


def parts(config: Config) -> Parts:
    """Returns what a training step is made of."""
    train, loss, table = config["train"], config["loss"], levels(config)
    return Parts(
        network=network(config),
        predicts=config["predicts"],
        learned_variance=config["model"]["learned_variance"],
        levels=table,
        timesteps=TIMESTEPS[loss["timesteps"]](config["process"]["num_steps"]),
        loss=LOSSES[loss["name"]](predicts=config["predicts"], weighting=WEIGHTINGS[loss["weighting"]], levels=table),
        optimizer=train_state.make_optimizer(
            learning_rate=train["learning_rate"],
            decay=train["decay"],
            warmup_steps=train["warmup_steps"],
            num_steps=train["num_steps"],
            grad_clip=train["grad_clip"],
        ),
        ema_rates=train["ema_rates"],
        ema_warmup=train["ema_warmup"],
        random_flip=config["data"]["random_flip"],
        label_dropout=train["label_dropout"],
        null_label=config["model"]["num_classes"],
        seed=train["seed"],
    )


def source(config: Config) -> Source:
    """Returns the training set, its images as the config says."""
    return _source(config, split="")


def held_out(config: Config) -> Source | None:
    """Returns the set of which only the loss is taken, if the config names one."""
    if not (split := config["data"]["held_out"]):
        return None
    try:
        found = _source(config, split=split)
    except UserError as error:
        raise UserError(f"config field data.held_out = {split!r}: {error}") from error
    if config["model"]["num_classes"] and found.class_names and found.class_names != source(config).class_names:
        raise UserError(
            f"config field data.held_out = {split!r} has classes other than those of the training set: "
            f"{', '.join(found.class_names)}."
        )
    return found


def _source(config: Config, *, split: str) -> Source:
    section = config["data"]
    return sources.fitted(
        SOURCES[section["source"]](name=section["name"], path=section["path"], split=split),
        image_shape=image_shape(config),
        center_crop=section["center_crop"],
        resize=section["resize"],
        num_classes=config["model"]["num_classes"],
    )


def is_resident(config: Config, num_images: int) -> bool:
    """Returns whether so many images stay on the devices."""
    return num_images * math.prod(image_shape(config)) <= config["data"]["resident_gib"] * 2**30


def steps_per_call(config: Config, *, first_step: int, platform: str) -> int:
    """Returns how many steps to fuse into one call: what the config asks for, or the best that fits all intervals.

    On a CPU one: there the gradient of a convolution inside a loop misses the fast kernels.

    Raises:
        UserError: where the number asked for does not divide the run and its intervals.
    """
    train = config["train"]
    wanted = train["steps_per_call"]
    spans = [first_step, train["num_steps"], train["log_every"], train["checkpoint_every"], train["sample_every"]]
    common = math.gcd(*spans)
    if wanted and common % wanted:
        raise UserError(
            f"config field train.steps_per_call = {wanted} must divide the steps taken, num_steps, log_every, "
            f"checkpoint_every and sample_every, here {', '.join(map(str, spans))}; 0 chooses."
        )
    if wanted or platform == "cpu":
        return wanted or 1
    return max(k for k in range(1, MAX_STEPS_PER_CALL + 1) if common % k == 0)


def labels(config: Config) -> Callable[[Array], Array] | None:
    """Returns image numbers [B] -> the labels to draw them with, int [B]; None where the network knows no classes."""
    num_classes, wanted = config["model"]["num_classes"], config["sample"]["label"]
    if not num_classes:
        return None
    return lambda numbers: numbers % num_classes if wanted < 0 else numbers * 0 + wanted


def doubts(config: Config) -> list[str]:
    """Returns a sentence for every setting of the section `sample` that is allowed, but known to give poor images."""
    settings, num_steps = config["sample"], config["process"]["num_steps"]
    few = f"config field sample.num_steps = {settings['num_steps']}"
    least = min(MIN_DDIM_STEPS, num_steps) if settings["sampler"] == "ddim" else num_steps // 10
    if settings["num_steps"] >= least:
        return []
    if settings["sampler"] == "ddim":
        return [f"{few} is few for DDIM: below {least} images lose detail."]
    return [f"{few} is few for ancestral sampling of {num_steps} levels: below {least} images are noisy; DDIM needs fewer."]


def draw(config: Config) -> Callable[[Any, Array, Array], Array]:
    """Returns (params, seed, image numbers [B]) -> images, uint8 [B, H, W, C]; image i depends on (seed, i) alone.

    The other settings are those of the section `sample`.
    """
    process_of = _reverse_process(config)
    return lambda params, seed, numbers: images.to_uint8(process_of(params, seed, numbers)[1].x)


def strip(config: Config) -> Callable[[Any, Array, Array], Array]:
    """Returns (params, seed, image numbers [B]) -> predictions of x_0 on the way, uint8 [k, B, H, W, C].

    k is `sample.strip`, or as many steps as there are; the times are evenly spaced, and the last prediction is the image.
    [Ho et al. 2020, section 4.3]
    """
    process_of, num_steps = _reverse_process(config), len(grid_rows(config)) - 1  # some grids visit fewer than asked
    k = min(config["sample"]["strip"], num_steps)
    rows = np.array([-(-i * num_steps // k) for i in range(1, k)], np.int32)  # of the grid, where `sample` keeps states

    def predictions(params: Any, seed: Array, numbers: Array) -> Array:
        denoise, samples, grid = process_of(params, seed, numbers, num_traced=k)
        on_the_way = jax.lax.map(lambda kept: denoise(*kept).x_0, (samples.trace[:-1], process.at(grid, rows)))
        return images.to_uint8(jnp.concatenate([on_the_way, samples.x[None]]))

    return predictions


def _reverse_process(config: Config) -> Callable[..., tuple[denoiser.Denoiser, samplers.Samples, Level]]:
    """Returns (params, seed, image numbers, num_traced) -> (the denoiser, what it gave, the grid)."""
    settings, grid, drawn_labels, denoiser_of = (
        config["sample"],
        _grid(config),
        labels(config),
        _denoiser(config, config["sample"]["clip"]),
    )
    sampler = SAMPLERS[settings["sampler"]](eta=settings["eta"], variance=settings["variance"])

    def run(params: Any, seed: Array, numbers: Array, num_traced: int = 0):
        denoise = denoiser_of(params, {} if drawn_labels is None else {"label": drawn_labels(numbers)})
        keys_x_T = streams.keys(seed, "x_T", numbers)
        x_T = grid.sigma[0] * jax.vmap(lambda key: jax.random.normal(key, image_shape(config)))(keys_x_T)
        keys = streams.keys(seed, "sampler", numbers)
        return denoise, samplers.sample(denoise, sampler, x_T, grid, keys, num_traced=num_traced), grid

    return run


def _grid(config: Config) -> Level:
    """Returns the levels that the section `sample` visits. # [S + 1]"""
    return process.at(levels(config), grid_rows(config))


def grid_rows(config: Config) -> np.ndarray:
    """Returns the rows t of the process that the section `sample` visits, from T down to 0. # int [S + 1]"""
    return GRIDS[config["sample"]["grid"]](config["process"]["num_steps"], config["sample"]["num_steps"])


def _denoiser(config: Config, clip: str) -> Callable[[Any, Any], denoiser.Denoiser]:
    """Returns (params, conditions) -> the network as a denoiser, x_0 limited as a name of CLIPS says."""
    net = network(config)
    options = {"predicts": config["predicts"], "learned_variance": config["model"]["learned_variance"]}

    def denoiser_of(params: Any, cond: Any) -> denoiser.Denoiser:
        return CLIPS[clip](denoiser.make_denoiser(functools.partial(net.apply, params, cond=cond), **options))

    return denoiser_of


Measure = Callable[[Any, Array, Array, dict[str, Any]], dict[str, Array]]


def likelihood_of(config: Config) -> Measure:
    """Returns (params, seed, image numbers [B], their batch) -> {name: of each image, [..., B]}.

    Of the section `likelihood`'s kind: the fields of `likelihood.Bound`, or 'bits', 'num_evaluations' and 'reached_end'. The
    noises of image i depend on (seed, i) alone.

    Raises:
        UserError: where the process or the sampler has no such likelihood.
    """
    return {"bound": _bound, "flow": _flow}[config["likelihood"]["kind"]](config)


def _bound(config: Config) -> Measure:
    if config["sample"]["sampler"] != "ancestral":
        raise UserError(
            f"config field sample.sampler = {config['sample']['sampler']!r} draws from no chain of Gaussians, and so has no "
            "variational bound; set 'ancestral'."
        )
    grid, denoiser_of, variance = _grid(config), _denoiser(config, config["sample"]["clip"]), config["sample"]["variance"]

    def measure(params: Any, seed: Array, numbers: Array, batch: dict[str, Any]) -> dict[str, Array]:
        keys, x_0 = streams.keys(seed, "evaluate", numbers), images.from_uint8(batch["image"])

        def noise(step: Array) -> Array:
            return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step), x_0.shape[1:]))(keys)

        return likelihood.bound(denoiser_of(params, batch["cond"]), x_0, grid, noise, variance=variance)._asdict()

    return measure


def _flow(config: Config) -> Measure:
    table, denoiser_of, settings = levels(config), _denoiser(config, "none"), config["likelihood"]
    if table.alpha[-1] == 0:
        raise UserError("config field likelihood.kind = 'flow' is impossible where the process leaves no signal at T.")
    draw_probe = {"normal": jax.random.normal, "rademacher": jax.random.rademacher}[settings["probes"]]

    def measure(params: Any, seed: Array, numbers: Array, batch: dict[str, Any]) -> dict[str, Array]:
        keys, x_0 = streams.keys(seed, "evaluate", numbers), images.from_uint8(batch["image"])

        def draws(key: Array) -> tuple[Array, Array]:
            key_bin, key_probes = jax.random.split(key)
            shape = x_0.shape[1:]
            return jax.random.uniform(key_bin, shape), draw_probe(key_probes, (settings["num_probes"], *shape), x_0.dtype)

        uniform, probes = jax.vmap(draws)(keys)
        found = flow.log_density(
            denoiser_of(params, batch["cond"]),
            flow.dequantise(x_0, uniform),
            functools.partial(process.between, table),
            log_snr_first=float(table.log_snr[1]),
            log_snr_last=float(table.log_snr[-1]),
            probes=jnp.swapaxes(probes, 0, 1),
            rtol=settings["tolerance"],
            atol=settings["tolerance"],
        )
        bits = flow.bits_per_dim(found.log_density, x_0[0].size)
        return {"bits": bits, "num_evaluations": found.num_evaluations, "reached_end": found.reached_end}

    return measure


def evaluated(config: Config) -> Source:
    """Returns the images whose likelihood is asked for: of the held-out set or of the training set, evenly spaced.

    Raises:
        UserError: where the config names no held-out set.
    """
    settings = config["likelihood"]
    found = held_out(config) if settings["held_out"] else source(config)
    if found is None:
        raise UserError(
            "config field data.held_out = '' names no images; set it, or likelihood.held_out = False for the training set."
        )
    return sources.thinned(found, settings["num_images"] or found.num_images)
