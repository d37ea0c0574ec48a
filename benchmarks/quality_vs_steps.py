"""How good are the images of each sampler for how many evaluations of the network? Measured on small sets.

    python benchmarks/quality_vs_steps.py --workdir=examples/digits --num_images=1000 --seeds 0 1 2 [--evaluations 10 20 50]
    python benchmarks/quality_vs_steps.py --workdir=runs/sprites --features=efficientnet_lite0 --seeds 0 1 2

Draws the same images (the same x_T) from a trained run with every sampler and grid, and measures their distances to the
training set: in the 64 hidden units of a classifier that scikit-learn trains on it, or in a network of --features. Halves of
the training set are as far apart as `real` says. Of several seeds it gives mean and standard deviation. Writes
benchmarks/quality_vs_steps_<config>.json after every row, and a picture.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import shlex
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from sklearn.neural_network import MLPClassifier

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from diffusion_jax import evaluation, model, streams
from diffusion_jax.compose import choices, inputs, processes, sampling, stored
from diffusion_jax.compose.config import Config
from diffusion_jax.data import codecs, feed
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import frechet, kernel, sliced

SAMPLERS = {
    "ancestral": {"sampler": "ancestral", "variance": "small"},
    "ancestral large": {"sampler": "ancestral", "variance": "large"},
    "ancestral_2s": {"sampler": "ancestral_2s"},
    "reverse_diffusion": {"sampler": "reverse_diffusion"},
    "reverse_diffusion, langevin": {"sampler": "reverse_diffusion", "corrector": "langevin"},
    "euler_maruyama": {"sampler": "euler_maruyama"},
    "ddim": {"sampler": "ddim"},
    "heun": {"sampler": "heun"},
    "runge_kutta_2, stage 0.5": {"sampler": "runge_kutta_2", "stage": 0.5},
    "runge_kutta_2, stage 0.7": {"sampler": "runge_kutta_2", "stage": 0.7},
    "lms 3": {"sampler": "lms", "order": 3},
    "dpm_solver 2": {"sampler": "dpm_solver"},
    "dpm_solver 3": {"sampler": "dpm_solver", "order": 3},
    "dpm_solver 2 eps": {"sampler": "dpm_solver", "solves_for": "eps"},
    "singlestep 2": {"sampler": "dpm_solver_singlestep"},
    "singlestep 3": {"sampler": "dpm_solver_singlestep", "order": 3},
    "dpm_solver_sde": {"sampler": "dpm_solver_sde"},
    "dpm_solver_sde 3": {"sampler": "dpm_solver_sde", "order": 3},
    "dpm_solver_sde_singlestep": {"sampler": "dpm_solver_sde_singlestep"},
    "unipc 2": {"sampler": "unipc"},
    "unipc 3": {"sampler": "unipc", "order": 3},
    "unipc_bh1 2": {"sampler": "unipc_bh1"},
}
GRIDS = {
    "trailing": {"grid": "trailing"},
    "log_snr": {"grid": "log_snr"},
    "karras": {"grid": "karras"},
    "karras, rho 3": {"grid": "karras", "rho": 3.0},
    "polyexponential, rho 1.5": {"grid": "polyexponential", "rho": 1.5},
}
TWICE = ("ancestral_2s", "heun", "runge_kutta_2")  # evaluate the network at a stage of each step but the last
ODE = {f"ode {tolerance:g}": {"sampler": "ode", "clip": "none", "tolerance": tolerance} for tolerance in (1e-1, 1e-2, 1e-3)}
BATCH = 50  # the fastest on a CPU
FIGURES = ("frechet_distance", "kernel_distance", "sliced_wasserstein")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="of a trained run")
    parser.add_argument("--name", default="", help="of the result; the folder's name by default")
    parser.add_argument("--num_images", type=int, default=2000)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[5, 10, 20, 50, 100])
    known = list(SAMPLERS)
    parser.add_argument("--samplers", nargs="+", default=known, choices=known, help="those of them that the process has")
    parser.add_argument("--grids", nargs="+", default=list(GRIDS), choices=list(GRIDS))
    parser.add_argument("--reference", type=int, default=0, help="evaluations of an ancestral run of every level too")
    parser.add_argument("--features", default="mlp", help="mlp, or as evaluate.features")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--figure", default="frechet_distance", choices=FIGURES, help="of the table and the picture")
    parser.add_argument("--ode", action="store_true", help="the adaptive solver too, which takes what its tolerance needs")
    flags = parser.parse_args()
    trained, name = model.load(flags.workdir), flags.name or pathlib.Path(flags.workdir).name
    measure, result = reference(trained.config, flags.num_images, flags.features)
    result |= {"num_images": flags.num_images, "checkpoint_step": trained.step, "seeds": flags.seeds}
    before = measured_before(name, result)
    result["rows"] = before.get("rows", [])
    result["commands"] = [
        *before.get("commands", []),
        shlex.join(["python", "benchmarks/quality_vs_steps.py", *sys.argv[1:]]),
    ]
    done = {(row["sampler"], row["grid"], row["at_most"]) for row in result["rows"]}
    samplers = [sampler for sampler in flags.samplers if fits(trained.config, sampler)]
    settings = [(sampler, grid, num) for num in flags.evaluations for sampler in samplers for grid in flags.grids]
    settings += [(sampler, "trailing", flags.reference) for sampler in ("ancestral", "ddim") if flags.reference]
    settings += [(sampler, "none", 0) for sampler in ODE if flags.ode]
    for sampler, grid, num in (setting for setting in settings if setting not in done):
        result["rows"].append(row(trained, sampler, grid, num, flags, measure))
        print(json.dumps(result["rows"][-1]), flush=True)
        write(name, result, flags.figure)


def fits(config: Config, sampler: str) -> bool:
    """Returns whether the process of a config has a sampler."""
    try:
        model.with_settings(config, **SAMPLERS[sampler])
    except UserError:
        return False
    return True


def measured_before(name: str, result: dict) -> dict:
    """Returns the result of an earlier start with the same weights, images and measure; {} where there is none."""
    file = ROOT / "benchmarks" / f"quality_vs_steps_{name}.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    same = all(before.get(key) == result[key] for key in ("num_images", "checkpoint_step", "real", "features", "seeds"))
    return before if same else {}


def row(trained: model.Model, sampler: str, grid: str, num: int, flags: argparse.Namespace, measure) -> dict:
    """Returns what one sampler on one grid gives for at most `num` evaluations, 0 for as many as it takes."""
    asked = (SAMPLERS | ODE)[sampler]
    steps = num // 2 if "corrector" in asked else (num + 1) // 2 if asked["sampler"] in TWICE else num
    on_grid = GRIDS[grid] | {"num_steps": steps} if num else {}
    config = model.with_settings(trained.config, **on_grid, **asked)
    solve, limit = sampling.make_solve(config), choices.CLIPS[config.sample.clip]

    @jax.jit
    def draw(seed, numbers):
        keys = streams.keys(seed, "x_T", numbers)
        noise = jax.vmap(lambda key: jax.random.normal(key, processes.image_shape(config)))(keys)
        found = solve(limit(trained.denoiser()), noise, streams.keys(seed, "sampler", numbers), 0)
        return codecs.to_uint8(found.x), found.num_evaluations

    found = []
    for seed in flags.seeds:
        drawn = [draw(seed, jnp.arange(first, first + BATCH)) for first in range(0, flags.num_images, BATCH)]
        found.append(measure(np.concatenate([np.asarray(batch) for batch, _ in drawn])[: flags.num_images]))
    columns = {name: [each[name] for each in found] for name in FIGURES}
    deviations = {f"{name}_deviation": float(np.std(of, ddof=1)) for name, of in columns.items() if len(of) > 1}
    return {
        "sampler": sampler,
        "grid": grid,
        "at_most": num,
        "evaluations": int(drawn[0][1]),
        **{name: round(value, 5) for name, value in ({n: np.mean(of) for n, of in columns.items()} | deviations).items()},
    }


def reference(config: Config, num_images: int, features: str, num_real: int = 0):
    """Returns (images -> distances to the training set, or so many of it, by name; what is known of them)."""
    pixels = feed.read(inputs.source(config))["x"]
    if 0 < num_real < len(pixels):
        pixels = pixels[np.random.default_rng(1).permutation(len(pixels))[:num_real]]
    if features == "mlp":
        of, known = hidden_units(config)
    else:
        network = evaluation.extractor(features)
        of, known = (lambda images: network.extract(images)["features"]), {"features": network.description}
    real = of(pixels)
    half = np.random.default_rng(0).permutation(len(real))[: 2 * min(num_images, len(real) // 2)]
    one, two = np.array_split(half, 2)
    floor = {name: round(value, 5) for name, value in distances_to(real[two])(real[one]).items()}
    known |= {"real": {"num_images": len(one), **floor}, "num_real": len(real), "conditions": conditions()}
    to_real = distances_to(real)
    return (lambda images: to_real(of(images))), known


def distances_to(real: np.ndarray):
    """Returns features -> their distances to those of real images, by name."""
    known, to_real = frechet.of_features(real), kernel.distance_to(real)

    def distances(features: np.ndarray) -> dict[str, float]:
        found = frechet.frechet_distance(features, known), to_real(features)
        found += (sliced.sliced_wasserstein(features, real),)
        return {name: float(figure.value) for name, figure in zip(FIGURES, found, strict=True)}

    return distances


def hidden_units(config: Config):
    """Returns (images -> the 64 hidden units of a classifier of the training set, what is known of it)."""
    num_classes = config.model.num_classes or 10  # of a model without labels: digits or clothes
    records = feed.read(inputs.source(config.with_values("model", num_classes=num_classes)))
    flat, labels = records["x"].reshape(len(records["x"]), -1) / 255.0, records["cond"]["label"]
    classifier = MLPClassifier((64,), random_state=0, max_iter=20 if len(flat) > 10_000 else 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        classifier.fit(flat, labels)

    def features(images: np.ndarray) -> np.ndarray:
        hidden = images.reshape(len(images), -1) / 255.0 @ classifier.coefs_[0] + classifier.intercepts_[0]
        return np.maximum(hidden, 0)

    return features, {
        "features": "the 64 hidden units of scikit-learn's MLPClassifier((64,), random_state=0) of the training set",
        "classifier_accuracy": round(float(classifier.score(flat, labels)), 4),
    }


def table(result: dict, figure: str) -> str:
    """Returns a figure as Markdown, the best of each column bold."""
    cells = {(row["sampler"], row["grid"], row["at_most"]): row[figure] for row in result["rows"]}
    columns = list(
        dict.fromkeys((grid, num) for num in sorted({key[2] for key in cells}) for _, grid, n in cells if n == num)
    )
    best = {column: min(value for key, value in cells.items() if key[1:] == column) for column in columns}
    lines = [["sampler", *[f"{grid}, {num}" for grid, num in columns]], ["---"] * (len(columns) + 1)]
    for sampler in dict.fromkeys(key[0] for key in cells):
        values = [cells.get((sampler, *column)) for column in columns]
        shown = [f"{value:.3g}" if value is not None else "" for value in values]
        bold = [
            f"**{text}**" if value == best[column] else text
            for text, value, column in zip(shown, values, columns, strict=True)
        ]
        lines.append([sampler, *bold])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def conditions() -> dict:
    return {
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": stored.versions(),
    }


def write(name: str, result: dict, figure: str) -> None:
    """Writes the rows so far, and their picture: of each sampler its best grid."""
    rows = ",\n  ".join(json.dumps(row) for row in result["rows"])
    text = json.dumps({**result, "rows": []}, indent=1).replace('"rows": []', f'"rows": [\n  {rows}\n ]')
    (ROOT / "benchmarks" / f"quality_vs_steps_{name}.json").write_text(text + "\n")
    (ROOT / "benchmarks" / f"quality_vs_steps_{name}.md").write_text(table(result, figure))
    canvas = Figure(figsize=(8, 5), layout="constrained")
    axes = canvas.add_subplot()
    for number, sampler in enumerate(dict.fromkeys(row["sampler"] for row in result["rows"])):
        best = {}
        for each in [row for row in result["rows"] if row["sampler"] == sampler]:
            best[each["evaluations"]] = min(each[figure], best.get(each["evaluations"], math.inf))
        axes.loglog(*zip(*sorted(best.items()), strict=True), marker="os^"[number // 10], linewidth=1, label=sampler)
    axes.axhline(result["real"][figure], color="black", linestyle=":", label="real images")
    axes.set(xlabel="evaluations of the network", ylabel=f"{figure.replace('_', ' ')} to the training set", title=name)
    axes.legend(ncols=2, fontsize="small")
    axes.grid(which="both", alpha=0.3)
    canvas.savefig(ROOT / "docs" / "images" / f"quality_vs_steps_{name}.png", dpi=90)


if __name__ == "__main__":
    main()
