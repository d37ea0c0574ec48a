"""Whether a run that is killed ends with the same bytes: kill -9 at random moments, measured.

    python benchmarks/chaos.py [--num_kills=50] [--num_dump_kills=12] [--num_hangups=12] [--num_console_kills=4] [--seed=0]

Trains a tiny network on digits without interruption (the reference), then again and again in processes that get SIGKILL:
before the first step, during the steps, while a checkpoint is written, just after one became whole, and just after
metrics.jsonl grew. The command is started again until the run ends; then its last checkpoint and metrics.jsonl are compared
with the reference's, byte for byte. The same for a dump, killed among its shards and while its .npz is written; for training
that gets SIGHUP, after which it saves where it is (means in metrics.jsonl then begin there, so only its steps are compared);
and for training whose console is full or closed from the start. Prints a line for each kill, and writes
benchmarks/chaos.json; exit code 1 if anything differs.
"""

import argparse
import collections
import contextlib
import functools
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from diffusion_jax.compose import stored, training
from diffusion_jax.runs import checkpoint, storage
from diffusion_jax.training import start, watch

FIELDS = {  # each thing that a resumed run could lose: Adam, two averages, a loss history, flips, dropout, several epochs
    "model.channels": 8,
    "model.multipliers": "(1,)",
    "model.num_groups": 4,
    "model.dropout": 0.1,
    "model.learned_variance": True,
    "process.num_steps": 20,
    "loss.name": "vlb",
    "loss.timesteps": "loss_second_moment",
    "data.random_flip": True,
    "train.batch_size": 16,
    "train.warmup_steps": 1,
    "train.ema_rates": "(0.9, 0.99)",
    "train.tensorboard": False,
    "train.keep_checkpoints": 2,
    "train.log_every": 10,
    "train.checkpoint_every": 20,
    "train.sample_every": 100,
    "train.num_steps": 1000,
    "sample.variance": "learned_range",
    "sample.ema_rate": 0.99,
    "sample.num_steps": 3,
    "sample.batch_per_device": 16,
}
DUMP_FIELDS = {"num_images": 400, "shard_size": 5, "batch_per_device": 4, "num_steps": 20}
TRAIN_KINDS = ("save", "steps", "saved", "start", "save", "steps", "saved", "metrics")  # each drawn as often as it is named
DUMP_KINDS = ("shards", "npz")
HANGUP_KINDS = ("start", "steps", "save", "saved")
CONSOLE_KINDS = ("steps", "save")
START_SECONDS, STEPS_SECONDS = 6, 5  # kills fall at most so long after the start, and after the first line that is logged
SAVE_SECONDS, NPZ_SECONDS = 0.3, 0.01  # and so long after a file was begun
NUM_SAVES, NUM_STEPS, NUM_SHARDS = 6, 200, 10  # and behind at most so many of each
MOST_RUNS = 50


class Kill(NamedTuple):
    """A kill to come: in which part of a run, and when in it, in [0, 1)."""

    kind: str
    when: float
    number: int = signal.SIGKILL  # what is sent


