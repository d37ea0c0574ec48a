"""A DDPM on scikit-learn's 1,797 handwritten digits, 8 x 8 pixels: the quick start, on any CPU.

    python main.py --config=configs/digits.py --workdir=runs/digits

Cost: 2,000 steps of 64 images; two minutes on two CPU cores (benchmarks/quickstart.json).
Expected: digits whose class a classifier gives 0.95 of the certainty of real ones; the picture is in docs/gallery.md.

Differs from the paper in predicting v with the cosine schedule, in stratified t and in a decaying learning rate,
because it has two thousand steps and not eight hundred thousand.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.data.update(source="digits", name="", held_out="", image_size=(8, 8), channels=1, random_flip=False)
    config.process.schedule = "cosine"
    config.predicts = "v"
    config.model.update(channels=24, multipliers=(1, 2), num_res_blocks=1, attention_stages=(), dropout=0.0, num_groups=8)
    config.loss.timesteps = "stratified"
    config.train.update(num_steps=2000, batch_size=64, learning_rate=2e-3, decay="cosine", warmup_steps=100)
    config.train.update(ema_rates=(0.99,), log_every=100, checkpoint_every=500, sample_every=500)
    config.sample.update(num_steps=100, variance="small", num_images=1000, batch_per_device=250)
    config.evaluate.num_images = 1000
    config.likelihood.held_out = False
    return config
