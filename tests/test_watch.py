"""What a run says of its health: the figures of metrics.jsonl."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from diffusion_jax import networks, streams, timesteps
from diffusion_jax.compose import training
from diffusion_jax.data import media
from diffusion_jax.jobs import train
from diffusion_jax.runs import hardware, sharding, storage
from diffusion_jax.training import start, step, watch

HEALTH = {"loss", "grad_norm", "update_norm", "param_norm", "ema_distance_0.99", "skipped", "images_seen", "batch_size"}
QUARTILES = {f"loss_q{number}" for number in range(1, 5)}


class Recorded:
    """What stands for `logs.Logs`."""

    def __init__(self):
        self.lines = []

    def metrics(self, step, values):
        self.lines.append({"step": step, **values})


def watching(**options):
    run = {"parts": None, "mesh": None, "log": Recorded(), "num_steps": 100, "batch_size": 8, "grad_clip": 2.0}
    run |= {"log_every": 2, "sample_every": 100, "checkpoint_every": 100, "evaluate_every": 0, "max_skipped": 20}
    run = watch.Run(**run | {"read": None, "medium": media.IMAGES} | options)
    return watch.Watch(run), run.log.lines


def metrics(loss=1.0, grad_norm=1.0, **more):
    counters = {"skipped": 0, "skipped_in_a_row": 0, "unreadable": 0}
    return {name: np.float32(value) for name, value in {"loss": loss, "grad_norm": grad_norm, **counters, **more}.items()}


def test_losses_by_quartile_are_means_over_the_images_of_all_steps():
    """Of t = 1 .. 8 and losses equal to t: by quartiles 1.5, 3.5, 5.5, 7.5; the batches have none or many of a quartile."""
    watched, lines = watching()
    drawn, batches = timesteps.uniform(8), ([1, 1, 1, 2, 3, 4], [5, 6, 7, 7, 8, 8, 2, 2])
    for number, t in enumerate(batches, 1):
        t = jnp.array(t)
        watched(number, metrics(**step.by_quartile(drawn, t, jnp.ones(len(t)), t.astype(float))))
    weights = {1: ([1, 1, 1, 2], [2, 2]), 2: ([3, 4], []), 3: ([], [5, 6]), 4: ([], [7, 7, 8, 8])}
    for number, (first, second) in weights.items():  # each step counts as one, whatever its batch
        share = len(first) / 6 + len(second) / 8
        assert lines[0][f"loss_q{number}"] == pytest.approx((sum(first) / 6 + sum(second) / 8) / share, rel=1e-6)
    assert not [name for name in lines[0] if "part" in name]


def test_a_quartile_without_images_or_with_a_loss_that_is_not_finite_is_left_out():
    watched, lines = watching()
    for number in (1, 2):
        losses = jnp.array([1.0, jnp.nan])
        watched(number, metrics(**step.by_quartile(timesteps.uniform(8), jnp.array([1, 4]), jnp.ones(2), losses)))
    assert lines[0]["loss_q1"] == 1 and not {"loss_q2", "loss_q3", "loss_q4"} & set(lines[0])


def test_parts_of_quartiles_are_weighted_as_the_loss_is():
    parts = step.by_quartile(
        timesteps.uniform(8), jnp.arange(1, 9), weight := jnp.arange(8.0), losses := jnp.arange(8.0) ** 2
    )
    total = sum(parts[f"loss_part_q{number}"] for number in range(1, 5))
    assert float(total) == pytest.approx(float(jnp.mean(weight * losses)), rel=1e-6)
    assert parts["loss_part_q4"] == (6 * 36 + 7 * 49) / 8 and parts["weight_part_q4"] == 13 / 8
    assert step.by_quartile(timesteps.uniform(8)._replace(quantile=None), jnp.arange(8), weight, losses) == {}


@pytest.mark.parametrize(("grad_clip", "expected"), [(2.0, 0.25), (math.inf, None)])
def test_the_share_of_clipped_steps_is_logged_where_gradients_are_clipped(grad_clip, expected):
    watched, lines = watching(grad_clip=grad_clip, log_every=4)
    for number, norm in enumerate((1.0, 3.0, 2.0, 1.9), 1):
        watched(number, metrics(grad_norm=norm))
    assert lines[0].get("clipped_share") == expected


def test_speed_is_of_the_steps_since_the_line_before(monkeypatch):
    """The first call, which compiles, does not count; after it two steps of 8 images take 4 s, at the peak 0.5 s."""
    watched, lines = watching()
    now = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    watched.least_step_s = 0.25
    for number, at in enumerate((50, 52, 54, 56), 1):
        now[0] = at
        watched(number, metrics())
    assert [line["images_per_s"] for line in lines] == [4, 4] and lines[1]["mfu"] == 0.125
    assert "peak_memory_gib" not in lines[0]  # a CPU does not tell


def test_norms_are_those_of_the_state():
    """With a network of one number, 3, and EMAs that begin there: after a step of 0.1 at most 0.1 lies between."""
    network = networks.Network(lambda key: {"w": jnp.float32(3)}, lambda params, x_t, *rest, **options: params["w"] * x_t)
    changes = {"train.warmup_steps": 0, "train.learning_rate": 0.1, "train.ema_rates": (0.5, 0.9)}
    parts = training.parts(tiny.config_of(changes))._replace(network=network)
    state = start.make_state(streams.key(0, "init"), parts=parts)
    after, found = jax.jit(functools.partial(step.train_step, parts=parts))(state, tiny.batches(1)[0])
    assert found["param_norm"] == pytest.approx(abs(float(after.params["w"])), rel=1e-6)
    assert found["update_norm"] == pytest.approx(0.1, rel=1e-4)  # of Adam at first
    assert found["ema_distance_0.5"] == pytest.approx(0.05, rel=1e-4)
    assert found["ema_distance_0.9"] == pytest.approx(0.09, rel=1e-4)


def test_a_step_is_traced_once_though_its_operations_are_counted(monkeypatch, tmp_path, one_device):
    """On a device whose peak is known; so the count costs nothing."""
    traced, train_step = [], step.train_step

    def counting(*arguments, **options):
        traced.append(1)
        return train_step(*arguments, **options)

    monkeypatch.setattr(step, "train_step", counting)
    monkeypatch.setitem(hardware.PUBLISHED, "cpu", hardware.Chip(2**30, 1e12, 1e12, 1e9, 1e9))
    config = tiny.config_of({"train.num_steps": 4, "train.sample_every": 100, "data.held_out": ""})
    assert train.run(config, storage.path(tmp_path)) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(traced) == 1 and [line["step"] for line in lines] == [2, 4]
    assert set(lines[0]) >= HEALTH | {"mfu", "images_per_s", "clipped_share"} and set(lines[0]) & QUARTILES
    assert 0 < lines[1]["mfu"] < 1


def test_the_peak_is_that_of_all_devices(monkeypatch):
    mesh = sharding.make_mesh()
    assert hardware.peak(mesh) == 0
    monkeypatch.setitem(hardware.PUBLISHED, "cpu", hardware.Chip(1, 1e12, 1e11, 1e9, 1e9))
    assert hardware.peak(mesh) == mesh.size * 1e12


def test_weights_whose_images_are_not_finite_are_named(tmp_path, monkeypatch, capsys, one_device):
    def spoiled(config):
        return lambda params, numbers, batch: (jnp.zeros((len(numbers), 8, 8, 1), jnp.uint8), numbers != 1)

    monkeypatch.setattr(train, "_generate", spoiled)
    assert train.run(tiny.config_of({"train.num_steps": 4, "train.ema_rates": ()}), storage.path(tmp_path)) == 0
    assert "of the weights 'raw', 1 of 64 images are not finite" in capsys.readouterr().out
