"""How good images are: python main.py --mode=evaluate --workdir=<workdir> [--out=<folder>].

Generates images and compares them with the data set, or compares images of a dump, an .npz file or a folder with others. The
same command continues a run that was stopped.
"""

import functools
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax import autoencoding, model
from diffusion_jax.compose import evaluating, inputs, processes, sample_conditions, sampling, stored
from diffusion_jax.compose.choices import MEDIA
from diffusion_jax.compose.config import Config
from diffusion_jax.compose.evaluating import Images
from diffusion_jax.errors import UserError
from diffusion_jax.evaluation import Extractor
from diffusion_jax.metrics import compare, memorisation
from diffusion_jax.metrics.compare import Compared, Features
from diffusion_jax.runs import checkpoint, logs, pictures, plots, sharding, shards, storage, tables
from diffusion_jax.runs.statistics import Statistics

NUM_PAIRS = 32  # of nearest.png: an image and the nearest of the training set
MOST_BYTES = 2**30  # a set of images that has more is compared by its features alone
MOST_NEAREST = 10_000  # images whose neighbours in the training set are searched
MOST_VALUES = 10_000  # of a feature: its covariance then takes 800 MB
PARTS = ("value", "matched", "floor")  # of `Compared`, each a figure with its error


class Found(NamedTuple):
    """What is found of a set of images."""

    features: Features
    pixels: np.ndarray | None = None  # the images themselves, uint8 [N, H, W, C]; None where they are too many


class Real(NamedTuple):
    """Real images, or what is known of them, and where they come from."""

    images: Images | Statistics
    found: Found | Statistics


SPACES = {"features": lambda found: found.features["features"], "pixels": lambda found: found.pixels}


def run(config: Config, workdir: storage.Path | None, out: storage.Path | None = None) -> int:
    """Evaluates as the section `evaluate` says; returns the exit code, 0.

    It writes evaluate.json, evaluate.md and a grid of images, and of several checkpoints figures.png, into `out`, by default
    a folder of the workdir. The config is checked by `checks.check`.

    Args:
        config: of the run; where a dump and a reference are given, that is all there is.
        workdir: of the run, or None where both are given.
        out: the folder for the results, which must not have others.
    """
    _check_given(config, workdir, out)
    config = stored.agreed_config(workdir, config) if workdir else config
    references, network = evaluating.references(config), evaluating.extractor(config)
    base = workdir / "evaluate" if workdir else out
    out = out or results_folder(config, workdir)
    inputs.check_apart(config, out)
    judged = _judged(config, workdir, out)
    first = next(judged)
    _check(config, first, references, network)
    manifest = {name: each.made_from for name, each in references.items()}
    shards.check_or_write_manifest(out, {"features": network.description, "real": manifest})
    real = {name: _real(each, network, config, base / "real") for name, each in references.items()}
    results = [_result(each, real, network, config, out) for each in itertools.chain([first], judged)]
    if sharding.is_first():
        _write(out, results)
    sharding.wait_for_all("figures")
    logs.say("done", f"{out / 'evaluate.md'}, evaluate.json and pictures")
    return 0


def _check_given(config: Config, workdir: storage.Path | None, out: storage.Path | None) -> None:
    settings = config.evaluate
    if settings.features == "given" and not settings.dump:
        raise UserError(f"{config.show('evaluate.features')} needs evaluate.dump, an .npz file with 'features' [N, D].")
    if not settings.dump:
        processes.check_makes_images(config)
    if workdir is None and not (settings.dump and settings.reference and out):
        raise UserError(
            "flag --workdir is missing; without it two sets of images must be given, by --config.evaluate.dump and "
            "--config.evaluate.reference, and a folder for the results, by --out."
        )
    if settings.dump and settings.checkpoints == "all":
        raise UserError(
            f"{config.show('evaluate.checkpoints')} does not fit evaluate.dump, of which there is one; set 'one'."
        )


def _check(config: Config, judged: Images, references: Mapping[str, Images | Statistics], network: Extractor) -> None:
    """Raises UserError for what can be seen to fit together or not before any features are found."""
    for each in references.values():
        evaluating.check_alike(judged, each)
    known = judged.features or network.extract(np.zeros((1, *judged.shape), np.uint8))
    widths = {name: rows.shape[1] for name, rows in known.items()}
    if widths["features"] > MOST_VALUES:
        raise UserError(
            f"features of {widths['features']:,} values are too wide for a covariance; at most {MOST_VALUES:,} are allowed. "
            "Choose another evaluate.features."
        )
    for each in references.values():
        found = each if isinstance(each, Statistics) else each.statistics
        if found is not None:
            evaluating.check_statistics(config, found, network.description)
            compare.check_widths(widths, found.moments)
    real = {name: each for name, each in references.items() if isinstance(each, Images)}
    for name, each in {judged.name: judged, **real}.items():
        fewest = compare.FEWEST * (1 if each is judged or len(real) > 1 else 2)
        if each.num_images < fewest:
            raise UserError(f"the {name} images are {each.num_images}; figures need at least {fewest}.")
        if each.features is not None:
            compare.checked(each.features, name)


