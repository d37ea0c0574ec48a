"""A table of an experiment: trains and evaluates a config with every setting of a grid, for several seeds.

    python -m diffusion_jax.tools.sweep --config=configs/digits.py --workdir=runs/sweep --seeds=3 \\
        --grid="process.schedule=linear,cosine; predicts=eps,v,x_0"

writes sweep.md and sweep.json into the workdir after every evaluation: of each cell of the grid the mean of every figure of
--mode=evaluate, its standard error over seeds, and the difference to the first cell, seed by seed. The same command goes on
where it was stopped; a larger grid adds cells. A cell that fails is a row with the reason, and is tried again by the next
start. Seed k adds k to train.seed and to sample.seed, so the cells of a seed see the same noises. Fields of the sections
sample, evaluate, likelihood and edit change no training: cells that differ in nothing else share one, a workdir for each
seed, whose name has the other settings. Every mode of main.py works with it.

Flags:
    --config    of every cell; --config.<section>.<field>=<value> changes a field
    --grid      fields and their values: every combination is a cell; | stands between grids, whose cells are put together
    --seeds     how often each cell is trained, 1 by default
    --workdir   the folder for the table and the workdirs; a folder or gs://
    --shard     i/n, of 0/n to (n - 1)/n: this process makes every n-th training and its cells; any order, any machines
"""

import contextlib
import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from diffusion_jax import errors, jobs
from diffusion_jax.compose import checks, command, evaluating, sections, stored
from diffusion_jax.compose.config import FIELDS, Config
from diffusion_jax.errors import UserError
from diffusion_jax.jobs import evaluate, train
from diffusion_jax.metrics import figure
from diffusion_jax.runs import compiling, logs, sharding, shards, storage, tables
from diffusion_jax.training import loop

OF_USE = ("sample", "evaluate", "likelihood", "edit")  # sections that change no training
SEEDS = ("train.seed", "sample.seed")
EXAMPLE = "such as --grid='predicts=eps,v; process.schedule=linear,cosine'"
MOST_LETTERS = 100  # of a folder's name


class Run(NamedTuple):
    """A cell of the grid with one seed."""

    settings: Mapping[str, Any]  # of the cell: {"section.field": value}
    seed: int
    config: Config
    workdir: storage.Path  # which cells share that differ in nothing that changes a training
    failed: storage.Path  # a file with the reason, where it has failed

    @property
    def name(self) -> str:
        """Returns what the table calls the cell."""
        return _shown(self.settings)

    def is_done(self) -> bool:
        """Returns whether it is trained and evaluated."""
        return train.is_done(self.config, self.workdir) and self.result().exists()

    def result(self) -> storage.Path:
        """Returns the file of its evaluation."""
        return evaluate.results_folder(self.evaluated(), self.workdir) / "evaluate.json"

    def evaluated(self) -> Config:
        """Returns the config of its evaluation: of the step with which the training ends, whatever came after."""
        step = self.config.sample.step
        return self.config.with_values("sample", step=self.config.train.num_steps if step < 0 else step)


