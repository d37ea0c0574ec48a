"""The variance-preserving SDE on CIFAR-10, in continuous time. [Song et al. 2021, score SDE, "DDPM cont. (VP)"]

    python main.py --config=configs/cifar10_vp_continuous.py --workdir=runs/cifar10_vp_continuous

Cost: 1,300,000 steps of 128 images; not measured.
Expected: FID 3.69 with the probability-flow ODE (--config.sample.sampler=ode), as score_sde's; published, not measured.

In training t is from 1e-5 to 1; sampling visits 1000 even times from 1 to 1e-3, then the data, and does not clip.
Differs from score_sde in the sampler, ancestral here and Euler-Maruyama there, and in the attention going up, which it has
once a level and our network after every block, as Ho et al. For score_sde's better network see configs/cifar10_ddpmpp.py.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.process.kind = "vp"
    config.train.num_steps = 1_300_000
    config.sample.update(grid="uniform", num_steps=1000, variance="small", clip="none")
    return config
