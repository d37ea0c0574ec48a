"""A DDPM on Fashion-MNIST, 60,000 grey images of 28 x 28 pixels, small enough for a CPU.

sudo apt install dataset-fashion-mnist
python main.py --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.data.update(source="idx", name="", path="/usr/share/datasets/fashion-mnist", held_out="test")
    config.data.update(image_size=(28, 28), channels=1, random_flip=False)
    config.process.schedule = "cosine"
    config.predicts = "v"
    config.model.update(
        channels=16, multipliers=(1, 2, 4), num_res_blocks=1, attention_levels=(2,), dropout=0.0, num_groups=8
    )
    config.loss.timesteps = "stratified"
    config.train.update(num_steps=8000, batch_size=32, learning_rate=1e-3, decay="cosine", warmup_steps=200)
    config.train.update(ema_rates=(0.999,), log_every=100, checkpoint_every=1000, sample_every=2000)
    config.sample.update(num_steps=100, variance="small", ema_rate=0.999, num_images=1000, batch_per_device=100)
    return config
