"""Emoji of 32 x 32 pixels by class, for guidance: a network that knows ten labels, and "no label". [Ho & Salimans 2022]

    python -m diffusion_jax.tools.fetch emoji --out=data/emoji
    python main.py --config=configs/emoji_classes.py --workdir=runs/emoji_classes
    python main.py --mode=sample --workdir=runs/emoji_classes --config.sample.label=1 --config.sample.guidance=2.0

The first command needs npm or the package's file; its --help says more. More than half of the images are people.

Labels: 0 activities, 1 animals and nature, 2 components, 3 flags, 4 food and drink, 5 objects, 6 people and body,
7 smileys and emotion, 8 symbols, 9 travel and places.

Cost: 12,000 steps of 32 images; 81 minutes on two CPU cores that had much other work.
Expected: a held-out loss of 0.102, and the emoji of docs/gallery.md: people, smileys, flags and symbols are right, others
have the colours of their class alone.

Differs from configs/fashion_mnist_classes.py in the data, in half as many steps again, and in SDE-DPM-Solver++, whose images
have fewer wrong pixels than UniPC's.
"""

from ml_collections import ConfigDict

from configs import fashion_mnist_classes


def get_config() -> ConfigDict:
    config = fashion_mnist_classes.get_config()
    config.data.update(source="npz", path="data/emoji/emoji.npz", held_out="data/emoji/emoji_test.npz")
    config.data.update(image_size=(32, 32), channels=3)
    config.train.num_steps = 12_000
    config.sample.sampler = "dpm_solver_sde"
    return config
