"""The command line: the whole job in a process of its own, and a sentence for everything that can be mistyped."""

import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from unittest import mock

import numpy as np
import pytest
import tiny
from PIL import Image

from diffusion_jax.compose import checks, command, stored
from diffusion_jax.compose.config import FIELDS, Config
from diffusion_jax.errors import UserError
from diffusion_jax.jobs import main
from diffusion_jax.training import loop

ROOT = pathlib.Path(__file__).parents[1]
DIGITS = "--config=configs/digits.py"


def start(*arguments, num_devices=1, **options):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={num_devices}"  # the last one counts
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "main.py", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def called(capsys, *arguments):
    """Returns (exit code, stdout, stderr) of main.py in this process."""
    capsys.readouterr()
    code = main.main(["main.py", *map(str, arguments)])
    return code, *capsys.readouterr()


def run(*arguments, **options):
    """Returns (exit code, stdout, stderr) of main.py in a process of its own."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_train_then_resume_then_sample(tmp_path):
    """The README's path, with a relative workdir, and not one line on stderr."""
    workdir = pathlib.Path(os.path.relpath(tmp_path / "run", ROOT))
    code, out, err = run(*tiny.flags(workdir, num_steps=4, checkpoint_every=4))
    assert (code, err) == (0, "")
    labels = [line.split()[0] for line in out.splitlines()]
    assert labels[:8] == ["devices", "mesh", "data", "images", "network", "steps", "note", "started"]
    assert labels[8:] == ["train", "train", "preview", "checkpoint", "done"]

    code, out, err = run(*tiny.flags(workdir, num_steps=8, checkpoint_every=4))
    assert (code, err) == (0, "") and "resumed     at step 4" in out
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert [line["images_seen"] for line in lines] == [32, 64, 96, 128]
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["4", "8"]
    assert Image.open(tmp_path / "run" / "loss.png").size == (600, 400)
    assert Image.open(tmp_path / "run" / "previews" / "step_0000008_ema0.99.png").mode == "L"

    out_dir = tmp_path / "dump"
    code, out, err = run("--mode=sample", f"--workdir={workdir}", f"--out={out_dir}", "--config.sample.num_images=5")
    assert (code, err) == (0, "")
    with np.load(out_dir / "samples_5x8x8x1.npz") as stored:
        assert stored["arr_0"].shape == (5, 8, 8, 1) and stored["arr_0"].dtype == np.uint8
    manifest = json.loads((out_dir / "manifest.json").read_text())
    assert (manifest["checkpoint_step"], manifest["images_seen"]) == (8, 128)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_signal_saves_and_the_same_command_resumes(tmp_path, number):
    """With TensorBoard, for which TensorFlow is imported, and not one other line on stderr."""
    rarely = {"log_every": 10_000, "checkpoint_every": 10_000, "sample_every": 10_000}
    command = tiny.flags(tmp_path / "run", num_steps=100_000, tensorboard=True, **rarely)
    process = start(*command)
    while "started" not in process.stdout.readline():  # the first step is taken
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, f"{loop.STOPPING}\n")
    [stopped] = [line for line in out.splitlines() if line.startswith("stopped")]
    step = int(stopped.split("saved at step ")[1].split(";")[0].replace(",", ""))
    assert os.listdir(tmp_path / "run" / "checkpoints") == [str(step)]
    more = tiny.flags(tmp_path / "run", num_steps=step + 2, log_every=1, tensorboard=True)
    code, out, err = run(*more)
    assert (code, err) == (0, "") and f"resumed     at step {step:,}" in out
    assert any(name.startswith("events") for name in os.listdir(tmp_path / "run" / "tensorboard"))


@pytest.mark.slow
def test_an_interrupt_while_the_first_step_compiles_leaves_nothing_that_binds_the_workdir(tmp_path):
    process = start(*tiny.flags(tmp_path / "run", num_steps=100_000))
    while "Ctrl-C is safe" not in process.stdout.readline():  # compiling comes next
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, f"{loop.STOPPING}\n")
    end = "by signal 2, before there was a step worth saving; nothing was saved, and any config may use the workdir."
    assert out.splitlines()[-1] == f"stopped     {end}"
    assert not (tmp_path / "run" / "config.json").exists() and os.listdir(tmp_path / "run" / "checkpoints") == []


