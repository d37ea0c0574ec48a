"""The PyTorch side of benchmarks/throughput.py: diffusers' U-Net trained and sampled as well as PyTorch can.

Eager, or compiled by torch.compile, channels-last, in its mode reduce-overhead or max-autotune. On a GPU all compute in
bfloat16 under autocast where ours does, with fused Adam; all update the average with one foreach operation.
"""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch
from torch._inductor import config as inductor_config
from torch.utils.flop_counter import FlopCounterMode

from diffusion_jax.compose import processes
from diffusion_jax.compose.config import Config

MODES = {"torch eager": None, "torch compiled": "reduce-overhead", "torch max-autotune": "max-autotune"}  # of torch.compile


class TorchPeer:
    """A network of the same shape as a config's, with its optimizer and its average, on the fastest device there is."""

    def __init__(self, config: Config, mode: str | None):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        self.autocast = torch.autocast(self.device, torch.bfloat16, enabled=config.model.dtype == "bfloat16")
        self.memory_format = torch.channels_last if mode else torch.contiguous_format
        self.config = config
        network = unet(config).to(self.device, memory_format=self.memory_format)
        self.parameters = list(network.parameters())
        self.num_params = sum(parameter.numel() for parameter in self.parameters)
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.averaged = list(self.average.parameters())
        rate = config.train.learning_rate
        self.optimizer = torch.optim.Adam(self.parameters, lr=rate, fused=self.device == "cuda")
        self.network, self.sampled = (compile_whole(module, mode) if mode else module for module in (network, self.average))
        process = processes.process_of(config)
        table = process.level(np.arange(process.num_steps + 1))
        self.alpha, self.sigma = (self.to_device(column) for column in (table.alpha, table.sigma))

    def to_device(self, array: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(self.device)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def trainer(self, images: np.ndarray, batch_size: int) -> Callable[[int], None]:
        """Returns what takes a number of training steps on images, uint8 [N, H, W, C], that stay on the device."""
        store = self.to_device(images.transpose(0, 3, 1, 2)).contiguous(memory_format=self.memory_format)

        def steps(number: int) -> None:
            for _ in range(number):
                self.step(store[torch.randint(len(store), (batch_size,), device=self.device)])
            self.wait()

        return steps

    @torch.inference_mode()
    def forward(self, batch_size: int, number: int) -> None:
        """Asks the network a number of times."""
        height, width, channels = processes.image_shape(self.config)
        x = torch.zeros(batch_size, channels, height, width, device=self.device).contiguous(memory_format=self.memory_format)
        t = torch.zeros(batch_size, device=self.device)
        with self.autocast:
            for _ in range(number):
                self.sampled(x, t)
        self.wait()

    def step(self, batch: torch.Tensor) -> None:
        """Takes one step of L_simple, with the flips, clipping, warm-up-free Adam and average that ours takes."""
        x_0 = batch.float() / 127.5 - 1
        flip = torch.rand(len(x_0), 1, 1, 1, device=self.device) < 0.5
        x_0 = torch.where(flip, x_0.flip(-1), x_0).contiguous(memory_format=self.memory_format)
        t = torch.randint(1, len(self.alpha), (len(x_0),), device=self.device)
        eps = torch.randn_like(x_0)
        x_t = self.alpha[t][:, None, None, None] * x_0 + self.sigma[t][:, None, None, None] * eps
        with self.autocast:
            predicted = self.network(x_t, t - 1).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), eps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.train.grad_clip)
        self.optimizer.step()
        torch._foreach_lerp_(self.averaged, self.parameters, 1 - self.config.train.ema_rates[0])

    def sampler(self, times: np.ndarray, batch_size: int, *, ancestral: bool) -> Callable[[int], None]:
        """Returns what draws a number of batches: ancestral, or DDIM, down whole times t, 0 being the data."""
        height, width, channels = processes.image_shape(self.config)
        visited = [int(t) for t in times]

        @torch.inference_mode()
        def draw(number: int) -> None:
            for _ in range(number):
                x = torch.randn(batch_size, channels, height, width, device=self.device)
                x = x.contiguous(memory_format=self.memory_format)
                for t, s in itertools.pairwise(visited):
                    x = self.reverse(x, t, s, ancestral)
            self.wait()

        return draw

    def reverse(self, x: torch.Tensor, t: int, s: int, ancestral: bool) -> torch.Tensor:
        with self.autocast:
            eps = self.sampled(x, torch.full((len(x),), t - 1, device=self.device)).sample.float()
        x_0 = ((x - self.sigma[t] * eps) / self.alpha[t]).clamp(-1, 1)
        eps = (x - self.alpha[t] * x_0) / self.sigma[t]
        if not ancestral:
            return self.alpha[s] * x_0 + self.sigma[s] * eps
        beta = 1 - (self.alpha[t] / self.alpha[s]) ** 2
        mean = self.alpha[s] * x_0 + torch.sqrt((self.sigma[s] ** 2 - beta).clamp(min=0)) * eps
        return mean + torch.sqrt(beta) * torch.randn_like(x) * (s > 0)

    def flops(self, batch_size: int) -> int:
        """Returns the operations of one forward pass, as torch counts them."""
        height, width, channels = processes.image_shape(self.config)
        x = torch.zeros(batch_size, channels, height, width, device=self.device)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            self.average(x, torch.zeros(batch_size, device=self.device))
        return counter.get_total_flops()

    def peak_memory(self) -> int | None:
        """Returns the most bytes held since the last call; None on a CPU."""
        if self.device != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak


def compile_whole(module: torch.nn.Module, mode: str) -> Callable:
    """Returns the module compiled; on a GPU its convolutions are cuDNN's, the fastest of each by trial, like ours.

    Inductor's own convolutions, tried by hand on an H200, take ten seconds for each shape to be tuned.
    """
    if torch.cuda.is_available():
        inductor_config.max_autotune_conv_backends = inductor_config.max_autotune_gemm_backends = "ATEN"
    return torch.compile(module, mode=mode, dynamic=False)


def unet(config: Config) -> diffusers.UNet2DModel:
    """Returns diffusers' network of a config's shape."""
    model = config.model
    height, width, channels = processes.image_shape(config)
    levels = range(len(model.multipliers))
    block = lambda level, way: f"{'Attn' * (level in model.attention_stages)}{way}Block2D"  # noqa: E731
    return diffusers.UNet2DModel(
        sample_size=(height, width),
        in_channels=channels,
        out_channels=channels * (1 + model.learned_variance),
        layers_per_block=model.num_res_blocks,
        block_out_channels=[model.channels * multiplier for multiplier in model.multipliers],
        down_block_types=[block(level, "Down") for level in levels],
        up_block_types=[block(level, "Up") for level in reversed(levels)],
        attention_head_dim=model.head_channels or None,
        norm_num_groups=model.num_groups,
        norm_eps=model.norm_epsilon,
        resnet_time_scale_shift="scale_shift" if model.scale_shift_norm else "default",
        dropout=model.dropout,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )
