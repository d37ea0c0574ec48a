"""Improved DDPM on CIFAR-10: cosine schedule, T = 4000, learned variances, L_hybrid. [Nichol & Dhariwal 2021, table 2]

    python main.py --config=configs/cifar10_improved.py --workdir=runs/cifar10_improved
    python main.py --mode=likelihood --workdir=runs/cifar10_improved

Cost: 500,000 steps of 128 images with a network of 52.5 million parameters. Not measured.
Expected: 3.17 bits per dimension and FID 3.19, both with all 4000 steps; published, not measured. Not trained here.

The flags of the published code: no flips, no warm-up, no clipping of gradients. Its parameters start from PyTorch's
distributions, ours from those of the other configs.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.data.random_flip = False
    config.process.update(schedule="cosine", num_steps=4000, rescale_c_noise=True)
    config.model.update(num_res_blocks=3, attention_stages=(1, 2), num_heads=4, dropout=0.3, learned_variance=True)
    config.model.update(norm_epsilon=1e-5, scale_shift_norm=True)
    config.model.update(downsample_padding="all_sides", embedding_spacing="half_open")
    config.loss.name = "hybrid"
    config.train.update(num_steps=500_000, learning_rate=1e-4, warmup_steps=0, grad_clip=float("inf"))
    config.sample.update(grid="iddpm", num_steps=4000, variance="learned_range")
    return config
