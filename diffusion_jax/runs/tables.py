"""Results of evaluations as Markdown: evaluate.md, and sweep.md of many."""

from collections.abc import Iterator, Sequence
from typing import Any

NAMES = {  # of a figure: what it is called, and what it is called where the features are Inception's
    "frechet_distance": ("Frechet distance", "FID"),
    "spatial_frechet_distance": ("spatial Frechet distance", "sFID"),
    "kernel_distance": ("kernel distance", "KID"),
    "sliced_wasserstein": ("sliced Wasserstein distance", "MIND"),
    "inception_score": ("inception score", "inception score"),
}


SETS = {"training": "training set", "held_out": "held-out set"}
EXPLANATION = (
    "The standard error is that of drawing these images. The last column is the floor: what other real images reach. "
    "The column before it is of as many of these images. Both columns are against the same real ones: without a second set, "
    "against those that the floor leaves. Where the two agree, the figure sees no difference."
)
OF_SWEEP = "Mean and standard error over seeds; then the difference to the first cell, seed by seed, in the same way."
FLOOR_OF_SWEEP = (
    "The last row is the floor: what other real images reach. The row before it is of as many images of the first cell that "
    "is made. Both are against the same real ones, so compare them with each other, and not with the rows above."
)
OF_MEMORISATION = (
    "How near images are to the nearest of {num} that they are compared with. `copies` is the share of images that are much "
    "nearer to one of them than to its neighbours. Held-out images are the control: where there are none, the figures mean "
    "little."
)


def called(figure: str, network: str) -> str:
    """Returns what a figure is called: FID and the like only where the features are Inception's."""
    of_others, of_inception = NAMES.get(figure, (figure, figure))
    return of_inception if network.startswith("inception") else of_others


def of_result(result: dict[str, Any]) -> str:
    """Returns a result, as evaluate.json has it, as a page of tables."""
    features = result["features"]
    scaled = f", images scaled to {features['size']} px" if features["size"] else ""
    lines = [f"# {result['name']}: {result['num_images']:,} images", ""]
    lines += [f"Features: {features['network']}, {result['num_values']:,} values{scaled}.", EXPLANATION, ""]
    if found := result.get("reconstruction"):
        lines += [f"Peak signal-to-noise ratio: {found['psnr']:.2f} dB (standard error {found['standard_error']:.2g}).", ""]
    for name, against in result["against"].items():
        num_real = against["made_from"].get("num_images")
        lines += [f"## Against the {SETS.get(name, name)}" + (f": {num_real:,} images" if num_real else ""), ""]
        lines += [*_figures(against["figures"], features["network"]), ""]
    if found := result.get("memorisation"):
        spaces = {space: sets for space, sets in found.items() if space != "num_searched"}
        lines += ["## Memorisation", "", OF_MEMORISATION.format(num=f"{found['num_searched']:,}"), ""]
        lines += [*_memorisation(spaces), ""]
    return "\n".join(lines)


def _figures(figures: dict[str, Any], network: str) -> Iterator[str]:
    num = next(iter(figures.values()))["num_matched"]
    yield "| figure | value | standard error |" + (f" of {num:,} images | of {num:,} real images |" if num else "")
    yield "|---|---|---|" + "---|---|" * bool(num)
    for name, found in figures.items():
        cells = [called(name, network), f"{found['value']['value']:.4g}", f"{found['value']['standard_error']:.2g}"]
        cells += [f"{found[part]['value']:.4g}" for part in ("matched", "floor") if found[part]]
        yield f"| {' | '.join(cells)} |"


def _memorisation(found: dict[str, Any]) -> Iterator[str]:
    names = list(next(iter(next(iter(found.values())).values())))
    yield f"| by | images | {' | '.join(name.replace('_', ' ') for name in names)} |"
    yield "|---|---|" + "---|" * len(names)
    for space, sets in found.items():
        for name, figures in sets.items():
            cells = [f"{each['value']:.3f} +- {each['standard_error']:.2g}" for each in figures.values()]
            yield f"| {space} | {name.replace('_', '-')} | {' | '.join(cells)} |"


def of_sweep(cells: Sequence[dict[str, Any]], num_seeds: int) -> Iterator[str]:
    """Yields the lines of a page with the cells of sweep.json, in a table for each set of real images."""
    yield f"# {len(cells)} cells, {num_seeds} seed{'s' * (num_seeds > 1)}"
    yield f"\n{OF_SWEEP}"
    for name in dict.fromkeys(name for cell in cells for name in cell["figures"]) or [""]:
        yield f"\n## Against the {SETS.get(name, name)}\n" if name else ""
        yield from _cells(cells, name, num_seeds)


def _cells(cells: Sequence[dict[str, Any]], real: str, num_seeds: int) -> Iterator[str]:
    """Yields the rows of all cells, and of the first one that is made the floor with what to compare it with."""
    made = next((cell for cell in cells if real in cell["figures"]), {"figures": {real: {}}})
    kinds = {kind: called(kind, made["network"]) for kind in made["figures"][real]}
    yield f"| cell | {''.join(f'{kind} | difference | ' for kind in kinds.values())}seeds |"
    yield "|---|" + "---|---|" * len(kinds) + "---|"
    for cell in cells:
        found = cell["figures"].get(real, {})
        row = [_plus_minus(found.get(kind, {}).get(part)) for kind in kinds for part in ("value", "difference")]
        yield f"| {' | '.join([_cell(cell['name']), *row, _cell(_states(cell['runs'], num_seeds))])} |"
    found = made["figures"][real]
    if any(of["floor"] for of in found.values()):
        num = next(iter(found.values()))["num_matched"]
        for text, part in ((made["name"], "matched"), ("other real images", "floor")):
            row = [f"{_plus_minus(found[kind][part])} |" for kind in kinds]
            yield f"| {_cell(text)}: {num:,} images | {' | '.join(row)} | |"
        yield f"\n{FLOOR_OF_SWEEP}"


def _states(runs: Sequence[dict[str, Any]], num_seeds: int) -> str:
    """Returns how many seeds of a cell are made, and why others are not."""
    num_done = sum(run["state"] == "done" for run in runs)
    reasons = [f"; seed {run['seed']} failed: {run['reason']}" for run in runs if run["state"] == "failed"]
    return (f"{num_done}" if num_done == num_seeds else f"{num_done} of {num_seeds}") + "".join(reasons)


def _plus_minus(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    return f"{found['mean']:.4g}" + (f" ± {found['standard_error']:.2g}" if found["standard_error"] else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