def test_an_interrupt_outside_the_loop_is_a_sentence_too(tmp_path, capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffusion_jax.jobs.train.run", interrupted)
    assert main.main(["main.py", *tiny.flags(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C; all written files are complete; the same command resumes.\n"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "memory does not suffice .MemoryError.; set train.num_microbatches = 2 or more"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nAllocator"),
            r"memory .* .RESOURCE_EXHAUSTED: Out of memory.; set",
        ),
        (
            ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device [os_error_code='28']"),
            "No space left on device; all written files are complete",
        ),
        (OSError(28, "No space left on device"), "No space left on device; all written files are complete"),
        (KeyError("x"), "KeyError: 'x'; please report it with the trace in .*diffusion_jax_.*txt; all written files"),
    ],
)
def test_whatever_a_job_raises_is_one_line(capsys, monkeypatch, tmp_path, error, sentence):
    def fail(argv):
        raise error

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert command.answer(["main.py"], str, fail) == command.RUN_FAILED
    assert re.fullmatch(f"error: .*{sentence}.*\n", capsys.readouterr().err)
    traces = [file.read_text() for file in tmp_path.iterdir()]
    assert ["raise error" in trace for trace in traces] == [True] * isinstance(error, KeyError)


@pytest.mark.parametrize(
    ("folder", "limit", "more", "sentence"),
    [
        (
            "läufe",
            "true",
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            "is not UTF-8 where the locale is",
        ),
        ("run", "ulimit -n 40", {}, "a process may open 40 files at once here; allow 128 or more by `ulimit -n`"),
        ("dangling/run", "true", {}, "dangling' is a link to 'nowhere', where nothing is; it must be a folder"),
        ("file/run", "true", {}, "file' is a file; it must be a folder"),
    ],
)
def test_what_would_stop_the_first_checkpoint_is_said_before_anything_is_made(tmp_path, folder, limit, more, sentence):
    os.symlink("nowhere", tmp_path / "dangling")
    (tmp_path / "file").touch()
    line = f"{limit}; exec {sys.executable} main.py {DIGITS} '--workdir={tmp_path}/{folder}'"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=os.environ | more, capture_output=True, text=True)
    assert done.returncode == command.BAD_INPUT and re.fullmatch(f"error: .*{sentence}.*\n", done.stderr)
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file"]


@pytest.mark.parametrize(("name", "value"), [("JAX_PLATFORMS", "nonsense"), ("SLURM_NTASKS", "abc")])
def test_a_mistyped_variable_is_a_sentence(name, value):
    arguments = [sys.executable, "main.py", "--mode=sample", "--workdir=examples/digits"]
    done = subprocess.run(arguments, cwd=ROOT, env=os.environ | {name: value}, capture_output=True, text=True)
    assert done.returncode == command.BAD_INPUT
    assert re.fullmatch(f"error: .*variable {name} = '{value}'.*\n", done.stderr)


def test_a_full_console_does_not_change_the_exit_code():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "main.py", "--help"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
def test_a_run_that_diverges_stops_with_a_sentence(tmp_path, capsys, one_device):
    """And, with no checkpoint yet, leaves its workdir to another learning rate."""
    never = {"num_steps": 50, "checkpoint_every": 50, "max_skipped": 5, "log_every": 1}
    code, _, err = called(capsys, *tiny.flags(tmp_path / "run", learning_rate=1e30, grad_clip="inf", **never))
    assert code == command.RUN_FAILED
    assert err.startswith("error: the loss or its gradient was not finite in 5 steps in a row, up to step")
    assert err.count("\n") == 1
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["skipped"] > 0 and "loss" not in lines[-1] and "NaN" not in str(lines)
    assert called(capsys, *tiny.flags(tmp_path / "run", **tiny.TRAINED))[0] == 0


