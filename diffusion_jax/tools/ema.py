"""Averages of a finished run's parameters, of any width: each is measured, and the best becomes a workdir.

    python main.py --config=configs/digits.py --workdir=runs/digits \\
        --config.train.ema_sigma_rels='(0.05, 0.1)' --config.train.keep_checkpoints=20
    python -m diffusion_jax.tools.ema --workdir=runs/digits --out=runs/digits_ema --sigma_rel=0.03,0.05,0.1,0.15,0.2

The averages in all checkpoints that the run kept are combined. The width sigma_rel is the standard deviation of the averaged
steps, relative to the length of the run. Of each width evaluate.num_images images are generated and compared with real ones,
as the section evaluate says. Writes ema.json, ema.png, and the weights with the least kernel distance.
[Karras et al. 2024, EDM2, section 3.2]

Flags:
    --workdir      of the run; a folder or gs://
    --out          the folder to make
    --sigma_rel    the widths, above 0, to 0.28, with commas between them
"""

import json
import sys
from typing import Any

import jax
import numpy as np

from diffusion_jax import model
from diffusion_jax.compose import checks, command, evaluating, stored, weights
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError
from diffusion_jax.runs import checkpoint, logs, plots, storage
from diffusion_jax.tools import export
from diffusion_jax.training import averages

MOST_ERROR = 0.1  # of a profile, above which a row says little


def run(workdir: storage.Path, config: Config, out: storage.Path, sigma_rels: list[float]) -> int:
    """Writes the figures of each width, and the best weights; returns the exit code, 0.

    Raises UserError where the run kept no averages of this kind, has another network to guide it, or `out` exists.
    """
    if out.exists():
        raise UserError(f"flag --out = {str(out)!r} exists already; choose another.")
    config = stored.agreed_config(workdir, config)
    if config.sample.guide:
        raise UserError(f"{config.show('sample.guide')} is not for averages, which are compared alone; set it to ''.")
    trained = model.restore(workdir, model.with_settings(config, ema_rate=0.0, step=-1))
    if not trained.config.train.ema_sigma_rels:
        raise UserError("the run kept no averages of train.ema_sigma_rels; train with (0.05, 0.1), for example.")
    evaluate, rows, best = evaluating.in_training(trained.config), [], None
    for sigma_rel in sigma_rels:
        params, error = combined(trained, sigma_rel)
        images = trained._replace(params=params).sample(config.evaluate.num_images)
        rows.append({"sigma_rel": sigma_rel, "profile_error": error, **evaluate(images)})
        logs.say("width", _said(rows[-1]))
        if rows[-1]["kernel_distance"] == min(row["kernel_distance"] for row in rows):
            best = params
    export.write_workdir(trained._replace(config=weights.alone(trained.config), params=best), out)
    found = {"workdir": str(workdir), "step": trained.step, "num_images": config.evaluate.num_images, "rows": rows}
    storage.write_text(out / "ema.json", json.dumps(found | {"features": config.evaluate.features}, indent=1) + "\n")
    storage.write_bytes(out / "ema.png", plots.widths(rows))
    see = f"the best weights: python main.py --mode=sample --workdir={storage.quoted(out)}"
    logs.say("done", f"{out}/ema.json and ema.png; {see}")
    return 0


def combined(trained: model.Model, sigma_rel: float) -> tuple[Any, float]:
    """Returns the average of a width at the last step, and the error of its profile; see `averages.posthoc`."""
    config, workdir = trained.config, storage.path(trained.workdir)
    kept = [(step, width) for step in checkpoint.steps(workdir) for width in config.train.ema_sigma_rels]
    coefficients, error = averages.posthoc(*map(np.array, zip(*kept, strict=True)), step=trained.step, sigma_rel=sigma_rel)
    total = jax.tree.map(lambda leaf: np.zeros(leaf.shape), trained.params)
    for coefficient, (step, width) in zip(coefficients, kept, strict=True):
        wanted = weights.averages_of(config) | {"ema": averages.power_name(width)}
        _, params = checkpoint.restore_weights(workdir, step=step, like=trained.params, **wanted)
        total = jax.tree.map(lambda sum, leaf, c=coefficient: sum + c * np.asarray(leaf, np.float64), total, params)
    params = jax.tree.map(lambda leaf, like: jax.device_put(leaf.astype(like.dtype), like.sharding), total, trained.params)
    return params, error


def _said(row: dict[str, float]) -> str:
    figures = "  ".join(f"{name} {row[name]:.4g}" for name in ("kernel_distance", "sliced_wasserstein"))
    doubt = f"; too few checkpoints for it, its profile is {row['profile_error']:.0%} off"
    return f"{row['sigma_rel']:g}  {figures}{doubt if row['profile_error'] > MOST_ERROR else ''}"


@command.program(__doc__)
def main(argv: list[str]) -> int:
    """Measures and writes; the exit code is 0, 2 for bad input, 1 for a failure."""
    flags, changes = command.parse(argv, {"workdir": "", "out": "", "sigma_rel": ""})
    command.check_given(flags, {"workdir": "the folder of a run", "out": "the folder to make"})
    config, out = command.config_of(flags, changes, flags["workdir"]), storage.path(flags["out"])
    storage.check_folder(out)
    checks.check(config)
    return run(storage.path(flags["workdir"]), config, out, _widths(flags))


def _widths(flags: command.Flags) -> list[float]:
    try:
        found = [float(word) for word in flags["sigma_rel"].split(",")]
    except ValueError:
        found = []
    are_allowed = bool(found) and all(0 < width <= averages.MOST_SIGMA_REL for width in found)
    wanted = f"numbers above 0, to {averages.MOST_SIGMA_REL}, such as 0.05,0.1"
    command.check_allowed(flags, "sigma_rel", are_allowed, wanted)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv))
