"""Training as a config describes it."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import augmentation, distillation, grids, learned_schedule, losses, timesteps
from diffusion_jax.compose import choices, coding, conditions, inputs, processes
from diffusion_jax.compose.choices import chosen, taken
from diffusion_jax.compose.config import Config
from diffusion_jax.denoiser import Denoiser
from diffusion_jax.errors import UserError
from diffusion_jax.learned_schedule import Moment
from diffusion_jax.process import Level, Process, rows
from diffusion_jax.timesteps import Timesteps
from diffusion_jax.training import averages, step
from diffusion_jax.training import state as train_state
from diffusion_jax.training.step import Parts

MOST_KEPT = 0.01  # of the initial weights, in an EMA that is not warmed up
FEW_STEPS = ("consistency", "mean_flow", "progressive", "reflow")  # losses of networks that draw in few steps
MOST_C_NOISE_SCALE = 10.0  # where a network is differentiated by t
MOST_AMPLIFIED = 2.0  # error of x_0 for one of their output
OWN_LOSSES = {"noisy_classifier": "cross_entropy", **dict.fromkeys(choices.AUTOENCODERS, "reconstruction")}  # of a kind
OF_DRAWING = (  # fields that a network that draws no images has not, and what they are there
    ("model.null_label", False),
    ("model.num_heads_up", 0),
    ("train.label_dropout", 0),
    ("data.augment_rate", 0),
    ("data.condition", "none"),
    ("data.codec", ""),
    ("sample.guide", ""),
    ("sample.strip", 0),
)
BOUNDS = ("hybrid", "vlb")  # losses of discrete processes
MAX_STEPS_PER_CALL = 10  # of the automatic choice; fused steps hide the host, and more of them hide nothing more


def parts(config: Config) -> Parts:
    """Returns what a training step is made of."""
    train, process = config.train, processes.process_of(config)
    level_of, draws = _drawn(config, process)
    encode, conditioning, rate = inputs.encode(config), inputs.conditioning(config), config.data.augment_rate
    augment = functools.partial(augmentation.augment, rate=rate) if rate else None
    return Parts(
        network=processes.network(config),
        predictor=processes.make_predictor(config),
        level_of=level_of,
        timesteps=draws,
        loss=_loss(config, process),
        optimizer=chosen(train_state.make_optimizer, train, warmup_steps=_warmup_steps(config)),
        ema=averages.together(
            averages.exponential(train.ema_rates, warmup=_warms_ema_up(config)), averages.power(train.ema_sigma_rels)
        ),
        encode=encode,
        prepare=step.make_prepare(
            encode, conditioning, random_flip=config.data.random_flip, drop_rate=train.label_dropout, augment=augment
        ),
        seed=train.seed,
        has_teacher=has_teacher(config),
        num_microbatches=train.num_microbatches,
    )


def has_teacher(config: Config) -> bool:
    """Returns whether another network, that of `train.init_from`, takes part in the training."""
    return config.loss.name in ("progressive", "reflow")


def _warmup_steps(config: Config) -> int:
    train = config.train
    return train.warmup_steps if train.warmup_steps < train.num_steps else train.num_steps // 10


def _warms_ema_up(config: Config) -> bool:
    train = config.train
    kept = max(train.ema_rates, default=0.0) ** train.num_steps  # share of the initial weights in an EMA at the end
    return train.ema_warmup == "on" or (train.ema_warmup == "auto" and kept > MOST_KEPT)


def notes(config: Config) -> Iterator[str]:
    """Yields a sentence for everything in which a short run differs from what the fields say."""
    train = config.train
    if (warmup_steps := _warmup_steps(config)) != train.warmup_steps:
        steps = f"{warmup_steps:,} step{'s' * (warmup_steps != 1)}"
        yield f"the learning rate rises in {steps}, not in {train.warmup_steps:,}: the run is short."
    if train.ema_warmup == "auto" and _warms_ema_up(config):
        yield "EMAs are warmed up: the run is short for train.ema_rates; train.ema_warmup = 'off' prevents that."


def _drawn(config: Config, process: Process) -> tuple[Callable[[Any, Array], Level | Moment], Timesteps]:
    """Returns ((parameters, t) -> level, draws of t)."""
    if config.process.kind != "learned":
        level_of, draws = _settled(config, process)
        return lambda params, t: level_of(t), draws
    draws = timesteps.from_quantiles(lambda u: u, stratified=config.loss.timesteps == "stratified")
    return lambda params, t: learned_schedule.moment(params[processes.SCHEDULE], t), draws


def _settled(config: Config, process: Process) -> tuple[Callable[[Array], Level], Timesteps]:
    """Returns (t -> level, draws of t) where the process is settled before training.

    Of 'mean_flow' t is a pair. Of a student of 'progressive' it counts its teacher's levels, and it is asked about the even.
    """
    if config.loss.name == "mean_flow":
        return process.level, timesteps.pairs(_timesteps(config, process), equal_share=config.loss.equal_share)
    if processes.is_autoencoder(config):  # whose loss is the same at all t
        return process.level, _timesteps(config, process)._replace(quantile=None)
    if config.loss.name != "progressive":
        return process.level, _timesteps(config, process)

    def row(u: Array) -> Array:
        return 2 + 2 * jnp.floor(u * config.loss.num_steps).astype(jnp.int32)

    draws = timesteps.from_quantiles(row, stratified=config.loss.timesteps == "stratified")
    return functools.partial(rows, _levels(config, process)), draws


def _levels(config: Config, process: Process) -> Level:
    """Returns all levels that a loss knows, from the data up: of a student its teacher's, else a chain's.

    Those of 'reflow' are a grid of its teacher, and fall.
    """
    if config.loss.name == "reflow":
        return process.level(grids.trailing(process, config.loss.num_steps))
    if config.loss.name == "progressive":
        return process.level(grids.trailing(process, 2 * config.loss.num_steps)[::-1])
    return process.level(np.arange(process.num_steps + 1))


def _timesteps(config: Config, process: Process) -> Timesteps:
    loss = config.loss
    if process.num_steps:
        return chosen(choices.TIMESTEPS[loss.timesteps], loss, num_steps=process.num_steps)
    quantile = choices.TIME_DENSITIES[loss.time_density]
    quantile = functools.partial(quantile, **taken(quantile, dict(loss) | {"first": process.first, "last": process.last}))
    return timesteps.from_quantiles(quantile, stratified=loss.timesteps == "stratified")


def _loss(config: Config, process: Process) -> Callable[[Array, Denoiser | None], losses.Loss]:
    """Returns (training step, teacher) -> loss."""
    loss = config.loss
    given = {"weighting": choices.WEIGHTINGS[loss.weighting], "levels": _levels(config, process), "of": process}
    given |= {"variance": "learned_range" if config.model.learned_variance else "large"}
    given |= {"features": coding.perceptual_features()} if loss.perceptual_weight else {}
    return lambda step, teacher: chosen(choices.LOSSES[loss.name], loss, **given, step=step, teacher=teacher)


def steps_per_call(config: Config, *, first_step: int, platform: str) -> int:
    """Returns how many steps to fuse into one call: what the config asks for, or the best that fits all intervals.

    On a CPU one: there the gradient of a convolution inside a loop misses the fast kernels. Raises UserError where the
    number asked for does not divide the run and its intervals.
    """
    train = config.train
    wanted = train.steps_per_call
    spans = [first_step, train.num_steps, train.log_every, train.checkpoint_every, train.sample_every]
    spans += [train.evaluate_every] * (train.evaluate_every > 0)
    common = math.gcd(*spans)
    if wanted and common % wanted:
        raise UserError(
            f"config field train.steps_per_call = {wanted} must divide the steps taken, num_steps, log_every, "
            f"checkpoint_every, sample_every and evaluate_every, here {', '.join(map(str, spans))}; 0 chooses."
        )
    if wanted or platform == "cpu":
        return wanted or 1
    return max(k for k in range(1, MAX_STEPS_PER_CALL + 1) if common % k == 0)


def contradictions(config: Config) -> Iterator[str]:
    """Yields a sentence for everything that does not fit together in training."""
    loss, model, train = config.loss, config.model, config.train
    yield from _of_what_draws_not(config) if model.kind in OWN_LOSSES else _of_a_denoiser(config)
    is_discrete, kind = config.process.kind == "discrete", f"process.kind is {config.process.kind!r}"
    if not is_discrete and loss.name in BOUNDS:
        yield f"{config.show('loss.name')} is a bound of discrete processes, and {kind}; set loss.name = 'simple'."
    if not is_discrete and loss.timesteps == "loss_second_moment":
        yield f"{config.show('loss.timesteps')} counts levels, and {kind}; set 'uniform' or 'stratified'."

    is_learned = config.process.kind == "learned"
    if is_learned != (loss.name == "vdm"):
        yield f"{config.show('loss.name')} does not fit {config.show('process.kind')}; 'vdm' and 'learned' need each other."
    if is_learned and train.weight_decay:
        yield f"{config.show('train.weight_decay')} would decay the noise schedule of loss.name = 'vdm' too; set 0.0."
    if is_learned and config.data.codec:
        yield f"{config.show('data.codec')} does not fit loss.name = 'vdm', a bound of uint8 images; set ''."
    if loss.time_density not in (fitting := choices.DENSITIES_OF[config.process.kind]):
        wanted = " or ".join(map(repr, fitting))
        yield f"{config.show('loss.time_density')} does not fit the times of process {config.process.kind!r}; set {wanted}."
    if loss.name != "vlb" and model.learned_variance != (loss.name == "hybrid"):
        yield (
            f"{config.show('model.learned_variance')} does not fit loss.name = {loss.name!r}: 'hybrid' trains the variance "
            "and needs it, 'vlb' may have it, the others do not."
        )
    if train.evaluate_every and config.evaluate.features == "given":
        yield f"{config.show('train.evaluate_every')} needs a network in evaluate.features; 'given' is for files."
    yield from _of_few_steps(config) if loss.name in FEW_STEPS else ()
    if loss.weighting != "constant" and loss.name != "simple":
        yield f"{config.show('loss.weighting')} is for loss.name = 'simple'."
    if train.label_dropout != 0 and not conditions.has_null(config):
        yield (
            f"{config.show('train.label_dropout')} needs model.num_classes above 0 and model.null_label = True, or "
            "data.condition or model.text without classes."
        )


def _of_few_steps(config: Config) -> Iterator[str]:
    if has_teacher(config) and not config.train.init_from:
        yield f"{config.show('loss.name')} needs train.init_from, the workdir of the teacher."
    yield from _of_flows(config) if config.loss.name in ("mean_flow", "reflow") else _of_noise_alone(config)


def _of_noise_alone(config: Config) -> Iterator[str]:
    """Yields a sentence where x_0 of the noisiest level does not follow from the network's output, or not well."""
    process, name = processes.process_of(config), config.show("loss.name")
    if not processes.has_signal(process):
        yield f"{name} is impossible with {processes.noise_alone(config)}, which leaves no signal at the last level."
    if process.num_steps and 2 * config.loss.num_steps > process.num_steps and config.loss.name == "progressive":
        yield f"{config.show('loss.num_steps')} must be at most half of process.num_steps = {process.num_steps}."
    amplified = float(distillation.amplification(choices.PARAMETERIZATIONS[config.predicts], process.level(process.last)))
    if amplified > MOST_AMPLIFIED:
        yield (
            f"{name} does not suit predicts = {config.predicts!r}: at the noisiest level an error of the network's output "
            f"is {amplified:,.0f} times as large in x_0; take a teacher of 'edm', 'v', 'velocity' or 'x_0'."
        )