MISTAKES = {
    "unknown field": (
        [DIGITS, "--workdir=x", "--config.process.shedule=cosine"],
        "config field 'process.shedule' is unknown; did you mean process.schedule? Known: process.kind, process.schedule, "
        "process.num_steps, process.zero_terminal_snr, process.rescale_c_noise, process.sigma_min, process.sigma_max, "
        "process.log_snr, process.c_noise_scale.",
    ),
    "unknown section": (
        [DIGITS, "--workdir=x", "--config.proces.schedule=cosine"],
        "config field 'proces.schedule' is unknown",
    ),
    "unknown value": (
        [DIGITS, "--workdir=x", "--config.process.schedule=cosin"],
        "config field process.schedule = 'cosin' is not allowed; did you mean cosine? It must be one of constant, cosine, ",
    ),
    "not a tuple": (
        [DIGITS, "--workdir=x", "--config.data.image_size=32"],
        "data.image_size = 32 is not allowed; it must be a tuple of 0 to 3 whole numbers, each at least 1, in a shell as "
        "'--config.data.image_size=(32, 32)'.",
    ),
    "not a number": (
        [DIGITS, "--workdir=x", "--config.train.num_steps=abc"],
        "config field train.num_steps = 'abc' is not allowed; it must be a whole number from 1 on, below 2^31.",
    ),
    "negative": ([DIGITS, "--workdir=x", "--config.train.batch_size=-4"], "train.batch_size = -4 is not allowed"),
    "unknown flag": (
        [DIGITS, "--workdir=x", "--confg=3"],
        "flag --confg is unknown; did you mean --config? Known: --config, --flagfile, --mode, --out, --workdir.",
    ),
    "field as a flag": (
        [DIGITS, "--workdir=x", "--train.num_steps=3"],
        "flag --train.num_steps is unknown; a field of the config is set by --config.train.num_steps.",
    ),
    "field without its section": (
        [DIGITS, "--workdir=x", "--batch_size=32"],
        "flag --batch_size is unknown; a field of the config is set by --config.train.batch_size.",
    ),
    "a word of others": (
        [DIGITS, "--workdir=x", "--lr=1"],
        "flag --lr is unknown; did you mean --config.train.learning_rate? Known: --config, --flagfile, --mode,",
    ),
    "epochs": (
        [DIGITS, "--workdir=x", "--config.train.epochs=3"],
        "config field 'train.epochs' is unknown; did you mean train.num_steps? An epoch has as many steps as there are "
        "images divided by train.batch_size. Known: train.num_steps,",
    ),
    "resume": ([DIGITS, "--workdir=x", "--resume=1"], "flag --resume is unknown; the same command resumes. Known: "),
    "what there is not": ([DIGITS, "--workdir=x", "--gpu=3"], "flag --gpu is unknown; known: --config,"),
    "no file of flags": (["--flagfile=nowhere"], "flag --flagfile = 'nowhere' is not a file."),
    "field of several sections": ([DIGITS, "--workdir=x", "--seed=1"], "by --config.train.seed or --config.sample.seed."),
    "unknown mode": (
        [DIGITS, "--workdir=x", "--mode=trian"],
        "flag --mode = 'trian' is not allowed; did you mean train? It must be one of train, sample, edit, "
        "evaluate, likelihood, verify.",
    ),
    "stray word": ([DIGITS, "--workdir=x", "hello"], "argument 'hello' is not understood"),
    "no config": (["--workdir=x"], "flag --config is missing; it must be a file of configs/"),
    "no such config": (["--config=configs/nope.py", "--workdir=x"], "flag --config = 'configs/nope.py' is not a file"),
    "config misspelt": (["--config=configs/digit", "--workdir=x"], "did you mean configs/digits.py? configs/ has"),
    "no workdir": ([DIGITS], "flag --workdir is missing"),
    "no workdir to sample": (["--mode=sample"], "flag --workdir is missing"),
    "no such workdir": (
        ["--mode=sample", "--workdir=nowhere"],
        "there is no folder 'nowhere'; it must be the workdir of a run: train first.",
    ),
    "out in training": ([DIGITS, "--workdir=x", "--out=y"], "flag --out = 'y' does not fit --mode=train"),
    "not a whole number": (
        [DIGITS, "--workdir=x", "--config.sample.num_images=1e3"],
        "sample.num_images = 1000.0 is not allowed; it must be a whole number from 1 to 100000000: write 1000.",
    ),
    "too many steps": (
        [DIGITS, "--workdir=x", "--config.sample.num_steps=4000"],
        "config field sample.grid = 'trailing' with sample.num_steps = 4000 does not fit the process: a grid of 4000",
    ),
    "no images": ([DIGITS, "--workdir=x", "--config.sample.num_images=0"], "sample.num_images = 0 is not allowed"),
    "impossible size": (
        [DIGITS, "--workdir=x", "--config.data.image_size=(7, 8)"],
        "config field data.image_size = (7, 8) does not fit stages of 24, 48 channels; each size must be a",
    ),
    "long strip": (
        [DIGITS, "--workdir=x", "--config.sample.strip=101"],
        "config field sample.strip = 101 must be at most the number of steps, 100.",
    ),
    "another size": (
        [DIGITS, "--workdir=x", "--config.data.image_size=(16, 16)"],
        "but the images are [8, 8, 1]; set data.image_size = (8, 8) and data.channels = 1, or data.resize = True.",
    ),
    "no held-out images": (
        [DIGITS, "--workdir=x", "--config.data.held_out=test"],
        "config field data.held_out = 'test': data.source = 'digits' does not have splits",
    ),
    "no IDX files": (
        ["--config=configs/fashion_mnist.py", "--workdir=x", "--config.data.path=nowhere"],
        "config field data.path = 'nowhere' has no train-images-idx3-ubyte or train-images-idx3-ubyte.gz",
    ),
    "no .npz": (
        [DIGITS, "--workdir=x", "--config.data.source=npz", "--config.data.path=nowhere.npz"],
        "config field data.path = 'nowhere.npz' is not a file",
    ),
    "no folder": (
        [DIGITS, "--workdir=x", "--config.data.source=folder", "--config.data.path=nowhere"],
        "config field data.path = 'nowhere' is not a folder",
    ),
    "no weights to start from": (
        [DIGITS, "--workdir=x", "--config.train.init_from=nowhere"],
        "there is no folder 'nowhere'; it must be the workdir of a run: train first.",
    ),
    "one dash": ([DIGITS, "--workdir=x", "-config.sample.nmu=2"], "config field 'sample.nmu' is unknown"),
    "not a config": (["--config=README.md", "--workdir=x"], "flag --config = 'README.md' is not a Python file"),
    "a section": (
        [DIGITS, "--workdir=x", "--config.process=3"],
        "config field 'process' is a section; set one of process.kind, process.schedule",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(name, capsys, tmp_path, monkeypatch):
    """Field, value and what is allowed; exit code 2; nothing written."""
    monkeypatch.chdir(tmp_path)
    arguments, sentence = MISTAKES[name]
    for name in ("configs", "README.md"):
        os.symlink(ROOT / name, name)
    assert main.main(["main.py", *arguments]) == command.BAD_INPUT
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and sentence in err and err.count("\n") == 1
    assert out == "" and sorted(os.listdir()) == ["README.md", "configs"]


VALUES = ["nan", "-1e999", "None", "(" * 5000, "(1" + "0" * 400 + ",)", "0x" + "f" * 5000, "{'a': []}", "é\n", "''"]
GARBAGE = {
    "beyond floats": "--config.sample.times=(1" + "0" * 400 + ",)",
    "beyond repr": "--config.train.num_steps=0x" + "f" * 5000,
    "stages beyond repr": "--config.model.multipliers=(" + "1," * 20_000 + ")",
    "a line end in a value": "--config.train.num_steps=a\nb",
    "a line end in a flag": "--a\nb",
    "no flag file": "--flagfile=/nowhere",
    "deep": "--config.sample.times=" + "(" * 5000,
    "not a number": "--config.sample.times=nan",
    "an index": "--config.model.channels[0]=3",
    "no name": "--config.=3",
    "half a name": "--config.model..channels=3",
    "a negation": "--noconfig.train.seed",
    "no value": "--config.train.seed",
}


def code_of(capsys, *arguments):
    """Returns the exit code of main.py, whose jobs only check the config; it says nothing, or one line."""
    job = mock.Mock(side_effect=lambda config, workdir, **options: checks.check(config) or 0)
    with mock.patch("diffusion_jax.jobs.train.run", job), mock.patch("diffusion_jax.jobs.sample.run", job):
        code, _, err = called(capsys, *arguments)
    assert (code, err) == (0, "") or (code == command.BAD_INPUT and err.startswith("error: ") and err.count("\n") == 1)
    assert job.called or code != 0
    return code


@pytest.mark.parametrize("name", GARBAGE)
@pytest.mark.parametrize("mode", ["train", "sample"])
def test_garbage_in_an_argument_is_one_line(tmp_path, capsys, mode, name):
    (tmp_path / "config.json").write_text(stored.to_json(tiny.config_of({})))
    begin = [DIGITS, "--workdir=x"] if mode == "train" else ["--mode=sample", f"--workdir={tmp_path}"]
    assert code_of(capsys, *begin, GARBAGE[name]) == command.BAD_INPUT


def test_every_field_takes_or_refuses_a_value_in_one_line(capsys):
    for number, name in enumerate(sorted(FIELDS)):
        code_of(capsys, DIGITS, "--workdir=x", f"--config.{name}={VALUES[number % len(VALUES)]}")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("folder", "configs/folder.py needs the folder of images"),
        ("folder:nowhere", "data.path = 'nowhere' is not a folder"),
        ("lsun:dog", "configs/lsun.py:dog is unknown; it must be"),
    ],
)
def test_what_a_config_refuses_is_a_sentence(config, sentence, capsys):
    name, colon, argument = config.partition(":")
    code, out, err = called(capsys, f"--config=configs/{name}.py{colon}{argument}", "--workdir=x")
    assert code == command.BAD_INPUT and err.startswith("error: ") and sentence in err and err.count("\n") == 1 and out == ""


