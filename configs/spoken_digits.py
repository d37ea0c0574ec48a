"""Digits spoken by a program, of the digit that you ask for: a U-Net over signals that a CPU trains.

    python -m diffusion_jax.tools.fetch spoken_digits --out=data/spoken_digits
    python main.py --config=configs/spoken_digits.py --workdir=runs/spoken_digits
    python main.py --mode=sample --workdir=runs/spoken_digits --config.sample.label=7 --config.sample.guidance=2.0
    python benchmarks/spoken_digits.py --workdir=runs/spoken_digits

Cost: 2,000 steps of 16 sounds; 1.3 steps a second on two CPU cores, so 26 minutes, and up to two to compile.
Expected: a recogniser of speech hears the digit in half of the sounds with guidance; docs/other_arrays.md has the figures.

The settings are those of configs/drums.py, with four times the samples, ten classes and a label for none.
"""

from ml_collections import ConfigDict

from configs import drums


def get_config() -> ConfigDict:
    config = drums.get_config()
    config.data.update(source="npz", path="data/spoken_digits/spoken_digits.npz", image_size=(4096,), sample_rate=8000)
    config.data.held_out = "data/spoken_digits/spoken_digits_test.npz"
    config.model.update(multipliers=(0.25, 0.5, 1, 2, 2, 4), attention_stages=(4, 5), num_classes=10, null_label=True)
    config.train.update(num_steps=2000, checkpoint_every=250, sample_every=2000, label_dropout=0.1)
    config.sample.update(num_images=500, shard_size=250, batch_per_device=50)
    config.evaluate.update(num_images=500, num_real=900)
    return config
