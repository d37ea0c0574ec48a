"""Digits in one or two steps: easy consistency tuning of the model of examples/digits. [Geng et al. 2025, ECT]

    python main.py --config=configs/digits_ect.py --workdir=runs/digits_ect

Cost: 8,000 steps of 64 images; 11 to 14 minutes on one CPU core.
Expected: digits in one step; docs/few_steps.md has the figures.

The gap between the two levels begins at 1/2 and is halved seven times, after every eighth of the run. Differs from the paper
in Adam with a cosine decay, where that has RAdam and none.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.train.update(init_from="examples/digits", num_steps=8000, learning_rate=1e-3, ema_rates=(0.998,))
    stage_steps = config.train.get_ref("num_steps") // 8  # also of a number of steps that is set by a flag
    config.loss.update(name="consistency", ratio=2.0, stage_steps=stage_steps)
    config.sample.update(sampler="consistency", num_steps=2, clip="static")
    return config
