"""A trained model as an object: import diffusion_jax as dj; images = dj.load("runs/digits").sample(64)."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from diffusion_jax import errors
from diffusion_jax.compose import (
    checks,
    chunked,
    coding,
    edits,
    frozen,
    given,
    guiding,
    inputs,
    likelihoods,
    processes,
    sample_conditions,
    sampling,
    stored,
    texts,
    weights,
)
from diffusion_jax.compose.choices import MEDIA
from diffusion_jax.compose.config import Config
from diffusion_jax.data.feed import Batch
from diffusion_jax.data.sources import Source
from diffusion_jax.denoiser import Denoiser, LogProb
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import dump, sharding, shards, storage


class Model(NamedTuple):
    """The weights of a run, and the config that says what they are."""

    config: Config  # of the run
    params: Any  # the network's weights, on every device
    step: int  # of the checkpoint
    workdir: str = ""  # where they come from
    guide: "Model | None" = None  # what `sample.guide` names: a worse network, or a classifier

    def __repr__(self) -> str:
        num_params, rate = sum(np.size(leaf) for leaf in jax.tree.leaves(self.params)), self.config.sample.ema_rate
        weights = f"EMA {rate:g}" if rate else "no EMA"
        of = f"{self.config.data.medium} {list(processes.image_shape(self.config))}"
        return f"Model({self.workdir!r}: step {self.step:,}, {weights}, {num_params:,} parameters, {of})"

    def denoiser(
        self, label: Array | None = None, image: Array | None = None, prompts: Sequence[str] | None = None
    ) -> Denoiser:
        """Returns the network as a denoiser, for `diffusion_jax.sample` and for whatever you write yourself.

        The levels to ask it about are those of `compose.sampling.grid(model.config)`. Its x_0 is not limited, where
        `sample` does as the setting `clip` says; see `diffusion_jax.clip_x_0`.

        Args:
            label: int [B], where the network knows classes.
            image: float [B, H, W, k] in [-1, 1], where the network is shown one, as a function of
                `diffusion_jax.data.conditions` makes it.
            prompts: B texts, where the network is given them.

        Raises:
            UserError: for a label, an image or texts where it takes none, or none where it does; where the network is a
                classifier.
        """
        text = None if prompts is None else texts.encoded(self.config, prompts)
        return processes.denoiser_of(self.config)(self.params, self._cond(label=label, image=image, text=text))

    def log_prob(self, label: Array) -> LogProb:
        """Returns the network, a noisy classifier, as (x_t, level) -> log p(label | x_t), [B]: for `guidance.classifier`.

        Args:
            label: int [B].

        Raises:
            UserError: where the network is no classifier; for what is not a label.
        """
        return processes.log_prob_of(self.config)(self.params, self._cond(label=label))

    def _cond(self, **given: Array | None) -> dict[str, Array]:
        spec, num_classes = inputs.conditioning(self.config).spec(1), self.config.model.num_classes
        takes_of = {"label": f"{num_classes} classes"}
        takes_of |= {name: self.config.show(field) for name, field in (("image", "data.condition"), ("text", "model.text"))}
        for name, takes in takes_of.items():
            fits, allowed = _fits(given.get(name), spec.get(name))
            if not fits:
                raise UserError(
                    f"{name} = {errors.shown(given.get(name))} is not allowed; with {takes} it must be {allowed}."
                )
        return {name: given[name] for name in spec}

    def sample(self, num_images: int, **settings) -> np.ndarray:
        """Returns images, uint8 [num_images, H, W, C], or what else the data are: see `media`.

        Args:
            num_images: how many; image i depends on the seed and on i alone. The network always runs on `batch_per_device`
                at once on each device, so set that lower for a few images of a large network.
            **settings: fields of the config's section `sample` to change, such as sampler="ddim", num_steps=50, seed=1.

        Raises:
            UserError: for an unknown setting, a value that is not allowed, or one that `load` decides.
        """
        _check_may_change(settings)
        settings = {name: _plain(value) for name, value in settings.items()}
        model = self._replace(config=with_settings(self.config, num_images=_plain(num_images), **settings))
        return np.concatenate(list(chunks(_checked(model))))

    def edit(self, images: np.ndarray, *, task: str, mask: np.ndarray | None = None, **settings) -> np.ndarray:
        """Returns edited images, uint8 [N, H, W, C]; of 'inpaint' and 'repaint' with every known pixel as it was.

        Args:
            images: uint8 [n, h, w, C], in the size of the model; for task='super_resolve' smaller by `factor`, for
                'outpaint' of any size. N is n, of 'interpolate' n / 2 rows of `num_between`.
            task: what becomes of them, as docs/editing.md says.
            mask: of 'inpaint' and 'repaint': 1 is free, to be generated, 0 is known, [H, W, 1] or [N, H, W, 1].
            **settings: fields of the config's sections `edit` and `sample`, such as strength=0.3, num_steps=50, seed=1.

        Raises:
            UserError: for an unknown setting, a value that is not allowed, one that `load` decides, or arrays that do not
                fit.
        """
        _check_may_change(settings)
        settings = {name: _plain(value) for name, value in {"task": task, **settings}.items()}
        of_edit = {name: value for name, value in settings.items() if name in type(self.config.edit).model_fields}
        of_sample = {name: value for name, value in settings.items() if name not in of_edit}
        config = edits.settled(self.config.with_values("edit", **of_edit).with_values("sample", **of_sample))
        rows = given.batch(config, given.of_array(images), mask)
        return np.concatenate([piece["edited"] for piece in edited(_checked(self._replace(config=config)), rows)])


def _fits(given: Any, spec: jax.ShapeDtypeStruct | None) -> tuple[bool, str]:
    """Returns whether what is given is what a network takes, of any number of images, and what it takes in words."""
    if spec is None:
        return given is None, "None"
    word, kind = ("int", np.integer) if jax.numpy.issubdtype(spec.dtype, np.integer) else ("float", np.floating)
    is_kind = given is not None and jax.numpy.issubdtype(jax.numpy.result_type(given), kind)
    fits = is_kind and np.ndim(given) == len(spec.shape) and np.shape(given)[1:] == spec.shape[1:]
    return fits, f"{word} [{', '.join(map(str, ('B', *spec.shape[1:])))}]"


def load(
    workdir: str | os.PathLike, *, step: int = -1, ema_rate: float | None = None, guide: str | os.PathLike | int = ""
) -> Model:
    """Returns the model of a training run.

    Args:
        workdir: of the run; a folder or gs://.
        step: of the checkpoint; -1 is the latest.
        ema_rate: which EMA weights, 0 for the parameters themselves; None is the config's `sample.ema_rate`.
        guide: a worse network, from which `sample(..., guidance=2.0)` leads away, or a noisy classifier, which leads towards
            the label: a workdir, or a step of this run's checkpoints. Without it guidance leads away from this network
            without a label. [Karras et al. 2024, autoguidance; Dhariwal & Nichol 2021]

    Raises:
        UserError: if the run, the checkpoint or the EMA does not exist, or the guide is of another process or other images.

    Example:
        >>> dj.load("examples/digits").sample(4, sampler="ddim", num_steps=10, batch_per_device=4).shape
        (4, 8, 8, 1)
    """
    workdir = storage.path(workdir)
    config = stored.read_config(workdir)
    rate = config.sample.ema_rate if ema_rate is None else ema_rate
    unguided = {"guidance": 1.0} if config.sample.guide and not guide else {}  # of what led the run's own images away
    config = with_settings(config, step=step, ema_rate=rate, guide=str(guide), **unguided)
    return with_guide(restore(workdir, config))


def _check_may_change(settings: Mapping[str, Any]) -> None:
    if fixed := settings.keys() & {"step", "ema_rate", "guide"}:
        raise UserError(f"setting {fixed.pop()!r} selects the weights; pass it to load().")


def _plain(value: Any) -> Any:
    """Returns a setting in the form of a config: Python numbers for those of NumPy and JAX, tuples for lists and arrays."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(value) if isinstance(value, list) else value


def restore(workdir: storage.Path, config: Config) -> Model:
    """Returns the model of a run, with the checkpoint and the EMA that the config's section `sample` names.

    Raises UserError where they do not exist, or the config names another autoencoder or encoder of text.
    """
    frozen.check(config, workdir)
    step, params = weights.restored(workdir, config)
    return Model(processes.as_learned(config, params), params, step, str(workdir))


def with_guide(model: Model) -> Model:
    """Returns the model with the network that `sample.guide` names, if any; UserError where that cannot guide it."""
    name = model.config.sample.guide
    if not name:
        return model
    workdir, step = (model.workdir, int(name)) if name.isdecimal() else (name, -1)
    with errors.of(f"config field sample.guide = {name!r}: "):
        config = model.config if name.isdecimal() else stored.read_config(storage.path(workdir))
        guiding.check_guide(model.config, config)
        return model._replace(guide=restore(storage.path(workdir), config.with_values("sample", step=step)))


def _checked(model: Model) -> Model:
    """Returns the model; UserError where its guide does not fit its settings."""
    if model.guide:
        guiding.check_guide(model.config, model.guide.config)
    return model


def _labelled(model: Model) -> Config:
    return guiding.labelled(model.config, model.guide and model.guide.config)


def with_settings(config: Config, **settings) -> Config:
    """Returns the config with fields of its section `sample` changed, and checked."""
    checks.check_kind(config)
    config = config.with_values("sample", **settings)
    checks.check(config)
    return config


