"""A DDPM on a folder of your own images.

    python main.py --config=configs/folder.py:DIR --workdir=runs/mine

Looks at the images, chooses their size (the largest of 32, 64, 128 and 256 pixels that half of them have), grey or colour,
and the network of the DDPM paper for that size; the batch follows from the memory of the devices. What it chose is printed;
every field can be set as ever. Of each image the middle square is taken, shrunk by area. Images may lie in sub-folders.

Cost: 100,000 steps; hours on a GPU, depending on the size.
Expected: with some thousands of images, new ones of their kind; with a few dozen, the same ones again.

Differs from the paper in warming the EMA up, so that it is useful from the first thousand steps on.
"""

from ml_collections import ConfigDict

from configs import cifar10
from diffusion_jax.data import sources
from diffusion_jax.errors import UserError

NETWORKS = {  # image size: (multipliers, the level of 16 pixels, learning rate)
    32: ((1, 2, 2, 2), 1, 2e-4),
    64: ((1, 2, 2, 2), 2, 2e-4),
    128: ((1, 1, 2, 2, 4), 3, 2e-5),
    256: ((1, 1, 2, 2, 4, 4), 4, 2e-5),
}
NUM_LOOKED_AT = 256


def get_config(path: str = "") -> ConfigDict:
    if not path:
        raise UserError("configs/folder.py needs the folder of images: --config=configs/folder.py:DIR.")
    size, channels, found = _look_at(path)
    multipliers, attention_level, learning_rate = NETWORKS[size]
    print(f"{'picked':<12}{size} x {size} x {channels} and multipliers {multipliers}, for {found}", flush=True)
    config = cifar10.get_config()
    config.data.update(source="folder", name="", path=path, held_out="", resize=True)
    config.data.update(image_size=(size, size), channels=channels)
    config.model.update(multipliers=multipliers, attention_stages=(attention_level,))
    config.train.update(num_steps=100_000, batch_size=0, learning_rate=learning_rate, ema_warmup="on")
    config.sample.update(num_images=1000, batch_per_device=16)
    return config


def _look_at(path: str) -> tuple[int, int, str]:
    """Returns (image size, channels, what was found) of a sample of the files."""
    files, _ = sources.image_files(path)
    looked_at = files[:: -(-len(files) // NUM_LOOKED_AT)]
    sides, are_grey = [], []
    for file in looked_at:
        pixels = sources.decode(file)
        sides.append(min(pixels.shape[:2]))
        are_grey.append(pixels.shape[-1] == 1)
    median = sorted(sides)[len(sides) // 2]
    size = max([size for size in NETWORKS if size <= median], default=min(NETWORKS))
    channels = 1 if all(are_grey) else 3
    return size, channels, f"{len(files):,} images, {'grey' if channels == 1 else 'colour'}, median {median} px"
