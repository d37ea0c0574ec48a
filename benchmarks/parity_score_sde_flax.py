"""Whether checkpoints of score_sde's Flax code become their networks, on random weights and the same images.

    git clone https://github.com/yang-song/score_sde peers/score_sde
    python benchmarks/parity_score_sde_flax.py --peer peers/score_sde

Their code builds each network of their configs and its `State`, whose weights are drawn, so that nothing is zero. Flax
writes it as their training does. `tools.import_weights` makes a workdir of the file. Compared are the outputs, in float32.
Flax has no `flax.optim` any more: an empty module stands for it. Writes benchmarks/parity_score_sde_flax.json.
"""

import argparse
import importlib
import json
import pathlib
import platform
import sys
import tempfile
from importlib import metadata
from types import ModuleType
from typing import Any
from unittest import mock

import flax
import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import diffusion_jax as dj
from benchmarks.parity_ncsnpp import random_params
from diffusion_jax import networks
from diffusion_jax.compose import processes
from diffusion_jax.tools import import_weights

OUT = pathlib.Path(__file__).with_suffix(".json")
CASES = {  # a config of theirs -> two times of our process
    "vp.cifar10_ddpmpp_continuous": (0.125, 0.75),
    "vp.cifar10_ddpmpp_deep_continuous": (0.125, 0.75),
    "ve.cifar10_ncsnpp_continuous": (0.3, 60.0),
    "ve.cifar10_ncsnpp_deep_continuous": (0.3, 60.0),
    "ve.church_ncsnpp_continuous": (0.3,),
    "ve.ffhq_ncsnpp_continuous": (0.3,),
}


def compared(name: str) -> dict[str, Any]:
    """Returns the largest difference of the outputs of a case; their images of VE are in [0, 1], so that sigma is half."""
    from models import ddpm, ncsnpp, utils  # noqa: F401, which are then known to `utils`

    with mock.patch.dict(sys.modules, {"torch": mock.MagicMock()}):  # which some configs ask for a device
        config = importlib.import_module(f"configs.{name}").get_config()
    side, is_vp, times = config.data.image_size, config.training.sde == "vpsde", np.array(CASES[name])
    x_t = np.float32(np.random.default_rng(2).standard_normal((len(times), side, side, 3)))
    theirs = utils.get_model(config.model.name)(config=config)
    like = jax.eval_shape(lambda: theirs.init(jax.random.key(0), x_t, jnp.ones(len(times)), train=False)["params"])
    params = random_params(like, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        file, workdir = pathlib.Path(folder) / "checkpoint_26", pathlib.Path(folder) / "run"
        file.write_bytes(flax.serialization.to_bytes(state_of(utils.State, params)))
        said = "process.kind=vp" if is_vp else f"process.sigma_max={2 * config.model.sigma_max}"
        flags = [f"--from={file}", f"--workdir={workdir}", f"--config.{said}"]
        assert import_weights.main(["import_weights", *flags]) == 0
        model = dj.load(workdir)
    level, network = processes.process_of(model.config).level(times), processes.network(model.config)
    x_t *= 1 if is_vp else np.float32(level.sigma)[:, None, None, None]
    ours = jax.jit(networks.bind(network, model.params, {}))(x_t, jnp.asarray(level.c_noise, jnp.float32))
    sigma = np.float32(level.sigma) / 2
    x, labels = (x_t, np.float32(999 * times)) if is_vp else (x_t / 2 + 0.5, sigma)
    with jax.default_matmul_precision("highest"):
        output = jax.jit(theirs.apply, static_argnames="train")({"params": params}, x, labels, train=False)
    output = output if is_vp else output * sigma[:, None, None, None]
    return {
        "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "output": float(np.max(np.abs(output - ours))),
        "largest_output": float(np.max(np.abs(output))),
    }


def state_of(make: Any, params: Any) -> Any:
    """Returns a `State` as they save it; its average is `params`, and the weights themselves are others."""
    optimizer = {"target": jax.tree.map(lambda leaf: leaf + 1, params), "state": {"step": jnp.array(5)}}
    rest = {"step": jnp.array(5), "lr": 2e-4, "model_state": {}, "ema_rate": 0.999, "rng": jax.random.PRNGKey(0)}
    return make(optimizer=optimizer, params_ema=params, **rest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=pathlib.Path, required=True, help="folder of score_sde")
    parser.add_argument("--only", default="", help="the cases whose name has this in it")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.peer.absolute()))
    flax.optim, configs = ModuleType("flax.optim"), ModuleType("configs")
    flax.optim.Optimizer, configs.__path__ = object, [str(arguments.peer.absolute() / "configs")]  # not ours
    sys.modules |= {"flax.optim": flax.optim, "configs": configs}
    rows = json.loads(OUT.read_text())["rows"] if OUT.exists() else {}
    for name in CASES:
        if arguments.only in name:
            rows[name] = compared(name)
            print(name, json.dumps(rows[name]), flush=True)
            OUT.write_text(json.dumps(report({name: rows[name] for name in CASES if name in rows}), indent=1) + "\n")


def report(rows: dict[str, Any]) -> dict[str, Any]:
    """Returns what the file says."""
    return {
        "command": "python benchmarks/parity_score_sde_flax.py --peer peers/score_sde",
        "machine": f"{platform.machine()}, CPU",
        "versions": {name: metadata.version(name) for name in ("flax", "jax")},
        "peers": {"yang-song/score_sde": "0acb9e0ea3b8cccd935068cd9c657318fbc6ce4c"},
        "what": "largest absolute difference of any number of the output; weights are random",
        "rows": rows,
    }


if __name__ == "__main__":
    main()
