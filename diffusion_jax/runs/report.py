"""Runs as one HTML page: what their workdirs hold becomes JSON, which report.html draws.

The page's size is bounded: a curve has at most `MOST_POINTS` points; all previews are at most `MOST_PICTURES` pictures, or
one step of each run; a picture has at most `pictures.MOST_BYTES`. The page says what it leaves out.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.runs import logs, pictures, storage, tables, writers
from diffusion_jax.runs.shards import flatten

MOST_POINTS = 500
MOST_PICTURES = 64
MOST_STRIPS = 4  # of a run
PLACE = "{{data}}"  # in report.html, for the JSON
SUFFIXES = (".json", ".md", ".npz", ".png")
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)

Points = list[list[float]]  # [step, value], or of several lines [last step, mean, least, greatest]


def page(workdirs: Sequence[storage.Path]) -> str:
    """Returns the page of some runs, which may be training. Reads only.

    Raises UserError where a workdir is not there or no run's, has no metrics yet, or is given twice.
    """
    most = MOST_PICTURES // max(len(workdirs), 1)
    runs = [_run(workdir, name, most) for workdir, name in zip(workdirs, names(workdirs), strict=True)]
    text = json.dumps(runs, allow_nan=False).replace("<", "\\u003c")  # so that no text of a run ends the script
    return storage.read_bytes(storage.path(__file__).parent / "report.html").decode().replace(PLACE, text)


def names(workdirs: Sequence[storage.Path]) -> list[str]:
    """Returns what each run is called: the last part of its path, or the whole path where two runs share that part."""
    places = [storage.real(workdir) for workdir in workdirs]
    for place, workdir in zip(places, workdirs, strict=True):
        if places.count(place) > 1:
            raise UserError(f"flag --workdir = {str(workdir)!r} is given twice.")
    lasts = [place.name for place in places]
    return [str(place) if lasts.count(last) > 1 else last for place, last in zip(places, lasts, strict=True)]


def _run(workdir: storage.Path, name: str, most: int) -> dict[str, Any]:
    """Returns all that the page shows of a run; most: pictures among its previews."""
    if not workdir.exists():
        raise UserError(f"flag --workdir = {str(workdir)!r} is not there; it must be the folder of a run.")
    if not (curves := _curves(writers.read_metrics(workdir / "metrics.jsonl"))):
        if not any((workdir / name).exists() for name in ("checkpoints", "config.json")):
            raise UserError(f"flag --workdir = {str(workdir)!r} is not the folder of a run: it has no metrics.jsonl.")
        raise UserError(
            f"workdir {str(workdir)!r} has no metrics: a run writes a line every train.log_every steps, an export none."
        )
    stored = _read(workdir / "config.json", lambda text: flatten(json.loads(text))) or {}
    shown = {field: json.dumps(value) for field, value in stored.items()}
    config = {field.removeprefix("config."): text for field, text in shown.items() if field.startswith("config.")}
    machine = {field: text for field, text in shown.items() if not field.startswith(("config.", "images."))}
    found = {"name": name, "workdir": str(workdir), "config": config, "machine": machine, "curves": curves}
    evaluations = [row for file in _files(workdir / "evaluate", "evaluate.json") for row in _read(file, _evaluation) or []]
    strips = _files(workdir / "samples", "strip.png")
    shown_strips = {file.parent.name: picture for file in strips[-MOST_STRIPS:] if (picture := _picture(file))}
    found |= {"strips": shown_strips, "num_strips": len(strips)}
    return found | {"evaluations": evaluations, **_previews(workdir / "previews", most)}


def _curves(lines: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the curve of each column of metrics.jsonl; what is not a finite number is left out."""
    columns: dict[str, Points] = {}
    for line in lines:
        for name, value in line.items():
            is_finite = isinstance(value, int | float) and max(abs(value), abs(line["step"])) <= sys.float_info.max
            if is_finite and name != "step":
                columns.setdefault(name, []).append([line["step"], value])
    return {name: {"num_lines": len(of), "last": of[-1], "points": thinned(of)} for name, of in columns.items()}


def thinned(points: Points) -> Points:
    """Returns at most `MOST_POINTS` points, each of as many lines, the last perhaps of fewer; see `Points`."""
    each = -(-len(points) // MOST_POINTS)
    parts = [points[first : first + each] for first in range(0, len(points), each)]
    values = [[value for _, value in part] for part in parts]
    spans = [[part[-1][0], float(np.mean(of)), min(of), max(of)] for part, of in zip(parts, values, strict=True)]
    return points if each == 1 else spans


def _previews(folder: storage.Path, most: int) -> dict[str, Any]:
    """Returns evenly spaced previews, the last included, of at most so many pictures; and how many there are."""
    found: dict[int, dict[str, storage.Path]] = {}
    for file in _files(folder, r"step_\d+_.+\.png"):
        _, step, weights = file.stem.split("_", 2)
        found.setdefault(int(step), {})[weights] = file
    steps = sorted(found)
    num = min(len(steps), max(1, most // max(map(len, found.values()), default=1)))
    shown = [steps[place] for place in np.linspace(len(steps) - 1, 0, num).round().astype(int)[::-1]]
    previews = [
        {"step": step, "pictures": {name: _picture(found[step][name]) for name in sorted(found[step], key=_raw_first)}}
        for step in shown
    ]
    return {"num_previews": len(steps), "previews": previews}


def _raw_first(weights: str) -> tuple[bool, str]:
    return weights != "raw", weights


def _evaluation(text: bytes) -> list[dict[str, Any]]:
    """Returns for each set of images and each reference its finite figures, and the tables of evaluate.md."""
    rows = []
    for result in json.loads(text):
        row, network = {"set": result["name"], "table": tables.of_result(result)}, result["features"]["network"]
        for name, against in result["against"].items():
            figures = {tables.called(figure, network): of for figure, of in against["figures"].items() if _is_finite(of)}
            of_set = f"against the {tables.SETS.get(name, name)}"
            rows += [row | {"against": f"{result['num_images']:,} images {of_set}, {network} features", "figures": figures}]
    return rows


def _is_finite(figure: dict[str, Any]) -> bool:
    return all(math.isfinite(value) for value in flatten(figure).values() if isinstance(value, float))


def _picture(file: storage.Path) -> str:
    return _read(file, pictures.data_uri) or ""


def _files(folder: storage.Path, pattern: str) -> list[storage.Path]:
    """Returns the files of a folder and its sub-folders whose names match, by path; none where there is no folder."""
    found = storage.files(folder, SUFFIXES) if folder.exists() else ()
    return sorted(file for file in found if re.fullmatch(pattern, file.name))


def _read(file: storage.Path, parse: Callable[[bytes], Any]) -> Any:
    """Returns what a file says; None where it is not there, or, with a warning, where it is damaged."""
    try:
        return parse(storage.read_bytes(file)) if file.exists() else None
    except DAMAGED as error:
        logs.say("warning", f"{file} is left out: it is damaged ({type(error).__name__}).")
        return None
