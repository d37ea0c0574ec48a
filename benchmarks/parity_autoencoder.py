"""Whether autoencoders are diffusers' AutoencoderKL and AutoencoderTiny, on random weights and the same images.

    python3 -m venv parity && parity/bin/pip install -r requirements.txt torch diffusers
    parity/bin/python benchmarks/parity_autoencoder.py

diffusers builds each network, gets drawn weights, and saves it as a folder, whose safetensors and config.json become ours.
Compared are mean, log-variance and the decoded mean. Writes benchmarks/parity_autoencoder.json; --only takes a few cases.
What diffusers says in the small ones, in float64, goes into tests/goldens/g15_autoencoder.npz with --record.
"""

import argparse
import inspect
import json
import pathlib
import platform
import sys
import tempfile
import zlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from diffusion_jax.networks import autoencoder
from diffusion_jax.networks.autoencoder import Autoencoder
from diffusion_jax.weights import diffusers_autoencoder, formats, latent_diffusion, maps, sources
from diffusion_jax.weights.sources import Published

OUT = pathlib.Path(__file__).with_suffix(".json")
RECORDED = ROOT / "tests" / "goldens" / "g15_autoencoder.npz"
STABLE_DIFFUSION = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "sample_size": 512}
SMALL = {"block_out_channels": [32, 64], "layers_per_block": 1, "norm_num_groups": 8, "latent_channels": 3}
WITHOUT_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False}
SMALL_TINY = {f"{half}_block_out_channels": [32, 32] for half in ("encoder", "decoder")} | {"latent_channels": 3}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {  # name -> (class, side of the images, options)
    "small": ("AutoencoderKL", 16, SMALL),
    "small_bare": ("AutoencoderKL", 16, SMALL | WITHOUT_QUANT | {"mid_block_add_attention": False}),
    "small_tiny": ("AutoencoderTiny", 16, SMALL_TINY | {"num_encoder_blocks": [1, 2], "num_decoder_blocks": [2, 1]}),
    "stable_diffusion": ("AutoencoderKL", 128, STABLE_DIFFUSION),
    "flux": ("AutoencoderKL", 128, STABLE_DIFFUSION | WITHOUT_QUANT | {"latent_channels": 16}),
    "taesd": ("AutoencoderTiny", 128, {}),
}


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns random numbers, float32, that the name of a tensor settles; outputs then have about unit variance."""
    random = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1 and name != "x":
        return np.float32(random / np.sqrt(np.prod(shape[1:])))
    is_scale = "norm" in name and name.endswith("weight")
    return np.float32(is_scale + 0.1 * random) if name != "x" else np.float32(np.tanh(random))


def network_of(fields: Mapping[str, Any], image_shape: tuple[int, int, int], dtype: str) -> Autoencoder:
    """Returns the network of a published autoencoder, from its fields."""
    make = getattr(autoencoder, fields["model.kind"])
    names = inspect.signature(make).parameters
    options = {name: fields[f"model.{name}"] for name in names if f"model.{name}" in fields}
    return make(image_shape, dtype=dtype, **options)


def ours_of(published: Published, side: int, dtype: str) -> tuple[Autoencoder, Any]:
    """Returns a published autoencoder and its parameters."""
    ours = network_of(published.fields, (side, side, published.fields["data.channels"]), dtype)
    like = jax.eval_shape(ours.init, jax.random.key(0))
    model = {"num_blocks": published.fields.get("model.num_blocks")}
    params = maps.read(published.tensors, like, published.map_of(like, model))
    return ours, jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)


def said_by_us(published: Published, x: np.ndarray) -> dict[str, np.ndarray]:
    """Returns mean and log-variance of the latents of images, [B, H, W, C], and what becomes of the mean."""
    with jax.enable_x64(x.dtype == np.float64):
        ours, params = ours_of(published, x.shape[1], str(x.dtype))
        z = jax.jit(ours.encode)(params, x)
        found = {"mean": z.mean, "log_variance": z.log_variance, "decoded": jax.jit(ours.decode)(params, z.mean)}
        return {name: np.asarray(array) for name, array in found.items()}


def peer_of(name: str) -> Any:
    """Returns diffusers' network with drawn weights."""
    import diffusers
    import torch

    kind, _, options = CASES[name]
    if kind == "AutoencoderKL":
        num_stages = len(options["block_out_channels"])
        types = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
        options = options | {name: of * num_stages for name, of in types.items()}
    peer = getattr(diffusers, kind)(**options).eval()
    shapes = {key: tuple(tensor.shape) for key, tensor in peer.state_dict().items()}
    peer.load_state_dict({key: torch.from_numpy(drawn(key, shape)) for key, shape in shapes.items()})
    return peer


