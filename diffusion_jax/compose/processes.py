"""The process and the network that a config names, and the denoiser that they make."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jax import Array

from diffusion_jax import denoiser, errors, learned_schedule, networks
from diffusion_jax.autoencoding import Coder
from diffusion_jax.compose import choices, conditions, stored, texts
from diffusion_jax.compose.choices import MEDIA, PARAMETERIZATIONS, PROCESSES, chosen, named
from diffusion_jax.compose.config import Config
from diffusion_jax.denoiser import Denoiser, LogProb
from diffusion_jax.errors import UserError
from diffusion_jax.networks import autoencoder, stages
from diffusion_jax.networks.autoencoder import Autoencoder
from diffusion_jax.process import Process
from diffusion_jax.runs import storage

FIRST_STAGES: dict[str, Callable[..., Autoencoder]] = {name: getattr(autoencoder, name) for name in choices.AUTOENCODERS}
NETWORKS: dict[str, Callable[..., networks.Network | Autoencoder]] = FIRST_STAGES | {
    name: getattr(networks, name) for name in choices.NETWORKS if name not in choices.AUTOENCODERS
}
OF_UNET = ("resample", "downsample_padding", "text_block")  # attributes of `Stages` that 'ncsnpp' does not use
EXPLODING = ("ve", "ve_sde")
SCHEDULE = "schedule"  # what parameters call those of a learned process


def image_shape(config: Config) -> tuple[int, ...]:
    """Returns the shape of what is stored and generated: of an image (height, width, channels), of a point (channels,)."""
    return (*config.data.image_size, config.data.channels)


def check_images(config: Config) -> None:
    """Raises UserError where the data are no images, for what only images have."""
    if config.data.medium != "images":
        raise UserError(f"{config.show('data.medium')} is not possible here, which is for images alone.")


def shape(config: Config) -> tuple[int, ...]:
    """Returns the shape of x_0: of an image, or of a codec's latents. UserError where the codec does not exist."""
    if not config.data.codec:
        return image_shape(config)
    return config.data.latent_shape or first_stage(codec_config(config)).shape


def pixels_per_latent(config: Config) -> int:
    """Returns the side of the square of pixels that one value of x_0 belongs to; 1 without a codec."""
    return config.data.image_size[0] // shape(config)[0]


def codec_config(config: Config) -> Config:
    """Returns the config of the autoencoder that `data.codec` names, for images of the size of this config's.

    Raises UserError where it does not exist, is no autoencoder or does not take such images.
    """
    path, shape = config.data.codec, image_shape(config)
    with errors.of(f"config field data.codec = {path!r}: "):
        found = stored.read_config(storage.path(path))
        if found.data.channels != shape[2]:
            raise UserError(f"it takes images of {found.data.channels} channel(s), and data.channels = {shape[2]}.")
        multiple = first_stage(found).parts.multiple_of
        if any(size % multiple for size in shape[:2]):
            raise UserError(f"it takes multiples of {multiple}, and data.image_size = {shape[:2]!r}.")
    return found.with_values("data", image_size=shape[:2])


def network(config: Config) -> networks.Network:
    """Returns the network, whose parameters hold a learned process's too.

    Raises UserError where fields of the section `model` do not fit together.
    """
    found = _network(config)
    if is_autoencoder(config):
        return networks.of_autoencoder(found)
    if config.process.kind != "learned":
        return found
    schedule = functools.partial(learned_schedule.init, config.process.log_snr)
    return found._replace(init=lambda key: found.init(key) | {SCHEDULE: schedule()})


def as_learned(config: Config, params: Any) -> Config:
    """Returns the config of a run with the process that its weights hold, where that was learned."""
    if config.process.kind != "learned":
        return config
    return config.with_values("process", log_snr=learned_schedule.knots(params[SCHEDULE]))


def first_stage(config: Config) -> Autoencoder:
    """Returns the autoencoder; UserError where the network is none, or fields of the section `model` do not fit together."""
    if not is_autoencoder(config):
        raise UserError(f"{config.show('model.kind')} is no autoencoder; known: {', '.join(FIRST_STAGES)}.")
    return _network(config)


def _network(config: Config) -> networks.Network | Autoencoder:
    kind, values = config.model.kind, dict(config.model) | {"cond_channels": conditions.num_channels(config)}
    values |= {"text_width": texts.shape(config)[1], "augmented": config.data.augment_rate > 0}
    of = shape(config)
    with errors.of("config field model."):
        return NETWORKS[kind](of, **{name: values[name] for name in fields_of(kind) & values.keys()})


def fields_of(kind: str) -> set[str]:
    """Returns the fields of the section `model` that a kind of network takes, and what else it names."""
    names = named(NETWORKS[kind])
    names |= set(stages.Stages._fields) if "options" in names else set()
    return names - set(OF_UNET) if kind == "ncsnpp" else names


def make_denoiser(config: Config) -> Callable[[denoiser.Network, Any], Denoiser]:
    """Returns (the config's network as a function (x_t, c_noise) -> output, cond) -> the denoiser.

    Where arrays lie in a subspace it knows that x_0 does. What x_t has beside it is then noise to the denoiser, which any
    sampler takes away without a change of what it does in the subspace.

    Errors as of `check_draws`.
    """
    check_draws(config)
    settings = {"parameterization": PARAMETERIZATIONS[config.predicts], "learned_variance": config.model.learned_variance}
    if (project := MEDIA[config.data.medium].project) is None:
        return lambda network, cond: denoiser.make_denoiser(network, **settings)

    def within(network: denoiser.Network, cond: Any) -> Denoiser:
        return denoiser.limit_x_0(denoiser.make_denoiser(network, **settings), lambda x_0: project(x_0, cond["label"]))

    return within


