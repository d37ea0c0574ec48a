"""What a config says of training."""

import functools
import math
from collections.abc import Callable

from jax import Array

from diffusion_jax import losses, timesteps
from diffusion_jax.compose import inputs, processes
from diffusion_jax.compose.processes import Config
from diffusion_jax.continuous import Process
from diffusion_jax.errors import UserError
from diffusion_jax.timesteps import Timesteps
from diffusion_jax.training import state as train_state
from diffusion_jax.training import step
from diffusion_jax.training.step import Parts

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
DENSITIES: dict[str, Callable[[Process], Callable[[Array], Array]]] = {
    "log_normal": lambda of: timesteps.log_normal,
    "log_uniform": lambda of: functools.partial(timesteps.log_uniform, first=of.first, last=of.last),
    "logit_normal": lambda of: timesteps.logit_normal,
    "uniform": lambda of: functools.partial(timesteps.uniform_time, first=FIRST_TRAINED, last=of.last),
}

FIRST_TRAINED = 1e-5  # time, of uniform draws [Song et al. 2021, score SDE, appendix C]
MAX_STEPS_PER_CALL = 10  # of the automatic choice; fused steps hide the host, and more of them hide nothing more


def parts(config: Config) -> Parts:
    """Returns what a training step is made of."""
    train, codec, conditioning = config["train"], inputs.codec(config), inputs.conditioning(config)
    return Parts(
        network=processes.network(config),
        make_denoiser=processes.make_denoiser(config),
        level_of=processes.level_of(config),
        timesteps=_timesteps(config),
        loss=_loss(config),
        optimizer=train_state.make_optimizer(
            learning_rate=train["learning_rate"],
            decay=train["decay"],
            warmup_steps=train["warmup_steps"],
            num_steps=train["num_steps"],
            grad_clip=train["grad_clip"],
        ),
        ema=train_state.exponential(train["ema_rates"], warmup=train["ema_warmup"]),
        codec=codec,
        prepare=step.make_prepare(
            codec, conditioning, random_flip=config["data"]["random_flip"], drop_rate=train["label_dropout"]
        ),
        seed=train["seed"],
    )


def _timesteps(config: Config) -> Timesteps:
    loss = config["loss"]
    if config["process"]["kind"] == "chain":
        return TIMESTEPS[loss["timesteps"]](config["process"]["num_steps"])
    time_of = DENSITIES[loss["density"]](processes.process_of(config))
    return timesteps.transformed(time_of, spread=loss["timesteps"] == "stratified")


def _loss(config: Config) -> losses.Loss:
    loss = config["loss"]
    return LOSSES[loss["name"]](
        predicts=config["predicts"],
        weighting=WEIGHTINGS[loss["weighting"]],
        levels=processes.levels(config) if config["process"]["kind"] == "chain" else None,
    )


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