def provenance(model: Model) -> dict[str, Any]:
    """Returns what identifies results of this model: for a manifest."""
    config = model.config
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(model.params):
        digest.update(np.asarray(leaf).tobytes())
    identity = json.dumps(config.identity(), sort_keys=True)
    return {
        "format_version": stored.FORMAT_VERSION,
        "checkpoint_step": model.step,
        "images_seen": model.step * config.train.batch_size,
        "weights_sha256": digest.hexdigest(),
        "config_sha256": hashlib.sha256(identity.encode()).hexdigest(),
        "image_shape": processes.image_shape(config),
        **({"codec_sha256": coding.sha256(config.data.codec)} if config.data.codec else {}),
        "process": config.process.model_dump(),
        "predicts": config.predicts,
        "model": config.model.model_dump(),
        "device": sharding.device_name(),
        "versions": stored.versions(),
    }


def manifest_of_images(model: Model) -> dict[str, Any]:
    """Returns what image i depends on, and how it was made: not on how many there are, so that more may follow."""
    settings = model.config.sample.model_dump(exclude={"strip", "num_images", "guide"})
    guide = {"guide": provenance(model.guide)} if model.guide else {}
    return {
        "quantisation": MEDIA[model.config.data.medium].decoded,
        "sample": {**settings, "step": model.step},
        **sample_conditions.identity(model.config),
        **guide,
        **provenance(model),
    }


def write_dump(model: Model, out: storage.Path, manifest: dict[str, Any]) -> storage.Path:
    """Writes the images of the config's section `sample` into a folder; returns the .npz file. See `dump.write`."""
    settings, config = model.config.sample, _labelled(model)
    source, medium = sample_conditions.source(config), MEDIA[config.data.medium]
    write_one = medium.write and functools.partial(medium.write, sample_rate=config.data.sample_rate)
    shape = (medium.dtype, 2 + medium.num_axes)
    return dump.write(
        out,
        lambda first: chunks(model, first=first, source=source),
        num_images=settings.num_images,
        shard_size=settings.shard_size,
        manifest=manifest,
        labels=sample_conditions.labels(config, source),
        look=dump.Look(*shape, medium.grid, medium.num_pictured, write_one, medium.written),
        beside=sample_conditions.pictured(config, source),
    )


def images(model: Model, numbers: Sequence[int]) -> np.ndarray:
    """Returns the images of some numbers, as the data are stored: [n, H, W, C] and uint8, or of another `media.Medium`."""
    found = [drawn for _, (drawn, _) in _generated(model, np.asarray(numbers), _reader(model))]
    return np.concatenate(found)[: len(numbers)]


def chunks(model: Model, *, first: int = 0, source: Source | None = None) -> Iterator[np.ndarray]:
    """Yields the images of the config from number `first` on, likewise, in pieces of [B, ...].

    Chunks begin at multiples of their size, so that an image depends neither on how many there are nor on `first`. Raises
    RunError where an image is not finite.

    Args:
        model: whose config's section `sample` says what is asked.
        first: number of an image.
        source: as `sample_conditions.source` gives it; None opens it where there is one.
    """
    size = chunked.size_of(model.config, "sample")
    numbers = np.arange(first - first % size, model.config.sample.num_images)
    for start, (images, finite) in _generated(model, numbers, _reader(model, source)):
        if not np.all(finite):
            raise RunError(errors.not_finite(finite[: len(numbers) - start]))
        yield images[max(first - numbers[start], 0) : len(numbers) - start]


