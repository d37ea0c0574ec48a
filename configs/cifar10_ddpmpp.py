"""DDPM++ on CIFAR-10, in continuous time. [Song et al. 2021, score SDE, "DDPM++ cont. (VP)"]

    python main.py --config=configs/cifar10_ddpmpp.py --workdir=runs/cifar10_ddpmpp

Cost: 1,300,000 steps of 128 images; not measured.
Expected: FID 2.55 and Inception score 9.58, of the best of score_sde's checkpoints; published, not measured. The
probability-flow ODE (--config.sample.sampler=ode) of its last one has FID 3.93. With model.num_res_blocks = 8 and 950,000
steps, "deep", FID is 2.41.
"""

from ml_collections import ConfigDict

from configs import cifar10_vp_continuous


def get_config() -> ConfigDict:
    config = cifar10_vp_continuous.get_config()
    config.model.update(kind="ncsnpp", num_res_blocks=4)
    config.sample.sampler = "euler_maruyama"
    return config
