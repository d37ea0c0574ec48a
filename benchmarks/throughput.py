"""How fast training and sampling are, beside PyTorch: python benchmarks/throughput.py [--limit=SECONDS]

The exact CIFAR-10 network, one of improved DDPM's for 64 pixels and Ho et al.'s for 256, each against diffusers' U-Net of
the same shape on the same device in the same run, eager and under torch.compile (see torch_peer.py). The sides take turns,
each turn ends when the device has finished, and the median of the turns counts. What a chip can do is measured too, as a
large matrix product.

Writes benchmarks/throughput_<device>.json after every row, the most interesting rows first, and a table beside it. Cells
that the file has, of the same hardware and versions, stay unless they are measured again: several runs fill one table.
On a CPU the first network runs in small batches, and two smaller ones, in float32. The other sides need torch and diffusers;
where one of them is missing, or fails, its rows are left out, and the file says so.
"""

import argparse
import functools
import importlib
import json
import os
import pathlib
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch wants memory of the same device

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import profiles

from diffusion_jax import streams
from diffusion_jax.compose import processes, sampling, stored, training
from diffusion_jax.compose.config import Config
from diffusion_jax.runs import compiling, flops, hardware, sharding
from diffusion_jax.runs.shards import flatten
from diffusion_jax.training import start
from diffusion_jax.training import step as training_step

NUM_IMAGES = 4096  # on the device, random: what they show makes no difference


class Cell(NamedTuple):
    """Something to measure: a network at a batch size, doing one of `Ours`'s and the peer's tasks."""

    network: str
    batch_size: int
    task: str  # 'train', 'ddim50' or 'ancestral1000'


GPU_CELLS = [
    *[Cell("cifar10", 128, task) for task in ("train", "ddim50")],
    *[Cell("cifar10", batch_size, "train") for batch_size in (512, 1024, 256)],
    Cell("cifar10", 512, "ddim50"),
    Cell("cifar10", 128, "ancestral1000"),
    *[Cell("imagenet64", 128, task) for task in ("train", "ddim50")],
    *[Cell("celebahq256", 16, task) for task in ("train", "ddim50")],
]
CPU_CELLS = [
    Cell(name, size, task)
    for task in ("train", "forward")
    for name, size in (("cifar10", 4), ("digits", 64), ("fashion_mnist", 32), ("cifar10", 16))
]
SAMPLED = {"ddim50": 50, "ancestral1000": 1000}
STEPS = {"accelerator": {"train": 20, "forward": 20, **SAMPLED}, "cpu": {"train": 1, "forward": 3, **SAMPLED}}  # in one turn
SIDES = ("diffusion_jax", "torch eager", "torch compiled", "torch max-autotune")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=540, help="seconds after which nothing new is begun")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--sides", default=",".join(SIDES[:3]), help="those to measure, with commas between")
    parser.add_argument("--cells", default="", help="network:batch:task, with commas between, instead of all; see STEPS")
    parser.add_argument("--out", default="", help="the JSON file, instead of benchmarks/throughput_<device>.json")
    arguments = parser.parse_args()
    start, device = time.monotonic(), jax.devices()[0]
    cells = CPU_CELLS if device.platform == "cpu" else GPU_CELLS
    if arguments.cells:
        cells = [
            Cell(name, int(size), task) for name, size, task in (cell.split(":") for cell in arguments.cells.split(","))
        ]
    result = conditions(device) | {"missing": missing_packages(), "failed": {}, "rows": []}
    wanted = [side for side in arguments.sides.split(",") if side == SIDES[0] or not result["missing"]]
    kind = re.sub(r"[^a-z0-9]+", "_", device.device_kind.lower())
    out = pathlib.Path(arguments.out or ROOT / "benchmarks" / f"throughput_{kind}.json")
    result["rows"] = rows_kept(out, result)
    sides: dict[tuple[str, str], Any] = {}
    for cell in cells:
        prepared: dict[str, tuple[Callable, dict]] = {}
        for included in range(1 if cell == cells[0] else len(wanted), len(wanted) + 1):  # the first rows come soon
            if time.monotonic() - start > arguments.limit:
                break
            rows = measure(cell, wanted[:included], sides, prepared, arguments.rounds, result)
            result["rows"] = [row for row in result["rows"] if row["cell"] != cell._asdict()] + rows
            out.write_text(json.dumps(result, indent=2) + "\n")
    out.with_suffix(".md").write_text(table(result))
    print(table(result))


