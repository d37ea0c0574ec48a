"""Whether NCSN++ and DDPM++ are those of score_sde and of EDM, on random weights and the same images.

    git clone https://github.com/yang-song/score_sde_pytorch peers/score_sde_pytorch
    git clone https://github.com/NVlabs/edm peers/edm
    python3 -m venv parity && parity/bin/pip install -r requirements.txt torch
    parity/bin/python benchmarks/parity_ncsnpp.py --peer peers

The published weights are not needed: every parameter is drawn, so that nothing is zero, and handed to their network under
their names. Compared are the outputs, and what a denoiser says of x_0 through their process and through ours. Writes each
case into benchmarks/parity_ncsnpp.json; --only takes a few of them.
"""

import argparse
import json
import pathlib
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from diffusion_jax import denoiser, networks, process
from diffusion_jax.weights import edm, maps, score_sde

OUT = pathlib.Path(__file__).with_suffix(".json")
FIR = (1, 3, 3, 1)
CIFAR10 = {"channels": 128, "multipliers": (1, 2, 2, 2), "num_res_blocks": 4, "attention_stages": (1,)}
NCSNPP = {"embedding": "fourier", "resample_filter": FIR, "progressive_input": "residual"}
PYRAMIDS = {"embedding": "fourier", "resample_filter": FIR, "progressive_input": "input_skip", "progressive": "output_skip"}
SMALL = {"channels": 8, "multipliers": (1, 2, 3), "num_res_blocks": 1, "attention_stages": (1,)}
EDM = CIFAR10 | {"multipliers": (2, 2, 2)}
WIDE = {"multipliers": (1, 1, 2, 2, 2, 2, 2), "num_res_blocks": 2, "attention_stages": (4,)}
THIN = {"channels": 16, "multipliers": (1, 2, 4, 8, 16, 32, 32, 32), "num_res_blocks": 1, "attention_stages": (6,)}
CASES = {  # name -> (whose, side of the images, our options)
    "score_sde small ddpmpp": ("score_sde", 16, SMALL),
    "score_sde small ncsnpp": ("score_sde", 16, SMALL | NCSNPP),
    "score_sde small ncsnpp, discrete": ("score_sde", 16, SMALL | NCSNPP | {"embedding": "positional"}),
    "score_sde small 256": ("score_sde", 16, SMALL | PYRAMIDS),
    "edm small ddpmpp, classes": ("edm", 16, SMALL | {"num_classes": 5}),
    "edm small ncsnpp": ("edm", 16, SMALL | NCSNPP),
    "score_sde cifar10_ddpmpp": ("score_sde", 32, CIFAR10),
    "score_sde cifar10_ddpmpp_deep": ("score_sde", 32, CIFAR10 | {"num_res_blocks": 8}),
    "score_sde cifar10_ncsnpp": ("score_sde", 32, CIFAR10 | NCSNPP),
    "score_sde cifar10_ncsnpp_deep": ("score_sde", 32, CIFAR10 | NCSNPP | {"num_res_blocks": 8}),
    "edm cifar10 ddpmpp": ("edm", 32, EDM),
    "edm cifar10 ddpmpp, classes": ("edm", 32, EDM | {"num_classes": 10}),
    "edm cifar10 ncsnpp": ("edm", 32, EDM | NCSNPP),
    "edm ffhq ddpmpp": ("edm", 64, CIFAR10 | {"attention_stages": (2,)}),
    "score_sde church_ncsnpp": ("score_sde", 256, CIFAR10 | WIDE | PYRAMIDS),
    "score_sde ffhq_1024_ncsnpp": ("score_sde", 1024, THIN | PYRAMIDS),
}


def random_params(like: Any, seed: int) -> Any:
    """Returns parameters with drawn numbers, in the order of the leaves: outputs have about unit variance."""
    random = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        drawn = random.standard_normal(leaf.shape)
        if leaf.ndim > 1:
            return np.float32(drawn / np.sqrt(np.prod(leaf.shape[:-1])))
        scales = {"scale": 1 + 0.1 * drawn, "bias": 0.1 * drawn, "b": 0.1 * drawn}  # the others are frequencies
        return np.float32(scales.get(path[-1].key, 16 * drawn))

    return jax.tree_util.tree_map_with_path(draw, like)


def network_of(side: int, options: Mapping[str, Any], dtype: str) -> networks.Network:
    """Returns ours."""
    return networks.ncsnpp((side, side, 3), dtype=dtype, dropout=0.0, num_groups=32, **options)


def tensors_of(whose: str, side: int, params: Any) -> dict[str, np.ndarray]:
    """Returns parameters by the names and with the axes of theirs."""
    return maps.write(params, score_sde.map_of(params) if whose == "score_sde" else edm.map_of(params, resolution=side))


