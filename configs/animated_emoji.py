"""Emoji that move, 6 frames of 32 x 32 pixels in colour: a small video diffusion. [after Ho et al. 2022, video diffusion]

    python -m diffusion_jax.tools.fetch animated_emoji --out=data/animated_emoji
    python main.py --config=configs/animated_emoji.py --workdir=runs/animated_emoji
    python main.py --mode=sample --workdir=runs/animated_emoji

The first command needs npm. The data have no classes.

Cost: 5,000 steps of 8 videos; about 95 minutes on one to two CPU cores.
Expected: figures that move and are seldom recognisable, as docs/other_arrays.md shows; a held-out loss of 0.083.
"""

from ml_collections import ConfigDict

from configs import moving_digits


def get_config() -> ConfigDict:
    config = moving_digits.get_config()
    config.data.update(source="npz", path="data/animated_emoji/animated_emoji.npz", channels=3, image_size=(6, 32, 32))
    config.data.held_out = "data/animated_emoji/animated_emoji_test.npz"
    config.model.update(num_classes=0, null_label=False, channels=16)
    config.train.update(num_steps=5000, batch_size=8, ema_rates=(0.999,), label_dropout=0.0)
    config.sample.update(num_images=64, batch_per_device=16)
    return config
