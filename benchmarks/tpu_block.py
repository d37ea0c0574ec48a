"""What the TPU's compiler makes of one residual block, without a TPU: python benchmarks/tpu_block.py

The block of the CIFAR-10 network's first stage, 128 channels at 32 x 32, with 64 images, forward and backward, in each of
the ways below, for a v5e and a v6e. It reads from the compiled program:

    operations       of its products and convolutions, as the program is written
    bytes accessed   the compiler's own count
    bytes in HBM     of arguments and results of the program's operations that lie in the chip's large memory
    cycles           what the compiler estimates for each operation, added up; it knows nothing of waiting for memory

Bytes are relative to one activation, 16 MiB in bfloat16. Needs pip install "jax[tpu]"; a row takes half a minute to five
minutes of a processor. Rows that benchmarks/tpu_block.json has already are kept.
"""

import argparse
import contextlib
import importlib.metadata
import json
import pathlib
import re
import sys
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from diffusion_jax.compose import stored
from diffusion_jax.networks import layers
from diffusion_jax.runs import flops, sharding
from diffusion_jax.tools import plan
from diffusion_jax.tools.plan import traffic

RESULTS = ROOT / "benchmarks" / "tpu_block.json"
BATCH, SIZE, CHANNELS = 64, 32, 128
TOPOLOGIES = ("v5e:1x1", "v6e:1x1")


class DropoutAgain(nn.Module):
    """Flax's dropout, whose mask the compiler may compute wherever it is read."""

    rate: float

    @nn.compact
    def __call__(self, x, train):
        return nn.Dropout(self.rate, deterministic=not train, name="flax")(x)


class NoNorm(layers.GroupNorm):
    """The identity."""

    @nn.compact
    def __call__(self, x):
        return x


class NormOfProducts(layers.GroupNorm):
    """Group normalisation that joins channels by a product with a matrix of zeros and 1 / n."""

    def _of_group(self, by_channel):
        channels = by_channel.shape[-1]
        size = channels // layers.count_groups(channels, self.num_groups, self.min_channels)
        group = jnp.arange(channels) // size
        return jnp.matmul(by_channel, (group[:, None] == group) / size, precision="highest")


class NormInDtype(layers.GroupNorm):
    """Group normalisation whose multiply-add is in the dtype of the network."""

    @nn.compact
    def __call__(self, x):
        space, channels = tuple(range(1, x.ndim - 1)), x.shape[-1]
        scale, bias = (
            self.param("scale", nn.initializers.ones, channels),
            self.param("bias", nn.initializers.zeros, channels),
        )
        mean, square = (
            jnp.mean(value, space, keepdims=True) for value in (x.astype(jnp.float32), x.astype(jnp.float32) ** 2)
        )
        group_mean = self._of_group(mean)
        variance = self._of_group(square - mean**2 + (mean - group_mean) ** 2)
        gain = scale * jax.lax.rsqrt(jnp.maximum(variance, 0) + self.epsilon)
        return x * gain.astype(self.dtype) + (bias - group_mean * gain).astype(self.dtype)


class NamedConv(nn.Conv):
    """A convolution whose result has a name."""

    @nn.compact
    def __call__(self, x):
        return checkpoint_name(super().__call__(x), "convolution")


def remat_but_convolutions():
    """Returns the block that keeps its convolutions' results alone for the backward pass."""
    policy = jax.checkpoint_policies.save_only_these_names("convolution")
    return nn.remat(layers.ResBlock, static_argnums=(3,), policy=policy)


