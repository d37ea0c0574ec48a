"""A small DDPM on Fashion-MNIST, 60,000 grey images of 28 x 28 pixels, for a CPU. [data: Xiao et al. 2017, arXiv:1708.07747]

    python -m diffusion_jax.tools.fetch fashion_mnist --out=data/fashion_mnist
    python main.py --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

The first command gets Debian's package. Or set data.path to a folder with the four published IDX files.

Cost: 8,000 steps of 32 images; 39 minutes on two CPU cores that had other work too.
Expected: a held-out loss of 0.155, and the clothes of docs/gallery.md.

Differs from the paper in the small network, in predicting v with the cosine schedule, in stratified t and in a
decaying learning rate.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.data.update(source="idx", name="", path="data/fashion_mnist", held_out="test")
    config.data.update(image_size=(28, 28), channels=1, random_flip=False)
    config.process.schedule = "cosine"
    config.predicts = "v"
    config.model.update(
        channels=16, multipliers=(1, 2, 4), num_res_blocks=1, attention_stages=(2,), dropout=0.0, num_groups=8
    )
    config.loss.timesteps = "stratified"
    config.train.update(num_steps=8000, batch_size=32, learning_rate=1e-3, decay="cosine", warmup_steps=200)
    config.train.update(ema_rates=(0.999,), log_every=100, checkpoint_every=1000, sample_every=2000)
    config.sample.update(num_steps=100, variance="small", num_images=1000, batch_per_device=100)
    config.evaluate.num_images = 1000
    return config
