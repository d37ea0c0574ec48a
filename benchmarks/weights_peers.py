"""The PyTorch side of benchmarks/weights.py: models as other code bases build, save and sample them.

    weights_peers.py write ddpm-cifar10-32 FOLDER CODE
    weights_peers.py load exported FOLDER CODE

`write` draws a model's weights, saves them, and records what the network says and what ten steps of its own samplers make.
`load` records the same of a pipeline that was exported. FOLDER gets recorded.npz; CODE has the cloned repositories. All
arrays of it are [..., H, W, C] and t counts from 1, as ours do. benchmarks/weights.py calls this file; it reads no weights.
"""

import contextlib
import functools
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any
from unittest import mock

import diffusers
import numpy as np
import torch

NUM_STEPS = 10
Recorded = dict[str, Any]  # name of an array -> torch tensor, channels second where it is of images
CIFAR10 = {  # of https://huggingface.co/google/ddpm-cifar10-32
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
CHURCH = CIFAR10 | {  # of https://huggingface.co/google/ddpm-church-256
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "sample_size": 256,
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}
SCHEDULER = {"_class_name": "DDPMScheduler", "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 1e-4}
SCHEDULER |= {"clip_sample": True, "num_train_timesteps": 1000, "trained_betas": None}
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # as the .bin of 2022 has them
IMPROVED = {"image_size": 32, "num_channels": 128, "num_res_blocks": 3, "learn_sigma": True, "dropout": 0.3}
ADM_64 = {"attention_resolutions": "32,16,8", "class_cond": True, "dropout": 0.1, "image_size": 64, "learn_sigma": True}
ADM_64 |= {"num_channels": 192, "num_head_channels": 64, "num_res_blocks": 3, "resblock_updown": True}
ADM_64 |= {"use_new_attention_order": True, "use_scale_shift_norm": True}
UPSAMPLER = {"attention_resolutions": "32,16,8", "class_cond": True, "learn_sigma": True, "num_channels": 192}
UPSAMPLER |= {"num_heads": 4, "num_res_blocks": 2, "resblock_updown": True, "use_scale_shift_norm": True}
CLASSIFIER_SCALE = 1000.0  # so that the gradient of a classifier with random weights counts
CLASSIFIER_64 = {"image_size": 64, "classifier_depth": 4}


@contextlib.contextmanager
def keeping_draws() -> Iterator[list[torch.Tensor]]:
    """Yields a list that gets every normal draw of PyTorch, in order."""
    kept: list[torch.Tensor] = []

    def kept_of(draw: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda *args, **options: kept.append(draw(*args, **options)) or kept[-1]

    names = ("randn", "randn_like")
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch.object(torch, name, kept_of(getattr(torch, name))))
        yield kept


def redraw(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Returns a module with every layer that begins at zero drawn, and every vector moved, so that all of them count."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif not parameter.any():
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return module.eval()


def of_network(
    network: Callable[..., torch.Tensor], shape: tuple[int, ...], num_classes: int = 0, T: int = 1000
) -> Recorded:
    """Returns random images, times and labels, and what a network says of them."""
    random = torch.Generator().manual_seed(1)
    x, t = torch.randn(shape, generator=random), torch.randint(0, T, shape[:1], generator=random)
    label = {"label": torch.randint(0, num_classes, shape[:1], generator=random)} if num_classes else {}
    return {"x": x, "t": t + 1, "output": network(x, t, *label.values()), **label}


def of_run(states: list[torch.Tensor], x_T: torch.Tensor, noises: list[torch.Tensor]) -> Recorded:
    """Returns a run: where it began, the noise of each step, and what each step made; a step may have had no noise."""
    noises = [*noises, *[torch.zeros_like(x_T)] * (len(states) - len(noises))]
    return {"x_T": x_T, "noise": torch.stack(noises), "states": torch.stack(states)}


def of_pipeline(pipeline: Any, what: Any, num_steps: int, **options: Any) -> Recorded:
    """Returns a run of a pipeline of diffusers; `what` is how many images it draws, or of which labels."""
    states, step = [], pipeline.scheduler.step

    def kept(*args: Any, **options: Any) -> Any:
        found = step(*args, **options)
        states.append(found.prev_sample)
        return found

    pipeline.set_progress_bar_config(disable=True)
    with mock.patch.object(pipeline.scheduler, "step", kept), keeping_draws() as drawn:
        options |= {"generator": torch.Generator().manual_seed(2), "output_type": "np"}
        pipeline(what, num_inference_steps=num_steps, **options)
    return of_run(states, drawn[0], drawn[1:])


def of_diffusers(unet: Any, ddpm: Any, ddim: Any, size: int = 2, num_steps: int = NUM_STEPS) -> dict[str, Recorded]:
    """Returns what a UNet2DModel says, and runs of both pipelines; those do not pass labels on, so they are bound here."""
    settings, num_classes = unet.config, unet.config.num_class_embeds or 0
    sides = settings.sample_size if not isinstance(settings.sample_size, int) else [settings.sample_size] * 2
    found = of_network(lambda x, t, label=None: unet(x, t, label).sample, (size, settings.in_channels, *sides), num_classes)
    label = {"class_labels": found["label"]} if num_classes else {}
    runs = {}
    for name, pipeline in {"ddim": ddim, "ancestral": ddpm}.items():
        with mock.patch.object(pipeline.unet, "forward", functools.partial(pipeline.unet.forward, **label)):
            runs[name] = of_pipeline(pipeline, size, num_steps)
    return {"": found, **runs}


def hub_model(folder: pathlib.Path, config: dict, variance: str, *, old: bool, **options: int) -> dict[str, Recorded]:
    """Returns the records of a model of the hub; its folder has the files that are there, with what they say."""
    unet = redraw(diffusers.UNet2DModel.from_config(config))
    process = SCHEDULER | {"variance_type": variance}
    scheduler = diffusers.DDPMScheduler.from_config(process)
    unet.save_pretrained(folder, safe_serialization=not old)
    if old:
        tensors = unet.state_dict()
        for new, name in OLD_NAMES.items():
            tensors = {key.replace(f".{new}.", f".{name}."): tensor for key, tensor in tensors.items()}
        torch.save(tensors, folder / "diffusion_pytorch_model.bin")
    else:
        unet.save_pretrained(folder / "shards", max_shard_size="50MB")
    for name, said in {"config": {"_class_name": "UNet2DModel", **config}, "scheduler_config": process}.items():
        (folder / f"{name}.json").write_text(json.dumps(said))
    pipelines = diffusers.DDPMPipeline(unet, scheduler), diffusers.DDIMPipeline(unet, scheduler)
    return of_diffusers(unet, *pipelines, **options)


def openai_runs(model: Any, make: Callable[..., Any], shape: tuple[int, ...], **options: Any) -> dict[str, Recorded]:
    """Returns runs of OpenAI's own loops, on respaced times; `make` is (timestep_respacing) -> their GaussianDiffusion."""
    found = {}
    for name, respacing in {"ddim": f"ddim{NUM_STEPS}", "ancestral": str(NUM_STEPS)}.items():
        diffusion = make(timestep_respacing=respacing)
        loop = diffusion.ddim_sample_loop_progressive if name == "ddim" else diffusion.p_sample_loop_progressive
        x_T = torch.randn(shape, generator=torch.Generator().manual_seed(2))
        torch.manual_seed(3)
        with keeping_draws() as drawn:
            states = [step["sample"] for step in loop(model, shape, noise=x_T, **options)]
        found[name] = of_run(states, x_T, drawn)
    return found


def improved_cifar10(folder: pathlib.Path) -> dict[str, Recorded]:
    from improved_diffusion import script_util

    options = script_util.model_and_diffusion_defaults() | IMPROVED
    of_diffusion = {"steps": 4000, "learn_sigma": True, "noise_schedule": "cosine", "rescale_timesteps": True}
    model, _ = script_util.create_model_and_diffusion(**options)
    redraw(model)
    file = "cifar10_uncond_50M_500K.pt"
    torch.save(model.state_dict(), folder / file)
    (folder / "old").mkdir()
    torch.save(model.state_dict(), folder / "old" / file, _use_new_zipfile_serialization=False)
    make, shape = functools.partial(script_util.create_gaussian_diffusion, **of_diffusion), (2, 3, 32, 32)
    rescaled = of_network(lambda x, t: model(x, t.float() * (1000 / 4000)), shape, T=4000)
    return {"": rescaled, **openai_runs(model, make, shape)}


def guided_classifier(folder: pathlib.Path, **options: int) -> Any:
    """Returns a classifier of noisy images, saved under the name of the one for ADM-64."""
    from guided_diffusion import script_util

    options = script_util.classifier_defaults() | CLASSIFIER_64 | options
    model = redraw(script_util.create_classifier(**_flags(options)))
    torch.save(model.state_dict(), folder / "64x64_classifier.pt")
    return model


def _flags(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name == "image_size" or name.startswith("classifier_")}


def log_prob_gradient(classifier: Any, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Returns the gradient of log p(y given x_t), as guided-diffusion's classifier_sample.py does."""
    with torch.enable_grad():
        given = x.detach().requires_grad_(True)
        chosen = torch.log_softmax(classifier(given, t), dim=-1)[range(len(y)), y]
        return torch.autograd.grad(chosen.sum(), given)[0]


def classifier_64(folder: pathlib.Path) -> dict[str, Recorded]:
    model = guided_classifier(folder)
    found = of_network(lambda x, t, label: model(x, t), (2, 3, 64, 64), num_classes=1000)
    return {"": found | {"gradient": log_prob_gradient(model, found["x"], found["t"] - 1, found["label"])}}


def adm_64(folder: pathlib.Path, *, is_led: bool = False, **options: int) -> dict[str, Recorded]:
    """Returns the records of ADM-64, or of a smaller one; one that is led by a classifier does not clip x_0."""
    from guided_diffusion import script_util

    options = script_util.model_and_diffusion_defaults() | ADM_64 | options
    model = redraw(script_util.create_model_and_diffusion(**options)[0])
    torch.save(model.state_dict(), folder / "64x64_diffusion.pt")
    make = functools.partial(script_util.create_gaussian_diffusion, learn_sigma=True, noise_schedule="cosine")
    found = of_network(model, (1, 3, 64, 64), num_classes=1000)
    of_runs = {"model_kwargs": {"y": found["label"]}}
    if is_led:
        classifier = guided_classifier(folder, classifier_width=64, classifier_depth=1)
        of_runs["cond_fn"] = lambda x, t, y: CLASSIFIER_SCALE * log_prob_gradient(classifier, x, t, y)
        of_runs["clip_denoised"] = False
    return {"": found, **openai_runs(model, make, (1, 3, 64, 64), **of_runs)}


def upsampler_256(folder: pathlib.Path) -> dict[str, Recorded]:
    """Returns the records of the model that enlarges from 64 to 256 pixels, here from 16 to 64, which takes less time.

    `image` is what it makes of the small one and is shown.
    """
    from guided_diffusion import script_util

    options = script_util.sr_model_and_diffusion_defaults() | UPSAMPLER
    model = redraw(script_util.sr_create_model_and_diffusion(**options)[0])
    torch.save(model.state_dict(), folder / "64_256_upsampler.pt")
    small, shape = 2 * torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(4)) - 1, (1, 3, 64, 64)
    found = of_network(lambda x, t, label: model(x, t, low_res=small, y=label), shape, num_classes=1000)
    return {"": found | {"image": torch.nn.functional.interpolate(small, shape[2:], mode="bilinear")}}


def dit_xl(folder: pathlib.Path) -> dict[str, Recorded]:
    """Returns the records of DiT-XL/2 of its authors, whose sampler does not limit x_0: it draws latents."""
    from diffusion import create_diffusion
    from models import DiT_models

    model, shape = redraw(DiT_models["DiT-XL/2"](input_size=32, num_classes=1000)), (1, 4, 32, 32)
    torch.save(model.state_dict(), folder / "DiT-XL-2-256x256.pt")
    found = of_network(model, shape, num_classes=1000)
    options = {"clip_denoised": False, "model_kwargs": {"y": found["label"]}}
    return {"": found, **openai_runs(model, create_diffusion, shape, **options)}


def dit_xl_of_diffusers(folder: pathlib.Path) -> dict[str, Recorded]:
    """Returns the records of DiT-XL/2 of diffusers, which has the same embeddings in each block, as a copy."""
    transformer = redraw(diffusers.DiTTransformer2DModel(out_channels=8))  # its defaults are XL/2
    first = transformer.transformer_blocks[0].norm1.emb.state_dict()
    for block in transformer.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    pipeline = diffusers.DiTPipeline(transformer, small_vae(), diffusers.DDIMScheduler(clip_sample=False))
    transformer.save_pretrained(folder / "transformer")
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    return of_dit_pipeline(pipeline)


def small_vae() -> Any:
    """Returns an autoencoder, which the pipeline of a DiT needs; what it decodes is not compared."""
    return diffusers.AutoencoderKL(block_out_channels=(32,))


def of_dit_pipeline(pipeline: Any) -> dict[str, Recorded]:
    """Returns what a DiTTransformer2DModel says, and a run of its pipeline without guidance."""
    transformer = pipeline.transformer.eval()
    found = of_network(lambda x, t, label: transformer(x, t, label).sample, (1, 4, 32, 32), num_classes=1000)
    return {"": found, "ddim": of_pipeline(pipeline, found["label"].tolist(), NUM_STEPS, guidance_scale=1.0)}


def pesser_cifar10(folder: pathlib.Path) -> dict[str, Recorded]:
    """Returns the records of a torch copy of Ho et al.'s network; its sampler takes all steps, here from t = 500 to 490."""
    import pytorch_diffusion

    model = {"resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 2}
    model |= {"attn_resolutions": (16,), "dropout": 0.1}
    process = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_diffusion_timesteps": 1000}
    theirs = pytorch_diffusion.Diffusion(process | {"model_var_type": "fixedlarge"}, model, "cpu")
    redraw(theirs.model)
    torch.save(theirs.model.state_dict(), folder / "model-790000.ckpt", _use_new_zipfile_serialization=False)
    states, x_T = [], torch.randn((2, 3, 32, 32), generator=torch.Generator().manual_seed(2))
    with keeping_draws() as drawn:
        theirs.denoise(2, NUM_STEPS, x_T, 500, callback=lambda x, i, x0: states.append(x))
    return {"": of_network(theirs.model, x_T.shape), "ancestral": of_run(states, x_T, drawn)}


WRITERS: dict[str, Callable[[pathlib.Path], dict[str, Recorded]]] = {
    "ddpm-cifar10-32": functools.partial(hub_model, config=CIFAR10, variance="fixed_large", old=False),
    "ddpm-church-256": functools.partial(hub_model, config=CHURCH, variance="fixed_small", old=True, size=1, num_steps=2),
    "cifar10_uncond_50M_500K": improved_cifar10,
    "64x64_classifier": classifier_64,
    "64x64_diffusion": adm_64,
    "64x64_guided": functools.partial(adm_64, is_led=True, num_channels=64, num_res_blocks=1),
    "64_256_upsampler": upsampler_256,
    "pesser_cifar10": pesser_cifar10,
    "DiT-XL-2-256x256": dit_xl,
    "DiT-XL-2-256": dit_xl_of_diffusers,
}


def load(folder: pathlib.Path) -> dict[str, Recorded]:
    """Returns the records of a pipeline in a folder: of a U-Net as two kinds of pipeline."""
    if (folder / "transformer").exists():
        return of_dit_pipeline(diffusers.DiTPipeline.from_pretrained(folder, vae=small_vae()))
    ddpm, ddim = (kind.from_pretrained(folder) for kind in (diffusers.DDPMPipeline, diffusers.DDIMPipeline))
    size, num_steps = (1, 2) if ddpm.unet.config.sample_size == 256 else (2, NUM_STEPS)
    return of_diffusers(ddpm.unet.eval(), ddpm, ddim, size, num_steps)


def as_arrays(found: dict[str, Recorded]) -> dict[str, np.ndarray]:
    """Returns records as arrays, the channels last."""
    arrays = {f"{run}.{name}".strip("."): array for run, of in found.items() for name, array in of.items()}
    return {name: (array.movedim(-3, -1) if array.ndim > 2 else array).numpy() for name, array in arrays.items()}


def main(todo: str, name: str, folder: str, code: str) -> None:
    sys.path[:0] = [str(child) for child in pathlib.Path(code).iterdir()]
    place = pathlib.Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        found = load(place / name) if todo == "load" else WRITERS[name](place)
    np.savez(place / "recorded.npz", **as_arrays(found))
    versions = {name: metadata.version(name) for name in ("torch", "diffusers")}
    (place / "versions.json").write_text(json.dumps(versions))


if __name__ == "__main__":
    main(*sys.argv[1:])
