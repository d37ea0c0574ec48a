"""Handwritten digits by class, for guidance: one network that knows ten labels and "no label". [Ho & Salimans 2022]

    python main.py --config=configs/digits_classes.py --workdir=runs/digits_classes
    python main.py --mode=sample --workdir=runs/digits_classes --config.sample.label=7 --config.sample.guidance=1.5

Cost: as configs/digits.py. Its weights are in examples/digits_classes.
Expected: a classifier of digits agrees with the label of 98.3% of 2,000 images, and of all of them with guidance 1.5, in 20
steps of UniPC (benchmarks/guidance_digits_classes.md).

Differs from configs/digits.py in the labels. A tenth of them is replaced by "no label" in training. Checkpoint 500 is kept,
for autoguidance: --config.sample.guide=500.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.model.update(num_classes=10, null_label=True)
    config.train.update(label_dropout=0.1, keep_checkpoints=4)
    return config