def _of_flows(config: Config) -> Iterator[str]:
    name = config.show("loss.name")
    if config.process.kind != "rectified_flow" or config.predicts != "velocity":
        yield f"{name} needs process.kind = 'rectified_flow' and predicts = 'velocity'."
    if config.loss.name == "mean_flow" and config.process.c_noise_scale > MOST_C_NOISE_SCALE:
        yield (
            f"{config.show('process.c_noise_scale')} does not fit loss.name = 'mean_flow', which differentiates the network "
            f"by t; it must be at most {MOST_C_NOISE_SCALE:g}."
        )
    if config.loss.name == "mean_flow":
        yield from _of_two_times(config)


def _of_two_times(config: Config) -> Iterator[str]:
    name, medium = config.show("loss.name"), config.data.medium
    kinds = sorted(kind for kind in inputs.OF_MEDIA["model.kind"][medium] if "jumps" in processes.fields_of(kind))
    if not kinds:
        yield f"{name} needs a network that is told two times, and none of data.medium = {medium!r} is; set 'simple'."
    elif not config.model.jumps or config.model.kind not in kinds:
        wanted = " or ".join(map(repr, kinds))
        yield f"{name} needs a network that is told two times: model.jumps = True, and model.kind = {wanted}."


def _of_a_denoiser(config: Config) -> Iterator[str]:
    if kinds := " or ".join(repr(kind) for kind, loss in OWN_LOSSES.items() if loss == config.loss.name):
        yield f"{config.show('loss.name')} is for model.kind = {kinds}; set loss.name = 'simple'."
    if config.model.pool != "adaptive":
        yield f"{config.show('model.pool')} is for model.kind = 'noisy_classifier'; set 'adaptive'."