def results_folder(config: Config, workdir: storage.Path) -> storage.Path:
    """Returns the folder for results in a workdir; its name says what is judged, and has a digest of the settings."""
    settings = {"sample": config.sample.model_dump(), "evaluate": config.evaluate.model_dump()}
    if config.evaluate.dump:
        what = "dump"
    elif config.evaluate.checkpoints == "all":
        what = "checkpoints"
    else:
        steps = checkpoint.steps(workdir)
        what = f"step_{config.sample.step if config.sample.step >= 0 else max(steps, default=0):07d}"
    return workdir / "evaluate" / f"{what}_{shards.digest(settings)}"


def _judged(config: Config, workdir: storage.Path | None, out: storage.Path) -> Iterator[Images]:
    """Yields the sets of images to judge: that of `evaluate.dump`, or one for each checkpoint."""
    if config.evaluate.dump:
        found = evaluating.of_file(config, "dump")
        yield found._replace(name="dump")
        return
    num_images = config.evaluate.num_images
    if processes.is_autoencoder(config):  # which makes each image once
        num_images = min(num_images, sample_conditions.source(config).num_images)
    config = config.with_values("sample", num_images=num_images)
    steps = checkpoint.steps(workdir) if config.evaluate.checkpoints == "all" else [config.sample.step]
    if not steps:
        raise UserError(f"{str(workdir)!r} does not have a checkpoint yet.")
    logs.say("warning", *sampling.warnings(config))
    for step in steps:
        trained = model.with_guide(model.restore(workdir, config.with_values("sample", step=step)))
        found = _generated(trained)
        if config.evaluate.keep_images:
            file = model.write_dump(trained, out / "images" / found.name, model.manifest_of_images(trained))
            sharding.wait_for_all("dump")
            found = evaluating.of_images(config, file)._replace(name=found.name, made_from=found.made_from)
        yield found


def _generated(trained: model.Model) -> Images:
    """Returns the images that a model generates, which are made when they are asked for."""
    num_images, name = trained.config.sample.num_images, f"step_{trained.step:07d}"
    made_from = {"num_images": num_images, **model.manifest_of_images(trained)}
    shape, read = processes.image_shape(trained.config), functools.partial(model.images, trained)
    return Images(name, num_images, shape, lambda first: model.chunks(trained, first=first), read, made_from)


def _found(images: Images, network: Extractor, config: Config, folder: storage.Path) -> Found:
    """Returns the features of all images. They go into shards of a folder, so that a run that was stopped goes on."""
    if images.features is not None:
        shards.check_or_write_manifest(folder, images.made_from)
        return Found(images.features)
    num_images, size = images.num_images, config.evaluate.shard_size
    manifest = {"features": network.description, "shard_size": size, **images.made_from}
    kept = config.data.medium == "images" and num_images * math.prod(images.shape) <= MOST_BYTES

    def make(first: int) -> Iterator[shards.Rows]:
        for piece in images.pieces(first):
            yield {**network.extract(piece), **({"pixels": piece} if kept else {})}

    rows = shards.read_all(shards.by_image(folder, manifest, num_images, size, make, label="features"))
    return Found({name: rows[name] for name in rows if name != "pixels"}, rows.get("pixels"))


def _real(reference: Images | Statistics, network: Extractor, config: Config, folder: storage.Path) -> Real:
    """Returns real images with what is found of them, which all evaluations of a workdir share."""
    if isinstance(reference, Statistics):
        return Real(reference, reference)
    settings = {"features": network.description, "shard_size": config.evaluate.shard_size}
    digest = shards.digest({**settings, **reference.made_from})
    return Real(reference, _found(reference, network, config, folder / f"{reference.name}_{digest}"))


def _result(
    judged: Images, real: Mapping[str, Real], network: Extractor, config: Config, out: storage.Path
) -> dict[str, Any]:
    """Returns everything that is known of a set of images, as evaluate.json has it, and writes its pictures."""
    logs.say("evaluating", f"{judged.num_images:,} images of {judged.name}, into {out}")
    generated = _found(judged, network, config, out / judged.name)
    if not sharding.is_first():
        return {}
    against, description = {}, network.description
    for name, each in real.items():
        [others] = [real[other].found for other in real if other != name] or [None]
        logs.say("figures", f"against the {tables.SETS.get(name, name)}, which may take minutes")
        figures = _figures(generated, each, others)
        against[name] = {"made_from": each.images.made_from, "figures": _as_json(figures)}
        _say(name, figures, description["network"])
    result = {"name": judged.name, "num_images": judged.num_images, "features": description}
    result |= {"num_values": generated.features["features"].shape[1], "against": against, "made_from": judged.made_from}
    train, *control = [each.found for each in real.values() if isinstance(each.found, Found)] or [None]
    if train is not None:
        result["memorisation"] = _memorisation(generated, train, *control, picture=out / f"{judged.name}_nearest.png")
    originals = real.get("held_out") or real.get("training")
    if processes.is_autoencoder(config) and originals:
        result["reconstruction"] = _reconstruction(generated, originals.found, sample_conditions.source(config).num_images)
    if judged.features is None:
        medium = MEDIA[config.data.medium]
        first = list(range(min(medium.num_pictured, judged.num_images)))
        few = judged.read(first) if generated.pixels is None else generated.pixels[first]
        storage.write_bytes(out / f"{judged.name}.png", pictures.encode_png(medium.grid(few)))
    return result