def rows_kept(out: pathlib.Path, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of an earlier run on the same hardware with the same versions."""
    earlier = json.loads(out.read_text()) if out.exists() else {}
    return earlier["rows"] if all(earlier.get(name) == result[name] for name in ("hardware", "versions")) else []


def measure(
    cell: Cell, names: list[str], sides: dict, prepared: dict, rounds: int, result: dict[str, Any]
) -> list[dict[str, Any]]:
    """Returns a row for each side: images a second, the median of turns taken one after the other.

    Args:
        cell: what to measure.
        names: of the sides.
        sides: those made so far, by (name, network); gets the others.
        prepared: name -> (what takes a turn, the row so far); gets the others.
        rounds: turns of each side.
        result: of the whole run: its peaks are what a row is held against; a side that fails is named there.
    """
    num_steps = STEPS["cpu" if jax.default_backend() == "cpu" else "accelerator"][cell.task]
    for name in [name for name in names if name not in prepared]:
        print(f"{name}: {cell}", flush=True)
        try:
            if (name, cell.network) not in sides:
                sides[name, cell.network] = make_side(name, config_of(cell.network))
            prepared[name] = first_call(sides[name, cell.network], name, cell, num_steps)
        except Exception as error:  # whatever it is, the other rows shall be had
            result["failed"][f"{name}, {':'.join(map(str, cell))}"] = repr(error)[:500]
    seconds = {name: [] for name in names if name in prepared}
    for _ in range(rounds):
        for name in seconds:
            began, began_cpu = time.perf_counter(), time.process_time()
            prepared[name][0]()
            seconds[name].append((time.perf_counter() - began, time.process_time() - began_cpu))
    return [finished(prepared[name][1], seconds[name], num_steps, result["peaks"]) for name in seconds]


def first_call(side: Any, name: str, cell: Cell, num_steps: int) -> tuple[Callable, dict[str, Any]]:
    """Returns what takes a turn, and the row so far."""
    began = time.monotonic()
    call = side.prepare(cell, num_steps)
    call()
    row = {"side": name, "cell": cell._asdict(), "first_call_s": time.monotonic() - began}
    return call, row | side.facts(cell) | side.profile(call)


def finished(
    row: dict[str, Any], times: list[tuple[float, float]], num_steps: int, peaks: dict[str, float]
) -> dict[str, Any]:
    """Returns a row with what follows from its times, each (seconds, seconds of all the host's cores together)."""
    seconds, of_cores = zip(*times, strict=True)
    step = statistics.median(seconds) / num_steps
    batch_size, task = row["cell"]["batch_size"], row["cell"]["task"]
    steps_an_image = num_steps if task.startswith(("ddim", "ancestral")) else 1
    per_second = row["flops_per_step"] / step
    return row | {
        "ms_per_step": 1e3 * step,
        "images_per_s": batch_size / step / steps_an_image,
        "cpu_ms_per_step": 1e3 * statistics.median(of_cores) / num_steps,
        "spread": (max(seconds) - min(seconds)) / statistics.median(seconds),
        **{f"of_{name}": per_second / peak for name, peak in peaks.items()},
    }


def config_of(network: str) -> Config:
    """Returns a config, in bfloat16 but for a CPU, with epsilon predicted and nothing learned of the variance."""
    config = importlib.import_module(f"configs.{network}").get_config()
    config.model.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    config.model.learned_variance = False
    config.loss.name, config.sample.variance, config.train.grad_clip = "simple", "large", 1.0
    return Config.of_flat(flatten(config.to_dict()))


def make_side(name: str, config: Config) -> Any:
    if name == SIDES[0]:
        return Ours(config)
    import torch_peer

    return Peer(torch_peer.TorchPeer(config, torch_peer.MODES[name]))


def random_images(config: Config) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (NUM_IMAGES // 4, *processes.image_shape(config)), np.uint8)


def times_of(config: Config, cell: Cell) -> np.ndarray:
    """Returns the levels that a sampler visits."""
    return sampling.grid_times(with_cell(config, cell))


def with_cell(config: Config, cell: Cell) -> Config:
    how = {"sampler": "ddim", "grid": "trailing", "num_steps": 50}
    if cell.task == "ancestral1000":
        how = {"sampler": "ancestral", "grid": "trailing", "num_steps": config.process.num_steps}
    return config.with_values("sample", **how, eta=0.0, clip="static")


class Ours:
    """The training step and the sampler that main.py runs."""

    def __init__(self, config: Config, options: dict[str, Any] | None = None):
        self.config, self.parts, self.mesh = config, training.parts(config), sharding.make_mesh(devices=jax.devices()[:1])
        self.options = options
        make_state = functools.partial(start.make_state, parts=self.parts)
        began = time.monotonic()
        self.state = jax.block_until_ready(jax.jit(make_state)(streams.key(0, "init")))
        self.init_s = time.monotonic() - began
        self.compiled = None

    def facts(self, cell: Cell) -> dict[str, Any]:
        sizes = self.compiled.memory_analysis()
        return {
            "num_params": sum(leaf.size for leaf in jax.tree.leaves(self.state.params)),
            "flops_per_step": self.num_flops,
            "init_s": self.init_s,
            "compile_s": self.compile_s,
            "memory_bytes": sizes.argument_size_in_bytes + sizes.temp_size_in_bytes,
        }

    profile = staticmethod(profiles.of_jax)

    def prepare(self, cell: Cell, num_steps: int) -> Callable[[], None]:
        """Returns what takes a number of steps, or draws one batch in so many steps, and waits for the device."""
        prepare = {"train": self._train, "forward": self._forward}.get(cell.task, self._sample)
        return prepare(cell, num_steps)

    def _jit(self, fn: Callable) -> Callable:
        return jax.jit(fn, compiler_options=compiling.options(self.mesh))

    def _compile(self, fn: Callable, *arguments) -> Callable:
        began = time.monotonic()
        self.compiled = fn.lower(*arguments).compile(compiler_options=self.options)
        self.compile_s = time.monotonic() - began
        return self.compiled

    def _train(self, cell: Cell, num_steps: int) -> Callable[[], None]:
        where = jax.tree.map(lambda leaf: sharding.replicated(self.mesh), self.state)
        self.state = jax.device_put(self.state, where)
        images = random_images(self.config)
        store = sharding.put_global({"x": images, "cond": {}}, sharding.replicated(self.mesh))
        batch_of = lambda store, item: jax.tree.map(lambda column: column[item], store)  # noqa: E731
        step = training_step.compile_step(self.parts, batch_of, self.mesh, where, num_steps=num_steps)
        shape = (cell.batch_size,) if num_steps == 1 else (num_steps, cell.batch_size)
        numbers = np.random.default_rng(0).integers(0, len(images), shape, np.int32)
        item = jax.device_put(numbers, sharding.batched(self.mesh, axis=len(shape) - 1))
        self.num_flops = flops.count(step, self.state, store, item) / num_steps
        step = self._compile(step, self.state, store, item)

        def take() -> None:
            self.state, metrics = step(self.state, store, item)
            jax.block_until_ready((self.state, metrics))

        return take

    def _forward(self, cell: Cell, num_steps: int) -> Callable[[], None]:
        apply = lambda params, x_t, t: self.parts.network.apply(params, x_t, t, {})  # noqa: E731
        arguments = (
            self.state.params,
            jnp.zeros((cell.batch_size, *processes.image_shape(self.config))),
            jnp.zeros(cell.batch_size),
        )
        self.num_flops = flops.count(apply, *arguments)
        forward = self._compile(self._jit(apply), *arguments)
        return lambda: [forward(*arguments).block_until_ready() for _ in range(num_steps)]

    def _sample(self, cell: Cell, num_steps: int) -> Callable[[], None]:
        draw = sampling.make_generate(with_cell(self.config, cell))
        arguments = self.state.params, jnp.int32(0), jnp.arange(cell.batch_size)
        self.num_flops = flops.count(draw, *arguments) / num_steps
        draw = self._compile(self._jit(draw), *arguments)
        return lambda: jax.block_until_ready(draw(*arguments))


class Peer:
    """PyTorch's side, with the same tasks."""

    def __init__(self, peer: Any):
        self.peer = peer

    profile = staticmethod(profiles.of_torch)

    def facts(self, cell: Cell) -> dict[str, Any]:
        return {
            "num_params": self.peer.num_params,
            "flops_per_step": self.peer.flops(cell.batch_size) * (3 if cell.task == "train" else 1),
            "memory_bytes": self.peer.peak_memory(),
        }

    def prepare(self, cell: Cell, num_steps: int) -> Callable[[], None]:
        self.peer.peak_memory()
        if cell.task == "train":
            steps = self.peer.trainer(random_images(self.peer.config), cell.batch_size)
            return lambda: steps(num_steps)
        if cell.task == "forward":
            return functools.partial(self.peer.forward, cell.batch_size, num_steps)
        times = times_of(self.peer.config, cell)
        draw = self.peer.sampler(times, cell.batch_size, ancestral=cell.task.startswith("ancestral"))
        return lambda: draw(1)


def missing_packages() -> str:
    """Returns which package of the other sides there is not; empty where all are."""
    for name in ("torch", "diffusers"):
        try:
            importlib.import_module(name)
        except ImportError:
            return name
    return ""


def conditions(device: jax.Device) -> dict[str, Any]:
    """Returns what was measured on, and the most that it can do: a matrix product's operations a second, and published."""
    peaks = {"matrix_product": matrix_product_flops(device)}
    if device.device_kind in hardware.PUBLISHED:
        peaks["published_peak"] = hardware.PUBLISHED[device.device_kind].bfloat16
    versions = stored.versions()
    for name in ("torch", "diffusers"):
        if not missing_packages():
            versions[name] = importlib.import_module(name).__version__
    return {
        "command": "python benchmarks/throughput.py",
        "hardware": hardware_of(device),
        "peaks": peaks,
        "versions": versions,
    }


def hardware_of(device: jax.Device) -> str:
    return f"{device.device_kind}, {os.cpu_count()} CPU cores ({platform.machine()})"


def matrix_product_flops(device: jax.Device) -> float:
    """Returns the operations a second of a large matrix product, the best of five."""
    size, dtype = (2048, jnp.float32) if device.platform == "cpu" else (8192, jnp.bfloat16)
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)  # a chip multiplies ones faster
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def table(result: dict[str, Any]) -> str:
    """Returns the rows as markdown; the ratio is ours against each other side."""
    lines = [f"{result['hardware']}; `{result['command']}`", ""]
    columns = ["network", "batch", "task", "side", "ms a step", "of all cores", "images/s", "ours / this"]
    columns += ["of a matrix product", "in products", "GiB", "first call"]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    ours = {tuple(row["cell"].values()): row["images_per_s"] for row in result["rows"] if row["side"] == SIDES[0]}
    for row in result["rows"]:
        cell, nan = tuple(row["cell"].values()), float("nan")
        memory = "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**30:.2f}"
        cpu = f"{row['cpu_ms_per_step']:.4g}" if "cpu_ms_per_step" in row else ""
        products = f"{100 * row['products_of_device_time']:.0f}%" if "products_of_device_time" in row else ""
        shown = [*cell, row["side"], f"{row['ms_per_step']:.4g}", cpu, f"{row['images_per_s']:.4g}"]
        shown += [f"{ours.get(cell, nan) / row['images_per_s']:.2f}", f"{100 * row['of_matrix_product']:.0f}%"]
        shown += [products, memory]
        lines.append(f"| {' | '.join(map(str, shown))} | {row['first_call_s']:.0f} s |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
