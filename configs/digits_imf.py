"""Digits in one step: improved mean flows of handwritten digits, from scratch. [Geng et al. 2025, improved mean flows]

    python main.py --config=configs/digits_imf.py --workdir=runs/digits_imf

Cost: 4,000 steps of 64 images; 15 minutes on one CPU core.
Expected: digits in one step; docs/few_steps.md has the figures.
"""

from ml_collections import ConfigDict

from configs import digits_rectified_flow


def get_config() -> ConfigDict:
    config = digits_rectified_flow.get_config()
    config.process.c_noise_scale = 1.0
    config.model.jumps = True
    config.loss.update(name="mean_flow", time_density="uniform")
    config.train.update(num_steps=4000, ema_rates=(0.998,))
    config.sample.update(sampler="mean_flow", num_steps=1)
    return config