def edited(model: Model, batch: Batch, first: int = 0) -> Iterator[shards.Rows]:
    """Yields what `edits.make_edit` makes of images from number `first` on, in pieces that begin as those of `chunks` do.

    Raises RunError where an image is not finite.

    Args:
        model: its config is `edits.settled`.
        batch: what is given of each image, as `given.batch` has it.
    """
    num_images, size = len(batch["x"]), model.config.sample.batch_per_device
    size = min(size, -(-num_images // jax.local_device_count()))  # few images do not wait for many
    config = model.config.with_values("sample", batch_per_device=size).with_values("edit", images="", mask="", box=())
    model = model._replace(config=config)
    numbers = np.arange(first - first % chunked.size_of(config, "sample"), num_images)
    for start, found in _drawn(edits.make_edit, model, numbers, functools.partial(_given_of, model, batch)):
        if not np.all(found.pop("finite")):
            raise RunError("edited images are not finite: the network's output was not.")
        yield {name: rows[max(first - numbers[start], 0) : len(numbers) - start] for name, rows in found.items()}


def strip(model: Model, num_images: int) -> np.ndarray:
    """Returns predictions of x_0 at `sample.strip` times, for the first images. # [k, num_images, ...], as `images`"""
    found = [predictions for _, predictions in _drawn(sampling.make_strip, model, np.arange(num_images), _reader(model))]
    return np.concatenate(found, axis=1)[:, :num_images]


def _generated(model: Model, numbers: np.ndarray, read: Callable) -> Iterator[tuple[int, Any]]:
    """Yields as `_drawn` does images of the config's grid, by a program for all grids of its length.

    Those of an autoencoder are what it makes of the images that are read.
    """
    if processes.is_autoencoder(model.config):
        return _drawn(coding.make_reconstruct, model, numbers, read)
    levels, config = sampling.grid(model.config), model.config.with_values("sample", **sampling.OF_GIVEN)
    return _drawn(sampling.make_generate_on, model._replace(config=config), numbers, read, levels)


def _drawn(make: Callable, model: Model, numbers: np.ndarray, read: Callable, *shared: Any) -> Iterator[tuple[int, Any]]:
    """Yields as `chunked.in_chunks` what a function generates; what belongs to the images of a chunk is read when due."""
    size = chunked.size_of(model.config, "sample")
    for start in range(0, len(numbers), size):
        few = numbers[start : start + size]
        for _, found in _in_chunks(make, model, "sample", few, read(few), shared=shared):
            yield start, found


def _reader(model: Model, source: Source | None = None) -> Callable[[np.ndarray], Batch | None]:
    """Returns image numbers -> the batch that says what is shown for them; arguments as for `chunks`."""
    return functools.partial(sample_conditions.read, source or sample_conditions.source(_labelled(model)))


def _given_of(model: Model, batch: Batch, numbers: np.ndarray) -> Batch:
    """Returns what is given of images of some numbers; of pairs the latents, each found once."""
    few = jax.tree.map(lambda rows: rows[numbers], batch)
    if "other" not in few:
        return few
    ends, one, other = edits.ends_of(few)
    size = -(-edits.most_ends(model.config, chunked.size_of(model.config, "sample")) // jax.local_device_count())
    model = model._replace(config=model.config.with_values("sample", batch_per_device=size))
    [(_, found)] = _in_chunks(edits.make_invert, model, "sample", np.arange(len(ends)), {"x": ends})
    evaluations = found["num_evaluations"][one]
    return {**few, "x": found["x"][one], "other": found["x"][other], "num_evaluations": evaluations}


def measure(model: Model, batch: Batch, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what `likelihoods.likelihood_of` measures of images, in NumPy. # [..., N]

    Args:
        model: whose config's section `likelihood` says what is asked.
        batch: {"x": uint8 [N, H, W, C], "cond": pytree}.
        numbers: of the images, which address their noises, [N].
    """
    unguided = model._replace(guide=None)
    parts = [found for _, found in _in_chunks(likelihoods.likelihood_of, unguided, "likelihood", numbers, batch)]
    return {name: np.concatenate([part[name] for part in parts], axis=-1)[..., : len(numbers)] for name in parts[0]}


def _in_chunks(make: Callable, model: Model, *given: Any, **options: Any) -> Iterator[tuple[int, Any]]:
    """Yields as `chunked.in_chunks` does, with the weights of a model and of its guide if it has one."""
    configs = [model.config, model.guide.config] if model.guide else [model.config]
    weights = (model.params, model.guide.params) if model.guide else model.params
    return chunked.in_chunks(make, configs, weights, *given, **options)
