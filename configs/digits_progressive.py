"""Digits in one to 32 steps of DDIM: progressive distillation of the model of examples/digits. [Salimans & Ho 2022]

    python -m diffusion_jax.tools.distill --config=configs/digits_progressive.py --workdir=runs/digits_progressive

Cost: six rounds of 1,000 steps of 64 images; 13 to 16 minutes on one CPU core.
Expected: digits in one step; docs/few_steps.md has the figures.

Each round is short, because a student begins as its teacher.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.loss.update(name="progressive", num_steps=32)
    config.train.update(init_from="examples/digits", num_steps=1000, learning_rate=1e-3, ema_rates=(0.99,))
    config.sample.update(sampler="ddim")
    return config