def _of_latents(config: Config) -> Iterator[str]:
    shape, of_images = processes.first_stage(config).shape, processes.image_shape(config)
    if math.prod(shape) > math.prod(of_images):
        yield f"{config.show('model.latent_channels')} makes latents of {shape!r}, more values than images of {of_images!r}."
    if config.loss.equivariance_weight and (shape[0] % 2 or shape[1] % 2):
        yield f"{config.show('loss.equivariance_weight')} needs latents of even height and width, and they are {shape!r}."


def _of_what_draws_not(config: Config) -> Iterator[str]:
    kind, classes = config.model.kind, config.show("model.num_classes")
    if config.loss.name != OWN_LOSSES[kind]:
        yield f"{config.show('loss.name')} does not fit model.kind = {kind!r}; set loss.name = {OWN_LOSSES[kind]!r}."
    if processes.is_classifier(config) and config.model.num_classes in (0, 1):
        yield (
            f"{classes} is not possible with model.kind = {kind!r}; it must be at least 2, or -1 for as many as the data "
            "have."
        )
    if processes.is_autoencoder(config) and config.model.num_classes:
        yield f"{classes} is not possible with model.kind = {kind!r}, which is told no label; set 0."
    yield from _of_latents(config) if processes.is_autoencoder(config) else ()
    for name, off in OF_DRAWING:
        if config.flat()[name] != off:
            yield f"{config.show(name)} is for networks that draw: model.kind = {kind!r} has no such part; set {off!r}."
    if processes.is_classifier(config) and config.train.evaluate_every:
        yield f"{config.show('train.evaluate_every')} is of generated images, and a noisy classifier draws none; set 0."
