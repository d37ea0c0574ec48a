"""A classifier of scikit-learn's digits with noise, to guide the model of configs/digits.py, whose process it shares.

    python main.py --config=configs/digits_classifier.py --workdir=runs/digits_classifier

[Dhariwal & Nichol 2021, section 4]

Cost: 2,000 steps of 64 images; two minutes on two CPU cores.
Expected: trained on the first 1,500 digits, it knows 0.95 of the other 297 at t = 1, 0.72 at t = 500, which is half noise,
and 0.12 at t = 1000, where there is nothing to know.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.model.update(kind="noisy_classifier", num_classes=10)
    config.loss.name = "cross_entropy"
    return config
