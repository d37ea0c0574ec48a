"""A variational diffusion model of CIFAR-10: likelihood first, with a learned noise schedule. [Kingma et al. 2021, VDM]

    python main.py --config=configs/cifar10_vdm.py --workdir=runs/cifar10_vdm
    python main.py --mode=likelihood --workdir=runs/cifar10_vdm

Cost: 10,000,000 steps of 128 images with 32 residual blocks at full size going down and 33 going up. Not measured.
Expected: 2.65 bits per dimension without augmentation; published, not measured. Not trained here.

As the published code: no stage but the first, attention in the middle alone, Fourier features of x_t, dropout 0.1.
It differs in what cannot matter for the bound: r is learned and not linear, and eps is the output and not eps - x_t. It also
differs in Adam's beta_2, 0.999 here and 0.99 there, and in having no weight decay, 0.01 there. Values of pixels are
k / 127.5 - 1, where there they are (k + 1/2) / 128 - 1.
"""

from ml_collections import ConfigDict

from configs import cifar10


def get_config() -> ConfigDict:
    config = cifar10.get_config()
    config.process.kind = "learned"
    config.loss.update(name="vdm", timesteps="stratified")
    config.model.update(multipliers=(1,), num_res_blocks=32, attention_stages=(), fourier_exponents=(7, 8))
    config.data.random_flip = False
    config.train.update(num_steps=10_000_000, warmup_steps=100, grad_clip=float("inf"))
    config.sample.update(grid="linspace", variance="small")
    config.likelihood.kind = "continuous"
    return config