class Watched(NamedTuple):
    """A process, and what can be seen of it from outside."""

    process: subprocess.Popen
    began: float  # seconds since 1970
    folder: pathlib.Path  # where it writes
    first_step: int  # from which it goes on


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_kills", type=int, default=50, help="of training")
    parser.add_argument("--num_dump_kills", type=int, default=12)
    parser.add_argument("--num_hangups", type=int, default=12, help="SIGHUPs of training")
    parser.add_argument("--num_console_kills", type=int, default=4, help="of training with each broken console")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    flags = parser.parse_args()
    start, rng = time.monotonic(), np.random.default_rng(flags.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        os.environ |= {"JAX_COMPILATION_CACHE_DIR": f"{folder}/xla", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        found = {"training": kill_training(folder, "run", plan(TRAIN_KINDS, flags.num_kills, rng), FIELDS)}
        found["dump"] = kill_dump(folder, plan(DUMP_KINDS, flags.num_dump_kills, rng), DUMP_FIELDS)
        hangups = [kill._replace(number=signal.SIGHUP) for kill in plan(HANGUP_KINDS, flags.num_hangups, rng)]
        found["hangups"] = kill_training(folder, "hangup", hangups, FIELDS)
        for console in ("full", "closed"):
            kills = plan(CONSOLE_KINDS, flags.num_console_kills, rng)
            found[f"{console}_console"] = kill_training(folder, console, kills, FIELDS, console=console)
    result = {
        "command": f"python benchmarks/chaos.py {' '.join(f'--{name}={value}' for name, value in vars(flags).items())}",
        "same": all(each["same"] for each in found.values()),
        **found,
        "seconds": round(time.monotonic() - start),
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()}), backend {jax.default_backend()}",
        "python": platform.python_version(),
        "versions": stored.versions(),
    }
    (ROOT / "benchmarks" / "chaos.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0 if result["same"] else 1


def plan(kinds: tuple[str, ...], num: int, rng: np.random.Generator) -> list[Kill]:
    """Returns kills in random order, each kind as often as it is named."""
    return [Kill(kinds[i % len(kinds)], float(rng.random())) for i in rng.permutation(num)]


def kill_training(folder: pathlib.Path, name: str, kills: list[Kill], fields: dict, console: str = "file") -> dict:
    """Trains folder/reference, and as many runs as it takes to deliver all kills; returns what came of it."""
    reference, runs, rows, kills = folder / "reference", [], [], list(kills)
    saves_anywhere = any(kill.number != signal.SIGKILL for kill in kills)
    if not latest_step(reference):
        until_done(train_command(reference, fields), reference, [])
    while kills and len(runs) < MOST_RUNS:
        runs.append(folder / f"{name}{len(runs)}")
        rows += until_done(train_command(runs[-1], fields), runs[-1], kills, console)
    state = last_checkpoint(reference)  # JAX wakes up in this process only now: it would take the memory of an accelerator
    wrong_of = wrong_steps if saves_anywhere else wrong_lines
    wrong = {run.name: differences(state, last_checkpoint(run)) + wrong_of(reference, run, fields) for run in runs}
    return {
        "same": not any(wrong.values()) and not kills,
        "what_differs": {name: found for name, found in wrong.items() if found},
        "compared": {
            "arrays": dict(collections.Counter(name.split(".")[1].split("[")[0] for name in state)),
            "bytes": sum(len(content) for _, content in state.values()),
            "lines_of_metrics": fields["train.num_steps"] // fields["train.log_every"],
        },
        "num_runs": len(runs),
        "num_steps": fields["train.num_steps"],
        **summary(rows, kills),
        "left_behind": left_behind(reference, runs),
    }


def kill_dump(folder: pathlib.Path, kills: list[Kill], fields: dict) -> dict:
    """Dumps images of folder/reference in one go, then with all kills; returns what came of it."""
    outs, kills, rows = [folder / "dump", folder / "killed_dump"], sorted(kills), []  # from the end: the shards' come first
    until_done(dump_command(folder / "reference", outs[0], fields), outs[0], [])
    for _ in range(MOST_RUNS):  # a dump that is done writes its .npz again
        rows += until_done(dump_command(folder / "reference", outs[1], fields), outs[1], kills)
        if not kills:
            break
    names = sorted(str(file.relative_to(outs[0])) for file in outs[0].rglob("*") if file.is_file())
    wrong = [name for name in names if (outs[0] / name).read_bytes() != (outs[1] / name).read_bytes()]
    return {
        "same": not wrong and not kills,
        "what_differs": wrong,
        "compared": f"all {len(names)} files, byte for byte",
        "fields": fields,
        **summary(rows, kills),
        "left_behind": left_behind(outs[0], outs[1:]),
    }


def train_command(workdir: pathlib.Path, fields: dict) -> list[str]:
    return ["--config=configs/digits.py", f"--workdir={workdir}", *[f"--config.{k}={v}" for k, v in fields.items()]]


def dump_command(workdir: pathlib.Path, out: pathlib.Path, fields: dict) -> list[str]:
    return [
        "--mode=sample",
        f"--workdir={workdir}",
        f"--out={out}",
        *[f"--config.sample.{k}={v}" for k, v in fields.items()],
    ]


def until_done(arguments: list[str], folder: pathlib.Path, kills: list[Kill], console: str = "file") -> list[dict]:
    """Starts main.py until it ends by itself; takes the kills that it could deliver from the end of the list.

    Returns:
        A row for each start: which kill ended it, if any did, and what it left.
    """
    rows: list[dict] = []
    while not rows or rows[-1]["killed"]:
        rows.append(start_once(arguments, folder, kills[-1] if kills else None, console))
        if rows[-1]["killed"]:
            kills.pop()
    return rows


def start_once(arguments: list[str], folder: pathlib.Path, kill: Kill | None, console: str = "file") -> dict:
    """Starts main.py and kills it when the moment has come; returns a row.

    Raises:
        RuntimeError: where it ended neither well nor by the kill.
    """
    output, before = folder.parent / f"{folder.name}.txt", latest_step(folder)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    with open_console(console, output) as file:
        command = [sys.executable, "main.py", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    watched = Watched(process, time.time(), folder, before)
    try:
        for _ in MOMENTS[kill.kind](watched, kill.when) if kill else ():
            if process.poll() is not None:
                break
            time.sleep(0.001)
        else:
            if kill:
                os.kill(process.pid, kill.number)
        code = process.wait()
    finally:
        process.kill()
    printed = output.read_text() if console == "file" else ""
    if code != 0 and not (kill and code in (-kill.number, 128 + kill.number)):
        raise RuntimeError(f"main.py {' '.join(arguments)} ended with {code}:\n{printed}")
    resumed = re.search(r"^resumed +at step ([\d,]+)", printed, re.MULTILINE)
    row = {
        "killed": code != 0,
        "kind": kill.kind if kill else "",
        "half": len(half_written(watched)) > 0,
        "lost": "\nsteps " in printed and before != (int(resumed[1].replace(",", "")) if resumed else 0),
        "warnings": re.findall("^warning.*", printed, re.MULTILINE),
    }
    reached = (
        f"{len(shards(folder))} shards" if shards(folder) else f"step {last_logged(folder)}, {latest_step(folder)} saved"
    )
    half = ", half a file left" if row["half"] else ""
    print(
        f"{folder.name}: {f'{kill.kind} {kill.when:.2f}' if kill else 'no kill'}, exit code {code}, {reached}{half}",
        flush=True,
    )
    return row


def open_console(kind: str, output: pathlib.Path) -> IO[bytes]:
    """Returns what a process prints to: a file, a disk that is full, or a pipe that nobody reads."""
    if kind == "full":
        return open("/dev/full", "wb")
    if kind == "closed":
        reader, writer = os.pipe()
        os.close(reader)
        return os.fdopen(writer, "wb")
    return output.open("wb")


def at_start(watched: Watched, when: float) -> Iterator[None]:
    """Yields until so long after the start, or until the first line is logged."""
    while time.time() < watched.began + when * START_SECONDS and not has_logged(watched):
        yield


def in_steps(watched: Watched, when: float) -> Iterator[None]:
    """Yields until so long after the first logged line."""
    while not has_logged(watched):
        yield
    end = time.time() + when * STEPS_SECONDS
    while time.time() < end:
        yield


def in_save(watched: Watched, when: float) -> Iterator[None]:
    """Yields until a checkpoint has been under way for so long; less for the next one if it was whole by then."""
    skipped, within = divmod(when * NUM_SAVES, 1)
    seconds = within * SAVE_SECONDS
    while True:
        while not half_written(watched):
            yield
        begun = time.time()
        while half_written(watched):
            if skipped <= 0 and time.time() >= begun + seconds:
                return
            yield
        skipped, seconds = skipped - 1, seconds / 2 if skipped <= 0 else seconds


def at_saved(watched: Watched, when: float) -> Iterator[None]:
    """Yields until so many checkpoints have become whole."""
    for _ in range(1 + int(when * NUM_SAVES)):
        before = latest_step(watched.folder)
        while latest_step(watched.folder) == before:
            yield


def at_metrics(watched: Watched, when: float) -> Iterator[None]:
    """Yields until metrics.jsonl has grown, by so many steps."""
    while not has_logged(watched):
        yield
    first = last_logged(watched.folder)
    while last_logged(watched.folder) < first + when * NUM_STEPS + 1:
        yield


def in_shards(watched: Watched, when: float) -> Iterator[None]:
    """Yields until so many shards were written, and a little longer."""
    num, within = divmod(when * NUM_SHARDS, 1)
    first = len(shards(watched.folder))
    while len(shards(watched.folder)) <= first + num:
        yield
    end = time.time() + within * NPZ_SECONDS
    while time.time() < end:
        yield


def in_npz(watched: Watched, when: float) -> Iterator[None]:
    """Yields until the .npz of all images has been under way for so long, or ended."""
    while not half_written(watched):
        yield
    end = time.time() + when * NPZ_SECONDS
    while time.time() < end and half_written(watched):
        yield


MOMENTS: dict[str, Callable[[Watched, float], Iterator[None]]] = {
    "start": at_start,
    "steps": in_steps,
    "save": in_save,
    "saved": at_saved,
    "metrics": at_metrics,
    "shards": in_shards,
    "npz": in_npz,
}


def half_written(watched: Watched) -> list[str]:
    """Returns the temporary names of this process: orbax's for a checkpoint, or ours for a dump's .npz."""
    found = []
    for pattern in ("checkpoints/*.orbax-checkpoint-tmp", f".samples_*.{watched.process.pid}.tmp"):
        for name in watched.folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):  # whole by now
                if name.stat().st_mtime > watched.began:  # not of an earlier process
                    found.append(name.name)
    return found


def has_logged(watched: Watched) -> bool:
    """Returns whether this process has written a line; what an earlier one wrote after its checkpoint, it drops first."""
    file = watched.folder / "metrics.jsonl"
    is_own = file.exists() and file.stat().st_mtime > watched.began
    return is_own and last_logged(watched.folder) > watched.first_step


def last_logged(workdir: pathlib.Path) -> int:
    """Returns the step of the last whole line of metrics.jsonl; 0 where there is none."""
    file = workdir / "metrics.jsonl"
    steps = re.findall(r'^\{"step": (\d+),.*\n', file.read_text() if file.exists() else "", re.MULTILINE)
    return int(steps[-1]) if steps else 0


def latest_step(workdir: pathlib.Path) -> int:
    """Returns the step of the latest whole checkpoint; 0 where there is none."""
    return max((int(name.name) for name in workdir.glob("checkpoints/*") if name.name.isdigit()), default=0)


def shards(out: pathlib.Path) -> list[pathlib.Path]:
    return list(out.glob("shards/[!.]*.npz"))


def summary(rows: list[dict], undelivered: list[Kill]) -> dict:
    """Returns how many kills of each kind there were, and what they left."""
    return {
        "num_kills": dict(collections.Counter(row["kind"] for row in rows if row["killed"])),
        "num_kills_undelivered": len(undelivered),
        "num_kills_that_left_half": sum(row["half"] for row in rows if row["killed"]),
        "num_starts": len(rows),
        "num_starts_before_the_latest_checkpoint": sum(row["lost"] for row in rows),
        "warnings": [warning for row in rows for warning in row["warnings"]],
    }


def last_checkpoint(workdir: pathlib.Path) -> dict[str, tuple[str, bytes]]:
    """Returns {name: (type and shape, bytes)} of every array of a run's latest checkpoint."""
    config = stored.read_config(storage.path(workdir))
    abstract = jax.eval_shape(functools.partial(start.make_state, parts=training.parts(config)), jax.random.key(0))
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), abstract)
    with checkpoint.Checkpoints(storage.path(workdir), keep=config.train.keep_checkpoints) as checkpoints:
        state = checkpoints.restore_latest(like)
    leaves = {jax.tree_util.keystr(name): np.asarray(leaf) for name, leaf in jax.tree_util.tree_leaves_with_path(state)}
    return {name: (f"{leaf.dtype} {leaf.shape}", leaf.tobytes()) for name, leaf in leaves.items()}


