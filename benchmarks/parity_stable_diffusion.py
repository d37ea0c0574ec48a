"""Whether Stable Diffusion is diffusers' StableDiffusionPipeline: random weights, the same prompts, the same noise.

    python3 -m venv parity && parity/bin/pip install -r requirements.txt torch diffusers transformers
    parity/bin/python benchmarks/parity_stable_diffusion.py

diffusers builds a small pipeline, gets drawn weights and saves it as a folder. tools.import_weights makes a workdir of it.
Compared are the tokens, the vectors of a text, the output of the U-Net, and the latents and images of ten steps of DDIM with
guidance 7.5; and the U-Net in a file of CompVis, by diffusers' converter of such files. In float64 diffusers' schedule and
its embedding of t, which it computes in float32, are replaced by the same formulas in float64. Writes
benchmarks/parity_stable_diffusion.json. What diffusers says goes into tests/goldens/g16_stable_diffusion.npz with --record.
"""

import argparse
import json
import pathlib
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
import parity_autoencoder
from parity_autoencoder import SMALL, drawn

import diffusion_jax as dj
from diffusion_jax import guidance, networks, streams
from diffusion_jax.compose import choices, coding, processes, sampling, texts
from diffusion_jax.compose.config import Config
from diffusion_jax.model import Model
from diffusion_jax.tools import import_weights
from diffusion_jax.weights import latent_diffusion, maps

