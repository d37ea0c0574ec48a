"""Videos of handwritten digits that move in a straight line, 6 frames of 16 x 16 pixels: video diffusion on any CPU.

    python main.py --config=configs/moving_digits.py --workdir=runs/moving_digits

The law of the motion is known, so that what was learned can be compared with it: docs/other_arrays.md.

Cost: 3,600 steps of 16 videos; 2,095 of them took 28 minutes on two CPU cores with much other work.
Expected: from each of 450 frames to the next the digit moves in the direction asked for.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.data.update(source="moving_digits", medium="videos", held_out="test", image_size=(6, 16, 16))
    config.model.update(num_classes=9, null_label=True, multipliers=(1, 2, 4), attention_stages=(2,))
    config.model.update(scale_shift_norm=True, head_channels=8)
    config.train.update(num_steps=3600, batch_size=16, learning_rate=1e-3, label_dropout=0.1)
    config.sample.update(sampler="unipc", num_steps=20, num_images=450, batch_per_device=45)
    config.evaluate.update(features="pixels", num_images=450)
    return config
