"""Emoji of 64 x 64 pixels by latent diffusion: a small U-Net draws what an autoencoder decodes. [Rombach et al. 2022]

    python main.py --config=configs/emoji64_latents.py --workdir=runs/emoji64_latents
    python main.py --mode=sample --workdir=runs/emoji64_latents --config.sample.num_images=64

First train the autoencoder, as configs/emoji64_autoencoder.py says. The run begins with the latents of all images, and keeps
them and the autoencoder in its workdir.

Differs from the paper in the small network, in predicting v with the cosine schedule, in stratified t, in a decaying
learning rate and in 20 steps of UniPC.
"""

from ml_collections import ConfigDict

from configs import emoji64_autoencoder, fashion_mnist


def get_config() -> ConfigDict:
    config = fashion_mnist.get_config()
    config.data = emoji64_autoencoder.get_config().data
    config.data.update(codec="runs/emoji64_autoencoder", latent_shape=(16, 16, 4))
    config.model.update(channels=32, multipliers=(1, 2, 4), attention_stages=(1, 2))
    config.sample.update(sampler="unipc", num_steps=20, clip="none")
    return config
