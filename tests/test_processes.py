"""Several real processes on this machine: the same training, the same dump, and one end for all."""

import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import tiny

from diffusion_jax.data import feed
from diffusion_jax.errors import UserError
from diffusion_jax.runs import pictures, sharding

TWO_DEVICES = "--xla_force_host_platform_device_count=2"  # the last one counts


def start(num: int, *arguments: str) -> list[subprocess.Popen]:
    """Starts main.py as processes that join each other, with two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = os.environ | {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(num)}
    common |= {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {TWO_DEVICES}", "PYTHONUNBUFFERED": "1"}
    command, pipes = [sys.executable, "main.py", *arguments], {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return [
        subprocess.Popen(command, cwd=tiny.ROOT, env=common | {"JAX_PROCESS_ID": str(i)}, text=True, **pipes)
        for i in range(num)
    ]


def end(processes: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    """Returns the exit codes and what was said."""
    try:
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def read_until(process: subprocess.Popen, label: str) -> None:
    for line in process.stdout:
        if line.startswith(label):
            return
    raise AssertionError(f"ended without {label!r}")


def metrics(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_stop_together_and_go_on_as_one(tmp_path):
    """Against one process without a stop. Adam turns the rounding of another order of sums into 1e-4 within a few steps."""
    often = {"log_every": 1, "checkpoint_every": 100_000, "sample_every": 100_000, "decay": "constant"}
    pair = start(2, *tiny.flags(tmp_path / "pair", num_steps=100_000, **often))
    read_until(pair[0], "train")
    pair[1].send_signal(signal.SIGTERM)
    codes, said = end(pair)
    assert codes == [128 + signal.SIGTERM] * 2, said
    [saved] = os.listdir(tmp_path / "pair" / "checkpoints")
    assert f"saved at step {int(saved):,}" in said[0] and "train" not in said[1]
    num_steps = int(saved) + 2
    for name in ("pair", "alone"):
        codes, said = end(start(1, *tiny.flags(tmp_path / name, num_steps=num_steps, **often)))
        assert codes == [0], said
    one, other = metrics(tmp_path / "pair"), metrics(tmp_path / "alone")
    assert [line["step"] for line in one] == [line["step"] for line in other] == list(range(1, num_steps + 1))
    np.testing.assert_allclose([line["loss"] for line in one], [line["loss"] for line in other], rtol=1e-3)
    check_dump(tmp_path)


@pytest.mark.slow
def test_an_image_that_one_process_cannot_read_ends_both_and_both_save_the_steps_before(tmp_path):
    """Of a set that is read while training; the one that met it says which, and nothing of its step or later is saved."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        content = pictures.encode_png(pixels)
        (images / f"{number:02d}.png").write_bytes(content if number != 7 else content[:60])
    flags = [
        *tiny.flags(tmp_path / "run", num_steps=50, checkpoint_every=50, log_every=1),
        "--config.data.source=folder",
        f"--config.data.path={images}",
    ]
    flags += ["--config.data.channels=3", "--config.data.device_cache_gib=0", "--config.train.batch_size=4"]
    codes, said = end(start(2, *flags))
    sentences = {  # both may have met it by the end
        1: "another process could not read an image, and says which; what was learned is saved",
        2: "07.png' cannot be read",
    }
    assert 2 in codes and all(sentences.get(code, "no such code") in text for code, text in zip(codes, said, strict=True)), (
        said
    )
    order = feed.make_order(12, batch_size=4, seed=0)
    taken = next(step for step in range(3) if 7 in order(step))
    assert taken > 0 and os.listdir(tmp_path / "run" / "checkpoints") == [str(taken)]
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, taken + 1))


def check_dump(tmp_path):
    """Two processes share out the shards of a dump; the result has the same bytes."""
    dumped = []
    for num in (1, 2):
        flags = [f"--workdir={tmp_path / 'pair'}", f"--out={tmp_path / f'by_{num}'}", "--config.sample.num_images=30"]
        codes, said = end(start(num, "--mode=sample", *flags, "--config.sample.shard_size=8"))
        assert codes == [0] * num, said
        with np.load(tmp_path / f"by_{num}" / "samples_30x8x8x1.npz") as stored:
            dumped.append(stored["arr_0"])
    np.testing.assert_array_equal(*dumped)


def test_variables_that_do_not_fit_together_are_a_sentence(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    for name, value in [("JAX_NUM_PROCESSES", "two"), ("JAX_PROCESS_ID", "0")]:
        monkeypatch.setenv(name, value)
    try:
        sharding.join_processes()
    except UserError as error:
        assert "needs JAX_NUM_PROCESSES = 1, 2, ... and JAX_PROCESS_ID below it" in str(error)
    else:
        raise AssertionError("'two' is not a number of processes")
