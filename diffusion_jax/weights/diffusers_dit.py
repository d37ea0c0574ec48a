"""Weights of a diffusers DiTTransformer2DModel, which has the same embeddings in each of its blocks.

Its function is that of `embedding_spacing` 'closed', but for an epsilon of 1e-5 in the norm before each MLP.
"""

from typing import Any

import numpy as np

from diffusion_jax import errors
from diffusion_jax.errors import UserError
from diffusion_jax.weights import maps, openai
from diffusion_jax.weights.dit import of_patches

FIRST = "transformer_blocks.0.norm1.emb."  # the embeddings in the first block, which the last layer takes too
PLACES = {"patches": "pos_embed.proj", "modulation": "proj_out_1", "out": "proj_out_2"}
PLACES |= {f"embedding_{i}": f"{FIRST}timestep_embedder.linear_{i + 1}" for i in range(2)}
PLACES |= {"label": f"{FIRST}class_embedder.embedding_table"}
PARTS = {"query": "attn1.to_q", "key": "attn1.to_k", "value": "attn1.to_v", "out": "attn1.to_out.0"}
PARTS |= {"mlp_0": "ff.net.0.proj", "mlp_1": "ff.net.2", "modulation": "norm1.linear"}


def read(tensors: maps.Tensors, like: Any) -> Any:
    """Returns the parameters of a model, from its state dict as NumPy arrays.

    Errors as for `maps.read`; UserError too where the blocks' embeddings differ, which is another network.
    """
    copies = {name: _first(name) for name in tensors if _first(name) in tensors and _first(name) != name}
    if other := [name for name, first in copies.items() if not np.array_equal(tensors[name], tensors[first])]:
        raise UserError(f"the weights have other embeddings in other blocks, and the network has one: {errors.some(other)}.")
    return maps.read({name: tensor for name, tensor in tensors.items() if name not in copies}, like, map_of(like))


def write(params: Any) -> dict[str, np.ndarray]:
    """Returns the state dict of a model: the inverse of `read`."""
    found = maps.write(params, map_of(params))
    blocks = [name for name in params if name.startswith("block_")]
    copies = {name.removeprefix(FIRST): tensor for name, tensor in found.items() if name.startswith(FIRST)}
    return found | {f"{_of_block(name)}.norm1.emb.{part}": copy for name in blocks for part, copy in copies.items()}


def map_of(like: Any) -> maps.Map:
    """Returns the map of a network's parameters."""
    places = PLACES | {name: _of_block(name) for name in like if name.startswith("block_")}

    def entry(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
        name = f"{maps.name_of(module, places, PARTS)}.{'bias' if leaf == 'bias' else 'weight'}"
        if leaf == "embedding":
            return maps.same(name, shape)
        if module == "out":
            return of_patches(name, shape)
        found = maps.torch(name, shape)
        return found._replace(view=openai.sines_first) if (module, leaf) == ("embedding_0", "kernel") else found

    return maps.of_leaves(like, entry)


def _of_block(name: str) -> str:
    return name.replace("block_", "transformer_blocks.")


def _first(name: str) -> str:
    """Returns the name of an embedding in the first block; of other tensors the name itself."""
    _, place, part = name.partition(".norm1.emb.")
    return FIRST + part if place else name
