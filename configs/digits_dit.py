"""Handwritten digits by class with a Diffusion Transformer: the smallest DiT that is worth looking at. [Peebles & Xie 2023]

python main.py --config=configs/digits_dit.py --workdir=runs/digits_dit
"""

from ml_collections import ConfigDict

from configs import digits_classes


def get_config() -> ConfigDict:
    config = digits_classes.get_config()
    config.model.update(kind="dit", channels=96, depth=6, num_heads=4, patch_size=2, embedding_spacing="half_open")
    config.train.update(learning_rate=1e-3)
    return config
