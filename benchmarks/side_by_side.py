"""The same training in PyTorch: whether diffusers, from our first weights on our draws, has our losses and our images.

    python3 -m venv peer && peer/bin/pip install torch diffusers
    python benchmarks/side_by_side.py --name=digits --folder=DIR --peer=peer/bin/python --config=configs/digits.py

Results name the whole commands that made them. On cores with other work, OMP_NUM_THREADS=1 made the other side many times
faster.

The initial network is exported by tools.export. Ours is trained by the compiled step of --mode=train, and the images, the
timesteps and the noises that it drew are kept. diffusers' UNet2DModel is trained on them by torch.optim.Adam, torch's
clipping by global norm, and diffusers' warm-up, decay and EMA (benchmarks/side_by_side_peer.py, which --peer runs). All is
float32 without dropout. Then both draw images by DDIM from the same x_T with their EMA weights.

Training amplifies rounding. The control for that is ours once more, with each initial parameter moved to a neighbouring
float32 number. What is beyond the control is a difference of the two sides: docs/reliability.md names them.

Writes benchmarks/side_by_side_<name>.json and docs/images/side_by_side_<name>.png. What is in the folder already is not made
again. Any --config.<field> may follow; warm-up steps must be fewer than all steps.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from diffusion_jax import process, streams
from diffusion_jax.compose import checks, command, evaluating, inputs, processes, sampling, stored, training
from diffusion_jax.compose.config import Config
from diffusion_jax.data import feed
from diffusion_jax.errors import UserError
from diffusion_jax.losses import Loss
from diffusion_jax.runs import checkpoint, logs, pictures, sharding, storage
from diffusion_jax.tools import export
from diffusion_jax.training import start, step
from diffusion_jax.training.state import TrainState
from diffusion_jax.weights import diffusers, maps

# What both sides have: no dropout, diffusers' EMA and the DDIM of diffusers, which keeps the predicted eps.
SAME = {"model.dropout": 0.0, "train.ema_warmup": "on", "train.num_microbatches": 1, "sample.sampler": "ddim"}
SAME |= {"sample.clip": "static_keep_eps", "sample.grid": "trailing", "data.held_out": "", "likelihood.held_out": False}
KEPT_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # after which parameters are compared
TOLERANCES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
NUM_SHOWN = 16  # images of each side in the picture
Arrays = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the result")
    parser.add_argument("--folder", required=True, help="where both sides leave what the other needs")
    parser.add_argument("--peer", required=True, help="a Python with torch and diffusers")
    flags, rest = parser.parse_known_args()
    folder = pathlib.Path(flags.folder).resolve()
    try:
        config = config_of(rest)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "x_T.npz").exists():
            train_ours(config, folder)
    except UserError as error:
        parser.error(str(error))
    if not (folder / "torch.npz").exists():
        subprocess.run([flags.peer, ROOT / "benchmarks" / "side_by_side_peer.py", folder], check=True)
    shown = [word if "path" not in word else "--config.data.path=FILE.npz" for word in rest]
    result = {
        "command": " ".join(["python benchmarks/side_by_side.py", f"--name={flags.name} --folder=DIR --peer=PYTHON", *shown])
    }
    result |= compared(config, folder)
    (ROOT / "benchmarks" / f"side_by_side_{flags.name}.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(flags.name, folder)
    print(json.dumps(result, indent=2))


def config_of(words: list[str]) -> Config:
    """Returns the config that a command line names, as both sides can have it; UserError where they cannot."""
    config = command.config_of(*command.parse(["", *words], {}))
    config = Config.of_flat(config.flat() | SAME)
    checks.check(config)
    train = config.train
    if train.warmup_steps >= train.num_steps or len(train.ema_rates) != 1 or config.predicts not in ("eps", "v"):
        wanted = "train.warmup_steps below train.num_steps, one of train.ema_rates, and predicts = 'eps' or 'v'"
        raise UserError(f"this comparison needs config fields {wanted}.")
    return config


def train_ours(config: Config, folder: pathlib.Path) -> None:
    """Writes what the other side needs, and what ours learns of it with and without rounding at the start."""
    mesh, draws = sharding.make_mesh(num_fsdp=1), []
    parts = training.parts(config)
    loss = recorded(parts.loss(0, None), draws.append)
    parts = parts._replace(loss=lambda step, teacher: loss)
    first = jax.jit(lambda key: start.make_state(key, parts=parts), out_shardings=sharding.replicated(mesh))
    take, batches = make_steps(config, parts, mesh, jax.eval_shape(first, jax.random.key(0)))
    write_initial(config, first(streams.key(parts.seed, "init")).params, folder)
    for name, change in {"nudged": nudged, "ours": lambda state: state}.items():
        draws.clear()
        state = change(first(streams.key(parts.seed, "init")))
        losses, norms, state = run(name, state, take, batches(), config.train.num_steps, folder)
        [average] = state.ema.values()
        write_run(folder / name, config, config.train.num_steps, average)
        settings = {"batch_per_device": config.sample.batch_per_device}
        images = dj.load(folder / name).sample(config.sample.num_images, **settings)
        np.savez(folder / f"{name}_images.npz", images=images)
        np.savez(folder / f"{name}.npz", loss=losses, grad_norm=norms)
    columns = dict(zip(("x_0", "c_noise", "eps"), map(np.stack, zip(*draws, strict=True)), strict=True))
    np.savez(folder / "draws.npz", **columns)
    np.savez(folder / "x_T.npz", x_T=first_noise(config))


def recorded(loss: Loss, keep: Callable[[Any], None]) -> Loss:
    """Returns a loss that gives away what it is of: x_0 [B, H, W, C], c_noise [B], eps [B, H, W, C]."""

    def of(denoise, x_0, level, eps):
        jax.debug.callback(lambda *drawn: keep(tuple(map(np.array, drawn))), x_0, level.c_noise, eps)
        return loss(denoise, x_0, level, eps)

    return of


def make_steps(config: Config, parts: step.Parts, mesh: Any, abstract: TrainState) -> tuple[Callable, Callable]:
    """Returns the compiled step (state, item) -> (state, metrics), and what gives the items of a run from its start."""
    source = inputs.source(config)
    records = inputs.records(config, source, mesh)

    def fed() -> feed.Feed:
        found = feed.make_feed(source, records, first_step=0, **inputs.batching(config))
        return feed.on_devices(found, mesh, steps_per_call=1)

    shardings = jax.tree.map(lambda leaf: sharding.replicated(mesh), abstract)
    take, store = step.compile_step(parts, fed().batch, mesh, shardings, num_steps=1), fed().store
    return lambda state, item: take(state, store, item), lambda: fed().items


def run(
    name: str, state: TrainState, take: Callable, items: Any, num_steps: int, folder: pathlib.Path
) -> tuple[list[float], list[float], TrainState]:
    """Returns the loss and the gradient's norm of each step, and the last state; it keeps parameters on the way."""
    found, progress = [], logs.Progress(f"steps, {name}", total=num_steps)
    for number in range(1, num_steps + 1):
        state, metrics = take(state, next(items))
        found.append((float(metrics["loss"]), float(metrics["grad_norm"])))
        jax.effects_barrier()
        progress.update(number)
        if number in kept_steps(num_steps):
            np.savez(folder / f"{name}_{number}.npz", **maps.write(state.params, diffusers.map_of(state.params)))
    logs.clear_progress()
    return *map(list, zip(*found, strict=True)), state