def peer_of(whose: str, side: int, options: Mapping[str, Any], folder: pathlib.Path) -> Any:
    """Returns their network, in evaluation: score_sde's, or EDM's with its preconditioning."""
    resolutions = [side >> stage for stage in options["attention_stages"]]
    is_ncsnpp, found = "resample_filter" in options, {"edm": _edm, "score_sde": _score_sde}[whose]
    return found(side, options, resolutions, is_ncsnpp, folder).eval()


def _score_sde(side: int, options: Mapping[str, Any], resolutions: list[int], is_ncsnpp: bool, folder: pathlib.Path) -> Any:
    import torch.utils.cpp_extension

    sys.path.insert(0, str(folder / "score_sde_pytorch"))
    with mock.patch.object(torch.utils.cpp_extension, "load"):  # CUDA, which no CPU needs
        from models import ncsnpp
    model = {"nf": options["channels"], "ch_mult": options["multipliers"], "num_res_blocks": options["num_res_blocks"]}
    model |= {"attn_resolutions": resolutions, "dropout": 0.0, "resamp_with_conv": True, "conditional": True}
    model |= {"fir": is_ncsnpp, "fir_kernel": list(FIR), "skip_rescale": True, "resblock_type": "biggan"}
    model |= {"progressive": options.get("progressive", "none"), "fourier_scale": 16, "nonlinearity": "swish"}
    model |= {"progressive_input": options.get("progressive_input", "none"), "progressive_combine": "sum", "init_scale": 0.0}
    embedding = options.get("embedding", "positional")
    model |= {"embedding_type": embedding, "sigma_min": 0.01, "sigma_max": 50, "num_scales": 1000}
    model |= {"scale_by_sigma": embedding == "fourier", "name": "ncsnpp"}
    sections = {"model": model, "training": {"continuous": True}}
    sections["data"] = {"image_size": side, "num_channels": 3, "centered": embedding == "positional"}
    return ncsnpp.NCSNpp(SimpleNamespace(**{name: SimpleNamespace(**section) for name, section in sections.items()}))


def _edm(side: int, options: Mapping[str, Any], resolutions: list[int], is_ncsnpp: bool, folder: pathlib.Path) -> Any:
    sys.path.insert(0, str(folder / "edm"))
    from training import networks as theirs

    return theirs.EDMPrecond(
        side,
        3,
        label_dim=options.get("num_classes", 0),
        model_type="SongUNet",
        model_channels=options["channels"],
        channel_mult=list(options["multipliers"]),
        num_blocks=options["num_res_blocks"],
        attn_resolutions=resolutions,
        embedding_type="fourier" if is_ncsnpp else "positional",
        channel_mult_noise=2 if is_ncsnpp else 1,
        encoder_type="residual" if is_ncsnpp else "standard",
        resample_filter=list(FIR) if is_ncsnpp else [1, 1],
    )


