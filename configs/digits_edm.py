"""EDM on handwritten digits: variance exploding, preconditioned, sampled by Heun's method. [Karras et al. 2022, EDM]

    python main.py --config=configs/digits_edm.py --workdir=runs/digits_edm

Cost and expected result: as configs/digits.py, from which the network and the training come.

ln(sigma) is N(-1.2, 1.2^2) in training; 18 steps of Karras' grid from 80 to 0.002 take 35 evaluations an image.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.process.kind = "ve"
    config.predicts = "edm"
    config.loss.time_density = "log_normal"
    config.sample.update(sampler="heun", grid="karras", num_steps=18, clip="none")
    return config
