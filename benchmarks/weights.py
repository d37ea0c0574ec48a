"""Whether imported models are what they were: against diffusers, OpenAI, DiT and a torch copy of Ho et al., at full size.

    python3 -m venv torchenv && torchenv/bin/pip install torch diffusers safetensors timm tqdm requests
    mkdir code && cd code && git clone https://github.com/openai/improved-diffusion
    git clone https://github.com/openai/guided-diffusion && git clone https://github.com/pesser/pytorch_diffusion
    git clone https://github.com/facebookresearch/DiT && cd ..
    python benchmarks/weights.py --peer=torchenv/bin/python --code=code --folder=/tmp/weights

The other side, weights_peers.py, builds each model with random weights in the architecture that people use. It saves it as
its own library does, and records its output and ten steps of its own samplers, with the noise that they drew. This side
imports the files by the command line and takes the same steps with the same noise. What it exports goes back to diffusers,
which loads it as a DDPMPipeline and a DDIMPipeline, or a DiTPipeline, and is recorded again. Rows go into
benchmarks/weights.json, with --only=NAME one at a time. It needs 20 GB of disk and 10 GB of memory.
"""

import argparse
import json
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import diffusion_jax as dj
from diffusion_jax import denoiser, guidance, process
from diffusion_jax.compose import processes, sampling
from diffusion_jax.compose.choices import CLIPS
from diffusion_jax.denoiser import Denoiser
from diffusion_jax.process import Level
from diffusion_jax.samplers import Interval, Sampler

ROOT = pathlib.Path(__file__).parents[1]
OUT = pathlib.Path(__file__).with_suffix(".json")
DIFFUSERS = {"ddim": {"sampler": "ddim", "clip": "static_keep_eps"}, "ancestral": {"sampler": "ancestral"}}
LEADING = {name: run | {"grid": "leading"} for name, run in DIFFUSERS.items()}  # of an export whose variance is 'large'
OF_LATENTS = {"ddim": {"sampler": "ddim"}}  # a DiTPipeline
OPENAI = {"ddim": {"sampler": "ddim", "grid": "ddim_uniform"}, "ancestral": {"sampler": "ancestral"}}
PESSER = {"ancestral": {"grid": "explicit", "times": tuple(range(500, 489, -1))}}
LED = {"guidance": 1001.0, "clip": "none"}  # by a classifier whose scale is 1000
CLASSIFIER = "64x64_classifier"
Bound = Callable[[Any], Callable[[Any, Any], Any]]


class Row(NamedTuple):
    """A model, and how it is compared."""

    source: str  # the file or folder in its own folder; '' for a run of examples/
    runs: dict[str, dict[str, Any]]  # name of a recorded run -> the settings that are the same
    copies: tuple[str, ...] = ()  # of the same weights in other files
    exported: dict[str, dict[str, Any]] | None = None  # as `runs`, of what is exported to diffusers
    guide: str = ""  # the file of a classifier


ROWS = {
    "ddpm-cifar10-32": Row(".", DIFFUSERS, ("shards",), exported=DIFFUSERS),
    "ddpm-church-256": Row(".", DIFFUSERS, exported=DIFFUSERS),
    "cifar10_uncond_50M_500K": Row("cifar10_uncond_50M_500K.pt", OPENAI, ("old/cifar10_uncond_50M_500K.pt",)),
    "pesser_cifar10": Row("model-790000.ckpt", PESSER, exported=LEADING),
    CLASSIFIER: Row(f"{CLASSIFIER}.pt", {}),
    "64x64_diffusion": Row("64x64_diffusion.pt", OPENAI),
    "64x64_guided": Row("64x64_diffusion.pt", {name: run | LED for name, run in OPENAI.items()}, guide=f"{CLASSIFIER}.pt"),
    "64_256_upsampler": Row("64_256_upsampler.pt", {}),
    "DiT-XL-2-256x256": Row("DiT-XL-2-256x256.pt", OPENAI),
    "DiT-XL-2-256": Row(".", OF_LATENTS, exported=OF_LATENTS),
    "digits": Row("", DIFFUSERS, exported=DIFFUSERS),
    "digits_classes": Row("", DIFFUSERS, exported=DIFFUSERS),
}


