"""A feature network for a data set that no published one fits: a small classifier, trained on its labels.

    python -m diffusion_jax.tools.classifier --config=configs/fashion_mnist.py --out=fashion_mnist.safetensors

takes minutes on two cores, for grey or colour images from 8 pixels on. The same command gives the same file. It prints how
many held-out images are named rightly, and the file says so too; where the config names no held-out set, every tenth image
is held out. Figures are comparable only between images that were compared by the same file.

Flags:
    --config    of the data; or --workdir, of a run with them; --config.data.<field>=<value> changes a field
    --out       the .safetensors file to write
"""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from diffusion_jax import streams
from diffusion_jax.compose import command, inputs, processes
from diffusion_jax.compose.config import FIELDS, Config
from diffusion_jax.data import feed, transforms
from diffusion_jax.data.sources import Source
from diffusion_jax.errors import UserError
from diffusion_jax.networks import classifier
from diffusion_jax.runs import logs, storage
from diffusion_jax.weights import maps, tensors

NUM_STEPS, BATCH_SIZE, LEARNING_RATE, SEED = 2000, 64, 2e-3, 0
MOST_IMAGES, MOST_HELD_OUT = 50_000, 10_000  # evenly spaced where there are more
WITH_EFFECT = [field for field in FIELDS if field.startswith("data.") or field in ("model.num_classes", "compilation_cache")]
ONE_IN = 10  # images are held out where the data have no set for that


class Data(NamedTuple):
    """Images with their classes: uint8 [N, H, W, C], int [N]."""

    images: np.ndarray
    labels: np.ndarray


def run(config: Config, out: storage.Path) -> int:
    """Trains a classifier on a config's data and writes its parameters; returns the exit code, 0.

    Raises UserError where the data have no classes, or cannot be read.
    """
    storage.check_folder(out.parent)
    processes.check_images(config)
    config = _with_labels(config)
    train, held_out = _data(config)
    num_classes = config.model.num_classes
    logs.say("data", f"{len(train.images):,} images of {num_classes} classes, {len(held_out.images):,} held out")
    storage.make_dir(out.parent)  # so that an impossible one is said before the training
    network = classifier.classifier(num_classes)
    params = trained(network, train, NUM_STEPS)
    accuracy = accuracy_of(network, params, held_out)
    metadata = {"accuracy": f"{accuracy:.4f}", "num_held_out": str(len(held_out.images)), "num_classes": str(num_classes)}
    metadata |= {"data": config.data.model_dump_json(), "num_steps": str(NUM_STEPS), "seed": str(SEED)}
    storage.write_bytes(out, tensors.as_bytes(maps.write(params, maps.by_name(params)), metadata))
    logs.say("done", f"{accuracy:.1%} of {len(held_out.images):,} held-out images are named rightly; {out}")
    return 0


def trained(network: classifier.FeatureNetwork, data: Data, num_steps: int) -> Any:
    """Returns parameters that minimise the cross entropy: Adam, a cosine decay, no augmentation."""
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, num_steps))
    params = jax.jit(network.init)(streams.key(SEED, "init"))  # runs no forward pass
    state, update = optimizer.init(params), _make_update(network, optimizer)
    order = feed.make_order(len(data.images), batch_size=BATCH_SIZE, seed=SEED)
    for step in logs.with_progress(range(num_steps), "steps"):
        batch = order(step)
        params, state = update(params, state, data.images[batch], data.labels[batch])
    return params


def _make_update(network: classifier.FeatureNetwork, optimizer: optax.GradientTransformation) -> Callable[..., tuple]:
    def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = network.apply(params, images)["logits"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def update(params: Any, state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params, images, labels), state)
        return optax.apply_updates(params, updates), state

    return jax.jit(update, donate_argnums=(0, 1))


def accuracy_of(network: classifier.FeatureNetwork, params: Any, data: Data) -> float:
    """Returns the fraction of images whose largest logit is that of their class."""
    guess = jax.jit(lambda params, images: network.apply(params, images)["logits"].argmax(axis=-1))
    starts = range(0, len(data.images), 4 * BATCH_SIZE)
    guessed = [np.asarray(guess(params, data.images[start : start + 4 * BATCH_SIZE])) for start in starts]
    return float(np.mean(np.concatenate(guessed) == data.labels))


def _with_labels(config: Config) -> Config:
    """Returns the config with the number of classes of its data."""
    num_classes = max(config.model.num_classes, 0) or inputs.source(config).num_classes
    if num_classes < 2:
        raise UserError(
            f"data.source = {config.data.source!r} has {num_classes} classes; a classifier needs 2 or more: labels, or "
            "for a folder sub-folders. Features 'pixels' and 'efficientnet_lite0' need none."
        )
    return config.with_values("model", num_classes=num_classes)


def _data(config: Config) -> tuple[Data, Data]:
    """Returns (images to train on, images held out)."""
    source, held_out = inputs.source(config), inputs.held_out(config)
    whole = _read(transforms.subsampled(source, MOST_IMAGES))
    if held_out is not None:
        return whole, _read(transforms.subsampled(held_out, MOST_HELD_OUT))
    is_held_out = np.arange(len(whole.labels)) % ONE_IN == 0
    if is_held_out.all():
        raise UserError(f"the data have {len(whole.labels)} image; a classifier needs 2 or more.")
    return Data(*[part[~is_held_out] for part in whole]), Data(*[part[is_held_out] for part in whole])


def _read(source: Source) -> Data:
    records = inputs.read(source)
    return Data(records["x"], records["cond"]["label"])


@command.program(__doc__)
def main(argv: list[str]) -> int:
    """Trains; the exit code is 0, 2 for bad input, 1 for a failure."""
    flags, changes = command.parse(argv, {"workdir": "", "out": ""}, fields=WITH_EFFECT)
    is_file = flags["out"].endswith(".safetensors")
    command.check_allowed(flags, "out", is_file, "a file to write that ends in .safetensors")
    return run(command.config_of(flags, changes, flags["workdir"]), storage.path(flags["out"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