def compared(name: str, folder: pathlib.Path) -> dict[str, Any]:
    """Returns the largest differences of a case, in float32 and in float64."""
    whose, side, options = CASES[name]
    peer = peer_of(whose, side, options, folder)
    params = random_params(jax.eval_shape(network_of(side, options, "float32").init, jax.random.key(0)), seed=1)
    load(peer, tensors_of(whose, side, params))
    num_images = 2 if side < 256 else 1
    x_t = np.random.default_rng(2).standard_normal((num_images, side, side, 3))
    row: dict[str, Any] = {"num_parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}
    row["num_parameters_of_theirs"] = sum(parameter.numel() for parameter in peer.parameters())
    for dtype in ("float32", "float64") if side < 1024 else ("float32",):
        theirs, ours = (
            said_by(whose, peer, x_t.astype(dtype), options, dtype),
            said_by_us(name, params, x_t.astype(dtype), dtype),
        )
        row[dtype] = {key: float(np.max(np.abs(theirs[key] - ours[key]))) for key in theirs}
        row[dtype]["largest_output"] = float(np.max(np.abs(theirs["output"])))
    return row


def load(peer: Any, tensors: Mapping[str, np.ndarray]) -> None:
    """Gives a network its numbers; what it then keeps of its own is no parameter."""
    import torch

    state = {name: torch.from_numpy(np.ascontiguousarray(tensor)) for name, tensor in tensors.items()}
    missing, unexpected = peer.load_state_dict(state, strict=False)
    own = [name for name in missing if name != "sigmas" and not name.endswith(".resample_filter")]
    assert not unexpected and not own, (unexpected, own)


def process_of(whose: str, options: Mapping[str, Any]) -> tuple[process.Process, denoiser.Parameterization, np.ndarray]:
    """Returns the process that a network goes with, what its output is, and two times."""
    if whose == "edm":
        return process.ve(), denoiser.edm(), np.array([0.3, 20.0])
    if options.get("embedding") == "fourier":
        return process.ve_sde(), denoiser.SCALED_SCORE, np.array([0.3, 60.0])
    return process.vp(), denoiser.EPS, np.array([0.125, 0.75])  # of which 999 t is a float32, as theirs makes it


def said_by(whose: str, peer: Any, x_t: np.ndarray, options: Mapping[str, Any], dtype: str) -> dict[str, np.ndarray]:
    """Returns what theirs says: the `output` of the network, and `x_0` through their own process."""
    import torch

    peer = peer.to(getattr(torch, dtype))
    _, _, times = process_of(whose, options)
    x, t = torch.from_numpy(x_t).permute(0, 3, 1, 2), torch.tensor(times[: len(x_t)], dtype=getattr(torch, dtype))
    of_text = [
        mock.patch.object(module, "float32", getattr(module, dtype)) for module in (torch, np)
    ]  # their text's float32
    with torch.no_grad(), of_text[0], of_text[1]:
        found = {"edm": _by_edm, "score_sde": _by_score_sde}[whose](peer, x, t, options)
    return {key: tensor.permute(0, 2, 3, 1).numpy() for key, tensor in found.items()}


def _by_edm(peer: Any, x: Any, sigma: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    labels = torch.eye(options.get("num_classes", 0), dtype=x.dtype)[: len(x)] if "num_classes" in options else None
    return {"output": peer.model(x, sigma.log() / 4, labels), "x_0": peer(x * sigma[:, None, None, None], sigma, labels)}


def _by_score_sde(peer: Any, x: Any, t: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Their images of VE are in [0, 1], so that x and sigma are half of ours; the posterior mean is Tweedie's."""
    import sde_lib
    from models import utils

    if options.get("embedding") != "fourier":
        of = sde_lib.VPSDE(beta_min=0.1, beta_max=20, N=1000)
        score = utils.get_score_fn(of, peer, train=False, continuous=True)(x, t)
        mean, std = of.marginal_prob(x.new_ones(len(x), 1, 1, 1), t)
        std = std[:, None, None, None]
        return {"output": peer(x, 999 * t), "x_0": (x + std**2 * score) / mean}
    of, sigma = sde_lib.VESDE(sigma_min=0.01, sigma_max=50, N=1000), t[:, None, None, None] / 2
    time = (t / 2 / 0.01).log() / np.log(50 / 0.01)
    x = x * sigma + 0.5
    score = utils.get_score_fn(of, peer, train=False, continuous=True)(x, time)
    return {"output": score * sigma, "x_0": 2 * (x + sigma**2 * score) - 1}


def said_by_us(name: str, params: Any, x_t: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """Returns the same of ours."""
    whose, side, options = CASES[name]
    of, parameterization, times = process_of(whose, options)
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
        cond = {"label": jnp.arange(len(x_t))} if "num_classes" in options else {}
        bound = jax.jit(networks.bind(network_of(side, options, dtype), params, cond))
        level = jax.tree.map(lambda column: jnp.asarray(column, dtype), of.level(times[: len(x_t)]))
        if whose == "edm":
            scaled = x_t * np.asarray(level.sigma)[:, None, None, None]
        else:
            x_t = scaled = (
                x_t if parameterization is denoiser.EPS else x_t * times[: len(x_t), None, None, None].astype(dtype)
            )
        x_0 = denoiser.make_denoiser(bound, parameterization)(jnp.asarray(scaled), level).x_0
        return {"output": np.asarray(bound(jnp.asarray(x_t), level.c_noise)), "x_0": np.asarray(x_0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=pathlib.Path, required=True, help="folder with score_sde_pytorch and edm in it")
    parser.add_argument("--only", default="", help="the cases whose name has this in it")
    arguments = parser.parse_args()
    rows = json.loads(OUT.read_text())["rows"] if OUT.exists() else {}
    for name in CASES:
        if arguments.only in name:
            rows[name] = compared(name, arguments.peer.absolute())
            print(name, json.dumps(rows[name]), flush=True)
            OUT.write_text(json.dumps(report({name: rows[name] for name in CASES if name in rows}), indent=1) + "\n")


def report(rows: dict[str, Any]) -> dict[str, Any]:
    """Returns what the file says."""
    return {
        "command": "python benchmarks/parity_ncsnpp.py --peer peers",
        "machine": f"{platform.machine()}, CPU",
        "versions": {name: metadata.version(name) for name in ("torch", "jax")},
        "peers": {
            "yang-song/score_sde_pytorch": "cb1f359f4aadf0ff9a5e122fe8fffc9451fd6e44",
            "NVlabs/edm": "008a4e5316c8e3bfe61a62f874bddba254295afb",
        },
        "what": "largest absolute difference of any number; weights are random, outputs of about unit variance",
        "rows": rows,
    }


if __name__ == "__main__":
    main()