def kept_steps(num_steps: int) -> list[int]:
    return sorted({*(number for number in KEPT_STEPS if number < num_steps), num_steps})


def nudged(state: TrainState) -> TrainState:
    """Returns a new run's state with each parameter moved to the float32 number above or below it."""
    random = np.random.default_rng(0)

    def moved(leaf: jax.Array) -> jax.Array:
        towards = np.where(random.random(leaf.shape) < 0.5, -np.inf, np.inf).astype(np.float32)
        return jax.device_put(np.nextafter(np.asarray(leaf), towards), leaf.sharding)

    params = jax.tree.map(moved, state.params)
    return state._replace(params=params, ema={name: jax.tree.map(np.copy, params) for name in state.ema})


def write_initial(config: Config, params: Any, folder: pathlib.Path) -> None:
    """Writes the first weights as tools.export does, and what the other side has to know of the training."""
    write_run(folder / "initial", config, 0, params)
    initial = storage.path(folder / "initial")
    export.run(initial, stored.read_config(initial), storage.path(folder / "initial_diffusers"), "diffusers")
    train, sample, names = config.train, config.sample, ("learning_rate", "decay", "warmup_steps", "num_steps", "grad_clip")
    settings = {name: getattr(train, name) for name in names} | {"ema_rate": train.ema_rates[0], "predicts": config.predicts}
    settings |= {"num_sample_steps": sample.num_steps, "sample_batch": sample.batch_per_device}
    settings |= {"kept_steps": kept_steps(train.num_steps)}
    (folder / "settings.json").write_text(json.dumps(settings, indent=2))
    np.savez(folder / "initial.npz", **maps.write(params, diffusers.map_of(params)))


