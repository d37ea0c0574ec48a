"""What a config says of guidance: what images are led away from or towards, how far, at which noise levels."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp

from diffusion_jax import guidance
from diffusion_jax.compose import coding, conditions, inputs, processes, texts
from diffusion_jax.compose.config import FIELDS, Config
from diffusion_jax.denoiser import Denoiser
from diffusion_jax.errors import UserError
from diffusion_jax.networks.conditioning import Cond

# Fields that say what a network takes, and what they are where it is not given that.
OF_INPUTS = ("data.image_size", "data.channels", "model.num_classes", "model.text", "data.condition")
NOT_GIVEN = (("model.num_classes", 0), ("model.text", "none"), ("data.condition", "none"))
LATENTS_APART = 0.05  # of a standard deviation, at most: each run measures its own scale, of mirror images too or not


def denoiser_of(config: Config, guide: Config | None = None) -> Callable[[Any, Cond], Denoiser]:
    """Returns (weights, cond) -> the network as a denoiser, guided as the section `sample` says; its x_0 is not limited.

    Args:
        config: of the network that draws.
        guide: of the network that `sample.guide` names. The weights are then (params, the guide's params), else params.
            Without it there is no guidance where the config names one: so do previews of a run in training.
    """
    if guide is not None:
        return (_by_classifier if processes.is_classifier(guide) else _by_worse)(config, guide)
    if config.sample.guide or config.sample.guidance == 1:
        return processes.denoiser_of(config)
    return _by_itself(config)


def _by_itself(config: Config) -> Callable[[Any, Cond], Denoiser]:
    of_cond, other = processes.denoiser_of(config), _other_cond(config)

    def guided(params: Any, cond: Cond) -> Denoiser:
        both = of_cond(params, guidance.paired(cond, other(cond)))
        return guidance.classifier_free(of_cond(params, cond), both, scale=_scale(config))

    return guided


def _by_worse(config: Config, guide: Config) -> Callable[[Any, Cond], Denoiser]:
    of_cond, of_guide, known = processes.denoiser_of(config), processes.denoiser_of(guide), _known(guide)

    def guided(weights: Any, cond: Cond) -> Denoiser:
        return guidance.autoguidance(of_cond(weights[0], cond), of_guide(weights[1], known(cond)), scale=_scale(config))

    return guided


def _by_classifier(config: Config, guide: Config) -> Callable[[Any, Cond], Denoiser]:
    """Returns guidance by a classifier's gradient, scaled by w - 1, so that here too a w of 1 is off."""
    scale = _scale(config)
    if config.sample.guidance < 1:
        raise UserError(f"{config.show('sample.guidance')} is not allowed with a classifier; it must be at least 1, off.")
    of_cond, log_prob_of, known = processes.denoiser_of(config), processes.log_prob_of(guide), _known(config)
    added = (lambda level: scale(level) - 1) if callable(scale) else scale - 1

    def guided(weights: Any, cond: Cond) -> Denoiser:
        log_prob = log_prob_of(weights[1], {"label": cond["label"]})
        return guidance.classifier(of_cond(weights[0], known(cond)), log_prob, scale=added)

    return guided


def _known(config: Config) -> Callable[[Cond], Cond]:
    """Returns cond -> what of it the network of a config is given."""
    names = inputs.conditioning(config).spec(1)
    return lambda cond: {name: cond[name] for name in names}


def labelled(config: Config, guide: Config | None) -> Config:
    """Returns the config that says which labels images have: where its network knows none, those of a classifier."""
    if guide is None or config.model.num_classes or not processes.is_classifier(guide):
        return config
    return config.with_values("model", num_classes=guide.model.num_classes)


def _scale(config: Config) -> guidance.Scale:
    scale, (low, high) = config.sample.guidance, config.sample.guidance_interval
    everywhere = FIELDS["sample.guidance_interval"].default
    if scale == 1 or (low, high) == everywhere:
        return scale
    return guidance.interval(scale, low=low, high=high if high < everywhere[1] else math.inf)  # also where no signal is


def _other_cond(config: Config) -> Callable[[Cond], Cond]:
    """Returns cond -> what images are led away from: nothing given, the negative label, or the negative prompt."""
    sample, null = config.sample, inputs.conditioning(config).null

    def other(cond: Cond) -> Cond:
        found = null(cond) if sample.negative_label < 0 and null else cond
        if sample.negative_label >= 0:
            found = {**found, "label": cond["label"] * 0 + sample.negative_label}
        if sample.negative_prompt:
            found = {**found, "text": jnp.broadcast_to(texts.encoded(config, [sample.negative_prompt]), cond["text"].shape)}
        return found

    return other


def check_guide(config: Config, guide: Config) -> None:
    """Raises UserError where the network of one config cannot guide that of another: it must see the same x_t and levels."""
    given, wanted, label = guide.flat(), labelled(config, guide).flat(), config.sample.label
    seen = [name for name in wanted if name.startswith("process.") or name in OF_INPUTS]
    seen.remove("process.log_snr")  # learned, and each network is told the log-SNR itself
    for name in seen:
        if given[name] != wanted[name] and (name, given[name]) not in NOT_GIVEN:
            raise UserError(f"its run has {name} = {given[name]!r} instead of {wanted[name]!r}.")
    if guide.data.condition == "low_resolution" and guide.data.condition_factor != config.data.condition_factor:
        factor = config.data.condition_factor
        raise UserError(f"its run has data.condition_factor = {guide.data.condition_factor} instead of {factor}.")
    _check_latents(config, guide)
    known = guide.model.num_classes + bool(guide.model.num_classes and guide.model.null_label)
    if label >= known and (known or not config.model.num_classes):
        raise UserError(f"its network does not know {config.show('sample.label')}.")


def _check_latents(config: Config, guide: Config) -> None:
    """Raises UserError where one network sees pixels and the other latents, or they see other latents."""
    one, other = guide.data, config.data
    are_both = one.codec and other.codec
    if one.codec != other.codec and not (are_both and coding.sha256(one.codec) == coding.sha256(other.codec)):
        raise UserError(f"its run has data.codec = {one.codec!r}, and this one {other.codec!r}: other latents.")
    scale, moved = other.latent_scale, abs(one.latent_shift - other.latent_shift)
    if abs(one.latent_scale - scale) > LATENTS_APART * scale or moved * scale > LATENTS_APART:
        given, wanted = ((data.latent_scale, data.latent_shift) for data in (one, other))
        raise UserError(f"its run has data.latent_scale and latent_shift = {given!r} instead of {wanted!r}.")


def warnings(config: Config) -> list[str]:
    """Returns a sentence for every setting that has no effect without guidance."""
    if config.sample.guidance != 1:
        return []
    names = [f"sample.{name}" for name in ("guide", "guidance_interval", "negative_label", "negative_prompt")]
    unused = [name for name in names if config.flat()[name] != FIELDS[name].default]
    return [f"{config.show(name)} does nothing: sample.guidance is 1, which is off." for name in unused]


def contradictions(config: Config) -> Iterator[str]:
    """Yields a sentence for everything that does not fit together in guidance."""
    sample, model = config.sample, config.model
    negative, was_dropped = sample.negative_label, model.num_classes or config.train.label_dropout
    if negative >= 0 and sample.guide:
        yield f"{config.show('sample.negative_label')} is for guidance without sample.guide; set -1."
    if sample.negative_prompt and sample.guide:
        yield f"{config.show('sample.negative_prompt')} is for guidance without sample.guide; leave it empty."
    if negative >= model.num_classes >= 0:
        yield f"{config.show('sample.negative_label')} is not a label of model.num_classes = {model.num_classes}."
    if sample.guidance == 1 or sample.guide:
        return
    if negative < 0 and not sample.negative_prompt and not (conditions.has_null(config) and was_dropped):
        yield (
            f"{config.show('sample.guidance')} needs a network that knows 'no label' (model.null_label with "
            "train.label_dropout, as in configs/digits_classes.py) or 'no image' (train.label_dropout, as in "
            "configs/folder_superres.py) or no text (as in configs/emoji_text.py), or sample.negative_label, or "
            "sample.negative_prompt, or sample.guide; 1 is off."
        )
    if sample.label >= 0 and sample.label == (model.num_classes if negative < 0 else negative):
        yield f"{config.show('sample.label')} is what sample.guidance = {sample.guidance} leads away from; 1 is off."