def differences(reference: dict, state: dict) -> list[str]:
    """Returns the names of arrays that are not the same in both."""
    return [name for name in sorted({*reference, *state}) if reference.get(name) != state.get(name)]


def wrong_steps(reference: pathlib.Path, run: pathlib.Path, fields: dict) -> list[str]:
    """Returns what is wrong with the steps of a metrics.jsonl: it must have each once."""
    found, expected = (
        [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        for workdir in (run, reference)
    )
    return [] if found == expected else [f"metrics.jsonl has the steps {found}"]


def wrong_lines(reference: pathlib.Path, run: pathlib.Path, fields: dict) -> list[str]:
    """Returns what is wrong with a metrics.jsonl: it must have each step once, and the same lines as the reference's.

    But for the figures of a machine, such as images_per_s.
    """

    def comparable(line: str) -> str:
        return json.dumps({name: value for name, value in json.loads(line).items() if name not in watch.OF_MACHINE})

    files = [(workdir / "metrics.jsonl").read_text().splitlines() for workdir in (run, reference)]
    lines, expected = (list(map(comparable, lines)) for lines in files)
    wanted = list(range(fields["train.log_every"], fields["train.num_steps"] + 1, fields["train.log_every"]))
    wrong = [] if [json.loads(line)["step"] for line in expected] == wanted else ["the reference lacks steps"]
    wrong += [f"metrics.jsonl lacks {line}" for line in (collections.Counter(expected) - collections.Counter(lines))]
    wrong += [f"metrics.jsonl has {line}" for line in (collections.Counter(lines) - collections.Counter(expected))]
    return wrong or ([] if lines == expected else ["metrics.jsonl is out of order"])


def left_behind(reference: pathlib.Path, folders: list[pathlib.Path]) -> dict[str, int]:
    """Returns how many names are there that the reference lacks, or the other way round; numbers of processes are PID."""
    count: collections.Counter[str] = collections.Counter()
    wanted = entries(reference)
    for folder in folders:
        found = entries(folder)
        count.update(re.sub(r"\.\d+\.tmp", ".PID.tmp", name) for name in found - wanted)
        count.update(f"{name} is missing" for name in wanted - found)
    return dict(sorted(count.items()))


def entries(folder: pathlib.Path) -> set[str]:
    """Returns the relative names of all files, a checkpoint (half or whole) as one."""
    names = {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
    return {"/".join(name.parts[:2]) if name.parts[0] == "checkpoints" else str(name) for name in names}


if __name__ == "__main__":
    sys.exit(main())