def test_a_broken_image_is_named_before_anything_is_written(tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(20):
        Image.new("RGB", (32, 32)).save(images / f"{number:02d}.png")
    (images / "13.png").write_bytes((images / "13.png").read_bytes()[:60])
    folder = ["--config.data.source=folder", f"--config.data.path={images}", "--config.data.resize=True"]
    code, _, err = called(capsys, *tiny.flags(tmp_path / "run", num_steps=2), *folder)
    assert code == command.BAD_INPUT and err.startswith("error: image file '") and "13.png' cannot be read" in err
    assert err.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_dump_is_the_same_on_one_device_and_on_eight(tmp_path, trained):
    """And for any shard size, when it is continued on other devices, and when it is longer."""

    def dump(name, num_devices, num_images=23, shard_size=23):
        settings = {"num_images": num_images, "shard_size": shard_size, "batch_per_device": 2, "num_steps": 10}
        fields = [f"--config.sample.{field}={value}" for field, value in settings.items()]
        flags = ["--mode=sample", f"--workdir={trained}", f"--out={tmp_path / name}", *fields]
        assert (run(*flags)[0] if num_devices == 1 else main.main(["main.py", *flags])) == 0
        return (tmp_path / name / f"samples_{num_images}x8x8x1.npz").read_bytes()

    one = dump("one", 1, shard_size=5)
    assert dump("eight", 8) == one
    for shard in ("00000010", "00000020_3"):
        (tmp_path / "one" / "shards" / f"{shard}.npz").unlink()
    assert dump("one", 8, shard_size=5) == one
    dump("more", 8, num_images=30)
    with np.load(tmp_path / "more" / "samples_30x8x8x1.npz") as more, np.load(io.BytesIO(one)) as fewer:
        np.testing.assert_array_equal(more["arr_0"][:23], fewer["arr_0"])


def ect(*words):
    """Returns the config of configs/digits_ect.py with changes."""
    return command.config_of(*command.parse(["", "--config=configs/digits_ect.py", *words], {}))


def test_a_field_that_refers_to_another_follows_its_change():
    """The stages of consistency tuning, each an eighth of the run; a change of their own counts more."""
    assert ect().loss.stage_steps == 1000
    assert ect("--config.train.num_steps=80_000").loss.stage_steps == 10_000
    more = ["--config.train.num_steps=16_000", "--config.loss.stage_steps=1000"]
    assert [ect(*words).loss.stage_steps for words in (more, more[::-1])] == [1000, 1000]
    with pytest.raises(UserError, match="^config field train.num_steps = 'many' is not allowed; it must be a whole number"):
        ect("--config.train.num_steps=many")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "cannot be loaded (AttributeError"),
        ("def get_config():\n    return 3\n", "get_config() must return a ConfigDict"),
        ("import nothing\n", "cannot be loaded (ModuleNotFoundError: No module named 'nothing')"),
    ],
)
def test_a_file_that_is_not_a_config_is_a_sentence(tmp_path, text, sentence, capsys):
    (tmp_path / "mine.py").write_text(text)
    code, out, err = called(capsys, f"--config={tmp_path}/mine.py", "--workdir=x")
    assert code == command.BAD_INPUT and sentence in err and err.count("\n") == 1 and out == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([DIGITS, "--config.model.channels=16"], "model.channels: 8 -> 16"),
        ([DIGITS, "--config.process.schedule=linear"], "process.schedule: 'cosine' -> 'linear'"),
        (["--mode=sample", "--config.predicts=eps"], "predicts: 'v' -> 'eps'"),
        (["--mode=sample", "--config.sample.step=7"], "does not have a checkpoint of step 7; it has 2."),
    ],
)
def test_another_config_for_the_same_workdir_is_refused(trained, arguments, sentence, capsys):
    flags = [] if "--mode=sample" in arguments else tiny.flags(trained, **tiny.TRAINED)
    code, _, err = called(capsys, f"--workdir={trained}", *flags, *arguments[DIGITS in arguments :])
    assert code == command.BAD_INPUT and sentence in err


