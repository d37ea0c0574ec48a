"""A config against its published figures: python main.py --mode=verify --config=configs/<name>.py [--workdir=<workdir>].

Parameters and operations need no weights. FID and bits per dimension are read from what --mode=evaluate and
--mode=likelihood left in the workdir; without, the commands that make them are printed.
"""

import json
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from diffusion_jax.compose import inputs, processes, stored
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError
from diffusion_jax.jobs.published import CONFIGS, PUBLISHED, Figure
from diffusion_jax.runs import flops, logs, storage

FOLDERS = {"fid": "evaluate", "bound": "likelihood", "pf_ode": "likelihood"}  # where a figure's results stand
OF_NO_QUALITY = {"strip", "num_images", "batch_per_device", "shard_size", "seed", "step", "guide", "label"}  # of `sample`
ADVICE = "set each of these by --config.<field>=<stored value> to compare that run, or leave --workdir out."
UNITS = {"parameters": "parameters", "multiply_adds": "multiplications and additions, as one"}
UNITS |= {"bound": "bits/dim", "pf_ode": "bits/dim (pf_ode)", "fid": "FID"}


def run(config: Config, workdir: storage.Path | None, *, preset: str) -> int:
    """Prints a line for each published figure: pass, fail, not comparable, or how to measure it. Returns 1 after a fail.

    Args:
        workdir: of a run of the config, or None.
        preset: the file of the config.

    Raises:
        UserError: where nothing is published, or the run has another config.
    """
    name = storage.path(preset).name.removesuffix(".py")
    if name not in PUBLISHED:
        raise UserError(f"flag --config = {preset!r} has no published figures; these have: {CONFIGS}.")
    if workdir:
        config = stored.agreed_config(workdir, config, advice=ADVICE)
    verdicts = [_verdict(figure, config, workdir, preset) for figure in PUBLISHED[name]]
    counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    logs.say("done", ", ".join(f"{number} {verdict}" for verdict, number in counts.items()))
    return 1 if "fail" in verdicts else 0


def _verdict(figure: Figure, config: Config, workdir: storage.Path | None, preset: str) -> str:
    """Returns, and prints with its reason, 'pass', 'fail', 'no verdict' or 'unmeasured'."""
    if figure.kind in ("parameters", "multiply_adds"):
        return _compared(figure, _counted(figure.kind, config), "")
    reasons = []
    for file, result in _results(figure, workdir):
        try:
            if not (differences := list(_differences(figure, result, config))):
                return _compared(figure, _value(figure, result), f", of {file}")
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"file {str(file)!r} does not have results as this version writes them ({error}).") from error
        reasons.append(f"{file}: {'; '.join(differences)}")
    for reason in reasons:
        logs.say("no verdict", f"{UNITS[figure.kind]} not comparable: {reason}")
    logs.say("unmeasured", f"{UNITS[figure.kind]}, {_published(figure)}; this measures it:")
    logs.say("", _command(figure, workdir, preset))
    return "no verdict" if reasons else "unmeasured"


def _compared(figure: Figure, value: float, origin: str) -> str:
    """Figures of quality may be better than published, the others only equal."""
    error = value - figure.value
    verdict = "pass" if (error if figure.kind in FOLDERS else abs(error)) <= figure.tolerance else "fail"
    shown = f"{value:.4g}" if figure.kind in FOLDERS else f"{value:,.0f}"
    logs.say(verdict, f"{shown} {UNITS[figure.kind]}{origin}; {_published(figure)}")
    return verdict


def _published(figure: Figure) -> str:
    value, tolerance = (f"{x:,.0f}" if x >= 1000 else f"{x:.3g}" for x in (figure.value, figure.tolerance))
    return f"published {value}, tolerance {tolerance} ({figure.source})"


def _counted(kind: str, config: Config) -> int:
    """Returns what a network has or takes for one image; nothing is computed."""
    network = processes.network(inputs.with_num_classes(config))
    params = jax.eval_shape(network.init, jax.random.key(0))
    if kind == "parameters":
        return sum(leaf.size for leaf in jax.tree.leaves(params))
    x, c_noise = (jax.ShapeDtypeStruct((1, *axes), jnp.float32) for axes in (processes.shape(config), ()))
    return flops.count(network.apply, params, x, c_noise, inputs.conditioning(config).spec(1)) // 2


def _results(figure: Figure, workdir: storage.Path | None) -> Iterator[tuple[storage.Path, dict[str, Any]]]:
    """Yields what stands in a workdir of a kind of figure, the latest checkpoint first."""
    folder = workdir and workdir / FOLDERS[figure.kind]
    name = "evaluate.json" if figure.kind == "fid" else f"{figure.kind}.json"
    files = sorted((each / name for each in folder.iterdir()), reverse=True) if folder and folder.exists() else []
    for file in files:
        if file.exists():
            found = storage.read_json(file, "results")
            yield from ((file, each) for each in (reversed(found) if isinstance(found, list) else [found]))


def _differences(figure: Figure, result: dict[str, Any], config: Config) -> Iterator[str]:
    """Yields in words what keeps a result of ours from being compared with a published one."""
    made_from, of_fid = result["made_from"], figure.kind == "fid"
    num_images = result["num_images"] if of_fid else made_from["num_images"]
    if num_images != figure.num_images:
        yield f"of {num_images:,} images, published of {figure.num_images:,}"
    if of_fid:
        if (network := result["features"]["network"]) != "inception":
            yield f"in features of {network}, published in Inception's"
        num_real = result["against"].get("training", {}).get("made_from", {}).get("num_images", 0)
        if num_real != figure.num_real:
            yield f"against {num_real:,} images of the training set, published against {figure.num_real:,}"
    elif not made_from["likelihood"]["held_out"]:
        yield "of the training set, published of the held-out one"
    wanted, given = config.sample.model_dump(exclude=OF_NO_QUALITY), made_from.get("sample", {})
    for name, value in json.loads(json.dumps(wanted)).items():
        if name in given and given[name] != value:
            yield f"with sample.{name} = {given[name]!r}, the config's is {value!r}"


def _value(figure: Figure, result: dict[str, Any]) -> float:
    if figure.kind == "fid":
        return result["against"]["training"]["figures"]["frechet_distance"]["value"]["value"]
    return result[f"{figure.kind}_bits_per_dim"]


def _command(figure: Figure, workdir: storage.Path | None, preset: str) -> str:
    mode = f"python main.py --mode={FOLDERS[figure.kind]} --config={preset} --workdir={workdir or 'WORKDIR'}"
    if figure.kind != "fid":
        return f"{mode} --config.likelihood.kind={figure.kind}"
    inception = "--config.evaluate.features=inception --config.evaluate.weights=FILE"
    return f"{mode} {inception} --config.evaluate.num_images={figure.num_images}"
