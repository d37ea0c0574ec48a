"""A classifier of scikit-learn's digits with noise, to guide the model of configs/digits.py, whose process it shares.

    python main.py --config=configs/digits_classifier.py --workdir=runs/digits_classifier

[Dhariwal & Nichol 2021, section 4]
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.model.update(kind="noisy_classifier", num_classes=10)
    config.loss.name = "cross_entropy"
    return config
