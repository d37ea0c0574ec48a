"""The E(n)-equivariant graph network over sets of atoms. [Satorras et al. 2021; Hoogeboom et al. 2022, section 3.2]"""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.networks import layers
from diffusion_jax.networks.mlp import Layers

NUM_SPACE = 3  # channels that are places
FREQUENCIES = 2 * np.pi * 4.0 ** np.arange(4) / 15  # of distances, in radians per angstrom
NUM_NEIGHBOURS = 10.0  # what sums over other atoms are divided by, so that they are of unit size


class EGNN(nn.Module):
    """Layers in which each atom hears from every other one, by their distance, and is moved along the line between them.

    A rotation, a reflection or another order of the atoms changes the output as it does the input, and a translation not at
    all. Rows after the atoms have no influence, and their output is 0.

        m_ij = phi_e(h_i, h_j, d_ij, the d_ij of the input)
        r_i += sum_j (r_i - r_j) / (d_ij + 1) phi_x(m_ij)
        h_i += phi_h(h_i, sum_j sigmoid(phi_a(m_ij)) m_ij)

    Where the papers have d^2 as an input of phi_e, it is log(1 + d^2) and sinusoids of d here, of which a small change of a
    distance is learned sooner.

    Attributes:
        parts: what the layers are.
    """

    parts: Layers

    @nn.compact
    def __call__(self, x_t: Array, c_noise: Array, cond: Mapping[str, Array], *, train: bool) -> Array:
        """Returns the displacement of each atom, and numbers for its type. # [B, M, C]

        Args:
            x_t: places and types, [B, M, C].
            c_noise: the noise level, [B].
            cond: {"label": how many rows are atoms, int32 [B]}.
            train: not used.
        """
        width, dtype = self.parts.channels, self.parts.dtype
        is_atom = jnp.arange(x_t.shape[1]) < cond["label"][:, None]  # [B, M]
        are_two = is_atom[:, :, None, None] & is_atom[:, None, :, None] & ~jnp.eye(x_t.shape[1], dtype=bool)[..., None]
        start = r = x_t[..., :NUM_SPACE]
        emb = layers.embed_c_noise(c_noise, width, spacing="closed")
        h = layers.dense(width, dtype, name="types")(x_t[..., NUM_SPACE:].astype(dtype))
        h += layers.dense(width, dtype, name="noise")(emb)[:, None]
        first = None
        for i in range(self.parts.depth):
            away = r[:, :, None] - r[:, None]  # [B, M, M, 3]
            distance = jnp.sqrt(jnp.where(are_two, jnp.sum(away**2, axis=-1, keepdims=True), 1))
            near = [jnp.log1p(distance**2), jnp.sin(distance * FREQUENCIES), jnp.cos(distance * FREQUENCIES)]
            near = jnp.concatenate(near, axis=-1).astype(dtype)  # [B, M, M, 9]
            first = near if first is None else first
            m = layers.dense(width, dtype, name=f"near_{i}")(jnp.concatenate([near, first], axis=-1))
            m += layers.dense(width, dtype, name=f"one_{i}")(h)[:, :, None]
            m += layers.dense(width, dtype, name=f"other_{i}")(h)[:, None]
            m = nn.swish(layers.dense(width, dtype, name=f"message_{i}")(nn.swish(m)))
            pull = nn.swish(layers.dense(width, dtype, name=f"pull_{i}_0")(m))
            pull = nn.Dense(1, False, dtype, kernel_init=nn.initializers.zeros, name=f"pull_{i}_1")(pull)
            heard = jnp.where(are_two, m * nn.sigmoid(layers.dense(1, dtype, name=f"gate_{i}")(m)), 0)
            r += jnp.sum(jnp.where(are_two, away / (distance + 1) * pull.astype(r.dtype), 0), axis=2) / NUM_NEIGHBOURS
            heard = jnp.concatenate([h, jnp.sum(heard, axis=2) / NUM_NEIGHBOURS], axis=-1)
            heard = nn.swish(layers.dense(width, dtype, name=f"update_{i}_0")(heard))
            h += layers.dense(width, dtype, name=f"update_{i}_1")(heard)
        types = nn.Dense(x_t.shape[-1] - NUM_SPACE, dtype=dtype, kernel_init=nn.initializers.zeros, name="out")(h)
        return jnp.where(is_atom[..., None], jnp.concatenate([r - start, types.astype(r.dtype)], axis=-1), 0)
