"""A DDPM on a folder of your own images.

    python main.py --config=configs/folder.py:DIR --workdir=runs/mine

Looks at some of the images and chooses their size (the largest of 32, 64, 128 and 256 pixels that half of them have), grey
or colour, and the network of the DDPM paper for that size; the batch follows from the memory of the devices. Without an
accelerator it takes images of 32 pixels and the small network of configs/fashion_mnist.py. Every field can be set as ever.

Of each image the middle square is taken, shrunk by area. Half of them are mirrored: --config.data.random_flip=False for
letters and the like. --config.model.num_classes=-1 makes a class of each sub-folder, --config.data.skip_broken=True leaves
out files that cannot be read. Images are generated in 20 steps of UniPC (10 without an accelerator), previews too; for the
paper's way --config.sample.sampler=ancestral --config.sample.num_steps=1000.

Cost: 100,000 steps; hours on a GPU, depending on the size. On two CPU cores 8,000 steps of 32 images, about an hour.
Expected: with some thousands of images, new ones of their kind; with a few dozen, the same ones again.

Differs from the paper in warming the EMA up, so that it is useful from the first thousand steps on.
"""

from ml_collections import ConfigDict

from configs import cifar10, fashion_mnist
from diffusion_jax.data import sources
from diffusion_jax.errors import UserError
from diffusion_jax.runs import logs, sharding

NETWORKS = {  # image size: (multipliers, the stage of 16 pixels, learning rate)
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
    has_accelerator = sharding.platform() != "cpu"
    config = _for_accelerators(size) if has_accelerator else _for_cpus()
    logs.say("found", found if has_accelerator else f"{found}; no accelerator, so the defaults are small")
    config.data.update(source="folder", name="", path=path, held_out="", resize=True, channels=channels, random_flip=True)
    config.train.ema_warmup = "on"
    config.sample.update(sampler="unipc", num_images=1000)
    return config


def _for_accelerators(size: int) -> ConfigDict:
    config, (multipliers, attention_stage, learning_rate) = cifar10.get_config(), NETWORKS[size]
    config.data.image_size = (size, size)
    config.model.update(multipliers=multipliers, attention_stages=(attention_stage,))
    config.train.update(num_steps=100_000, batch_size=0, learning_rate=learning_rate, sample_every=1000)
    config.sample.update(num_steps=20, batch_per_device=16)
    return config


def _for_cpus() -> ConfigDict:
    config = fashion_mnist.get_config()
    config.data.image_size = (32, 32)
    config.train.sample_every = 100
    config.sample.num_steps = 10
    return config


def _look_at(path: str) -> tuple[int, int, str]:
    """Returns (image size, channels, what was found) of a sample of the files; the run names those that cannot be read."""
    files, _ = sources.image_files(path)
    sides, are_grey = [], []
    for file in files[:: -(-len(files) // NUM_LOOKED_AT)]:
        try:
            pixels = sources.decode(file)
        except sources.UnreadableError:
            continue
        sides.append(min(pixels.shape[:2]))
        are_grey.append(pixels.shape[-1] == 1)
    median = sorted(sides)[len(sides) // 2] if sides else 0
    size = max([size for size in NETWORKS if size <= median], default=min(NETWORKS))
    channels = 1 if sides and all(are_grey) else 3
    return size, channels, f"{len(files):,} image files, {'grey' if channels == 1 else 'colour'}, median {median} px"