def test_every_field_can_be_overridden():
    """No default is None, and the text of each default is read as the default."""
    fields = [f"--config.{name}={field.default}" for name, field in FIELDS.items()]
    _, config, changes = main.parse(["main.py", f"--config={ROOT}/configs/digits_edm.py", "--workdir=x", *fields])
    assert config == Config.of_flat(Config().flat()) and list(changes) == list(FIELDS)


def test_flags_may_stand_in_a_file(tmp_path):
    """As in absl: one a line, comments, files in files; what comes later counts."""
    (tmp_path / "inner").write_text("--config.train.num_steps=7\n--config.train.seed=7\n")
    inner = f"--flagfile={tmp_path}/inner"
    (tmp_path / "outer").write_text(f"# a run\n\n--config={ROOT}/configs/digits.py\n  {inner}\n// of mine\n--workdir=x y\n")
    flags, config, changes = main.parse(["main.py", "--flagfile", str(tmp_path / "outer"), "--config.train.seed=8"])
    assert flags["workdir"] == "x y" and changes == {"train.num_steps": 7, "train.seed": 8} and config.train.seed == 8
    (tmp_path / "inner").write_text(inner)
    with pytest.raises(UserError, match="is in that file itself"):
        main.parse(["main.py", inner])


def test_the_home_folder_is_found_in_the_name_of_a_config(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_bytes((ROOT / "configs" / "digits_edm.py").read_bytes())
    _, config, _ = main.parse(["main.py", "--config=~/mine.py", "--workdir=x"])
    assert config == main.parse(["main.py", f"--config={ROOT}/configs/digits_edm.py", "--workdir=x"])[1]


def test_a_field_that_the_chosen_sampler_ignores_is_a_warning(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("diffusion_jax.jobs.train.run", lambda config, workdir: 0)
    assert main.main(["main.py", *tiny.flags(tmp_path / "run"), "--config.sample.eta=1.0"]) == 0
    assert capsys.readouterr().out == (
        "warning     config field sample.eta = 1.0 does nothing: it is for sample.sampler = 'ddim'.\n"
    )


def test_help_into_a_pipe_that_closes_says_nothing_on_stderr():
    line = f"{sys.executable} main.py --help | true"
    ended = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stderr == ""


def test_help_names_every_field(capsys):
    assert main.main(["main.py", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(
        f"{name} = {field.default!r}: {field.meaning}" in out and field.allowed in out for name, field in FIELDS.items()
    )


def test_every_folder_is_in_the_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [file.parent.relative_to(ROOT) for file in (ROOT / "diffusion_jax").rglob("__init__.py")]
    assert listed == sorted(["diffusion_jax.configs", *(".".join(folder.parts) for folder in folders)])


@pytest.mark.slow
def test_an_installed_package_has_the_configs_and_the_command(tmp_path):
    """As pyproject.toml lays them out: configs/ inside the package."""
    site, lines = tmp_path / "site", tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert lines["project"]["scripts"] == {"diffusion-jax": "diffusion_jax.jobs.main:main"}
    [(name, folder)] = lines["tool"]["setuptools"]["package-dir"].items()
    shutil.copytree(ROOT / "diffusion_jax", site / "diffusion_jax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / folder, site / name.replace(".", "/"))
    program = [sys.executable, "-c", "import sys; from diffusion_jax.jobs.main import main; sys.exit(main())"]
    flags = ["--mode=verify", "--config=configs/cifar10_improved.py"]  # which changes another config
    options = {"capture_output": True, "text": True, "cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(site)}}
    found = subprocess.run(program + flags, **options)
    assert found.returncode == 0 and "2 unmeasured" in found.stdout, found.stderr
    unknown = subprocess.run([*program, "--mode=verify", "--config=configs/none.py"], **options)
    assert unknown.returncode == command.BAD_INPUT and "configs/none.py' is not a file" in unknown.stderr
