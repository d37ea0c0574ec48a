"""The code bases whose published models are understood."""

from collections.abc import Callable

from diffusion_jax.errors import UserError, some
from diffusion_jax.weights import (
    diffusers,
    diffusers_autoencoder,
    diffusers_dit,
    dit,
    edm,
    ho,
    latent_diffusion,
    openai_models,
    pesser,
    score_sde,
    stable_diffusion,
)
from diffusion_jax.weights.sources import Published, Source

# Name -> what it makes of a source; None where it is another code base's. An encoder has the names of a U-Net, and is first.
FORMATS: dict[str, Callable[[Source], Published | None]] = {
    "diffusers_autoencoder": diffusers_autoencoder.published,
    "diffusers": diffusers.published,
    "diffusers_dit": diffusers_dit.published,
    "dit": dit.published,
    "edm": edm.published,
    "ho": ho.published,
    "latent_diffusion": latent_diffusion.published,
    "latent_diffusion_network": latent_diffusion.published_network,
    "openai": openai_models.published,
    "openai_new_order": openai_models.published_in_new_order,
    "pesser": pesser.published,
    "score_sde": score_sde.published,
    "score_sde_flax": score_sde.published_of_flax,
    "stable_diffusion": stable_diffusion.published,
}

REFUSED = {  # part of the name of a tensor -> what has such
    ".lora_": "a LoRA, a change to the weights of another network",
    "ResnetBlockDDPM": "score_sde's `ddpm`, which the library does not have",
    "RefineBlock_": "score_sde's `ncsn` or `ncsnv2`, which the library does not have",
    "all_modules.": "another network of score_sde than `ncsnpp`, such as its `ddpm`, which the library does not have",
    ".attn2.": "a network that is shown a text, such as Stable Diffusion's, in another form than diffusers' or CompVis'",
}


def recognised(source: Source, name: str = "") -> Published:
    """Returns a published model, of the code base that wrote it.

    Raises UserError where none is recognised, where a name of `FORMATS` is given and the source is not of that, and for
    what a code base can write and the library cannot compute.
    """
    if name and name not in FORMATS:
        raise UserError(f"flag --format = {name!r} is unknown; known: {some(list(FORMATS))}.")
    for known in [name] if name else FORMATS:
        try:
            found = FORMATS[known](source)
        except (LookupError, AttributeError, TypeError) as error:  # of a tensor that a whole model has, or of its shape
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"the weights of {source.name!r} are not a whole model of {known} ({reason}).") from error
        if found:
            return found
    for part, what in REFUSED.items():
        if any(part in tensor for tensor in source.tensors):
            raise UserError(f"the weights of {source.name!r} are those of {what}.")
    raise UserError(
        f"the weights of {source.name!r} are not those of {name or 'a network that is known'}: they have "
        f"{some(sorted(source.tensors), 4)}; known are {some(list(FORMATS))}."
    )