def _figures(generated: Found, real: Real, others: Found | None) -> dict[str, Compared]:
    """Returns every figure; where a file has statistics besides images, the Frechet distances are to them."""
    num_images, num_values = generated.features["features"].shape
    if isinstance(real.found, Found):
        num_images = min(num_images, len(real.found.features["features"]))
    logs.say("warning", *compare.warnings(num_images, num_values, has_floor=isinstance(real.found, Found)))
    if isinstance(real.found, Statistics):
        return compare.compare_with_statistics(generated.features, real.found.moments)
    found = compare.compare(generated.features, real.found.features, others and others.features)
    known = real.images.statistics
    return found | compare.compare_with_statistics(generated.features, known.moments) if known else found


def _reconstruction(generated: Found, originals: Found, num_images: int) -> dict[str, float]:
    """Returns how near an autoencoder's images are to the first ones of the set that it was given, in dB.

    Returns {} where there are too many pixels, or the set, of `num_images`, is not there as a whole.
    """
    if generated.pixels is None or originals.pixels is None or len(originals.pixels) < num_images:
        return {}
    error = (generated.pixels.astype(np.float64) - originals.pixels[: len(generated.pixels)]) / 127.5
    found = np.asarray(autoencoding.psnr(np.mean(error**2, axis=(1, 2, 3))))
    logs.say("psnr", f"{np.mean(found):.2f} dB, of each image {np.std(found):.2f} around that")
    return {"psnr": float(np.mean(found)), "standard_error": float(np.std(found) / math.sqrt(len(found)))}


def _memorisation(generated: Found, train: Found, held_out: Found | None = None, *, picture: storage.Path) -> dict[str, Any]:
    """Returns how near images are to the training set, with held-out images as control; writes the nearest pairs."""
    results, sets = {"num_searched": len(train.features["features"])}, {"generated": generated}
    sets |= {"held_out": held_out} if held_out else {}
    for space, points_of in SPACES.items():
        of_train, points = points_of(train), {name: points_of(each) for name, each in sets.items()}
        if of_train is None or any(each is None for each in points.values()):
            continue
        own = memorisation.own_distances(of_train)
        near = {name: memorisation.closeness(_spread(each), of_train, own) for name, each in points.items()}
        found = {name: memorisation.figures(each) for name, each in near.items()}
        results[space] = {name: {figure: each._asdict() for figure, each in of.items()} for name, of in found.items()}
        shares = ", ".join(f"{of['copies'].value:.1%} of the {name.replace('_', '-')} images" for name, of in found.items())
        if held_out:  # a share means little without its control
            logs.say("copies", f"{shares} are much nearer to one training image than to others, by their {space}")
        if space == "pixels":
            pairs = memorisation.pictures(_spread(generated.pixels), train.pixels, near["generated"], NUM_PAIRS)
            storage.write_bytes(picture, pictures.encode_png(pictures.grid(pairs, num_columns=8)))
    return results


def _spread(rows: np.ndarray) -> np.ndarray:
    """Returns at most `MOST_NEAREST` rows, evenly spaced."""
    num = min(len(rows), MOST_NEAREST)
    return rows[np.arange(num) * len(rows) // num]


def _as_json(figures: Mapping[str, Compared]) -> dict[str, Any]:
    found = {name: compared._asdict() for name, compared in figures.items()}
    for parts in found.values():
        parts |= {part: parts[part]._asdict() for part in PARTS if parts[part]}
    return found


def _say(reference: str, figures: Mapping[str, Compared], network: str) -> None:
    for name, found in figures.items():
        text = f"{tables.called(name, network)} {found.value.value:.4g} +- {found.value.standard_error:.2g}"
        if found.floor:
            text += (
                f"; of {found.num_matched:,} images {found.matched.value:.4g}, of as many real ones {found.floor.value:.4g}"
            )
        logs.say(reference, text)


def _write(out: storage.Path, results: Sequence[dict[str, Any]]) -> None:
    """Writes evaluate.json and evaluate.md, and of several checkpoints figures.png."""
    storage.write_text(out / "evaluate.json", json.dumps(results, indent=2) + "\n")
    storage.write_text(out / "evaluate.md", "\n".join(map(tables.of_result, results)))
    if len(results) > 1:
        steps = [int(result["name"].removeprefix("step_")) for result in results]
        storage.write_bytes(out / "figures.png", plots.figures(steps, [result["against"] for result in results]))