def write_run(workdir: pathlib.Path, config: Config, number: int, params: Any) -> None:
    """Writes one set of weights as a run."""
    alone = config.with_values("train", ema_rates=()).with_values("sample", ema_rate=0.0)
    checkpoint.save_weights(storage.path(workdir), number, params)
    stored.write_config(storage.path(workdir), alone, weights_alone=True)


def first_noise(config: Config) -> np.ndarray:
    """Returns x_T of the images that `Model.sample` draws. # [N, H, W, C]"""
    keys = streams.keys(config.sample.seed, "x_T", np.arange(config.sample.num_images))
    noise = jax.vmap(lambda key: jax.random.normal(key, processes.image_shape(config)))(keys)
    return np.asarray(process.prior(process.rows(sampling.grid(config), 0), noise))


def compared(config: Config, folder: pathlib.Path) -> dict[str, Any]:
    """Returns how far the other side and the control are from ours: losses, gradients, parameters, images."""
    ours, peer, control = (read(folder / f"{name}.npz") for name in ("ours", "torch", "nudged"))
    initial, sides = read(folder / "initial.npz"), {"torch": peer, "control": control}
    return {
        "num_steps": len(ours["loss"]),
        "batch_size": config.train.batch_size,
        "num_params": sum(of.size for of in initial.values()),
        "loss": {name: agreement(side["loss"], ours["loss"]) for name, side in sides.items()},
        "gradient_norm": {name: agreement(side["grad_norm"], ours["grad_norm"]) for name, side in sides.items()},
        "parameters": [distances(folder, number, initial) for number in kept_steps(len(ours["loss"]))],
        "images": of_images(config, folder),
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "versions": stored.versions() | json.loads(str(peer["versions"])),
    }


