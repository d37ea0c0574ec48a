"""A variational diffusion model of handwritten digits: the noise schedule is learned too. [Kingma et al. 2021, VDM]

    python main.py --config=configs/digits_vdm.py --workdir=runs/digits_vdm
    python main.py --mode=likelihood --workdir=runs/digits_vdm

Cost: as configs/digits.py, from which the network and the training come.
Expected: 1.92 bits per dimension, of training images (benchmarks/vdm_digits.json).

The Fourier features reach down to n = 3, since digits have 17 grey levels, which lie 16 of the 256 values apart.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.process.kind = "learned"
    config.loss.name = "vdm"
    config.model.fourier_exponents = (3, 4, 5, 6, 7, 8)
    config.sample.grid = "linspace"
    config.likelihood.kind = "continuous"
    return config
