"""The weights of a run alone, to share: as a workdir, as a pipeline of diffusers, or as one file, which may be a program.

    python -m diffusion_jax.tools.export --workdir=runs/digits --out=shared/digits
    python -m diffusion_jax.tools.export --workdir=runs/digits --out=shared/digits_diffusers --to=diffusers

writes the config and the EMA weights of the latest checkpoint (--config.sample.step and --config.sample.ema_rate choose
others, 0 the raw ones): a fraction of the run's size, enough to sample from and to start another run from (train.init_from),
not to resume.

Flags:
    --workdir    of the run; a folder or gs://
    --out        the folder to make
    --to         'workdir' (the default); 'diffusers', which from_pretrained of DDPMPipeline and DDIMPipeline load, of a
                 'dit' that of DiTTransformer2DModel, of latents that of LDMPipeline and DiTPipeline, of an autoencoder that
                 of AutoencoderKL or AutoencoderTiny; 'safetensors', a config.json and model.safetensors with our names.
                 tools.import_weights reads both back. 'jax' is sampler.jax, which draws with JAX alone as the section
                 `sample` says; 'onnx' is network.onnx. Beside both a manifest.json says what they take and are
    --round      'bfloat16' or 'float16': the type to which each weight is rounded first, which about halves a workdir; they
                 stay float32. By default none is rounded
"""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from diffusion_jax import model
from diffusion_jax.compose import (
    checks,
    choices,
    coding,
    command,
    conditions,
    frozen,
    portable,
    processes,
    stored,
    weights,
)
from diffusion_jax.compose.choices import MEDIA
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError
from diffusion_jax.runs import logs, storage
from diffusion_jax.weights import diffusers, diffusers_autoencoder, diffusers_dit, maps, schedulers, tensors

MINIMAL_DIFFUSERS = "0.28.0"  # the oldest that has all classes and settings that are written
ROUNDED = ("", "bfloat16", "float16")  # what --round may be


def run(workdir: storage.Path, config: Config, out: storage.Path, to: str = "workdir", round_to: str = "") -> int:
    """Writes a folder with one set of weights, as the parameters of a run without EMA; returns the exit code, 0.

    `round_to` is the type to which the weights are rounded, '' for none. Files are compressed, and zeros take no space.

    Raises UserError where `workdir` is not that of a run, `out` exists or is one already, or `to` has no such network.
    """
    if stored.has_config(out) or (to != "workdir" and out.exists()):
        raise UserError(f"flag --out = {str(out)!r} exists already; choose another.")
    trained = model.restore(workdir, stored.agreed_config(workdir, config))
    if round_to:
        rounded = jax.tree.map(lambda leaf: leaf.astype(round_to).astype(leaf.dtype), trained.params)
        trained = trained._replace(params=rounded)
    of = trained if to in PROGRAMS else trained._replace(config=weights.alone(trained.config))
    to_try = (WRITERS | PROGRAMS)[to](of, out)
    logs.say("done", f"the weights of step {trained.step:,}{to_try}")
    return 0


def write_workdir(alone: model.Model, out: storage.Path) -> str:
    """Writes a workdir; returns what the user may try, as do the other writers."""
    frozen.write_alone(out, alone.step, alone.params, alone.config)
    command = f"python main.py --mode=sample --workdir={storage.quoted(out)}"
    return "" if processes.is_classifier(alone.config) else f"; try: {command}"


def _write_diffusers(alone: model.Model, out: storage.Path) -> str:
    """Writes the folder of a pipeline: the network, the scheduler, an autoencoder of latents, and which classes they are."""
    config, is_dit = alone.config, alone.config.model.kind == "dit"
    processes.check_images(config)
    if processes.is_autoencoder(config):
        kind = _write_autoencoder(config, alone.params, 1.0, out)
        return f"; try in Python: diffusers.{kind}.from_pretrained({str(out)!r})"
    of, part = (diffusers_dit, "transformer") if is_dit else (diffusers, "unet")
    network = of.settings_of(dict(config.model), processes.shape(config), conditions.num_channels(config))
    betas = choices.SCHEDULES[config.process.schedule](config.process.num_steps)
    scheduler = schedulers.settings_of(betas, config.process.schedule, config.flat())
    parts = {name: ["diffusers", each["_class_name"]] for name, each in {"scheduler": scheduler, part: network}.items()}
    pipeline = "DiTPipeline" if is_dit else scheduler["_class_name"].replace("Scheduler", "Pipeline")
    if config.data.latent_shift:
        raise UserError(f"{config.show('data.latent_shift')} has no counterpart in diffusers' pipelines; it must be 0.")
    if config.data.codec:
        name, pipeline = ("vae", pipeline) if is_dit else ("vqvae", "LDMPipeline")
        kind = _write_autoencoder(*coding.first_stage(config.data.codec), config.data.latent_scale, out / name)
        parts[name] = ["diffusers", kind]
    storage.write_bytes(out / part / "diffusion_pytorch_model.safetensors", tensors.as_bytes(of.write(alone.params)))
    files = {f"{part}/config": network, "scheduler/scheduler_config": scheduler}
    files |= {"model_index": {"_class_name": pipeline, **parts}}
    for name, settings in files.items():
        _write_settings(out / f"{name}.json", settings)
    is_whole = config.data.condition == "none" and (config.data.codec or not is_dit)
    if not is_whole:  # their pipelines need the image, and an autoencoder
        return f"; try in Python: diffusers.{network['_class_name']}.from_pretrained({str(out)!r}, subfolder={part!r})"
    labelled = ", which needs class_labels in its calls of the network" if config.model.num_classes else ""
    return f"; try in Python: diffusers.{pipeline}.from_pretrained({str(out)!r}){labelled}"


