"""Denoising Diffusion Probabilistic Models on LSUN, 256 x 256. [Ho et al. 2020, appendix B]

    python main.py --config=configs/lsun.py:church --workdir=runs/church --config.data.path=DIR

The argument is bedroom, bedroom_large, church or cat. LSUN is published as LMDB archives of WebP images, and its own script
(github.com/fyu/lsun, `python data.py export ARCHIVE --out_dir DIR`) writes them as files into DIR. The middle square of each
is shrunk by area to 256 pixels; the paper's files were shrunk from the same square with another kernel. Cats are not
mirrored, as in the authors' script, and all others are.

Cost, in steps of 64 images: bedroom 2,400,000, bedroom_large 1,150,000, church 1,200,000, cat 1,800,000; published, not
measured: 2.2 steps a second on a TPU v3-8, so 300 hours for bedroom, 150 for church, 230 for cat.
Expected: FID 6.36 (bedroom), 4.90 (bedroom_large), 7.89 (church), 19.75 (cat); published, not measured. Not trained here.
"""

from ml_collections import ConfigDict

from configs import celebahq256
from diffusion_jax.errors import UserError

STEPS = {"bedroom": 2_400_000, "bedroom_large": 1_150_000, "cat": 1_800_000, "church": 1_200_000}


def get_config(which: str = "") -> ConfigDict:
    if which not in STEPS:
        raise UserError(f"configs/lsun.py:{which} is unknown; it must be configs/lsun.py: and one of {', '.join(STEPS)}.")
    config = celebahq256.get_config()
    config.data.update(source="folder", name="", resize=True, random_flip=which != "cat")
    config.model.channels = 192 if which == "bedroom_large" else 128
    config.train.num_steps = STEPS[which]
    return config
