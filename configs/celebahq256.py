"""Denoising Diffusion Probabilistic Models on CelebA-HQ, 256 x 256. [Ho et al. 2020, appendix B]

    python main.py --config=configs/celebahq256.py --workdir=runs/celebahq256

The images are TFDS's celeb_a_hq/256, which TFDS makes from files that one has to bring by hand; its page says which. A
folder of the 30,000 images does as well: --config.data.source=folder --config.data.path=DIR --config.data.resize=True.

Cost: 500,000 steps of 64 images; published, not measured: 2.2 steps a second on a TPU v3-8, 63 hours.
Expected: the faces of figure 3; the paper gives no FID. Not trained here.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.data.update(name="celeb_a_hq/256:2.0.0", held_out="", image_size=(256, 256))
    config.model.update(multipliers=(1, 1, 2, 2, 4, 4), attention_stages=(4,), dropout=0.0)
    config.train.update(num_steps=500_000, batch_size=64, learning_rate=2e-5)
    config.sample.update(variance="small", batch_per_device=16)
    return config
