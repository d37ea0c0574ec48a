"""Improved DDPM on ImageNet, 64 x 64, without classes. [Nichol & Dhariwal 2021, section 3]

    python main.py --config=configs/imagenet64.py --workdir=runs/imagenet64
    python main.py --mode=likelihood --workdir=runs/imagenet64

The images are TFDS's downsampled_imagenet/64x64, those of [van den Oord et al. 2016], which likelihoods are published for.

Cost: 1,500,000 steps of 128 images with a network of 121 million parameters. Not measured.
Expected: 3.57 bits per dimension and FID 19.2, both with all 4000 steps; published, not measured. Not trained here.
"""

from ml_collections import ConfigDict

from configs import cifar10_improved


def get_config() -> ConfigDict:
    config = cifar10_improved.get_config()
    config.data.update(name="downsampled_imagenet/64x64:2.0.0", held_out="validation", image_size=(64, 64))
    config.model.update(multipliers=(1, 2, 3, 4), attention_stages=(2, 3), dropout=0.0)
    config.train.num_steps = 1_500_000
    config.sample.batch_per_device = 64
    return config
