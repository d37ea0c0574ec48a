"""A small DDPM on 4,586 sprites of a game, 32 x 32 pixels in colour, for a CPU.

    python -m diffusion_jax.tools.fetch sprites --out=data/sprites
    python main.py --config=configs/sprites.py --workdir=runs/sprites
    python main.py --mode=evaluate --workdir=runs/sprites

The first command needs apt-get or the package's file; its --help says more. The classes of the sprites, such as monster,
wall and weapon, are not used: --config.model.num_classes=-1 trains with them.

Cost: 6,000 steps of 32 images; 69 minutes on two CPU cores with much other work beside it. The last 3,400 steps, with little
other work, took 18 minutes.
Expected: a held-out loss of 0.215, of the EMA; things and creatures in clear colours on white, tiles and walls, with noisy
pixels (docs/evaluation.md). Not one of 2,000 images was a copy of the training set.

Differs from the paper as configs/fashion_mnist.py does. Images are generated in 20 steps of UniPC. None is mirrored, since
walls, stairs and weapons have a direction.
"""

from ml_collections import ConfigDict

from configs import fashion_mnist


def get_config() -> ConfigDict:
    config = fashion_mnist.get_config()
    config.data.update(source="npz", path="data/sprites/sprites.npz", held_out="data/sprites/sprites_test.npz")
    config.data.update(image_size=(32, 32), channels=3)
    config.train.update(num_steps=6000, keep_checkpoints=6)
    config.sample.update(sampler="unipc", num_steps=20)
    config.evaluate.num_images = 2000
    return config
