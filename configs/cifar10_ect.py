"""CIFAR-10 in one or two steps: easy consistency tuning of EDM's model. [Geng et al. 2025, ECT]

    python main.py --config=configs/cifar10_ect.py --workdir=runs/cifar10_ect

The teacher is a run of configs/cifar10_edm.py in runs/cifar10_edm, or EDM's own weights (docs/weights.md): set
train.init_from to its workdir.

Cost: 200,000 steps of 128 images, of two evaluations each; not measured.
Expected: FID 3.86 with one step and 2.15 with two; published, not measured.

Differs from the published recipe in Adam with a warm-up, where that has RAdam.
"""

from ml_collections import ConfigDict

from configs import cifar10_edm


def get_config() -> ConfigDict:
    config = cifar10_edm.get_config()
    config.model.dropout = 0.2
    config.data.augment_rate = 0.0
    config.train.update(init_from="runs/cifar10_edm", num_steps=200_000, batch_size=128, learning_rate=1e-4)
    stage_steps = config.train.get_ref("num_steps") // 8  # also of a number of steps that is set by a flag
    config.loss.update(name="consistency", ratio=2.0, stage_steps=stage_steps, time_mean=-1.1, time_std=2.0)
    config.train.ema_rates = (0.9999,)
    config.sample.update(sampler="consistency", grid="explicit", times=(80.0, 0.821, 0.0), num_steps=2)
    return config