def run(config: Config, grid: str, workdir: storage.Path, *, num_seeds: int = 1, shard: tuple[int, int] = (0, 1)) -> int:
    """Makes the cells of a shard that are not made yet, and the table; returns the exit code, as `jobs.train.run`."""
    runs = plan(config, grid, workdir, num_seeds=num_seeds)
    about = {"grid": grid, "num_seeds": num_seeds, "config": config.flat(), "versions": stored.versions()}
    about |= {"device": sharding.device_name()}
    if (num_named := len(list(combinations(grid)))) > (num_cells := len(runs) // num_seeds):
        logs.say("note", f"the grid names {num_named} cells, but {num_cells} different: those that are equal are made once.")
    for number, mine in enumerate(trainings(runs, shard), start=1):
        logs.say("training", f"{number} of this process, {mine[0].workdir.name}: {len(mine)} cell{'s' * (len(mine) > 1)}")
        for code in _made(mine):
            if code:
                return code
            write(workdir, about, runs)
        jax.clear_caches()  # no other training runs these programs
    write(workdir, about, runs)
    logs.say("done", f"{workdir / 'sweep.md'} and sweep.json, {sum(map(Run.is_done, runs))} of {len(runs)} evaluations")
    return 0


def _made(runs: Sequence[Run]) -> Iterator[int]:
    """Trains once and evaluates every run; yields an exit code after each piece of work."""
    config, workdir = runs[0].config, runs[0].workdir
    if not train.is_done(config, workdir):
        code = 0
        with _failing(runs):
            code = train.run(config, workdir)
        yield code
    for each in runs if train.is_done(config, workdir) else ():
        with _failing([each]):
            evaluate.run(each.evaluated(), workdir)
        yield 0


@contextlib.contextmanager
def _failing(runs: Sequence[Run]) -> Iterator[None]:
    """Makes of whatever the work on some runs raises the reason that their rows show."""
    for each in runs:
        each.failed.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        reason = command.sentence(error)
        logs.say("failed", reason)
        for each in runs:
            storage.write_text(each.failed, f"{reason}\n")


def plan(config: Config, grid: str, workdir: storage.Path, *, num_seeds: int) -> list[Run]:
    """Returns all cells with the first seed, then all with the second, ...

    Raises UserError for a grid that cannot be read, a cell whose fields do not fit together, and workdirs that were begun
    with another config.
    """
    cells = {}
    for changes in combinations(grid):
        cell = Config.of_flat(config.flat() | changes)
        settings = {name: cell.flat()[name] for name in sorted(changes)}
        with errors.of(f"of the cell {_shown(settings)}: "):
            checks.check(cell)
        cells[_shown(settings)] = settings, cell
    runs = [_run(*cell, seed, workdir) for seed in range(num_seeds) for cell in cells.values()]
    for each in runs:
        if stored.has_config(each.workdir):
            stored.agreed_config(each.workdir, each.config, advice=stored.ADVICE_TO_TRAIN)
    return runs


def _run(settings: Mapping[str, Any], cell: Config, seed: int, workdir: storage.Path) -> Run:
    cell = cell.with_values("train", seed=cell.train.seed + seed).with_values("sample", seed=cell.sample.seed + seed)
    of_training = {name: value for name, value in settings.items() if name.partition(".")[0] not in OF_USE}
    failed = workdir / "failed" / f"{folder_name(settings | {'seed': seed})}.txt"
    return Run(settings, seed, cell, workdir / folder_name(of_training | {"seed": seed}), failed)


def combinations(grid: str) -> Iterator[dict[str, Any]]:
    """Yields {"section.field": value} of each cell; UserError where the grid cannot be read.

    Example:
        >>> list(combinations("train.batch_size=8,16; predicts=v | model.multipliers=(1,2),(1,)"))[1:3]
        [{'train.batch_size': 16, 'predicts': 'v'}, {'model.multipliers': (1, 2)}]
    """
    for product in grid.split("|"):
        axes = {}
        for axis in filter(None, map(str.strip, product.split(";"))):
            name, equals, values = map(str.strip, axis.partition("="))
            if not equals:
                raise UserError(f"flag --grid has {axis!r}; it must be a field and its values, {EXAMPLE}.")
            sections.check_name(name, FIELDS)
            if name in SEEDS or name in axes:
                why = "which --seeds sets" if name in SEEDS else "twice"
                raise UserError(f"flag --grid has the field {name}, {why}; leave it out.")
            axes[name] = [command.value(name, text.strip()) for text in re.split(r",(?![^(\[]*[)\]])", values)]
        if not axes:
            lacks = "a side of | without a field; each side" if "|" in grid else "no field; it"
            raise UserError(f"flag --grid = {grid!r} has {lacks} must be fields and their values, {EXAMPLE}.")
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True))


