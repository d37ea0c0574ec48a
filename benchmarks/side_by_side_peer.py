"""The PyTorch side of benchmarks/side_by_side.py, which starts it: a network trained by diffusers' own parts.

UNet2DModel and DDIMScheduler as our export wrote them, torch's Adam and clipping, diffusers' learning rate and EMAModel. It
reads settings.json, initial_diffusers, draws.npz and x_T.npz of the folder that it is given, and writes torch.npz,
torch_<step>.npz and torch_images.npz there.
"""

import json
import pathlib
import sys
from importlib import metadata
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import optimization, training_utils

SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine"}  # our name of a decay -> diffusers'


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    settings = json.loads((folder / "settings.json").read_text())
    network = diffusers.UNet2DModel.from_pretrained(folder / "initial_diffusers" / "unet", low_cpu_mem_usage=False).train()
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "initial_diffusers" / "scheduler")
    draws = read(folder / "draws.npz")
    losses, norms, ema = train(network, scheduler, draws, settings, folder)
    ema.copy_to(network.parameters())
    x_T = read(folder / "x_T.npz")["x_T"]
    np.savez(folder / "torch_images.npz", images=sample(network.eval(), scheduler, x_T, settings))
    versions = {name: metadata.version(name) for name in ("torch", "diffusers")}
    np.savez(folder / "torch.npz", loss=losses, grad_norm=norms, versions=json.dumps(versions))


def train(
    network: torch.nn.Module, scheduler: Any, draws: dict[str, np.ndarray], settings: dict, folder: pathlib.Path
) -> tuple[list[float], list[float], Any]:
    """Returns the loss and the gradient's norm of each step, and the average of the parameters."""
    optimizer = torch.optim.Adam(network.parameters(), lr=settings["learning_rate"])
    steps = {"num_warmup_steps": settings["warmup_steps"], "num_training_steps": settings["num_steps"]}
    rate = optimization.get_scheduler(SCHEDULES[settings["decay"]], optimizer, **steps)
    ema = training_utils.EMAModel(network.parameters(), decay=settings["ema_rate"])
    losses, norms = [], []
    for step in range(settings["num_steps"]):
        x_0, eps = (channels_first(draws[name][step]) for name in ("x_0", "eps"))
        t = torch.from_numpy(draws["c_noise"][step]).long()
        predicted = network(scheduler.add_noise(x_0, eps, t), t).sample
        wanted = eps if settings["predicts"] == "eps" else scheduler.get_velocity(x_0, eps, t)
        loss = torch.nn.functional.mse_loss(predicted, wanted)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(network.parameters(), settings["grad_clip"])))
        optimizer.step()
        rate.step()
        ema.step(network.parameters())
        losses.append(loss.item())
        if step + 1 in settings["kept_steps"]:
            np.savez(folder / f"torch_{step + 1}.npz", **{name: of.numpy() for name, of in network.state_dict().items()})
    return losses, norms, ema


@torch.inference_mode()
def sample(network: torch.nn.Module, scheduler: Any, x_T: np.ndarray, settings: dict) -> np.ndarray:
    """Returns what DDIM makes of given noise. # [N, H, W, C] -> uint8 [N, H, W, C]"""
    scheduler.set_timesteps(settings["num_sample_steps"])
    drawn = []
    for x in torch.split(channels_first(x_T), settings["sample_batch"]):
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t).sample, t, x).prev_sample
        drawn.append(((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(drawn)


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def read(file: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as found:
        return dict(found)


if __name__ == "__main__":
    main()
