"""What a network has to compute and to keep, without computing anything: python benchmarks/work.py

For the networks of three recipes, in bfloat16: operations of a forward pass and of a training step for one image, what of
them goes into attention and into the time embedding, and the bytes kept for the backward pass; the last two for every
`model.num_remat_stages` too. Writes benchmarks/work.json and prints it as two tables.
"""

import argparse
import functools
import importlib
import json
import pathlib
import sys

import jax
import jax.numpy as jnp

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from diffusion_jax.compose import memory, processes, training
from diffusion_jax.compose.config import Config
from diffusion_jax.runs import flops
from diffusion_jax.runs.shards import flatten
from diffusion_jax.training import start
from diffusion_jax.training import step as training_step


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = [row(name) for name in ("cifar10", "imagenet64", "celebahq256")]
    (ROOT / "benchmarks" / "work.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows), remat_table(rows), sep="\n\n")


def row(name: str) -> dict:
    config = config_of(name)
    network, shape = processes.network(config), processes.image_shape(config)
    params = jax.eval_shape(network.init, jax.random.key(0))
    x_t, condition = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    forward = flops.count(lambda *args: network.apply(*args, {}), params, x_t, condition)
    found = {"network": name, "num_params": sum(leaf.size for leaf in jax.tree.leaves(params)), "forward_flops": forward}
    found |= {"attention_flops": attention(params, shape[0]), "embedding_flops": embedding(params)}
    found["by_remat_levels"] = [by_remat_levels(name, num) for num in range(len(config.model.multipliers) + 1)]
    return found


def by_remat_levels(name: str, num: int) -> dict[str, int]:
    config = config_of(name, num_remat_stages=num)
    per_image = memory.activation_bytes(config, 2) - memory.activation_bytes(config, 1)
    return {"kept_bytes": per_image, "step_flops": step(config, processes.image_shape(config))}


def config_of(name: str, **model) -> Config:
    config = importlib.import_module(f"configs.{name}").get_config()
    config.model.update(dtype="bfloat16", **model)
    return Config.of_flat(flatten(config.to_dict()))


def step(config: Config, shape: tuple[int, int, int]) -> int:
    """Returns the operations of a training step for one image."""
    parts = training.parts(config)
    state = jax.eval_shape(functools.partial(start.make_state, parts=parts), jax.random.key(0))
    batch = {"x": jax.ShapeDtypeStruct((1, *shape), jnp.uint8), "cond": {}}
    return flops.count(functools.partial(training_step.train_step, parts=parts), state, batch)


def attention(params: dict, size: int) -> int:
    """Returns the operations of all attention blocks: their four projections, the scores, and the sums they weigh."""
    total, last = 0, max(int(name.split("_")[1]) for name in params if name.startswith("up_"))
    for name in [name for name in params if name.endswith("attention")]:
        level = last if name.startswith("middle") else int(name.split("_")[1])
        places, channels = (size >> level) ** 2, params[name]["query"]["kernel"].shape[-1]
        total += 4 * 2 * places * channels**2 + 2 * 2 * places**2 * channels
    return total


def embedding(params: dict) -> int:
    """Returns the operations of what depends on the time alone: the linear layers."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(2 * leaf.size for path, leaf in leaves if path[-1].key == "kernel" and leaf.ndim == 2)


def table(rows: list[dict]) -> str:
    columns = ["network", "parameters", "forward, GFLOP", "attention", "time", "step, GFLOP", "kept, MiB"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        share = {name: f"{100 * row[f'{name}_flops'] / row['forward_flops']:.2g}%" for name in ("attention", "embedding")}
        cells = [row["network"], f"{row['num_params']:,}", f"{row['forward_flops'] / 1e9:.1f}", *share.values()]
        whole = row["by_remat_levels"][0]
        cells += [f"{whole['step_flops'] / 1e9:.1f}", f"{whole['kept_bytes'] / 2**20:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def remat_table(rows: list[dict]) -> str:
    """Returns, for every number of levels, the bytes kept and the operations of a step, relative to none."""
    most = max(len(row["by_remat_levels"]) for row in rows)
    lines = [f"| num_remat_stages | {' | '.join(map(str, range(most)))} |", "|---" * (most + 1) + "|"]
    for row in rows:
        none = row["by_remat_levels"][0]
        for what, column in (("bytes", "kept_bytes"), ("operations", "step_flops")):
            cells = [f"{found[column] / none[column]:.2f}" for found in row["by_remat_levels"]]
            lines.append(f"| {row['network']}, {what} | {' | '.join(cells + [''] * (most - len(cells)))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