OUT = pathlib.Path(__file__).with_suffix(".json")
RECORDED = ROOT / "tests" / "goldens" / "g16_stable_diffusion.npz"
PROMPTS = ["a red heart", "Cat  in the HAT, it's 42 <|endoftext|> \u00fc " + "heart " * 80]
GUIDANCE, NUM_STEPS, SIDE = 7.5, 10, 8  # of latents
UNET = {
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "sample_size": SIDE,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
OF_SECOND = {"attention_head_dim": [2, 4], "use_linear_projection": True}
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SCHEDULER |= {"set_alpha_to_one": False, "clip_sample": False}
TEXT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
CASES: dict[str, dict[str, Any]] = {
    "small_1": {"unet": UNET, "scheduler": SCHEDULER, "text": TEXT, "pad": "<|endoftext|>"},
    "small_2": {
        "unet": UNET | OF_SECOND,
        "scheduler": SCHEDULER | {"prediction_type": "v_prediction"},
        "text": TEXT | {"hidden_act": "gelu"},
        "pad": "!",
    },
}
PARTS = ("unet", "vae", "text_encoder")


def vocabulary() -> tuple[dict[str, int], list[str]]:
    """Returns a small vocabulary of CLIP's kind, and its merges."""
    from tokenizers import pre_tokenizers

    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["r e", "re d</w>", "h e", "he a", "r t</w>", "hea rt</w>", "c a", "ca t</w>", "' s</w>"]
    words = [*signs, *(f"{sign}</w>" for sign in signs), *(merge.replace(" ", "") for merge in merges)]
    return {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}, merges


def write_tokenizer(folder: pathlib.Path, pad: str) -> None:
    """Writes a tokenizer as the published folders have it."""
    words, merges = vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    tokens = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": pad}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    settings = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", **tokens, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def noise_of(num_images: int) -> np.ndarray:
    """Returns x_T of the first images of seed 0, [B, h, w, 4]."""
    keys = streams.keys(jax.numpy.uint32(0), "x_T", np.arange(num_images))
    return np.asarray(jax.vmap(lambda key: jax.random.normal(key, (SIDE, SIDE, 4)))(keys))


def peer_of(name: str, folder: pathlib.Path) -> Any:
    """Returns diffusers' pipeline with drawn weights, after saving it in a folder."""
    import diffusers
    import torch
    import transformers

    case, end = CASES[name], len(vocabulary()[0]) - 1
    write_tokenizer(folder / "tokenizer", case["pad"])
    types = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    settings = {"vocab_size": end + 1, "bos_token_id": end - 1, "eos_token_id": end, **case["text"]}
    made = {
        "unet": diffusers.UNet2DConditionModel(**case["unet"]),
        "vae": diffusers.AutoencoderKL(**SMALL | types | {"latent_channels": 4, "sample_size": 2 * SIDE}),
        "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings)),
    }
    for part in made.values():
        shapes = {key: tuple(tensor.shape) for key, tensor in part.state_dict().items()}
        part.eval().load_state_dict({key: torch.from_numpy(drawn(key, shape)) for key, shape in shapes.items()})
    peer = diffusers.StableDiffusionPipeline(
        **made,
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=diffusers.DDIMScheduler(**case["scheduler"]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in PARTS:  # and not the tokenizer, which another version of transformers would write otherwise
        getattr(peer, part).save_pretrained(folder / part)
    peer.scheduler.save_pretrained(folder / "scheduler")
    return peer


def said_by(peer: Any, dtype: str, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the U-Net's output, latents and images of diffusers' pipeline, from vectors of prompts, the last of none."""
    import torch

    def channels_first(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.moveaxis(x, -1, 1).astype(dtype))

    peer.set_progress_bar_config(disable=True)
    peer = peer.to(getattr(torch, dtype))
    x_T, given = channels_first(noise_of(len(PROMPTS))), torch.from_numpy(vectors.astype(dtype))
    prompts = {"prompt_embeds": given[:-1], "negative_prompt_embeds": given[-1:].repeat(len(PROMPTS), 1, 1)}
    settings = {"num_inference_steps": NUM_STEPS, "guidance_scale": GUIDANCE, "latents": x_T, **prompts}
    with torch.no_grad():
        output = peer.unet(x_T, torch.tensor([981, 21]), given[:-1]).sample
        latents, images = (peer(output_type=kind, **settings).images for kind in ("latent", "np"))
    return {"output": channels_last(output), "latents": channels_last(latents), "images": images}


def channels_last(x: Any) -> np.ndarray:
    return np.moveaxis(x.numpy(), 1, -1)


def in_float64(peer: Any) -> Any:
    """Returns the pipeline with its schedule and its embedding of t in float64."""
    import torch

    betas = np.asarray(choices.SCHEDULES["latent_diffusion"](1000), np.float64)
    peer.scheduler.alphas_cumprod = torch.from_numpy(np.cumprod(1 - betas))
    peer.scheduler.final_alpha_cumprod = peer.scheduler.alphas_cumprod[0]
    half = peer.unet.config.block_out_channels[0] // 2

    def embedded(t: torch.Tensor) -> torch.Tensor:
        angles = t.double()[:, None] * torch.exp(-np.log(10000.0) * torch.arange(half, dtype=torch.float64) / half)
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)

    peer.unet.time_proj.forward = embedded
    return peer


def unet_of(config: Config, text_width: int, dtype: str) -> networks.Network:
    """Returns the network of a config, in a precision that a config does not have."""
    values = dict(config.model) | {"dtype": dtype, "text_width": text_width, "precision": "highest"}
    options = {name: values[name] for name in processes.fields_of("unet") & values.keys()}
    return networks.unet(processes.shape(config), **options)


def said_by_us(model: Model, dtype: str, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the same of ours; latents are divided by nothing, as diffusers has them."""
    config, x_T = model.config.with_values("sample", num_steps=NUM_STEPS), noise_of(len(PROMPTS)).astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        given = jax.numpy.asarray(vectors.astype(dtype))
        params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), model.params)
        network = unet_of(config, vectors.shape[-1], dtype)
        cond, null = {"text": given[:-1]}, {"text": np.repeat(given[-1:], len(PROMPTS), axis=0)}

        def denoiser(cond: Any) -> dj.Denoiser:
            return processes.make_denoiser(config)(networks.bind(network, params, cond), cond)

        guided = guidance.classifier_free(denoiser(cond), denoiser(guidance.paired(cond, null)), scale=GUIDANCE)
        output = jax.jit(lambda x: network.apply(params, x, np.array([981, 21], dtype), cond))(x_T)
        keys = streams.keys(jax.numpy.uint32(0), "sampler", np.arange(len(x_T)))
        latents = jax.jit(lambda x: dj.sample(guided, dj.ddim(), x, sampling.grid(config), keys).x)(x_T)
        images = decoded(config, latents, dtype)
    return {"output": np.asarray(output), "latents": np.asarray(latents), "images": np.clip(images / 2 + 0.5, 0, 1)}


def decoded(config: Config, latents: Any, dtype: str) -> np.ndarray:
    """Returns images in [-1, 1], in a precision."""
    own, params = coding.first_stage(config.data.codec)
    fields = {f"model.{name}": value for name, value in dict(own.model).items() if name != "dtype"}
    ours = parity_autoencoder.network_of(fields, processes.image_shape(own), dtype)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)
    return np.asarray(jax.jit(ours.decode)(params, latents / config.data.latent_scale))


def in_one_file(model: Model) -> dict[str, np.ndarray]:
    """Returns the tensors of a model's U-Net with their names in CompVis' files."""
    found = maps.write(model.params, latent_diffusion.map_of_network(model.params))
    return {f"model.diffusion_model.{name}": np.asarray(tensor) for name, tensor in found.items()}


def of_one_file(model: Model, theirs: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how many tensors of a U-Net in a file of CompVis, as diffusers reads it, are exactly those of its folder."""
    import torch
    from diffusers.loaders import single_file_utils

    tensors = {name: torch.from_numpy(tensor) for name, tensor in in_one_file(model).items()}
    found = single_file_utils.convert_ldm_unet_checkpoint(tensors, config=config)
    same = [name for name in found if torch.equal(found[name].reshape(theirs[name].shape), theirs[name])]
    return {"tensors": len(theirs), "read": len(found), "same": len(same)}


def compared(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the largest differences of a case, and what theirs says, to be recorded."""
    import torch

    with tempfile.TemporaryDirectory() as root:
        folder, workdir = pathlib.Path(root) / "pipeline", pathlib.Path(root) / "run"
        peer = peer_of(name, folder)
        if import_weights.main(["", f"--from={folder}", f"--workdir={workdir}"]) != 0:
            raise SystemExit("the import failed.")
        model = dj.load(workdir)
        encoder, [*files] = texts.encoder(model.config), [folder / part / "config.json" for part in PARTS]
        kept = {f"{file.parent.name}.config": np.array(file.read_text()) for file in files}
        kept["scheduler.config"] = np.array((folder / "scheduler" / "scheduler_config.json").read_text())
        for part in PARTS:
            shapes = {key: list(tensor.shape) for key, tensor in getattr(peer, part).state_dict().items()}
            kept[f"{part}.tensors"] = np.array([f"{key} {shape}" for key, shape in shapes.items()])
        ids = peer.tokenizer([*PROMPTS, ""], padding="max_length", max_length=77, truncation=True).input_ids
        with torch.no_grad():
            theirs = peer.text_encoder(torch.tensor(ids))[0].numpy()
        tokens, mask = encoder.tokens([*PROMPTS, ""], 77)
        ours = np.asarray(encoder.network.apply(encoder.params, tokens, mask))
        same = bool(np.all(mask) and np.array_equal(tokens, ids))
        row: dict[str, Any] = {"unet_of_one_file": of_one_file(model, peer.unet.state_dict(), dict(peer.unet.config))}
        row |= {"same_tokens": same, "vectors": float(np.max(np.abs(ours - theirs)))}
        kept |= {"tokens": np.array(ids, np.int16), "vectors": theirs}
        rounded = np.float16(theirs)  # as our networks get them
        drawn_by_us = model.sample(len(PROMPTS), prompt="\n".join(PROMPTS), num_steps=NUM_STEPS, guidance=GUIDANCE)
        for dtype in ("float32", "float64"):
            peer = in_float64(peer) if dtype == "float64" else peer
            theirs, ours = said_by(peer, dtype, rounded), said_by_us(model, dtype, rounded)
            row[dtype] = {key: float(np.max(np.abs(theirs[key] - ours[key]))) for key in theirs}
            row[dtype] |= {f"std_of_{key}": float(np.std(array)) for key, array in theirs.items()}
            if dtype == "float32":
                exact = said_by(peer, dtype, kept["vectors"])["images"]
                row["images_of_the_workdir"] = {
                    "largest_difference_of_255": int(np.max(np.abs(np.round(theirs["images"] * 255) - drawn_by_us))),
                    "the_same_with_their_vectors_in_float32": int(np.max(np.abs(np.round(exact * 255) - drawn_by_us))),
                }
    return row, {f"{name}.{key}": array for key, array in (kept | theirs).items()}


def tensors_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns drawn tensors of some names and shapes."""
    return {name: drawn(name, tuple(shape)) for name, shape in shapes.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the file of goldens")
    arguments = parser.parse_args()
    rows, kept = {}, {}
    for name in CASES:
        rows[name], found = compared(name)
        kept |= found
        print(name, json.dumps(rows[name]), flush=True)
    about = parity_autoencoder.report(rows) | {"command": "python benchmarks/parity_stable_diffusion.py"}
    OUT.write_text(json.dumps(about, indent=1) + "\n")
    if arguments.record:
        np.savez_compressed(RECORDED, **kept)


if __name__ == "__main__":
    main()
