"""What guidance gains and costs: how many images are of their class, and how many real ones have one like them.

    python benchmarks/guidance.py --workdir=runs/digits_classes [--guide=500] [--classifier=runs/digits_classifier]

Draws the same images (the same x_T, all classes in turn) with every kind of guidance at every scale. A support-vector
machine that is trained on half of the real images says of which class they are. Precision, recall and Frechet distance are
those of `dj.evaluate`, in --features. --num_real takes that many images of each half, where all of them take too long: the
machine is then trained on those of one half, and tested on those of the other, with which the figures compare. Writes
benchmarks/guidance_<config>.json after every row, the table as .md, and two pictures: the curves, and the first images of
each class against the scale.
"""

import argparse
import json
import os
import pathlib
import platform
import sys

import numpy as np
from matplotlib.figure import Figure
from sklearn.svm import SVC

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from diffusion_jax.compose import inputs, stored
from diffusion_jax.data import feed
from diffusion_jax.model import Model, provenance
from diffusion_jax.runs import pictures

FIGURES = ("frechet_distance", "precision", "recall")
ALONE = "classifier, of a network without classes"
STARTS = ("classifier-free", ALONE)  # the kinds with a row of scale 1, no guidance
OF_ROWS = ("weights", "guide", "classifier", "unconditional", "num_images", "num_real", "sampler", "features", "interval")
NUM_OF_CLASS = 2  # images of each class, in the picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="of a run that knows classes and no label")
    parser.add_argument("--name", default="", help="of the result; the folder's name by default")
    parser.add_argument("--guide", default="", help="a step of its checkpoints, or a workdir, for autoguidance")
    parser.add_argument("--classifier", default="", help="workdir of a noisy classifier")
    parser.add_argument("--unconditional", default="", help="workdir of a network without classes, for the classifier")
    parser.add_argument("--interval", type=float, nargs=2, default=(0.2, 3.0), help="of sigma / alpha")
    parser.add_argument("--num_images", type=int, default=2000)
    parser.add_argument("--num_real", type=int, help="real images of each half; all by default")
    parser.add_argument("--num_steps", type=int, default=20, help="of UniPC")
    parser.add_argument("--scales", type=float, nargs="+", default=[1, 1.25, 1.5, 2, 3, 4, 6])
    parser.add_argument("--features", default="pixels", help="as evaluate.features")
    flags = parser.parse_args()
    name = flags.name or pathlib.Path(flags.workdir).name
    judge, result = judge_of(dj.load(flags.workdir), flags)
    result["rows"] = measured_before(name, result)
    done = {(row["guidance"], row["scale"]) for row in result["rows"]}
    of_unipc = {"sampler": "unipc", "num_steps": flags.num_steps}
    for kind, (model, settings) in kinds_of(flags).items():
        for scale in flags.scales if kind in STARTS else [scale for scale in flags.scales if scale != 1]:
            if (kind, scale) not in done:
                images = model.sample(flags.num_images, guidance=float(scale), **of_unipc, **settings)
                result["rows"].append({"guidance": kind, "scale": scale, **judge(images)})
                print(json.dumps(result["rows"][-1]), flush=True)
                write(name, result)
    model, num = dj.load(flags.workdir), NUM_OF_CLASS * result["num_classes"]
    drawn = [model.sample(num, guidance=float(scale), batch_per_device=num, **of_unipc) for scale in flags.scales]
    picture(name, np.stack(drawn))


def measured_before(name: str, result: dict) -> list[dict]:
    """Returns the rows of an earlier start with the same weights, images and measure."""
    file = ROOT / "benchmarks" / f"guidance_{name}.json"
    before = json.loads(file.read_text()) if file.exists() else {"rows": []}
    same = all(before.get(key) == result.get(key) for key in OF_ROWS)
    return before["rows"] if same else []


def picture(name: str, images: np.ndarray) -> None:
    """Writes images of every class, a row for each scale. # [scales, n, H, W, C]"""
    grid = pictures.grid(images.reshape(-1, *images.shape[2:]), num_columns=images.shape[1])
    (ROOT / "docs" / "images" / f"guidance_{name}_scales.png").write_bytes(pictures.encode_png(grid))


