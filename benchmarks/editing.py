"""How near edited images come to the true ones, by --mode=edit: PSNR of what is generated, and a picture.

    python benchmarks/editing.py --workdir=DIR --images=FILE.npz --name=NAME [--picture]

Takes the middle, the lower half, the fine detail and, of images in colour, the colour out of the first images of a file, has
them put back by main.py, and compares. PSNR is 10 log10(255^2 / mean squared error), over the pixels that are generated and
all images. What is drawn need not be near: where much is taken, many images fit. Beside it stands what needs no network: the
mean of the known pixels, pixels repeated, grey. Writes benchmarks/editing_<NAME>.json, and with --picture
docs/images/edit_<NAME>.png: the true images, then of each task what is given and what is made of it.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import main as program
from diffusion_jax import operators
from diffusion_jax.compose import stored
from diffusion_jax.runs import pictures

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Case(NamedTuple):
    """A task with what it is given."""

    fields: dict[str, object]  # of the section `edit`
    given: Callable[[np.ndarray], np.ndarray]  # true images -> given ones, uint8
    free: np.ndarray  # where pixels are generated, bool [H, W]
    simple: Callable[[np.ndarray], np.ndarray]  # true images -> an answer without a network


def cases(height: int, width: int, channels: int) -> dict[str, Case]:
    """Returns the tasks for images of a size."""
    (middle, lower), everywhere = np.zeros((2, height, width), bool), np.ones((height, width), bool)
    box = height // 4, width // 4, height // 2, width // 2
    middle[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = lower[height // 2 :] = True
    found = {
        "inpaint": Case({"box": box}, lambda x: x, middle, lambda x: _mean_of(x, ~middle)),
        "repaint": Case({"box": box, "num_resamples": 5}, lambda x: x, middle, lambda x: _mean_of(x, ~middle)),
        "outpaint": Case(
            {"sides": (0, height // 2, 0, 0)}, lambda x: x[:, : height // 2], lower, lambda x: _mean_of(x, ~lower)
        ),
        "super_resolve": Case({"factor": 2}, _halved, everywhere, lambda x: _halved(x).repeat(2, 1).repeat(2, 2)),
    }
    if channels == 3:
        found["colourise"] = Case({}, _grey, everywhere, lambda x: _grey(x).repeat(3, -1))
    return found


def _mean_of(x: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x[:, known].mean(1)[:, None, None], x.shape)


def _halved(x: np.ndarray) -> np.ndarray:
    return _as_uint8(operators.averaging(2).apply(x))


def _grey(x: np.ndarray) -> np.ndarray:
    return _as_uint8((x @ np.array(GREY))[..., None])


def _as_uint8(x: np.ndarray) -> np.ndarray:
    return np.round(x).astype(np.uint8)


def edited(flags: argparse.Namespace, task: str, case: Case, x: np.ndarray) -> tuple[np.ndarray, dict]:
    """Returns what main.py makes of images, and its edit.json."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/given.npz", images=case.given(x))
        fields = {"edit.task": task, "edit.images": f"{folder}/given.npz", "sample.num_steps": flags.num_steps}
        fields |= {"sample.guidance": 1.0}  # of which class an image is, nobody says
        fields |= {f"edit.{name}": value for name, value in case.fields.items()}
        words = [f"--config.{name}={value}" for name, value in fields.items()]
        out = pathlib.Path(folder) / "out"
        if program.main(["main.py", "--mode=edit", f"--workdir={flags.workdir}", f"--out={out}", *words]):
            sys.exit(1)
        results = [np.asarray(Image.open(file)) for file in sorted((out / "images").iterdir())]
        return np.stack(results).reshape(x.shape), json.loads((out / "edit.json").read_text())


def errors(found: np.ndarray, x: np.ndarray, free: np.ndarray) -> dict[str, float]:
    mse = float(np.mean((found.astype(float) - x)[:, free] ** 2))
    return {"mean_squared_error": round(mse, 1), "psnr": round(10 * np.log10(255**2 / mse), 2)}


def shown(given: np.ndarray, x: np.ndarray, case: Case) -> np.ndarray:
    """Returns what is given in the size of the true images, grey where nothing is."""
    if not case.free.all():
        return np.where(case.free[..., None], np.uint8(127), x)
    factors = [wanted // found for wanted, found in zip(x.shape, given.shape, strict=True)]
    return np.kron(given, np.ones(factors, np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="of a trained run")
    parser.add_argument("--images", required=True, help="the true images: an .npz file")
    parser.add_argument("--name", required=True, help="of the results")
    parser.add_argument("--num_images", type=int, default=64)
    parser.add_argument("--num_steps", type=int, default=100)
    parser.add_argument("--picture", action="store_true", help="of the first eight: for images that may be published")
    flags = parser.parse_args()
    with np.load(flags.images, allow_pickle=False) as stored_images:
        x = stored_images["images" if "images" in stored_images else "arr_0"][: flags.num_images]
    rows, tasks = [x[:8]], {}
    for task, case in cases(*x.shape[1:]).items():
        start = time.monotonic()
        found, report = edited(flags, task, case, x)
        tasks[task] = {"num_evaluations": report["num_evaluations"], "seconds": round(time.monotonic() - start)}
        tasks[task] |= {"edited": errors(found, x, case.free), "without_network": errors(case.simple(x), x, case.free)}
        rows += [shown(case.given(x), x, case)[:8], found[:8]]
    result = {"num_images": len(x), "num_steps": flags.num_steps, "tasks": tasks}
    result |= {"hardware": f"{os.cpu_count()} CPU cores ({platform.machine()})", "versions": stored.versions()}
    (ROOT / "benchmarks" / f"editing_{flags.name}.json").write_text(json.dumps(result, indent=2) + "\n")
    if flags.picture:
        grid = pictures.grid(np.concatenate(rows), num_columns=8)
        (ROOT / "docs" / "images" / f"edit_{flags.name}.png").write_bytes(pictures.encode_png(grid))


if __name__ == "__main__":
    main()