def check_draws(config: Config) -> None:
    """Raises UserError for an autoencoder and for a classifier, which draw no images."""
    if is_autoencoder(config):
        raise UserError(f"{config.show('model.kind')} is an autoencoder: it draws no images; give it to data.codec.")
    check_makes_images(config)


def check_makes_images(config: Config) -> None:
    """Raises UserError for a classifier, which makes no images: an autoencoder makes them of others."""
    if is_classifier(config):
        raise UserError(
            f"{config.show('model.kind')} is a classifier: it draws no images and has no likelihood, but guides a model "
            "that draws."
        )


def denoiser_of(config: Config) -> Callable[[Any, Any], Denoiser]:
    """Returns (params, cond) -> the config's network as a denoiser; its x_0 is not limited. Errors as of `check_draws`."""
    net, make = network(config), make_denoiser(config)
    return lambda params, cond: make(networks.bind(net, net.cast(params), cond), cond)


def log_prob_of(config: Config) -> Callable[[Any, Any], LogProb]:
    """Returns (params, cond) -> the log-probability of the labels in `cond`, of images with noise.

    Raises UserError where the network is no classifier.
    """
    if not is_classifier(config):
        raise UserError(
            f"{config.show('model.kind')} tells no classes; train one of model.kind = 'noisy_classifier' for that."
        )
    net = network(config)
    return lambda params, cond: denoiser.make_log_prob(networks.bind(net, net.cast(params), cond))


def make_predictor(config: Config) -> Callable[[Callable[..., Array], Any], Denoiser | LogProb | Coder]:
    """Returns (the config's network as a function, cond) -> what its loss takes."""
    if is_autoencoder(config):
        return lambda network, cond: networks.coder(network)
    return (lambda network, cond: denoiser.make_log_prob(network)) if is_classifier(config) else make_denoiser(config)


def draws(config: Config) -> bool:
    """Returns whether the network draws images, as all but classifiers and autoencoders do."""
    return not (is_classifier(config) or is_autoencoder(config))


def is_autoencoder(config: Config) -> bool:
    """Returns whether the network makes images small and large again, and draws none."""
    return config.model.kind in FIRST_STAGES


def is_classifier(config: Config) -> bool:
    """Returns whether the network tells classes of noisy images, and draws none."""
    return config.model.kind == "noisy_classifier"


def process_of(config: Config) -> Process:
    """Returns the process.

    Raises UserError where its noisiest level leaves no signal, from which the network's output does not determine x_0, and
    where its schedule needs more steps.
    """
    section = config.process
    with errors.of("config field process."):
        found = chosen(PROCESSES[section.kind], section, interpolation=config.sample.interpolation)
    if config.predicts in ("eps", "scaled_score", "score") and draws(config) and not has_signal(found):
        raise UserError(
            f"config field predicts = {config.predicts!r} is impossible with {noise_alone(config)}: x_T is the noise "
            "itself and does not determine x_0; use 'v', 'velocity', 'edm' or 'x_0'."
        )
    return found


def noise_alone(config: Config) -> str:
    """Returns which fields leave no signal at T."""
    section = config.process
    if section.kind != "discrete":
        return f"process.kind = {section.kind!r}"
    if section.zero_terminal_snr:
        return "process.zero_terminal_snr = True"
    return f"process.num_steps = {section.num_steps} of process.schedule = {section.schedule!r}"


def has_signal(of: Process) -> bool:
    """Returns whether anything of the data is left at the noisiest level."""
    return bool(of.level(np.float64(of.last)).alpha > 0)


def check_signal(of: Process, field: str) -> None:
    """Raises UserError, for what a field of the config wants of a process, where a chain leaves no signal at T."""
    if of.num_steps and not has_signal(of):
        raise UserError(f"config field {field} is impossible where the chain leaves no signal at T.")


def contradictions(config: Config) -> Iterator[str]:
    """Yields a sentence for everything that does not fit together in the process and the size of the images."""
    parts = network(config).parts
    if any(size % parts.multiple_of for size in shape(config)[-3:-1]):  # of videos the frames are free
        name = config.show("data.image_size") + (f", latents of {shape(config)!r}," if config.data.codec else "")
        yield f"{name} does not fit {parts.summary}; each size must be a multiple of {parts.multiple_of}."
    if config.model.text != "none" and "text_width" not in fields_of(config.model.kind):
        yield f"{config.show('model.text')} is for model.kind = 'dit' or 'unet'; set 'none'."
    section, kind = config.process, f"process.kind is {config.process.kind!r}"
    if section.zero_terminal_snr and section.num_steps <= 1:
        yield f"{config.show('process.num_steps')} must be at least 2 with process.zero_terminal_snr = True."
    if config.model.embedding == "fourier" and config.model.kind == "ncsnpp" and section.kind not in EXPLODING:
        yield (
            f"{config.show('model.embedding')} is of the logarithm of the noise, which process.kind = {section.kind!r} does "
            "not give the network; set 'positional'."
        )
    if section.kind != "discrete" and section.zero_terminal_snr:
        yield f"{config.show('process.kind')} does not use a schedule; set process.zero_terminal_snr = False."
    if section.kind != "discrete" and section.rescale_c_noise:
        yield f"{config.show('process.rescale_c_noise')} is for process.kind = 'discrete', and {kind}; set False."
