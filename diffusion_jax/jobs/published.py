"""What papers and their code say of the configs of configs/. Published, not measured; --mode=verify compares.

Each was found at the place that its source names, in a copy of the paper, but for what a comment excepts.
"""

from typing import NamedTuple


class Figure(NamedTuple):
    """A published figure of a config, with what must agree for one of ours to be compared with it."""

    kind: str  # 'parameters', 'multiply_adds' (of one image, one evaluation), 'bound' or 'pf_ode' (bits/dim), 'fid'
    value: float
    source: str
    tolerance: float  # half of the last printed digit; of figures of quality, how much worse counts as the same: our choice
    num_images: int = 0  # generated ('fid') or held-out images ('bound', 'pf_ode')
    num_real: int = 0  # of the training set, 'fid'


CIFAR10 = {"num_images": 50_000, "num_real": 50_000}
PARAMETERS = "Ho et al. 2020, appendix B"
IMPROVED = "Nichol & Dhariwal 2021, table 2"  # its figures as a third party quotes them; the table's number is unconfirmed


def _fid(value: float, source: str) -> Figure:
    return Figure("fid", value, source, 0.05 * value, **CIFAR10)


def _bound(value: float, source: str) -> Figure:
    return Figure("bound", value, source, 0.02, num_images=10_000)


PUBLISHED = {  # name of the config, as --config=configs/NAME.py has it
    "cifar10": (
        Figure("parameters", 35.7e6, PARAMETERS, 0.05e6),
        _fid(3.17, "Ho et al. 2020, table 1 and abstract"),
    ),
    "celebahq256": (Figure("parameters", 114e6, PARAMETERS, 0.5e6),),
    "cifar10_improved": (_bound(3.17, IMPROVED), _fid(3.19, IMPROVED)),
    "cifar10_vlb": (_bound(2.94, IMPROVED), _fid(11.47, IMPROVED)),
    "cifar10_ddpmpp": (_fid(2.55, "Song et al. 2021, score SDE, table 3"),),
    "cifar10_edm": (_fid(1.97, "Karras et al. 2022, EDM, table 2 and abstract; the least of three"),),  # README: of three
    "imagenet256_dit": (
        Figure("parameters", 675e6, "Peebles & Xie 2023, table 4", 0.5e6),
        Figure("multiply_adds", 119e9, "Peebles & Xie 2023, README", 0.5e9),
    ),
}
CONFIGS = ", ".join(f"configs/{name}.py" for name in PUBLISHED)  # as messages name them
