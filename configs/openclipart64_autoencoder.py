"""A small autoencoder of drawings of 64 x 64 pixels. [Rombach et al. 2022, section 3.1; data: Openclipart]

    python -m diffusion_jax.tools.fetch openclipart --out=data/openclipart
    python main.py --config=configs/openclipart64_autoencoder.py --workdir=runs/openclipart64_autoencoder

The first command needs apt or the package's file. The workdir is for data.codec, as configs/emoji64_latents.py has it.

Cost: as configs/emoji64_autoencoder.py. Not trained here.

Differs from configs/emoji64_autoencoder.py in the data alone.
"""

from ml_collections import ConfigDict

from configs import emoji64_autoencoder


def get_config() -> ConfigDict:
    config = emoji64_autoencoder.get_config()
    config.data.update(path="data/openclipart/openclipart.npz", held_out="data/openclipart/openclipart_test.npz")
    return config
