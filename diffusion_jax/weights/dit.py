"""Weights of a Diffusion Transformer of facebookresearch/DiT, and what they say of the network."""

import math
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.networks.dit import SIZES, positions
from diffusion_jax.weights import maps, sources
from diffusion_jax.weights.sources import Published, Source

TABLE = "pos_embed"  # of positions, a constant that is stored among the weights
TABLE_ERROR = 5e-4  # of a sine that was stored in half precision
PLACES = {"patches": "x_embedder.proj", "embedding_0": "t_embedder.mlp.0", "embedding_1": "t_embedder.mlp.2"}
PLACES |= {
    "label": "y_embedder.embedding_table",
    "modulation": "final_layer.adaLN_modulation.1",
    "out": "final_layer.linear",
}
DIFFUSION = {"process.num_steps": 1000, "process.schedule": "linear", "sample.grid": "iddpm", "sample.num_steps": 250}
DIFFUSION |= {"sample.clip": "none"}  # as their code samples
PARTS = {"out": "attn.proj", "mlp_0": "mlp.fc1", "mlp_1": "mlp.fc2", "modulation": "adaLN_modulation.1"}


def published(source: Source) -> Published | None:
    """Returns a DiT; None for another model. UserError where its table of positions is another than ours."""
    found = sources.part(source.tensors, "x_embedder.proj.weight")
    if not found or "t_embedder.mlp.0.weight" not in found:
        return None
    width, channels, size, _ = found["x_embedder.proj.weight"].shape
    num_labels, outputs = (len(found[f"{PLACES[name]}.weight"]) for name in ("label", "out"))
    heads = {options["channels"]: options["num_heads"] for options in SIZES.values()}.get(width)
    fields = {"model.depth": sum(name.endswith(".attn.qkv.weight") for name in found), "model.num_classes": num_labels - 1}
    fields |= {"model.num_heads": heads} if heads else {}
    fields |= fields_of(width, channels, size, outputs // size**2) | {"model.embedding_spacing": "half_open"}
    needed = () if heads else (("model.num_heads",),)
    if TABLE in found:
        check_table(found[TABLE])
        fields |= {"data.image_size": (math.isqrt(found[TABLE].shape[1]) * size,) * 2}
    else:
        needed += (("data.image_size",),)
    tensors = {name: tensor for name, tensor in found.items() if name != TABLE}
    return Published(fields | DIFFUSION, tensors, map_of, notes_on(channels), needed)


def fields_of(width: int, channels: int, patch_size: int, out_channels: int) -> dict[str, Any]:
    """Returns the fields of a transformer with labels, one of which is "no label"."""
    learned = out_channels == 2 * channels
    return {
        "data.channels": channels,
        "loss.name": "hybrid" if learned else "simple",
        "model.kind": "dit",
        "model.channels": width,
        "model.patch_size": patch_size,
        "model.null_label": True,
        "model.learned_variance": learned,
        "model.dropout": 0.0,
        "sample.variance": "learned_range" if learned else "large",
    }


def notes_on(channels: int) -> tuple[str, ...]:
    """Returns sentences on what was assumed of a transformer, and on what it draws."""
    latents = f"the network draws {channels} channels: latents of an autoencoder, whose workdir is for data.codec."
    return ("the last label is taken to be 'no label'.", *[latents] * (channels not in (1, 3)))


def map_of(like: Any, model: Any = None) -> maps.Map:
    """Returns the map of a network's parameters."""
    places = PLACES | {name: name.replace("block_", "blocks.") for name in like if name.startswith("block_")}

    def entry(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
        parent, _, part = module.rpartition(".")
        if part in maps.QKV:  # whose heads lie one after the other, as in ours
            return maps.torch_qkv(f"{places[parent]}.attn.qkv", leaf, shape, part, num_heads=1, heads_first=False)
        return entry_of(maps.name_of(module, places, PARTS), module, leaf, shape)

    return maps.of_leaves(like, entry)


def entry_of(theirs: str, module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
    """Returns the entry of a tensor that is one parameter of ours, in the module that the code base names `theirs`."""
    if module == "out":
        return _of_patches(f"{theirs}.{maps.TORCH[leaf]}", shape)
    return maps.torch(theirs, leaf, shape, cosines_first=module == "embedding_0")


def _of_patches(name: str, shape: tuple[int, ...]) -> maps.Entry:
    """Returns the entry of a layer whose output is patches: theirs [p p C, in], ours [in, p, p, C]; and of its bias."""
    patch, rest = shape[-3:], shape[:-3]

    def view(tensor: np.ndarray) -> np.ndarray:
        return np.moveaxis(tensor.reshape(*patch, *rest), (0, 1, 2), (-3, -2, -1))

    return maps.Entry(name, (math.prod(patch), *rest), view)


def check_table(table: np.ndarray) -> None:
    """Raises UserError where a table of positions, [1, T, D], is not that of a square image of T patches."""
    *_, num, channels = (0, 0, *table.shape)
    side = math.isqrt(num)
    expected = positions(side, side, channels).reshape(-1, channels)
    if expected.size != table.size or not np.allclose(table.reshape(expected.shape), expected, rtol=0, atol=TABLE_ERROR):
        raise UserError(
            f"tensor {TABLE!r} {list(table.shape)} is not the table of sines and cosines of a square image's patches; "
            "learned positions are not supported."
        )
