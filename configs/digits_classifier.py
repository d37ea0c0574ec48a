"""A classifier of scikit-learn's digits with noise, to guide the model of configs/digits.py, whose process it shares.

    python main.py --config=configs/digits_classifier.py --workdir=runs/digits_classifier

[Dhariwal & Nichol 2021, section 4]

Cost: 2,000 steps of 64 images; two minutes on two CPU cores.
Expected: led by it, a network that knows no classes draws the digit that was asked for: 73% of them with guidance 2, and 95%
with 4 (benchmarks/guidance_digits_classes.md).
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.model.update(kind="noisy_classifier", num_classes=10)
    config.loss.name = "cross_entropy"
    return config
