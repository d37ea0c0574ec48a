"""Denoising Diffusion Probabilistic Models on CIFAR-10, exactly. [Ho et al. 2020, section 4 and appendix B]

    python main.py --config=configs/cifar10.py --workdir=runs/cifar10

Cost: 800,000 steps of 128 images; published, not measured: 10.6 hours on a TPU v3-8.
Expected: FID 3.17 and Inception score 9.46 from 50,000 images; published, not measured.

Here is what the paper fixes. docs/config.md explains every field, as `python main.py --help` does; the fields that are not
named here are at the defaults that it lists. The other configs say only where they differ from this one.
"""

from ml_collections import ConfigDict

from diffusion_jax.compose.config import Config


def get_config() -> ConfigDict:
    config = ConfigDict(Config().model_dump())

    config.process.kind = "discrete"
    config.process.schedule = "linear"  # beta from 1e-4 to 0.02
    config.process.num_steps = 1000  # T

    config.predicts = "eps"

    config.model.channels = 128
    config.model.multipliers = (1, 2, 2, 2)  # 32, 16, 8 and 4 px
    config.model.num_res_blocks = 2
    config.model.attention_stages = (1,)  # at 16 px
    config.model.dropout = 0.1

    config.loss.name = "simple"  # L_simple
    config.loss.timesteps = "uniform"

    config.train.num_steps = 800_000
    config.train.batch_size = 128
    config.train.learning_rate = 2e-4  # of Adam
    config.train.warmup_steps = 5000
    config.train.grad_clip = 1.0
    config.train.ema_rates = (0.9999,)

    config.data.source = "tfds"
    config.data.name = "cifar10:3.0.2"
    config.data.held_out = "test"
    config.data.image_size = (32, 32)
    config.data.random_flip = True

    config.sample.sampler = "ancestral"
    config.sample.num_steps = 0  # all T
    config.sample.variance = "large"  # beta_t
    config.sample.clip = "static"  # x_0 to [-1, 1] at every step
    config.sample.num_images = 50_000
    return config
