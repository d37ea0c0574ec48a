"""A published model as a workdir, with which every mode works: sample, edit, likelihood, evaluate, and train.init_from.

    python -m diffusion_jax.tools.import_weights --from=google/ddpm-cifar10-32 --workdir=runs/ddpm_cifar10
    python main.py --mode=sample --workdir=runs/ddpm_cifar10 --config.sample.num_images=16 \\
        --config.sample.batch_per_device=16

reads a file or a folder of weights, tells whose they are, and writes a workdir with the config that they mean. Every tensor
is used once and every parameter is filled once; else it lists the differences and writes nothing. No code of a file is run.

Flags:
    --from       a folder as diffusers writes it, of a pipeline with its autoencoder and its encoder of text; a .safetensors,
                 .bin, .pt or .pth file; a checkpoint of Flax; the prefix of one of TensorFlow; a URL of such a file; or a
                 model of the Hugging Face hub, which needs: pip install huggingface_hub
    --workdir    the folder to make
    --clip       a folder with CLIP's config.json and tokenizer, which a file of Stable Diffusion has not:
                 openai/clip-vit-large-patch14 without its weights
    --format     whose weights they are, where that is not told from their names: {formats}
    --config.*   what the weights do not say, such as --config.process.schedule=cosine --config.model.num_heads=4, and what
                 you want otherwise, such as --config.data.path=DIR; docs/config.md has all fields
"""

import sys
import tempfile
from typing import Any

import jax

from diffusion_jax.compose import command, frozen, imported, processes
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError
from diffusion_jax.runs import logs, storage
from diffusion_jax.weights import diffusers_autoencoder, downloads, formats, latent_diffusion, sources, stable_diffusion


def run(
    place: storage.Path, workdir: storage.Path, changes: command.Changes, format: str = "", clip: storage.Path | None = None
) -> int:
    """Writes a workdir with the weights of a file or a folder; returns the exit code, 0.

    Raises UserError where `workdir` exists, the source cannot be read or understood, or what it has is not one network.
    """
    if workdir.exists():
        raise UserError(f"flag --workdir = {str(workdir)!r} exists; choose another, or remove it first.")
    with tempfile.TemporaryDirectory() as folder:
        published = imported.recognised(source := sources.read(place), format)
        changes = _parts(place, source, clip, storage.path(folder), changes) | changes
        config, params, notes = _written(published, workdir, changes)
    logs.say("note", *published.notes, *notes)
    leaves = jax.tree.leaves(params)
    num_params = f"{sum(leaf.size for leaf in leaves):,} parameters in {len(leaves)} arrays"
    logs.say("done", f"{num_params}; try{_to_try(workdir, config)}")
    return 0


def _parts(
    place: storage.Path, source: sources.Source, clip: storage.Path | None, folder: storage.Path, changes: command.Changes
) -> command.Changes:
    """Returns what a pipeline's autoencoder and encoder of text mean, unless said otherwise, and writes them in a folder."""
    found: dict[str, Any] = {}
    vae = sources.read(place / "vae") if (place / "vae").is_dir() else latent_diffusion.first_stage(source)
    if vae and "data.codec" not in changes:
        _written(imported.recognised(vae), codec := folder / "codec", {})
        scale = diffusers_autoencoder.scale_of(vae) if vae.settings else latent_diffusion.SCALE
        found |= {"data.codec": str(codec), "data.latent_scale": scale}
    encoder, tokenizer, tensors = clip, clip, latent_diffusion.encoder(source)
    if (place / "text_encoder").is_dir():
        encoder, tokenizer = place / "text_encoder", place / "tokenizer"
        tensors = sources.read(encoder).tensors
    if clip and (encoder != clip or not tensors):
        raise UserError(f"flag --clip = {str(clip)!r} does nothing: it is for a file with all parts of Stable Diffusion 1.")
    if tensors and "model.text_folder" not in changes:
        if not encoder:
            raise UserError(f"{str(place)!r} has CLIP's encoder of text without its tokenizer: add --clip=DIR, see --help.")
        length = stable_diffusion.write_encoder(encoder, tokenizer, own := folder / "text_encoder", tensors)
        found |= {"model.text_folder": str(own), "model.text_length": length}
    return found


def _written(published: sources.Published, workdir: storage.Path, changes: command.Changes) -> tuple[Config, Any, list[str]]:
    """Returns config, parameters and what was converted of a published model, after writing it as a workdir."""
    config = imported.config_of(published, changes)
    params, notes = imported.params_of(published, config)
    return frozen.write_alone(workdir, 0, params, config), params, notes


def _to_try(workdir: storage.Path, config: Config) -> str:
    """Returns what a user can do first: of a model of latents, for which there is no picture, in Python."""
    quoted = storage.quoted(workdir)
    if processes.is_autoencoder(config):
        return f" it for the latents of a run: --config.data.codec={quoted}"
    if config.data.channels not in (1, 3):
        return f" in Python: diffusion_jax.load({str(workdir)!r}).denoiser"
    flags = f"--workdir={quoted} --config.sample.num_images=16 --config.sample.batch_per_device=16"
    if config.model.text != "none":
        flags = f'--workdir={quoted} --config.sample.prompt="a red heart"'
    if processes.is_classifier(config):
        flags = f"--workdir=WORKDIR --config.sample.guide={quoted} --config.sample.guidance=2.0"
    return f": python main.py --mode=sample {flags}"


@command.program(__doc__.format(formats=", ".join(formats.FORMATS)))
def main(argv: list[str]) -> int:
    """Imports; the exit code is 0, 2 for bad input, 1 for a failure."""
    flags, changes = command.parse(argv, {"from": "", "workdir": "", "format": "", "clip": ""})
    command.check_given(flags, {"from": "the weights: a path, a URL or a name of the hub", "workdir": "the folder to make"})
    command.check_allowed(flags, "config", not flags["config"], "left out: the weights say what they are")
    clip = storage.path(flags["clip"]) if flags["clip"] else None
    return run(downloads.local(flags["from"]), storage.path(flags["workdir"]), changes, flags["format"], clip)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
