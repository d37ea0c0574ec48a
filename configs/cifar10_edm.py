"""EDM on CIFAR-10: its process, preconditioning, loss, training settings and sampler. [Karras et al. 2022, EDM, config F]

    python main.py --config=configs/cifar10_edm.py --workdir=runs/cifar10_edm

Cost: 390,625 steps of 512 images; published, not measured: 2 days on 8 V100.
Expected: FID 1.97 with 35 evaluations; published, not measured.

The network is the paper's DDPM++ (55.7 million parameters), and it is told of the augmentation, as there. Differs from the
authors' code in how images are moved (augmentation.py), and in an EMA of a fixed rate, of a half-life of 500,000 images.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.process.kind = "ve"
    config.predicts = "edm"
    config.model.update(kind="ncsnpp", multipliers=(2, 2, 2), num_res_blocks=4, attention_stages=(1,), dropout=0.13)
    config.loss.time_density = "log_normal"
    config.train.update(num_steps=390_625, batch_size=512, learning_rate=1e-3, warmup_steps=19_531, grad_clip=float("inf"))
    config.data.update(augment_rate=0.12, random_flip=False)  # it mirrors too
    config.train.ema_rates = (0.99929,)
    config.sample.update(sampler="heun", grid="karras", num_steps=18, clip="none")
    return config