def agreement(found: np.ndarray, ours: np.ndarray) -> dict[str, Any]:
    """Returns the relative differences of a curve from ours, and how many steps pass before one is beyond a limit."""
    difference = np.abs(found / ours - 1)
    beyond = {f"{limit:.0e}": np.flatnonzero(difference > limit) for limit in TOLERANCES}
    within = {limit: int(steps[0]) if len(steps) else len(ours) for limit, steps in beyond.items()}
    tenth = max(1, len(ours) // 10)
    return {
        "first_step": float(difference[0]),
        "median": float(np.median(difference)),
        "largest": float(np.max(difference)),
        "median_of_last_tenth": float(np.median(difference[-tenth:])),
        "mean_of_last_tenth": {"ours": float(np.mean(ours[-tenth:])), "found": float(np.mean(found[-tenth:]))},
        "steps_before_the_first_beyond": within,
    }


def distances(folder: pathlib.Path, number: int, initial: Arrays) -> dict[str, Any]:
    """Returns how far parameters are from ours after some steps, relative to how far ours have moved and to their norm."""
    ours = read(folder / f"ours_{number}.npz")
    found = {"step": number, "ours_moved": norm(ours, initial) / norm(initial)}
    for name, file in {"torch": "torch", "control": "nudged"}.items():
        theirs = read(folder / f"{file}_{number}.npz")
        apart, moved = norm(theirs, ours), norm(ours, initial)
        found[name] = {"of_norm": apart / norm(ours), "of_moved": apart / moved if moved else None}
        found[name]["largest"] = max(float(np.max(np.abs(theirs[key] - of))) for key, of in ours.items())
    return found


def norm(one: Arrays, two: Arrays | None = None) -> float:
    """Returns the Euclidean norm of all arrays together, or of their differences; UserError where names differ."""
    if two is not None and one.keys() != two.keys():
        raise UserError(f"arrays differ by name: {sorted(one.keys() ^ two.keys())}.")
    parts = (of.astype(np.float64) - (two[name] if two else 0) for name, of in one.items())
    return float(np.sqrt(sum(np.sum(part**2) for part in parts)))


def of_images(config: Config, folder: pathlib.Path) -> dict[str, Any]:
    """Returns the kernel distance (KID) of each side's images to the training set, and how far pixels are apart."""
    drawn = {name: read(folder / f"{name}_images.npz")["images"] for name in ("ours", "torch", "nudged")}
    network, real = evaluating.extractor(config), evaluating.of_data_set(config, "training")
    features = network.extract(real.read(range(real.num_images)))["features"]
    of_drawn = {name: network.extract(images)["features"] for name, images in drawn.items()}
    figures = {name: dj.evaluate(of, features)["kernel_distance"] for name, of in of_drawn.items()}
    found: dict[str, Any] = {"num_images": len(drawn["ours"]), "num_real": real.num_images, **network.description}
    found["kernel_distance"] = {name: figure.value._asdict() for name, figure in figures.items()}
    found["kernel_distance"]["real"] = figures["ours"].floor._asdict()
    for name in ("torch", "nudged"):
        levels = np.abs(drawn[name].astype(int) - drawn["ours"])
        found[name] = {"mean_difference_in_levels": float(np.mean(levels)), "share_equal": float(np.mean(levels == 0))}
        found[name]["share_within_2_levels"] = float(np.mean(levels <= 2))
    return found


def plot(name: str, folder: pathlib.Path) -> None:
    """Draws the losses of both sides, their differences with those of the control, and images from the same noise."""
    ours, peer, control = (read(folder / f"{each}.npz")["loss"] for each in ("ours", "torch", "nudged"))
    steps, picture = np.arange(1, len(ours) + 1), Figure(figsize=(9, 8), layout="constrained")
    losses, differences, images = picture.subplots(3, 1, height_ratios=[3, 3, 2])
    losses.loglog(steps, ours, color="C0", linewidth=4, alpha=0.4, label="diffusion_jax")
    losses.loglog(steps, peer, color="black", linewidth=0.7, label="diffusers and torch")
    losses.set(ylabel="loss of each step", title=f"{name}: the same training, side by side")
    kinds = {"diffusers and torch": (peer, "black"), "control: ours, each parameter nudged": (control, "C1")}
    for label, (found, colour) in kinds.items():
        differences.loglog(steps, np.maximum(np.abs(found / ours - 1), 1e-9), ".", color=colour, markersize=2, label=label)
    differences.set(xlabel="training step", ylabel="relative difference from ours (none: 1e-9)")
    for axes in (losses, differences):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    drawn = [read(folder / f"{each}_images.npz")["images"][:NUM_SHOWN] for each in ("ours", "torch")]
    images.imshow(pictures.grid(np.concatenate(drawn), num_columns=NUM_SHOWN, min_size=32).squeeze(), cmap="gray")
    images.set(title="from the same noise: above diffusion_jax, below diffusers and torch")
    images.axis("off")
    picture.savefig(ROOT / "docs" / "images" / f"side_by_side_{name}.png", dpi=100)


def read(file: pathlib.Path) -> Arrays:
    with np.load(file, allow_pickle=False) as found:
        return dict(found)


if __name__ == "__main__":
    main()