def _shown(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def folder_name(settings: Mapping[str, Any]) -> str:
    """Returns a name for a folder, of the letters that every disk takes; with a digest where it does not say all."""
    text = _shown(settings).replace(", ", ",")
    kept = re.sub(r"[^\w.,=+-]", "", text)[:MOST_LETTERS]
    return kept if kept == text else f"{kept}_{shards.digest({'settings': text})}"


def trainings(runs: Sequence[Run], shard: tuple[int, int] = (0, 1)) -> list[list[Run]]:
    """Returns for each training of a shard the runs that share it and are not made yet: of number k, k mod n is i."""
    found = {}
    for each in runs:
        found.setdefault(str(each.workdir), []).append(each)
    mine = [each for k, each in enumerate(found.values()) if k % shard[1] == shard[0]]
    return list(filter(None, ([each for each in one if not each.is_done()] for one in mine)))


def write(workdir: storage.Path, about: Mapping[str, Any], runs: Sequence[Run]) -> None:
    """Writes sweep.json and sweep.md of what is made so far, by whichever process."""
    if sharding.is_first():
        cells = summary(runs)
        storage.write_text(workdir / "sweep.json", json.dumps({**about, "cells": cells}, indent=1) + "\n")
        storage.write_text(workdir / "sweep.md", "\n".join(tables.of_sweep(cells, about["num_seeds"])) + "\n")


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns for each cell its settings, its runs, and its figures over seeds, with the difference to the first cell."""
    cells = {}
    for each in runs:
        cell = cells.setdefault(each.name, {"name": each.name, "settings": each.settings, "runs": [], "figures": {}})
        found = {"seed": each.seed, "workdir": each.workdir.name, "state": "missing"}
        if each.is_done():
            found["state"] = "done"
            [result] = json.loads(storage.read_text(each.result(), "an evaluation"))
            cell["network"] = result["features"]["network"]
            for name, against in result["against"].items():
                for kind, figures in against["figures"].items():
                    cell["figures"].setdefault(name, {}).setdefault(kind, {})[each.seed] = figures
        elif each.failed.exists():
            found |= {"state": "failed", "reason": storage.read_text(each.failed, "a reason").strip()}
        cell["runs"].append(found)
    first, *others = list(cells.values())
    for cell in (*others, first):
        other = {} if cell is first else first["figures"]
        cell["figures"] = {
            name: {kind: over_seeds(found, other.get(name, {}).get(kind, {})) for kind, found in kinds.items()}
            for name, kinds in cell["figures"].items()
        }
    return [first, *others]


def over_seeds(figures: Mapping[int, Any], first: Mapping[int, Any]) -> dict[str, Any]:
    """Returns a figure over seeds, and its difference to another cell's over the seeds that both have.

    Args:
        figures: {seed: as evaluate.json has a figure}
        first: the same of the other cell.
    """
    of = {part: {seed: found[part]["value"] for seed, found in figures.items() if found[part]} for part in evaluate.PARTS}
    other = {seed: found["value"]["value"] for seed, found in first.items()}
    differences = [value - other[seed] for seed, value in of["value"].items() if seed in other]
    found = {part: mean(list(values.values())) for part, values in of.items()} | {"difference": mean(differences)}
    return found | {"num_matched": next(iter(figures.values()))["num_matched"], "by_seed": of["value"]}


def mean(values: Sequence[float]) -> dict[str, Any] | None:
    """Returns the mean and its standard error sd / sqrt(n), None for one value; None for no values."""
    if len(values) < 2:
        return {"mean": values[0], "standard_error": None, "num_seeds": 1} if values else None
    found = figure.of_mean(values)
    return {"mean": found.value, "standard_error": found.standard_error, "num_seeds": len(values)}


@command.program(__doc__)
def main(argv: list[str]) -> int:
    """Makes the table; the exit code is 0, 2 for bad input, 1 for a failure, 128 + n for what signal n stopped."""
    compiling.pin_numerics()
    flags, changes = command.parse(argv, {"workdir": "", "grid": "", "seeds": "1", "shard": "0/1"})
    command.check_given(flags, {"workdir": "the folder for the table and the workdirs"})
    num_seeds, workdir = command.whole_number(flags, "seeds"), storage.path(flags["workdir"])
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", flags["shard"])
    is_part = bool(match) and int(match[1]) < int(match[2])
    command.check_allowed(flags, "shard", is_part, "i/n with i from 0 to n - 1, as 0/2")
    storage.allow_files()
    storage.check_folder(storage.absolute(workdir))
    config = command.config_of(flags, changes)
    runs = plan(config, flags["grid"], workdir, num_seeds=num_seeds)
    jobs.start(runs[0].config, changes)
    idle = itertools.chain(*(checks.without_effect(each.config, each.settings) for each in runs))
    logs.say("warning", *dict.fromkeys(idle))
    for each in {str(each.config.evaluate): each for each in runs}.values():
        evaluating.extractor(each.config)  # which may lack its weights: better said now
    with loop.handling_signals(command.interrupt):  # a training has its own answer
        code = run(config, flags["grid"], workdir, num_seeds=num_seeds, shard=(int(match[1]), int(match[2])))
    sharding.wait_for_all("end")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv))
