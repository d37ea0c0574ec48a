"""Weights of EDM's SongUNet, its DDPM++ and NCSN++, as the state dict of an `EDMPrecond`. [Karras et al. 2022, EDM]

Their files are pickles that carry code, which nothing here executes. In EDM's own folder, three lines write the tensors:

    import pickle, torch
    net = pickle.load(open("edm-cifar10-32x32-uncond-vp.pkl", "rb"))["ema"]
    torch.save(net.state_dict(), "edm-cifar10-32x32-uncond-vp.pth")
"""

import re
from typing import Any

import numpy as np

from diffusion_jax.weights import maps, sources
from diffusion_jax.weights.sources import Published, Source

PARTS = {"norm1": "norm0", "conv1": "conv0", "embedding": "affine", "norm2": "norm1", "conv2": "conv1", "shortcut": "skip"}
PARTS |= {"norm": "norm2", "query": "qkv", "key": "qkv", "value": "qkv", "out": "proj"}
PROCESS = {"process.kind": "ve", "predicts": "edm", "loss.time_density": "log_normal"}
SAMPLING = {"sample.sampler": "heun", "sample.grid": "karras", "sample.clip": "none"}


def published(source: Source) -> Published | None:
    """Returns a SongUNet with EDM's preconditioning; None for another model."""
    found = {f"model.{name}": tensor for name, tensor in sources.part(source.tensors, "map_layer0.weight").items()}
    sides = {int(match[1]) for name in found if (match := re.match(r"model\.enc\.(\d+)x\1_conv\.weight", name))}
    if len(sides) != 1 or not any(name.endswith("_aux_norm.weight") for name in found):
        return None
    [side] = sides
    fields = _structure(found, side) | PROCESS | SAMPLING | {"sample.num_steps": 18 if side == 32 else 40}
    notes = ("the preconditioning is taken to be EDM's, which the weights do not show.",)
    return Published(fields, of_network(found), lambda like, model: map_of(like, resolution=side), notes)


def _structure(found: maps.Tensors, side: int) -> dict[str, Any]:
    """Returns the fields of the network."""
    first = found[f"model.enc.{side}x{side}_conv.weight"]
    blocks = [re.fullmatch(r"model\.enc\.(\d+)x\d+_block(\d+)\.conv1\.weight", name) for name in found]
    sizes = sorted({int(match[1]) for match in blocks if match}, reverse=True)
    heads = [f"model.enc.{size}x{size}_block0" for size in sizes]
    filters = [np.ravel(tensor[0, 0, 0]) for name, tensor in found.items() if name.endswith(".resample_filter")]
    return {
        "data.channels": first.shape[1],
        "data.image_size": (side, side),
        "model.kind": "ncsnpp",
        "model.channels": len(first),
        "model.multipliers": tuple(len(found[f"{head}.conv1.weight"]) / len(first) for head in heads),
        "model.num_res_blocks": 1 + max(int(match[2]) for match in blocks if match),
        "model.attention_stages": tuple(i for i, head in enumerate(heads) if f"{head}.qkv.weight" in found),
        "model.embedding": "fourier" if "model.map_noise.freqs" in found else "positional",
        "model.resample_filter": tuple(round(float(tap / filters[0][0])) for tap in filters[0]) if filters else (1, 1),
        "model.progressive_input": "residual" if any("_aux_residual." in name for name in found) else "none",
        "model.num_classes": found["model.map_label.weight"].shape[1] if "model.map_label.weight" in found else 0,
    }


def of_network(tensors: maps.Tensors) -> dict[str, np.ndarray]:
    """Returns the state dict without its filters, which are the network's `resample_filter`, and what training augments."""
    others = (".resample_filter", "model.map_augment.weight")
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(others)}


def map_of(like: Any, *, resolution: int) -> maps.Map:
    """Returns the map of a network's parameters, for images of a side, which is in their names."""
    places = _places(like, resolution)

    def entry(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
        name, part = f"model.{maps.name_of(module, places, PARTS)}", module.rpartition(".")[2]
        if leaf == "frequencies":
            return maps.same(f"{name}.freqs", shape)
        if part in maps.QKV:  # theirs has q, k and v of a channel side by side, as if each channel were a head
            return maps.torch_qkv(name, leaf, shape, part, num_heads=shape[-1], heads_first=True)
        return maps.torch(name, leaf, shape)

    return maps.of_leaves(like, entry)


def _places(like: Any, resolution: int) -> maps.Names:
    """Returns their name of each of our blocks; an attention is a part of the block before it."""
    last = max(int(name.split("_")[1]) for name in like if name.startswith("up_"))
    final = max(int(name.split("_")[2]) for name in like if name.startswith("up_0_") and name[5:].isdecimal())

    def of_stage(way: str, stage: str, place: str, *attention: str) -> str:
        i, name = int(stage), f"block{place}"
        if way == "down":  # what halves an image is named after the half
            i += place in ("sample", "input")
            name = {"sample": "down", "input": "aux_residual"}.get(place, name)
            return f"enc.{resolution >> i}x{resolution >> i}_{name}"
        i -= place == "sample"
        name = {"sample": "up", "attention": f"block{final}"}.get(place, name)
        return f"dec.{resolution >> i}x{resolution >> i}_{name}"

    places = {"fourier": "map_noise", "label": "map_label", "embedding_0": "map_layer0", "embedding_1": "map_layer1"}
    smallest = f"dec.{resolution >> last}x{resolution >> last}"
    places |= {"middle_0": f"{smallest}_in0", "middle_attention": f"{smallest}_in0", "middle_1": f"{smallest}_in1"}
    places |= {"conv_in": f"enc.{resolution}x{resolution}_conv"}
    for i in range(last + 1):
        size = f"dec.{resolution >> i}x{resolution >> i}"
        places |= {f"norm_out_{i}": f"{size}_aux_norm", f"conv_out_{i}": f"{size}_aux_conv"}
    return places | maps.of_stages(like, of_stage)