def command(*words: str) -> None:
    """Runs a command from the root of the repository; the program ends where it fails."""
    print("+", *words, flush=True)
    subprocess.run([str(word) for word in words], cwd=ROOT, check=True)


def imported(source: pathlib.Path, workdir: pathlib.Path) -> pathlib.Path:
    """Returns the workdir of a model, imported by the command line unless it is there."""
    if not workdir.exists():
        command(sys.executable, "-m", "diffusion_jax.tools.import_weights", f"--from={source}", f"--workdir={workdir}")
    return workdir


def recorded(place: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(place / "recorded.npz", allow_pickle=False) as found:
        return dict(found)


def difference(ours: Any, theirs: np.ndarray) -> dict[str, float]:
    """Returns the largest difference of any number, and the standard deviation of theirs."""
    return {"max_difference": float(np.max(np.abs(np.asarray(ours) - theirs))), "std": float(np.std(theirs))}


def bound(model: dj.Model) -> Bound:
    """Returns cond -> the network as (x, c_noise) -> output, one compiled program for all that is asked of it."""
    apply = jax.jit(processes.network(model.config).apply)
    return lambda cond: lambda x, c_noise: apply(model.params, x, c_noise, cond)


def of_network(model: dj.Model, network: Bound, found: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns how far our output is from theirs; the levels are those of the process that was imported."""
    level = processes.process_of(model.config).level(found["t"])
    cond = {} if processes.is_classifier(model.config) else cond_of(found)  # without a label a classifier gives its logits
    return difference(network(cond)(found["x"], level.c_noise), found["output"])


def cond_of(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns what the network was shown beside x_t."""
    return {name: found[name] for name in ("label", "image") if name in found}


def of_gradient(model: dj.Model, network: Bound, found: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns how far the gradient of a classifier is from theirs."""
    level, label = processes.process_of(model.config).level(found["t"]), found["label"]
    log_prob = denoiser.make_log_prob(network({"label": label}))
    return difference(jax.grad(lambda x: jnp.sum(log_prob(x, level)))(found["x"]), found["gradient"])


def of_run(sampler: Sampler, denoise: Denoiser, levels: Level, run: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns how far our steps are from theirs, of the same noise; `inside` is the share of pixels within -1 and 1."""
    state, by_step, num_steps = jnp.asarray(run["x_T"]), [], len(run["states"])
    for number, (noise, theirs) in enumerate(zip(run["noise"], run["states"], strict=True)):
        t, s = (process.rows(levels, number + place) for place in (0, 1))
        interval = Interval(t, s, jnp.int32(number), jnp.int32(num_steps - 1 - number))
        state, _ = sampler.step(denoise, state, interval, lambda k, noise=noise: jnp.asarray(noise))
        by_step.append(difference(state, theirs)["max_difference"])
    inside = float(np.mean(np.abs(run["states"][-1]) < 0.999))
    std = float(np.std(run["states"][-1]))
    return {"num_steps": num_steps, "max_difference": max(by_step), "by_step": by_step, "std": std, "inside": inside}


def parts(model: dj.Model, network: Bound, guide: Bound | None, cond: dict[str, Any]) -> tuple[Sampler, Denoiser]:
    """Returns the sampler and the denoiser of a model's config; ancestral steps are led by their mean, as OpenAI's are."""
    config, limited = model.config, CLIPS[model.config.sample.clip]
    sampler, denoise = sampling.make_sampler(config), processes.make_denoiser(config)(network(cond), cond)
    if guide is None:
        return sampler, limited(denoise)
    log_prob, scale = denoiser.make_log_prob(guide(cond)), config.sample.guidance - 1
    if config.sample.sampler == "ancestral":
        return guidance.ancestral_toward(log_prob, scale=scale, variance=config.sample.variance), limited(denoise)
    return sampler, limited(guidance.classifier(denoise, log_prob, scale=scale))


def compare(model: dj.Model, found: dict[str, np.ndarray], row: Row) -> dict[str, Any]:
    """Returns how far a model is from what was recorded: its output, the gradient of a classifier, its runs."""
    network, guide = bound(model), bound(model.guide) if model.guide else None
    differences = {"output": of_network(model, network, found)}
    if "gradient" in found:
        differences["gradient"] = of_gradient(model, network, found)
    cond = cond_of(found)
    for name, settings in row.runs.items():
        run = {part: found[f"{name}.{part}"] for part in ("x_T", "noise", "states")}
        steps = {} if "times" in settings else {"num_steps": len(run["states"])}
        set_so = model._replace(config=dj.model.with_settings(model.config, **settings, **steps))
        differences[name] = of_run(*parts(set_so, network, guide, cond), sampling.grid(set_so.config), run)
    return differences


def of_copies(model: dj.Model, row: Row, folder: pathlib.Path) -> dict[str, bool]:
    """Returns whether other files with the same weights give the same parameters, to the bit."""
    same = {}
    for copy in row.copies:
        other = dj.load(imported(folder / copy, folder / "runs" / copy.replace("/", "_"))).params
        same[copy] = all(jax.tree.leaves(jax.tree.map(np.array_equal, model.params, other)))
    return same


def of_export(model: dj.Model, row: Row, folder: pathlib.Path, peer: list[str]) -> dict[str, Any]:
    """Returns how far a model is from itself in diffusers, and whether diffusers takes the same steps as before."""
    if not (folder / "exported").exists():
        words = [f"--workdir={model.workdir}", f"--out={folder / 'exported'}", "--to=diffusers"]
        command(sys.executable, "-m", "diffusion_jax.tools.export", *words)
    before = recorded(folder) if row.source and row.runs == row.exported else {}
    if not (folder / "back" / "recorded.npz").exists():
        (folder / "back").mkdir(exist_ok=True)
        (folder / "back" / "exported").symlink_to(folder / "exported")
        command(peer[0], "benchmarks/weights_peers.py", "load", "exported", str(folder / "back"), peer[1])
    back = recorded(folder / "back")
    same = {name: bool(np.array_equal(back[name], before[name])) for name in before if name in back and "states" in name}
    return {**compare(model, back, row._replace(runs=row.exported)), **({"same_in_diffusers": same} if same else {})}


def of_row(name: str, folder: pathlib.Path, peer: list[str]) -> dict[str, Any]:
    """Returns the row of a model."""
    row, place = ROWS[name], folder / name
    if row.source and not (place / "recorded.npz").exists():
        command(peer[0], "benchmarks/weights_peers.py", "write", name, str(place), peer[1])
    place.mkdir(parents=True, exist_ok=True)
    workdir = imported(place / row.source, place / "runs" / "imported") if row.source else ROOT / "examples" / name
    guide = imported(place / row.guide, place / "runs" / "guide") if row.guide else ""
    model = dj.load(workdir, guide=guide)
    found = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params))}
    if row.source:
        found |= compare(model, recorded(place), row)
    if row.copies:
        found["same_parameters"] = of_copies(model, row, place)
    if row.exported:
        found["exported"] = of_export(model, row, place, peer)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="torchenv/bin/python", help="the Python that has torch and diffusers")
    parser.add_argument("--code", default="code", help="the folder with the cloned repositories")
    parser.add_argument("--folder", default="/tmp/weights", help="for models and records; what is there is not made again")
    parser.add_argument("--only", default="", choices=["", *ROWS], help="one model")
    given = parser.parse_args()
    peer = [str(pathlib.Path(path).absolute()) for path in (given.peer, given.code)]
    for name in [given.only] if given.only else ROWS:
        row = of_row(name, pathlib.Path(given.folder).absolute(), peer)
        print(name, json.dumps(row, indent=1), flush=True)
        versions = json.loads(next(pathlib.Path(given.folder).rglob("versions.json")).read_text())
        rows = json.loads(OUT.read_text())["rows"] if OUT.exists() else {}
        result = {
            "command": "python benchmarks/weights.py --peer=... --code=... --folder=...",
            "machine": f"{platform.machine()}, CPU",
            "rows": {**rows, name: row},
            "versions": versions | {name: metadata.version(name) for name in ("jax", "flax")},
        }
        OUT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
