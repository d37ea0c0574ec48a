"""What a config says of generating images."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import errors, grids, process, samplers, streams
from diffusion_jax.compose import coding, guiding, processes, sample_conditions
from diffusion_jax.compose.choices import CLIPS, CORRECTORS, GRIDS, SAMPLERS, chosen
from diffusion_jax.compose.config import Config
from diffusion_jax.data.feed import Batch
from diffusion_jax.denoiser import Denoiser
from diffusion_jax.errors import UserError
from diffusion_jax.networks.conditioning import Cond
from diffusion_jax.process import Level
from diffusion_jax.samplers import Sampler, Samples

SDES = ("sub_vp", "ve", "ve_sde", "vp")  # processes whose drift is finite at every level
IN_TIME = {"euler_maruyama": SDES, "runge_kutta_2": ("rectified_flow", *SDES)}  # samplers of d/dt -> processes that have it
MAX_FIRST_SNR = 0.1  # of the noisiest level: a hundred times that of the schedules in use
# at one value, the fields that say which levels, and what `sample_conditions.read` finds: no program depends on them
OF_GIVEN = {"grid": "trailing", "times": (), "num_steps": 1, "last_level": "data", "prompt": ""}
# samplers that remember no earlier step and may start from any x_t
PREDICTORS = (
    "ancestral",
    "ancestral_2s",
    "ddim",
    "euler",
    "euler_ancestral",
    "euler_maruyama",
    "heun",
    "reverse_diffusion",
    "runge_kutta_2",
)
MOST_SHARDS = 10**6  # files in a folder
MIN_DDIM_STEPS = 20  # published: FID 4.7 with 50, 6.8 with 20, 13.4 with 10 [Song et al. 2021, DDIM, table 1]


def warnings(config: Config) -> list[str]:
    """Returns a sentence for every setting of the section `sample` that may be, but gives poor images."""
    if not processes.draws(config):
        return []
    levels, found = grid(config), []
    if (snr := float(np.exp(levels.log_snr[0]))) > MAX_FIRST_SNR:
        found.append(
            f"sampling starts from pure noise, but the first level still holds signal (signal-to-noise ratio {snr:.2g})."
        )
    return found + _too_few(config, len(levels.alpha) - 1) + guiding.warnings(config)


def _too_few(config: Config, num_steps: int) -> list[str]:
    settings, num_levels = config.sample, processes.process_of(config).num_steps
    of_ddim, of_ancestral = min(MIN_DDIM_STEPS, num_levels), num_levels // 10
    least = {"ddim": of_ddim, "euler": of_ddim, "ancestral": of_ancestral}.get(settings.sampler, 0)
    is_student = config.loss.name == "progressive"  # whose few steps are what it learned
    if num_steps >= least or is_student:  # as always in real-valued time, where there are 0 levels
        return []
    few = f"config field sample.{'times' if settings.times else 'num_steps'}: {num_steps} steps are few"
    if settings.sampler == "ancestral":
        return [
            f"{few} for ancestral sampling of {num_levels} levels: below {least} steps images are noisy; DDIM needs fewer."
        ]
    advice = "" if config.edit.images else "; 'dpm_solver' needs fewer"  # but a task brings its own sampler
    return [f"{few} for DDIM: below {least} steps images lose detail{advice}."]


def make_generate(config: Config, guide: Config | None = None) -> Callable[..., tuple[Array, Array]]:
    """Returns (weights, seed, image numbers [B], batch=None) -> images, uint8 [B, H, W, C], and which are finite, bool [B].

    Of other media they are what these store. Image i depends on (seed, i) alone, and on what `sample_conditions.read` finds
    for it: the batch. The other settings are those of the section `sample`.

    Args:
        config: of the run.
        guide: as for `guiding.denoiser_of`, which says what the weights are.
    """
    levels, generate_on = grid(config), make_generate_on(config, guide)
    return lambda weights, seed, numbers, batch=None: generate_on(weights, seed, numbers, batch, levels)


def make_generate_on(config: Config, guide: Config | None = None) -> Callable[..., tuple[Array, Array]]:
    """Returns what `make_generate` does, as a function of (weights, seed, image numbers, batch, levels to visit [S + 1]).

    It does not depend on the fields `OF_GIVEN`, so that grids of one length have one program.
    """
    given, cond_of = make_generate_given(config, guide), _cond_of(config, guide)
    return lambda weights, seed, numbers, batch, levels: given(weights, seed, numbers, cond_of(seed, numbers, batch), levels)


def make_generate_given(config: Config, guide: Config | None = None) -> Callable[..., tuple[Array, Array]]:
    """Returns what `make_generate_on` does, with the images' cond, as their network takes it, in place of the batch."""
    run, codec = _reverse_process(config, guide), coding.codec(config)

    def generate(weights: Any, seed: Array, numbers: Array, cond: Cond, levels: Level) -> tuple[Array, Array]:
        x = run(weights, seed, numbers, cond, levels)[1].x
        return codec.decode(x), jnp.all(jnp.isfinite(x), axis=process.value_axes(x))

    return generate


