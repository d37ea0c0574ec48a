"""Improved DDPM on CIFAR-10, trained for likelihood: L_vlb, t sampled by its losses. [Nichol & Dhariwal 2021, table 2]

    python main.py --config=configs/cifar10_vlb.py --workdir=runs/cifar10_vlb
    python main.py --mode=likelihood --workdir=runs/cifar10_vlb

Cost: 500,000 steps of 128 images with a network of 52.5 million parameters. Not measured.
Expected: 2.94 bits per dimension and FID 11.47, both with all 4000 steps; published, not measured. Not trained here.
"""

from ml_collections import ConfigDict

from configs import cifar10_improved


def get_config() -> ConfigDict:
    config = cifar10_improved.get_config()
    config.loss.update(name="vlb", timesteps="loss_second_moment")
    return config