def said_by(peer: Any, x: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the same as `said_by_us`; an AutoencoderTiny has no variance."""
    import torch

    peer, images = peer.to(getattr(torch, str(x.dtype))), torch.from_numpy(x).permute(0, 3, 1, 2)
    with torch.no_grad():
        encoded = peer.encode(images)
        found = {"mean": encoded.latents} if hasattr(encoded, "latents") else {}
        found = found or {"mean": encoded.latent_dist.mean, "log_variance": encoded.latent_dist.logvar}
        found["decoded"] = peer.decode(found["mean"]).sample
    return {name: tensor.permute(0, 2, 3, 1).numpy() for name, tensor in found.items()}


def compared(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the largest differences of a case, in float32 and in float64, and what theirs says, to be recorded."""
    _, side, _ = CASES[name]
    peer, kept = peer_of(name), {}
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        kept["config"] = np.array((pathlib.Path(folder) / "config.json").read_text())
        published = formats.recognised(sources.read(pathlib.Path(folder)))
    kept["tensors"] = np.array(sorted(f"{key} {list(tensor.shape)}" for key, tensor in published.tensors.items()))
    row: dict[str, Any] = {"num_parameters": sum(parameter.numel() for parameter in peer.parameters())}
    if type(peer).__name__ == "AutoencoderKL":
        row["same_tensors_from_latent_diffusion"] = is_converted(published, side)
    back = exported(published, side)
    for dtype in ("float32", "float64"):
        x = drawn("x", (1, side, side, 3)).astype(dtype)
        theirs, ours = said_by(peer, x), said_by_us(published, x)
        row[dtype] = {key: float(np.max(np.abs(theirs[key] - ours[key]))) for key in theirs}
        again = said_by(back, x)
        row[dtype]["same_from_export"] = all(np.array_equal(again[key], theirs[key]) for key in theirs)
        row[dtype] |= {f"std_of_{key}": float(np.std(array)) for key, array in theirs.items()}
    return row, {f"{name}.{key}": array for key, array in (kept | theirs).items()}


def is_converted(published: Published, side: int) -> bool:
    """Returns whether diffusers makes its own tensors of ours, written by the names of CompVis/latent-diffusion."""
    import torch
    from diffusers.loaders import single_file_utils

    _, params = ours_of(published, side, "float32")
    written = maps.write(params, latent_diffusion.map_of(params))
    types = {"down_block_types": params["encoder"], "up_block_types": params["decoder"]}
    stages = {name: {key.split("_")[1] for key in half if key.endswith("_0")} for name, half in types.items()}
    state = {name: torch.from_numpy(tensor) for name, tensor in written.items()}
    found = single_file_utils.convert_ldm_vae_checkpoint(state, stages)
    tensors = published.tensors
    return found.keys() == tensors.keys() and all(np.array_equal(found[name], tensors[name]) for name in tensors)


def exported(published: Published, side: int) -> Any:
    """Returns diffusers' network of the config.json and the tensors that ours writes."""
    import diffusers
    import torch

    _, params = ours_of(published, side, "float32")
    model = {name.removeprefix("model."): value for name, value in published.fields.items()}
    options = diffusers_autoencoder.settings_of(model, (side, side, published.fields["data.channels"]))
    peer = getattr(diffusers, options.pop("_class_name"))(**options).eval()
    tensors = diffusers_autoencoder.write(params, model)
    peer.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
    return peer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="the cases whose name has this in it")
    parser.add_argument("--record", action="store_true", help="write the file of goldens, of the small cases")
    arguments = parser.parse_args()
    rows, kept = json.loads(OUT.read_text())["rows"] if OUT.exists() else {}, {}
    for name in CASES:
        if arguments.only in name:
            rows[name], found = compared(name)
            kept |= found if name.startswith("small") else {}
            print(name, json.dumps(rows[name]), flush=True)
            OUT.write_text(json.dumps(report({name: rows[name] for name in CASES if name in rows}), indent=1) + "\n")
    if arguments.record:
        np.savez_compressed(RECORDED, **kept)


def report(rows: dict[str, Any]) -> dict[str, Any]:
    """Returns what the file says."""
    return {
        "command": "python benchmarks/parity_autoencoder.py",
        "machine": f"{platform.machine()}, CPU",
        "versions": {name: metadata.version(name) for name in ("torch", "diffusers", "jax")},
        "what": "largest absolute difference of any number; weights are random",
        "rows": rows,
    }


if __name__ == "__main__":
    main()
