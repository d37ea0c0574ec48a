"""A small model that makes images of 32 x 32 pixels from 8 x 8 ones, trained on a folder of images, for a CPU.

    python main.py --config=configs/folder_superres.py:DIR --workdir=runs/superres --config.data.held_out=OTHER
    python main.py --mode=sample --workdir=runs/superres --config.sample.guidance=2.0

The network is shown each image averaged over squares of 4 x 4 pixels. --config.data.condition=edges, grey or mask shows it
something else of the image, and 'paired' another file of the same name, such as a depth map made by another program:
--config.data.condition=paired --config.data.condition_path=DIR2 (docs/recipes.md).

Image i is made from image i % n of the held-out folder, or of the training set where there is none. Besides grid.png, a dump
has cond.png: what was shown, what was made of it, and the image that it came from. A tenth of the conditions are dropped, so
that the model also makes images from nothing, and can be guided.

Cost: 4,000 steps of 32 images; 53 minutes on two CPU cores with much other work beside it.
Expected, of 4,866 drawings of Open Clip Art and 532 held out: a held-out loss of 0.088; the shapes and colours of the
drawings, with noisy pixels. Averaged again, images are 5.3 grey levels of 255 (root mean square) from what they were made
from, and 4.9 with a guidance of 2, which also makes outlines cleaner. They are as far from the drawings as bicubic
enlargements, which are blurred: 17.3 dB, and 17.6 with a guidance of 2; bicubic 17.6 (benchmarks/superres_openclipart.json).

Differs from configs/folder.py in what the network is shown, in half the steps, and in being the same with an accelerator.
"""

from ml_collections import ConfigDict

from configs import fashion_mnist
from diffusion_jax.errors import UserError


def get_config(path: str = "") -> ConfigDict:
    if not path:
        raise UserError("configs/folder_superres.py needs the folder of images: --config=configs/folder_superres.py:DIR.")
    config = fashion_mnist.get_config()
    config.data.update(source="folder", path=path, held_out="", image_size=(32, 32), channels=3, resize=True)
    config.data.update(random_flip=True, condition="low_resolution", condition_factor=4)
    config.train.update(num_steps=4000, ema_warmup="on", label_dropout=0.1, sample_every=1000)
    config.sample.update(sampler="unipc", num_steps=10)
    return config