def _write_autoencoder(config: Config, params: Any, scale: float, out: storage.Path) -> str:
    """Writes the folder of an autoencoder whose latents are multiplied by `scale`; returns its class."""
    section = dict(config.model)
    settings = diffusers_autoencoder.settings_of(section, processes.image_shape(config), scale)
    content = tensors.as_bytes(diffusers_autoencoder.write(params, section))
    storage.write_bytes(out / "diffusion_pytorch_model.safetensors", content)
    _write_settings(out / "config.json", settings)
    return settings["_class_name"]


def _write_settings(file: storage.Path, settings: Mapping[str, Any]) -> None:
    content = {"_diffusers_version": MINIMAL_DIFFUSERS, **settings}
    storage.write_text(file, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _write_safetensors(alone: model.Model, out: storage.Path) -> str:
    found = maps.write(alone.params, maps.by_name(alone.params))
    storage.write_bytes(out / "model.safetensors", tensors.as_bytes(found))
    stored.write_config(out, alone.config, weights_alone=True)
    return ""


def _write_jax(trained: model.Model, out: storage.Path) -> str:
    """Writes sampler.jax, a function that draws images."""
    drawn = model.with_guide(trained)
    configs, params = [drawn.config], drawn.params
    if drawn.guide:
        configs, params = [drawn.config, drawn.guide.config], (drawn.params, drawn.guide.params)
    storage.write_bytes(out / "sampler.jax", portable.sampler_program(configs, params))
    given = {"seed": ["int32", []], "numbers": ["int32", ["B"]], "cond": _shapes(portable.cond_specs(*configs))}
    dtype = np.dtype(MEDIA[drawn.config.data.medium].dtype).name
    _write_manifest(drawn, out, inputs=given, output=[dtype, ["B", *processes.image_shape(drawn.config)]])
    return "; docs/serving.md has the lines that call it"


def _write_onnx(trained: model.Model, out: storage.Path) -> str:
    """Writes network.onnx, and decoder.onnx of latents."""
    programs = {"network": portable.network_program(trained.config, trained.params)}
    if trained.config.data.codec:
        programs["decoder"] = portable.decoder_program(trained.config)
    for name, (content, _) in programs.items():
        storage.write_bytes(out / f"{name}.onnx", content)
    differences = {name: difference for name, (_, difference) in programs.items()}
    given = _shapes(portable.network_specs(trained.config))
    _write_manifest(trained, out, inputs=given, difference_to_onnxruntime=differences)
    return f"; onnxruntime differs by {max(differences.values()):.1g} of the largest output"


def _shapes(specs: portable.Specs) -> dict[str, Any]:
    return {name: [str(of.dtype), ["B", *of.shape[1:]]] for name, of in specs.items()}


def _write_manifest(of: model.Model, out: storage.Path, **more: Any) -> None:
    """Writes what another program needs to sample: inputs, noise levels, the settings that made them, the whole config."""
    content = {
        **more,
        "levels": portable.levels(of.config),
        **model.manifest_of_images(of),
        "config": of.config.model_dump(),
    }
    lines = [f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in content.items()]
    storage.write_text(out / "manifest.json", "{\n" + ",\n".join(lines) + "\n}\n")


WRITERS: dict[str, Callable[[model.Model, storage.Path], str]] = {
    "diffusers": _write_diffusers,
    "safetensors": _write_safetensors,
    "workdir": write_workdir,
}
PROGRAMS: dict[str, Callable[[model.Model, storage.Path], str]] = {"jax": _write_jax, "onnx": _write_onnx}


@command.program(__doc__)
def main(argv: list[str]) -> int:
    """Exports; the exit code is 0, 2 for bad input, 1 for a failure."""
    flags, changes = command.parse(argv, {"workdir": "", "out": "", "to": "workdir", "round": ""})
    command.check_given(flags, {"workdir": "the folder of a run", "out": "the folder to make"})
    command.check_one_of(flags, "to", WRITERS | PROGRAMS)
    command.check_allowed(flags, "round", flags["round"] in ROUNDED, " or ".join(ROUNDED[1:]))
    config = command.config_of(flags, changes, flags["workdir"])
    checks.check(config)
    return run(storage.path(flags["workdir"]), config, storage.path(flags["out"]), flags["to"], flags["round"])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
