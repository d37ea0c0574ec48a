"""Digits in few steps: reflow of the rectified flow of configs/digits_rectified_flow.py. [Liu et al. 2022]

    python main.py --config=configs/digits_rectified_flow.py --workdir=runs/digits_rectified_flow
    python main.py --config=configs/digits_reflow.py --workdir=runs/digits_reflow

Cost: two minutes for the teacher; then 2,000 steps of 64 images, eight minutes on one CPU core.
Expected: digits in one step, better ones in four; docs/few_steps.md has the figures.

The teacher draws every image anew, in 7 evaluations of its network.
"""

from ml_collections import ConfigDict

from configs import digits_rectified_flow


def get_config() -> ConfigDict:
    config = digits_rectified_flow.get_config()
    config.loss.update(name="reflow", num_steps=4, time_density="uniform")
    config.train.update(init_from="runs/digits_rectified_flow", learning_rate=1e-3)
    config.sample.update(sampler="euler", num_steps=1)
    return config
