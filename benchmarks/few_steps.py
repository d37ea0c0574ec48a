"""How good are the images of a model and of its students, in one to 50 evaluations of the network?

    python benchmarks/few_steps.py --teacher=examples/digits --consistency=runs/digits_ect \\
        --progressive=runs/digits_progressive --name=digits
    python benchmarks/few_steps.py --teacher=runs/digits_rectified_flow --mean_flow=runs/digits_imf \\
        --reflow=runs/digits_reflow --name=digits_flows

Each row is the mean over seeds of the distances of `quality_vs_steps` to the training set, and their standard deviation. All
rows of a seed start from the same x_T. None is guided: that would be two evaluations a step. A student may have been trained
several times, with other seeds. Then the mean is over its workdirs too, and a second standard deviation is that of the
trainings' means. Writes benchmarks/few_steps_<name>.json and .md, and the first images of each row, of the first workdir, as
docs/images/few_steps_<name>.png.
"""

import argparse
import io
import json
import pathlib
import sys

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import quality_vs_steps
from diffusion_jax import model

NUM_SHOWN = 16
ONE_FOR_ALL = {  # loss.name -> its name in the table, its sampler: of one model for all numbers of steps
    "consistency": ("consistency tuning", "consistency"),
    "mean_flow": ("improved mean flow", "mean_flow"),
    "reflow": ("reflow, Euler", "euler"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="workdir of a model of many steps, which the students began as")
    for loss in ONE_FOR_ALL:
        parser.add_argument(f"--{loss}", nargs="+", default=[], help=f"workdirs of loss.name = {loss!r}, a training each")
    parser.add_argument("--progressive", nargs="+", default=[], help="folders of tools.distill, a training each")
    parser.add_argument("--name", required=True, help="of the result")
    parser.add_argument("--num_images", type=int, default=2000)
    parser.add_argument("--num_real", type=int, default=0, help="of the training set, drawn at random; 0 for all")
    parser.add_argument("--features", default="mlp", help="mlp, or as evaluate.features")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags = parser.parse_args()
    config = model.load(flags.teacher).config
    measure, result = quality_vs_steps.reference(config, flags.num_images, flags.features, flags.num_real)
    result["conditions"] |= {"command": " ".join(["python", "benchmarks/few_steps.py", *sys.argv[1:]]), "seeds": flags.seeds}
    rows, strips = [], []
    for method, workdirs, settings in settings_of(flags, is_flow=config.process.kind == "rectified_flow"):
        found, images = row([model.load(workdir) for workdir in workdirs], settings, flags, measure)
        rows.append({"method": method, "evaluations": settings["num_steps"], **found})
        strips.append(images[:NUM_SHOWN])
        print(json.dumps(rows[-1]), flush=True)
    write(flags.name, result | {"num_images": flags.num_images, "rows": rows}, np.stack(strips))


def settings_of(flags: argparse.Namespace, *, is_flow: bool) -> list[tuple[str, list[str], dict]]:
    """Returns (method, a workdir for each training, settings of sampling) of each row; of a flow DDIM is Euler's method."""
    euler = "teacher, Euler" if is_flow else "teacher, DDIM"
    found = [(euler, [flags.teacher], {"sampler": "ddim", "num_steps": n}) for n in (1, 2, 4, 8, 50)]
    found += [("teacher, UniPC", [flags.teacher], {"sampler": "unipc", "num_steps": n}) for n in (2, 4, 8)]
    for loss, (name, sampler) in ONE_FOR_ALL.items():
        if workdirs := getattr(flags, loss):
            found += [(name, workdirs, {"sampler": sampler, "num_steps": n}) for n in (1, 2, 4)]
    folders = pathlib.Path(flags.progressive[0]).iterdir() if flags.progressive else ()
    for n in sorted(int(folder.name.removeprefix("steps_")) for folder in folders):
        workdirs = [f"{folder}/steps_{n}" for folder in flags.progressive]
        found.append(("progressive distillation", workdirs, {"sampler": "ddim", "num_steps": n}))
    return found


def row(trained: list[model.Model], settings: dict, flags: argparse.Namespace, measure) -> tuple[dict, np.ndarray]:
    """Returns the figures of one row, and the images of the first training and seed.

    `_deviation` is that of the seeds of sampling: of one training, or the root of the mean of its square over trainings.
    """
    settings |= {"guidance": 1.0, "batch_per_device": quality_vs_steps.BATCH}
    drawn = [np.asarray(each.sample(flags.num_images, seed=seed, **settings)) for each in trained for seed in flags.seeds]
    found, measured = {}, [measure(images) for images in drawn]
    for name in quality_vs_steps.FIGURES:
        values = np.array([figures[name] for figures in measured]).reshape(len(trained), len(flags.seeds))
        found[name] = values.mean()
        if len(flags.seeds) > 1:
            found[f"{name}_deviation"] = np.sqrt(np.mean(np.var(values, axis=1, ddof=1)))
        if len(trained) > 1:
            found[f"{name}_deviation_of_trainings"] = np.std(values.mean(axis=1), ddof=1)
    return {name: round(float(value), 5) for name, value in found.items()}, drawn[0]


def write(name: str, result: dict, strips: np.ndarray) -> None:
    """Writes the figures, a table of them, and a row of images for each."""
    (ROOT / "benchmarks" / f"few_steps_{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (ROOT / "benchmarks" / f"few_steps_{name}.md").write_text(table(result["rows"]))
    labels = [f"{each['method']}, {each['evaluations']}" for each in result["rows"]]
    picture = io.BytesIO()
    draw(strips, labels).savefig(picture, dpi=90)
    page = Image.open(picture).convert("L" if strips.shape[-1] == 1 else "RGB")
    if page.mode == "RGB":  # of all colours the file would be four times as large
        page = page.quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    page.save(ROOT / "docs" / "images" / f"few_steps_{name}.png", optimize=True)


def table(rows: list[dict]) -> str:
    """Returns the rows as they stand in docs/few_steps.md."""
    lines = ["| method | evaluations | Frechet distance | kernel distance |", "|---|---|---|---|"]
    for each in rows:
        cells = [cell(each, figure) for figure in quality_vs_steps.FIGURES[:2]]
        lines.append(f"| {each['method']} | {each['evaluations']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(found: dict, figure: str) -> str:
    """Returns a mean, and its deviations over seeds of sampling and, after a comma, over trainings."""
    kinds = [found[kind] for kind in (f"{figure}_deviation", f"{figure}_deviation_of_trainings") if kind in found]
    rounded = ", ".join(f"{float(f'{each:.1g}'):g}" for each in kinds)  # 10 and not 1e+01
    return f"{found[figure]:.3g}" + (f" ({rounded})" if kinds else "")


def draw(strips: np.ndarray, labels: list[str]) -> Figure:
    """Returns rows of images with their labels.

    Args:
        strips: uint8 [rows, images, H, W, C].
    """
    framed = np.pad(strips, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    num_rows, num_images, height, width, channels = framed.shape
    mosaic = framed.transpose(0, 2, 1, 3, 4).reshape(num_rows * height, num_images * width, channels)
    canvas = Figure(figsize=(10, 7.5 * num_rows / num_images), layout="constrained")
    axes = canvas.add_subplot()
    axes.imshow(mosaic.squeeze(), cmap="gray", vmin=0, vmax=255)
    axes.set_yticks([(row + 0.5) * height for row in range(num_rows)], labels, fontsize="small")
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return canvas


if __name__ == "__main__":
    main()
