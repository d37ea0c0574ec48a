"""Results of an evaluation as Markdown: evaluate.md."""

from collections.abc import Iterator
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
