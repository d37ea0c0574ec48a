"""Sprites of a game by class, 32 x 32 pixels in colour, for a CPU: a small class-conditional DDPM. [data: Crossfire]

    python -m diffusion_jax.tools.fetch sprites --out=data/sprites
    python main.py --config=configs/sprites.py --workdir=runs/sprites
    python main.py --mode=evaluate --workdir=runs/sprites

The first command needs apt-get or the package's file; its --help says more. Image i is of class i % 33, or of that of
--config.sample.label; data/sprites/about.json names the classes, such as monster, wall and weapon, in the order of labels.

Cost: 10,000 steps of 32 images; 87 minutes on one CPU core.
Expected: a held-out loss of 0.192, and the sprites of docs/gallery.md: floors and walls are what they should be, things
and creatures have clear outlines and can seldom be named.

Differs from configs/avatars32.py in the data and in the number of steps. No image is mirrored, since walls, stairs and
weapons have a direction.
"""

from ml_collections import ConfigDict

from configs import avatars32


def get_config() -> ConfigDict:
    config = avatars32.get_config()
    config.data.update(path="data/sprites/sprites.npz", held_out="data/sprites/sprites_test.npz")
    config.model.num_classes = 33
    config.train.num_steps = 10_000
    config.evaluate.num_images = 2000
    return config
