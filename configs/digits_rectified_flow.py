"""Rectified flow on handwritten digits: straight paths from noise to data. [Liu et al. 2022; times of Esser et al. 2024]

    python main.py --config=configs/digits_rectified_flow.py --workdir=runs/digits_rectified_flow

Cost and expected result: as configs/digits.py, from which the network and the training come.

x_t = (1 - t) x_0 + t eps, the network predicts the velocity eps - x_0, log(t / (1 - t)) is N(0, 1) in training; Heun's
method at 25 even times from 1 to 0 takes 49 evaluations an image.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.process.kind = "rectified_flow"
    config.predicts = "velocity"
    config.loss.time_density = "logit_normal"
    config.sample.update(sampler="heun", num_steps=25, clip="none")
    return config