def make_strip(config: Config, guide: Config | None = None) -> Callable[..., Array]:
    """Returns (weights, seed, image numbers [B], batch=None) -> predictions of x_0 on the way, uint8 [k, B, H, W, C].

    k is `sample.strip`, or as many steps as there are; the times are evenly spaced, and the last prediction is the image,
    for 'ode' to within its tolerance. [Ho et al. 2020, section 4.3]
    """
    levels, codec = grid(config, num_stops=config.sample.strip), coding.codec(config)
    run, cond_of = _reverse_process(config, guide), _cond_of(config, guide)
    num_steps = len(levels.alpha) - 1  # some grids visit fewer than asked
    k = min(config.sample.strip, num_steps)
    rows = np.array([-(-i * num_steps // k) for i in range(1, k)], np.int32)  # of the grid, where `sample` keeps states

    def predictions(weights: Any, seed: Array, numbers: Array, batch: Batch | None = None) -> Array:
        denoise, samples = run(weights, seed, numbers, cond_of(seed, numbers, batch), levels, num_traced=k)
        on_the_way = jax.lax.map(lambda kept: denoise(*kept).x_0, (samples.trace[:-1], process.rows(levels, rows)))
        return jax.lax.map(codec.decode, jnp.concatenate([on_the_way, samples.x[None]]))

    return predictions


def grid(config: Config, *, num_stops: int = 0) -> Level:
    """Returns the levels that the section `sample` visits; `num_stops` as for `grid_times`. # [S + 1]"""
    found = processes.process_of(config).level(grid_times(config, num_stops=num_stops))
    if np.sum(found.alpha == 0) > 1:
        raise UserError(
            f"config field sample.grid = {config.sample.grid!r} visits several levels without signal. There x_0 "
            "is unknown; take fewer steps, or 'trailing'."
        )
    with errors.of(f"{_named_grid(config)}: "):
        samplers.check_grid(found)
    return found


def grid_times(config: Config, *, num_stops: int = 0) -> np.ndarray:
    """Returns the times t that the section `sample` visits, falling; whole ones where the grid is a chain's. # [S + 1]

    'ode' chooses its own steps between the ends. For a picture of what it does on the way it stops at `num_stops` times.
    """
    settings, of = config.sample, processes.process_of(config)
    num_steps = settings.num_steps + (settings.last_level == "min_noise")
    with errors.of(f"{_named_grid(config)} does not fit the process: "):
        if settings.sampler == "ode":
            times = grids.uniform(of, num_stops) if num_stops > 1 else grids.ends(of)
        else:
            times = chosen(GRIDS[settings.grid], settings, process=of, num_steps=num_steps)
    return times[:-1] if settings.last_level == "min_noise" else times


def _named_grid(config: Config) -> str:
    steps = "" if config.sample.times else f" with sample.num_steps = {config.sample.num_steps}"
    return config.show("sample.grid") + steps


def _reverse_process(config: Config, guide: Config | None) -> Callable[..., tuple[Denoiser, Samples]]:
    """Returns (weights, seed, image numbers, cond, levels, num_traced) -> (the denoiser, its samples at the last level)."""
    shape, sampler = coding.codec(config).shape, make_sampler(config)
    guided, limited = guiding.denoiser_of(config, guide), CLIPS[config.sample.clip]

    def run(
        weights: Any, seed: Array, numbers: Array, cond: Cond, levels: Level, num_traced: int = 0
    ) -> tuple[Denoiser, Samples]:
        denoise = limited(guided(weights, cond))
        keys_x_T = streams.keys(seed, "x_T", numbers)
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys_x_T)
        keys = streams.keys(seed, "sampler", numbers)
        return denoise, _solved(sampler, denoise, noise, levels, keys, num_traced)

    return run


def _cond_of(config: Config, guide: Config | None) -> Callable[[Array, Array, Batch | None], Cond]:
    return sample_conditions.cond_of_image(guiding.labelled(config, guide))


def make_solve(config: Config) -> Callable[[Denoiser, Array, Array, int], Samples]:
    """Returns (denoiser, noise [B, H, W, C], keys [B], num_traced) -> `Samples`, as the section `sample` says."""
    levels, sampler = grid(config), make_sampler(config)
    with errors.of(f"{config.show('sample.sampler')}: "):
        jax.eval_shape(lambda x_T: sampler.init(x_T, levels), jax.ShapeDtypeStruct((1,), np.float32))  # it fits the grid
    return lambda denoise, noise, keys, num_traced: _solved(sampler, denoise, noise, levels, keys, num_traced)


def _solved(sampler: Sampler, denoise: Denoiser, noise: Array, levels: Level, keys: Array, num_traced: int) -> Samples:
    x_T = process.prior(process.rows(levels, 0), noise)
    return samplers.sample(denoise, sampler, x_T, levels, keys, num_traced=num_traced)


def make_sampler(config: Config) -> Sampler:
    """Returns the sampler that the section `sample` names; UserError where it cannot start from this process."""
    settings, of = config.sample, processes.process_of(config)
    if settings.sampler == "ode":
        processes.check_signal(of, "sample.sampler = 'ode'")
    sampler = chosen(SAMPLERS[settings.sampler], settings, of=of)
    if settings.corrector != "none":
        sampler = chosen(CORRECTORS[settings.corrector], settings, predictor=sampler)
    amount, low, high, noise_std = settings.churn
    if not amount:
        return sampler
    processes.check_signal(of, "sample.churn")
    return samplers.churn(sampler, of, amount=amount, low=low, high=high, noise_std=noise_std)


def contradictions(config: Config) -> Iterator[str]:
    """Yields a sentence for everything that does not fit together in the section `sample`."""
    sample, model = config.sample, config.model
    is_of_guide = bool(sample.guide) and model.num_classes == 0  # a classifier, whose classes `guiding.check_guide` knows
    num_labels = model.num_classes + (model.null_label and model.num_classes > 0)
    if sample.label >= num_labels and model.num_classes != -1 and not is_of_guide:
        known = f"model.num_classes = {model.num_classes}"
        advice = (
            "-1 goes through all" if num_labels else "the network knows no classes; set -1, or sample.guide to a classifier"
        )
        yield f"{config.show('sample.label')} is not a label of {known}; {advice}."
    if sample.num_images > MOST_SHARDS * sample.shard_size:
        yield f"{config.show('sample.shard_size')} makes more than {MOST_SHARDS:,} files of {sample.num_images:,} images."
    if not model.learned_variance and sample.variance == "learned_range":
        yield f"{config.show('sample.variance')} needs model.learned_variance = True."
    if sample.ema_rate not in (0, *config.train.ema_rates):
        rates = f"train.ema_rates = {config.train.ema_rates!r}"
        yield f"{config.show('sample.ema_rate')} must be one of {rates}, or 0 for the parameters themselves."
    if (sample.grid == "explicit") != bool(sample.times):
        yield (
            f"{config.show('sample.times')} does not fit sample.grid = {sample.grid!r}: 'explicit' needs "
            "times, the other grids take none."
        )
    if sample.grid == "explicit" and sample.last_level != "data":
        yield f"{config.show('sample.last_level')} is not for sample.grid = 'explicit', which has its own; set 'data'."
    if sample.churn[0] != 0 and sample.sampler not in ("euler", "heun"):
        yield f"{config.show('sample.churn')} is for sample.sampler = 'euler' or 'heun'; set the first number to 0."
    if sample.corrector != "none" and sample.sampler not in PREDICTORS:
        yield (
            f"{config.show('sample.corrector')} does not fit sample.sampler = {sample.sampler!r}, which remembers earlier "
            f"steps or takes its own; set one of {', '.join(PREDICTORS)}."
        )
    if config.process.kind not in (kinds := IN_TIME.get(sample.sampler, (config.process.kind,))):
        yield (
            f"{config.show('sample.sampler')} needs a process in real time, and a finite derivative at its end: "
            f"process.kind = {' or '.join(map(repr, kinds))}; found {config.process.kind!r}."
        )
    if sample.sampler == "mean_flow" and config.loss.name != "mean_flow":
        yield f"{config.show('sample.sampler')} needs a network of loss.name = 'mean_flow', which knows mean velocities."
    for name, off in {"sample.clip": "none", "sample.guide": ""}.items() if sample.sampler == "mean_flow" else ():
        if config.flat()[name] != off:
            yield f"{config.show(name)} is not for sample.sampler = 'mean_flow', which predicts no x_0; set {off!r}."
    yield from _of_the_ode(config) if sample.sampler == "ode" else _of_a_grid(config)


def _of_the_ode(config: Config) -> Iterator[str]:
    sample = config.sample
    if sample.grid == "explicit":
        yield f"{config.show('sample.grid')} is not for sample.sampler = 'ode', which chooses its own steps; set 'trailing'."
    if sample.clip != "none":
        yield f"{config.show('sample.clip')} is not for sample.sampler = 'ode', which integrates a smooth field; set 'none'."


def _of_a_grid(config: Config) -> Iterator[str]:
    sample = config.sample
    num_steps = len(sample.times) - 1 if sample.times else sample.num_steps
    if sample.strip > num_steps:
        yield f"{config.show('sample.strip')} must be at most the number of steps, {num_steps}."
    if sample.grid == "trailing" and sample.last_level == "min_noise":
        name = config.show("sample.last_level")
        yield f"{name} does not fit sample.grid = 'trailing', which always ends at the data; set sample.grid = 'uniform'."
