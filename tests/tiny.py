"""A run of seconds: a very small network on digits."""

import contextlib
import itertools
import pathlib
from unittest import mock

import jax

from configs import digits
from diffusion_jax.compose.config import Config
from diffusion_jax.data import feed, sources, transforms
from diffusion_jax.runs.shards import flatten

ROOT = pathlib.Path(__file__).parents[1]
SETTINGS = {
    "model.channels": 8,
    "model.multipliers": (1,),
    "model.num_groups": 4,
    "process.num_steps": 20,
    "train.batch_size": 16,
    "train.decay": "constant",  # one program for any number of steps
    "train.warmup_steps": 1,
    "train.ema_warmup": "off",
    "train.log_every": 2,
    "train.checkpoint_every": 2,
    "train.sample_every": 4,
    "train.tensorboard": False,
    "sample.num_steps": 3,
    "sample.batch_per_device": 1,
}
TRAINED = {"num_steps": 2, "ema_rates": (0.5, 0.99)}  # of the fixture `trained`, as `flags` takes it


def flags(workdir, **train) -> list[str]:
    """Returns the command line of a tiny run; keywords are fields of the section `train`."""
    settings = SETTINGS | {f"train.{name}": value for name, value in train.items()}
    return [
        "--config=configs/digits.py",
        f"--workdir={workdir}",
        *[f"--config.{name}={value}" for name, value in settings.items()],
    ]


@contextlib.contextmanager
def one_device():
    """Lets jax.devices() and the like know the first device alone."""
    first, patches = jax.devices()[:1], contextlib.ExitStack()
    with patches:
        for name, value in {"devices": first, "local_devices": first, "device_count": 1, "local_device_count": 1}.items():
            patches.enter_context(mock.patch.object(jax, name, lambda *arguments, value=value, **options: value))
        yield


def digits_source(num_classes: int = 0) -> sources.Source:
    """Returns the digits as a training set."""
    return transforms.resized(sources.digits(), image_shape=(8, 8, 1), center_crop=0, resize=False, num_classes=num_classes)


def batches(num: int) -> list[dict]:
    """Returns batches of 16 digits, as a training step takes them."""
    source = digits_source()
    fed = feed.make_feed(source, feed.read(source), batch_size=16, seed=0, first_step=0)
    return [fed.batch(fed.store, item) for item in itertools.islice(fed.items, num)]


def config_of(changes: dict) -> Config:
    """Returns the config of a tiny run; changes are {"section.field": value}."""
    return Config.of_flat(flatten(digits.get_config().to_dict()) | SETTINGS | changes)