def kinds_of(flags: argparse.Namespace) -> dict:
    """Returns {kind of guidance: (the model, settings of its samples)}."""
    model = dj.load(flags.workdir)
    kinds = {"classifier-free": (model, {})}
    kinds["in an interval"] = (model, {"guidance_interval": tuple(flags.interval)})
    if flags.guide:
        kinds["autoguidance"] = (dj.load(flags.workdir, guide=flags.guide), {})
    if flags.classifier:
        kinds["classifier"] = (dj.load(flags.workdir, guide=flags.classifier), {})
    if flags.classifier and flags.unconditional:
        kinds[ALONE] = (dj.load(flags.unconditional, guide=flags.classifier), {})
    return kinds


def judge_of(model: Model, flags: argparse.Namespace):
    """Returns (images, of all classes in turn -> what is found of them, what is known of that)."""
    records = feed.read(inputs.source(model.config))
    real, labels = records["x"], records["cond"]["label"]
    flat, num_classes = real.reshape(len(real), -1) / 255.0, model.config.model.num_classes
    one, two = (half[: flags.num_real] for half in np.array_split(np.random.default_rng(0).permutation(len(real)), 2))
    classifier = SVC(C=10).fit(flat[one], labels[one])
    compared = real if flags.num_real is None else real[two]

    def judge(images: np.ndarray) -> dict[str, float]:
        named = classifier.predict(images.reshape(len(images), -1) / 255.0)
        found = dj.evaluate(images, compared, features=flags.features)
        accuracy = float(np.mean(named == np.arange(len(images)) % num_classes))
        figures = {figure: found[figure].value for figure in FIGURES}
        errors = {f"{figure}_error": float(value.standard_error) for figure, value in figures.items()}
        return {"accuracy": accuracy} | {
            name: round(number, 4) for name, number in ({n: float(v.value) for n, v in figures.items()} | errors).items()
        }

    return judge, {
        "command": " ".join(["python", "benchmarks/guidance.py", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": stored.versions(),
        "checkpoint_step": model.step,
        "weights": provenance(model)["weights_sha256"],
        "guide": flags.guide,
        "classifier": flags.classifier,
        "unconditional": flags.unconditional,
        "num_images": flags.num_images,
        **({} if flags.num_real is None else {"num_real": flags.num_real}),
        "sampler": f"unipc, {flags.num_steps} steps",
        "num_classes": num_classes,
        "features": flags.features,
        "interval": list(flags.interval),
        "accuracy_of_real": float(classifier.score(flat[two], labels[two])),
    }


def write(name: str, result: dict) -> None:
    """Writes the rows so far, as JSON, as a table and as curves."""
    (ROOT / "benchmarks" / f"guidance_{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [["guidance", "scale", "accuracy", "precision", "recall", "Frechet distance"], ["---"] * 6]
    for row in result["rows"]:
        figures = [f"{row[name]:.3f}" for name in ("accuracy", "precision", "recall", "frechet_distance")]
        lines.append([row["guidance"], f"{row['scale']:g}", *figures])
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    (ROOT / "benchmarks" / f"guidance_{name}.md").write_text(f"`{result['command']}`, {result['machine']}\n\n{table}")
    canvas = Figure(figsize=(11, 3.6), layout="constrained")
    for place, figure in enumerate(("accuracy", "recall", "frechet_distance"), start=1):
        axes = canvas.add_subplot(1, 3, place)
        off = next(row for row in result["rows"] if row["scale"] == 1)
        for kind in dict.fromkeys(row["guidance"] for row in result["rows"] if row["guidance"] != ALONE):
            rows = [off] + [row for row in result["rows"] if row["guidance"] == kind and row is not off]
            axes.plot([row["scale"] for row in rows], [row[figure] for row in rows], marker=".", label=kind)
        axes.set(xlabel="scale of guidance", title=figure.replace("_", " "))
        axes.grid(alpha=0.3)
    canvas.axes[0].legend(fontsize="small")
    canvas.savefig(ROOT / "docs" / "images" / f"guidance_{name}.png", dpi=90)


if __name__ == "__main__":
    main()
