"""A DDPM on CelebA, 64 x 64, with the network of the DDIM paper. [Song et al. 2021, DDIM, appendix D.1]

    python main.py --config=configs/celeba64.py --workdir=runs/celeba64

The 140 pixels in the middle of each 178 x 218 image, shrunk by area to 64: the usual crop. (The paper's own code takes 128
pixels, a little lower, so its figures are of slightly other images.)

Cost: 500,000 steps of 128 images, a choice; the paper's code allows many more. Not measured.
Expected: FID 3.26 with 1000 ancestral steps, 6.53 with 100 of DDIM (--config.sample.sampler=ddim
--config.sample.num_steps=100); published, not measured. Not trained here.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.data.update(name="celeb_a:2.1.0", image_size=(64, 64), center_crop=140, resize=True)
    config.model.update(multipliers=(1, 2, 2, 2, 4), attention_stages=(2,))
    config.train.num_steps = 500_000
    config.sample.batch_per_device = 128
    return config
