"""A small class-conditional DDPM on drawn faces of 13 styles, 64 x 64 pixels in colour. [data: DiceBear]

    python -m diffusion_jax.tools.fetch avatars --out=data/avatars
    python main.py --config=configs/avatars64.py --workdir=runs/avatars64
    python main.py --mode=sample --workdir=runs/avatars64 --config.sample.label=0

The first command needs npm and Node.js. It draws 10,000 faces, a tenth of them from seeds that training never sees;
--num_images draws more. Image i has style i % 13, or that of --config.sample.label.

Cost: 10,000 steps of 16 images; about 75 minutes on two CPU cores without other work, reckoned from the step of
configs/fashion_mnist.py in benchmarks/throughput_cpu.json. Not measured.
Expected: faces whose style is the one asked for. Not trained here.

Differs from the paper as configs/fashion_mnist.py does, in one stage more and in labels. Images are generated in 20 steps of
UniPC. None is mirrored, since some styles look to one side.
"""

from ml_collections import ConfigDict

from configs import fashion_mnist


def get_config() -> ConfigDict:
    config = fashion_mnist.get_config()
    config.data.update(source="npz", path="data/avatars/avatars.npz", held_out="data/avatars/avatars_test.npz")
    config.data.update(image_size=(64, 64), channels=3)
    config.model.update(multipliers=(1, 2, 4, 4), attention_stages=(3,), num_classes=13)
    config.train.update(num_steps=10_000, batch_size=16)
    config.sample.update(sampler="unipc", num_steps=20)
    return config
