"""Signals that really arrive: a run saves, stops and goes on; a scheduler's script puts it back into the queue."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import tiny

MOST_SECONDS = 240  # that a start may take on a machine with other work


def started(workdir, *, num_steps, ignored=()):
    """Returns a process that trains; `ignored` are signals that it ignores from its parent, as under nohup."""
    command = [
        sys.executable,
        "main.py",
        *tiny.flags(workdir, num_steps=num_steps, sample_every=10**6, checkpoint_every=10**6),
    ]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}

    def ignore():
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    options = {"cwd": tiny.ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, preexec_fn=ignore, **options)


def steps_in(workdir: pathlib.Path) -> list[int]:
    file = workdir / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []


def wait_for_a_line(process, workdir):
    """Waits until a run is among its steps."""
    end = time.monotonic() + MOST_SECONDS
    while not steps_in(workdir):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])  # the others: test_main.py
def test_a_run_saves_and_stops_at_a_signal_and_goes_on(tmp_path, name):
    number = getattr(signal, name)
    process = started(tmp_path / "run", num_steps=10**6)
    try:
        wait_for_a_line(process, tmp_path / "run")
        process.send_signal(number)
        said = process.communicate(timeout=MOST_SECONDS)[0]
    finally:
        process.kill()
    assert process.returncode == 128 + number, said
    step = int(re.search(rf"stopped +by signal {number:d}, saved at step ([\d,]+);", said)[1].replace(",", ""))
    assert [file.name for file in (tmp_path / "run" / "checkpoints").iterdir()] == [str(step)]
    process = started(tmp_path / "run", num_steps=step + 2)
    said = process.communicate(timeout=MOST_SECONDS)[0]
    assert process.returncode == 0 and f"resumed     at step {step:,}" in said
    steps = steps_in(tmp_path / "run")
    assert steps == sorted(set(steps)) and steps[-1] == step + 2


@pytest.mark.slow
def test_under_nohup_a_run_goes_on_after_its_terminal_went_away(tmp_path):
    process = started(tmp_path / "run", num_steps=10**6, ignored=[signal.SIGHUP])
    try:
        wait_for_a_line(process, tmp_path / "run")
        process.send_signal(signal.SIGHUP)
        num_lines, end = len(steps_in(tmp_path / "run")), time.monotonic() + MOST_SECONDS
        while len(steps_in(tmp_path / "run")) < num_lines + 5:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=MOST_SECONDS)[0]
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM and "by signal 15, saved at step" in said


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (138, True), (143, True)])
def test_the_script_for_slurm_puts_a_run_that_was_saved_back_into_the_queue(tmp_path, code, requeued):
    """With programs that stand for srun and scontrol."""
    document = (tiny.ROOT / "docs" / "scale.md").read_text()
    [script] = [block for block in re.findall(r"```sh\n(.*?)```", document, re.DOTALL) if "#SBATCH" in block]
    for name, content in {"srun": f"exit {code}", "scontrol": f'echo "$@" > {tmp_path}/requeued'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{content}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    assert subprocess.run(["bash", "-c", script], env=environment, check=False).returncode == code
    found = tmp_path / "requeued"
    assert (found.read_text() if found.exists() else "") == ("requeue 7\n" if requeued else "")