VARIANTS = {  # -> {what of `layers` it changes: by what}
    "as it is": dict,
    "mask computed where it is read": lambda: {"Dropout": DropoutAgain},
    "no norm": lambda: {"GroupNorm": NoNorm},
    "groups joined by a product": lambda: {"GroupNorm": NormOfProducts},
    "multiply-add in bfloat16": lambda: {"GroupNorm": NormInDtype},
    "convolutions kept alone": lambda: {"nn.Conv": NamedConv, "ResBlock": remat_but_convolutions()},
}
ROWS = [  # (variant, dtype, precision, dropout)
    ("mask computed where it is read", "bfloat16", "default", 0.1),
    ("as it is", "bfloat16", "default", 0.1),
    ("as it is", "bfloat16", "default", 0.0),
    *[(name, "bfloat16", "default", 0.0) for name in list(VARIANTS)[2:]],
    *[("as it is", "float32", precision, 0.0) for precision in ("default", "high", "highest")],
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a text that the rows to compile have")
    only = parser.parse_args().only
    found = (
        json.loads(RESULTS.read_text()) if RESULTS.exists() else {"command": "python benchmarks/tpu_block.py", "rows": []}
    )
    for topology, row in [(topology, row) for topology in TOPOLOGIES for row in ROWS]:
        names = dict(zip(("topology", "variant", "dtype", "precision", "dropout"), (topology, *row), strict=True))
        known = any(names.items() <= other.items() for other in found["rows"])
        if known or only not in " ".join(map(str, names.values())):
            continue
        found["versions"] = stored.versions() | {"libtpu": importlib.metadata.version("libtpu")}
        found["rows"].append(names | measured(**names))
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found["rows"]))


def measured(topology: str, variant: str, dtype: str, precision: str, dropout: float) -> dict:
    """Returns the counts of a block's forward and backward pass."""
    mesh = sharding.make_mesh(devices=plan.devices_of(topology))
    style = layers.Style(32, 1e-6, False, dropout, jnp.dtype(dtype))
    with contextlib.ExitStack() as stack:
        for name, value in VARIANTS[variant]().items():
            stack.enter_context(mock.patch(f"diffusion_jax.networks.layers.{name}", value))
        step, shapes = block_step(layers.ResBlock(CHANNELS, style), jnp.dtype(dtype), precision)
        arguments = sharding.with_shardings(shapes, sharding.replicated(mesh))
        compiled = jax.jit(step).lower(*arguments).compile()
        return {
            "flops": flops.count(step, *arguments),
            "bytes_accessed": compiled.cost_analysis()["bytes accessed"],
            "hbm_bytes": traffic.hbm_bytes(compiled.as_text()),
            "cycles": cycles(compiled.as_text()),
        }


def block_step(block: nn.Module, dtype: jnp.dtype, precision: str) -> tuple:
    """Returns (params, x, embedding, gradient, key) -> (output, gradients), and the shapes of these."""
    x = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, CHANNELS), dtype)
    embedding = jax.ShapeDtypeStruct((BATCH, 4 * CHANNELS), dtype)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(lambda key, x, embedding: block.init(key, x, embedding, False), key, x, embedding)

    def step(params, x, embedding, gradient, key):
        with jax.default_matmul_precision(precision):
            rngs = {"dropout": key}
            output, back = jax.vjp(lambda *inputs: block.apply(*inputs, True, rngs=rngs), params, x, embedding)
            return output, back(gradient)

    return step, (params, x, embedding, x, key)


def cycles(text: str) -> int:
    """Returns what a compiled program's operations take, by the compiler's estimate of each."""
    entry = text.split("\nENTRY")[1].split("\n}")[0]
    return sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', entry)))


def table(rows: list[dict]) -> str:
    """Returns the rows as markdown."""
    lines = ["| chip | variant | dtype, precision | dropout | bytes accessed | in HBM | thousand cycles |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in rows:
        activation = BATCH * SIZE**2 * CHANNELS * jnp.dtype(row["dtype"]).itemsize
        accessed, hbm = (f"{row[name] / activation:.1f}" for name in ("bytes_accessed", "hbm_bytes"))
        lines.append(
            f"| {row['topology'].split(':')[0]} | {row['variant']} | {row['dtype']}, {row['precision']} | "
            f"{row['dropout']} | {accessed} | {hbm} | {row['cycles'] / 1e3:,.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
