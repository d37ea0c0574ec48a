"""NCSN++ on CIFAR-10, in continuous time. [Song et al. 2021, score SDE, "NCSN++ cont. (VE)"]

    python main.py --config=configs/cifar10_ncsnpp.py --workdir=runs/cifar10_ncsnpp

Cost: 1,300,000 steps of 128 images; not measured.
Expected: FID 2.38 and Inception score 9.83, of the best of score_sde's checkpoints with 2000 evaluations an image;
published, not measured. With model.num_res_blocks = 8 and 950,000 steps, "deep", FID is 2.20.

sigma is twice theirs, from 0.02 to 100, since images are in [-1, 1] here and in [0, 1] there. Differs from score_sde in the
sampler, ancestral here, without the Langevin step that corrects each step there, and in the loss, the mean over values here
and half their sum there, which grad_clip sees larger.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.process.update(kind="ve_sde", sigma_min=0.02, sigma_max=100.0)
    config.predicts = "scaled_score"
    config.model.update(kind="ncsnpp", num_res_blocks=4, embedding="fourier")
    config.model.update(resample_filter=(1, 3, 3, 1), progressive_input="residual")
    config.loss.time_density = "log_uniform"
    config.train.update(num_steps=1_300_000, ema_rates=(0.999,))
    config.sample.update(grid="log_snr", num_steps=1000, variance="small", clip="none")
    return config
