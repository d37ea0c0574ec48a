"""--mode=evaluate: one command from a workdir, a dump or two sets of images to figures."""

import json
import shutil

import numpy as np
import pytest
import tiny

import diffusion_jax as dj
import main
from diffusion_jax.compose import evaluating
from diffusion_jax.compose.config import Config
from diffusion_jax.data import sources
from diffusion_jax.errors import UserError
from diffusion_jax.runs import statistics, storage
from diffusion_jax.runs.statistics import Statistics
from diffusion_jax.tools import reference_stats

SMALL = {"features": "pixels", "num_images": 20, "num_real": 100, "batch_per_device": 8, "shard_size": 8}


def evaluate(*flags, **settings) -> int:
    settings = [f"--config.evaluate.{name}={value}" for name, value in (SMALL | settings).items()]
    return main.main(["main.py", "--mode=evaluate", *map(str, flags), *settings])


def result_in(folder):
    [result] = json.loads((folder / "evaluate.json").read_text())
    return result


def digits(num):
    source = sources.digits()
    return np.stack([source.read(i)["x"] for i in range(num)])


@pytest.fixture
def workdir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def sets(tmp_path):
    """Two .npz files, of 40 and of 60 digits."""
    images, files = digits(100), [tmp_path / "one.npz", tmp_path / "two.npz"]
    for file, part in zip(files, np.split(images, [40]), strict=True):
        np.savez(file, arr_0=part)
    return files


@pytest.mark.slow
def test_a_workdir_is_evaluated_by_one_command_and_goes_on_after_a_kill(workdir, tmp_path, capsys, one_device):
    assert evaluate(f"--workdir={workdir}", f"--out={tmp_path / 'out'}") == 0
    out = tmp_path / "out"
    before = (out / "evaluate.json").read_bytes()
    result = result_in(out)
    assert result["num_images"] == 20 and result["made_from"]["sample"]["ema_rate"] == 0.99
    figures = result["against"]["training"]["figures"]
    assert figures["frechet_distance"]["value"]["value"] > 3 * figures["frechet_distance"]["floor"]["value"]  # 2 steps
    assert figures["kernel_distance"]["num_matched"] == 20 and "inception_score" not in figures
    assert "| Frechet distance |" in (out / "evaluate.md").read_text() and (out / "step_0000002.png").exists()
    whole = out / "step_0000002" / "shards" / "00000000.npz"
    made = whole.stat().st_mtime_ns
    (out / "step_0000002" / "shards" / "00000008.npz").unlink()
    (out / "evaluate.json").unlink()
    assert evaluate(f"--workdir={workdir}", f"--out={out}") == 0
    assert (out / "evaluate.json").read_bytes() == before and whole.stat().st_mtime_ns == made


@pytest.mark.slow
def test_all_checkpoints_are_drawn_against_their_step(workdir, one_device):
    flags = [flag for flag in tiny.flags(workdir, **tiny.TRAINED | {"num_steps": 4}) if "--mode" not in flag]
    assert main.main(["main.py", *flags]) == 0
    assert evaluate(f"--workdir={workdir}", checkpoints="all") == 0
    [out] = (workdir / "evaluate").glob("checkpoints_*")
    assert [result["name"] for result in json.loads((out / "evaluate.json").read_text())] == ["step_0000002", "step_0000004"]
    assert (out / "figures.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_images_can_be_kept_as_a_dump_and_judged_again(workdir, tmp_path, one_device):
    kept, again = tmp_path / "kept", tmp_path / "again"
    assert evaluate(f"--workdir={workdir}", f"--out={kept}", keep_images=True) == 0
    assert evaluate(f"--workdir={workdir}", f"--out={again}", dump=kept / "images" / "step_0000002") == 0
    assert result_in(again)["against"]["training"]["figures"] == result_in(kept)["against"]["training"]["figures"]


def test_two_sets_are_compared_without_a_run(sets, tmp_path):
    assert evaluate(f"--out={tmp_path / 'out'}", dump=sets[0], reference=sets[1]) == 0
    result = result_in(tmp_path / "out")
    assert result["against"]["reference"]["figures"]["precision"]["value"]["value"] > 0.5
    assert result["memorisation"]["pixels"]["generated"]["copies"]["value"] < 0.5


def test_copies_of_the_training_set_are_found(sets, tmp_path):
    assert evaluate(f"--out={tmp_path / 'out'}", dump=sets[0], reference=sets[0]) == 0
    assert result_in(tmp_path / "out")["memorisation"]["pixels"]["generated"]["copies"]["value"] == 1


def test_features_of_a_users_own_are_compared(tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        np.savez(tmp_path / f"{name}.npz", features=np.random.default_rng(seed).normal(size=(50, 4)))
    files = {"dump": tmp_path / "one.npz", "reference": tmp_path / "two.npz"}
    assert evaluate(f"--out={tmp_path / 'out'}", features="given", **files) == 0
    assert 0 < result_in(tmp_path / "out")["against"]["reference"]["figures"]["frechet_distance"]["value"]["value"] < 2


def statistics_of(images, **made_from):
    rows = images.reshape(len(images), -1) / 255.0
    return Statistics({"features": (np.mean(rows, axis=0), np.cov(rows, rowvar=False))}, made_from)


def test_images_that_changed_are_not_taken_for_those_of_before(sets, tmp_path, capsys):
    """Although the folder has the same name and as many files."""
    from PIL import Image

    (tmp_path / "folder").mkdir()
    flags, files = f"--out={tmp_path / 'out'}", {"dump": tmp_path / "folder", "reference": sets[1]}
    for images, code in ((digits(25), 0), (np.random.default_rng(0).integers(0, 256, (25, 8, 8, 1), np.uint8), 2)):
        for number, image in enumerate(images):
            Image.fromarray(image[..., 0]).save(tmp_path / "folder" / f"{number:02d}.png")
        assert evaluate(flags, **files) == code
    assert "holds other results (different files); choose another --out" in capsys.readouterr().err


def test_other_settings_do_not_meet_the_shards_of_before(sets, tmp_path):
    """Nor do results of other real images go into the same folder."""
    files = {"dump": sets[0], "reference": sets[1]}
    assert evaluate(f"--out={tmp_path / 'out'}", **files) == 0
    assert evaluate(f"--out={tmp_path / 'out'}", **files) == 0
    assert evaluate(f"--out={tmp_path / 'out'}", **files | {"reference": sets[0]}) == 2
    assert evaluate(f"--out={tmp_path / 'other'}", shard_size=16, **files) == 0


def test_the_largest_dump_of_a_folder_is_judged(sets, tmp_path):
    (tmp_path / "dump").mkdir()
    for num in (9, 40):
        np.savez(tmp_path / "dump" / f"samples_{num}x8x8x1.npz", arr_0=digits(num))
    assert evaluate(f"--out={tmp_path / 'out'}", dump=tmp_path / "dump", reference=sets[1]) == 0
    assert result_in(tmp_path / "out")["num_images"] == 40


def test_statistics_give_the_figure_that_their_images_give(sets, tmp_path):
    network = {
        "network": "pixels",
        "weights_sha256": dj.evaluation.extractor("pixels").description["weights_sha256"],
        "size": 0,
    }
    statistics.write(storage.path(tmp_path / "known.npz"), statistics_of(digits(100)[40:], features=network))
    found = []
    for reference in (tmp_path / "known.npz", sets[1]):
        out = tmp_path / f"out_{reference.stem}"
        assert evaluate(f"--out={out}", dump=sets[0], reference=reference) == 0
        found.append(result_in(out)["against"]["reference"]["figures"]["frechet_distance"]["value"]["value"])
    np.testing.assert_allclose(*found, rtol=1e-5)


def write(file, **arrays):
    np.savez(file, **arrays)
    return file


PIXELS = np.zeros((30, 8, 8, 1), np.uint8)
BAD = {  # what is wrong -> (settings, the sentence)
    "missing": (lambda at: {"dump": at / "none.npz"}, "evaluate.dump = '.*none.npz' does not exist; it must be"),
    "float": (lambda at: {"dump": write(at / "a.npz", arr_0=PIXELS / 2)}, "must hold 'images' or 'arr_0' as uint8"),
    "too few": (
        lambda at: {"dump": write(at / "a.npz", arr_0=PIXELS[:5])},
        "the dump images are 5; figures need at least 20",
    ),
    "other size": (
        lambda at: {"dump": write(at / "a.npz", arr_0=PIXELS[:, :4])},
        r"dump are \[4, 8, 1\], and those of reference",
    ),
    "statistics": (
        lambda at: {"dump": write(at / "a.npz", mu=np.zeros(2))},
        "holds statistics; what is judged must be images",
    ),
    "whose": (
        lambda at: {"reference": write(at / "a.npz", mu=np.zeros(2), sigma=np.eye(2))},
        "does not say of which network its statistics are",
    ),
    "not square": (
        lambda at: {"reference": write(at / "a.npz", mu=np.zeros(2), sigma=np.eye(3)), "features": "inception"},
        r"of \[2\] and \[3, 3\]; they must be \[D\] and \[D, D\]",
    ),
    "not finite": (
        lambda at: {"dump": write(at / "a.npz", features=np.full((30, 4), np.nan)), "features": "given"},
        "features of 30 of the 30 dump images are not finite",
    ),
    "no features": (lambda at: {"features": "given"}, "must hold 'features', floating point"),
    "no dump of features": (
        lambda at: {"features": "given", "dump": ""},
        "needs evaluate.dump, an .npz file with 'features'",
    ),
    "RGBA": (lambda at: {"dump": write(at / "a.npz", arr_0=np.zeros((30, 8, 8, 4), np.uint8))}, "must have 1 or 3 channels"),
    "to split": (
        lambda at: {"reference": write(at / "a.npz", arr_0=PIXELS)},
        "reference images are 30; figures need at least 40",
    ),
    "checkpoints": (lambda at: {"checkpoints": "all"}, "does not fit evaluate.dump, of which there is one"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_compared_is_refused_in_one_sentence(name, sets, tmp_path, capsys, monkeypatch):
    settings, sentence = BAD[name]
    files = {"dump": sets[0], "reference": sets[1]}
    if name == "not finite":
        files["reference"] = write(tmp_path / "b.npz", features=np.ones((40, 4)))
    assert evaluate(f"--out={tmp_path / 'out'}", **files | settings(tmp_path)) == 2
    [line] = capsys.readouterr().err.splitlines()
    with pytest.raises(UserError, match=sentence):
        raise UserError(line)
    assert not (tmp_path / "out").exists()


def test_a_cut_file_and_a_folder_of_mixed_sizes_are_refused(sets, tmp_path, capsys):
    from PIL import Image

    sets[0].write_bytes(sets[0].read_bytes()[:500])
    assert evaluate(f"--out={tmp_path / 'out'}", dump=sets[0], reference=sets[1]) == 2
    assert "cannot be read as an .npz file of arrays (BadZipFile)" in capsys.readouterr().err
    (tmp_path / "mixed").mkdir()
    for number, size in enumerate([8] * 25 + [9]):
        Image.fromarray(np.zeros((size, 8), np.uint8)).save(tmp_path / "mixed" / f"{number:02d}.png")
    assert evaluate(f"--out={tmp_path / 'out'}", dump=tmp_path / "mixed", reference=sets[1]) == 2
    assert "image 25 is [9, 8, 1], and image 0 is [8, 8, 1]; all must be of one size" in capsys.readouterr().err


def test_without_a_workdir_both_sets_and_a_folder_are_needed(capsys):
    assert evaluate() == 2
    assert "flag --workdir is missing; without it two sets of images must be given" in capsys.readouterr().err


def test_arrays_are_compared_in_python():
    images = digits(100)
    figures = dj.evaluate(images[:40], images[40:], features="pixels", batch_per_device=8)
    own = dj.evaluate(images[:40], images[40:], features=lambda batch: batch.reshape(len(batch), -1) / 255.0)
    given = dj.evaluate(*(part.reshape(len(part), -1) / 255.0 for part in np.split(images, [40])))
    for each in (own, given):
        np.testing.assert_allclose(each["kernel_distance"].value, figures["kernel_distance"].value, rtol=1e-3, atol=1e-6)
    with pytest.raises(UserError, match=r"images = float64\[100, 8, 8, 1\] are not allowed; they must be uint8"):
        dj.evaluate(images / 255.0, images, features="pixels")


def write_reference(*flags) -> int:
    pixels = "--config.evaluate.features=pixels"
    return reference_stats.main(["reference_stats", "--config=configs/digits.py", pixels, *map(str, flags)])


def test_reference_statistics_are_those_of_every_image_and_are_read_back(sets, tmp_path):
    assert write_reference(f"--out={tmp_path / 'all.npz'}", "--config.evaluate.shard_size=500") == 0
    found = statistics.read(storage.path(tmp_path / "all.npz"))
    expected = statistics_of(digits(1797))
    for one, two in zip(found.moments["features"], expected.moments["features"], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)
    with np.load(tmp_path / "all.npz", allow_pickle=False) as stored:
        assert stored["mu"].shape == (64,) and stored["sigma"].dtype == np.float64  # what pytorch-fid and EDM read
    files = {"dump": sets[0], "reference": tmp_path / "all.npz"}
    assert evaluate(f"--out={tmp_path / 'out'}", **files) == 0
    assert evaluate(f"--out={tmp_path / 'out'}", features="efficientnet_lite0", **files) == 2


def test_a_data_set_and_a_dump_become_files_for_other_evaluators(sets, tmp_path):
    from PIL import Image

    assert write_reference(f"--out={tmp_path / 'all.npz'}", "--to=images") == 0
    with np.load(tmp_path / "all.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["arr_0"], digits(1797))
    left = tmp_path / "png" / ".000001.png.7.tmp"  # by a killed command
    left.parent.mkdir()
    left.touch()
    assert write_reference(f"--out={left.parent}", "--to=png", f"--dump={sets[0]}") == 0
    files = sorted(left.parent.glob("[0-9]*"))
    np.testing.assert_array_equal([np.asarray(Image.open(file)) for file in files], digits(40)[..., 0])
    (left.parent / "notes.txt").touch()
    assert write_reference(f"--out={left.parent}", "--to=png", f"--dump={sets[0]}") == 2


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--to=gif"], "flag --to = 'gif' is not allowed; it must be one of statistics, images, png."),
        (["--split=test"], "flag --split = 'test' is not allowed; it must be one of training, held_out."),
        (["--split=held_out"], "config field data.held_out = '' is empty"),
        (["--dump=none.npz"], "flag --dump = 'none.npz' does not exist; it must be an .npz file or a folder of images."),
        (["--out="], "flag --out is missing; it must be the .npz file to write, or for --to=png a folder."),
    ],
)
def test_a_wrong_flag_of_reference_stats_is_one_sentence(flags, sentence, tmp_path, capsys):
    assert write_reference(f"--out={tmp_path / 'out.npz'}", *flags) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "out.npz").exists()


@pytest.mark.slow
def test_a_run_logs_figures_of_its_images_while_it_trains(tmp_path, capsys, one_device):
    settings = {"num_steps": 4, "evaluate_every": 2, "ema_rates": (0.5,)}
    flags = ["--config.evaluate.features=pixels", "--config.evaluate.batch_per_device=64", "--config.sample.sampler=ddim"]
    assert main.main(["main.py", *tiny.flags(tmp_path / "run", **settings), *flags]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if "kernel_distance_ema0.5" in line]
    assert [line["step"] for line in found] == [2, 4]
    assert all(line["sliced_wasserstein_ema0.5"] > line["sliced_wasserstein_standard_error_ema0.5"] > 0 for line in found)
    assert "evaluated   kernel_distance_ema0.5" in capsys.readouterr().out


def test_figures_in_training_take_as_many_real_images_as_the_config_says(monkeypatch):
    taken = []

    def of_data_set(config, split):
        taken.append((split, config.evaluate.num_real))
        raise UserError("enough")

    monkeypatch.setattr(evaluating, "of_data_set", of_data_set)
    for num_real in (0, 100, 5000):
        with pytest.raises(UserError, match="enough"):
            evaluating.in_training(Config().with_values("evaluate", features="pixels", num_real=num_real))
    assert taken == [("held_out", 2000), ("held_out", 100), ("held_out", 2000)]


def test_figures_in_training_need_several_real_images(tmp_path, capsys, one_device):
    flags = tiny.flags(tmp_path / "run", evaluate_every=2)
    assert main.main(["main.py", *flags, "--config.evaluate.features=pixels", "--config.evaluate.num_real=1"]) == 2
    assert "the real images to compare with are 1; they must be 2 or more." in capsys.readouterr().err


def test_figures_in_training_need_a_network(tmp_path, capsys):
    flags = tiny.flags(tmp_path / "run", evaluate_every=2)
    assert main.main(["main.py", *flags, "--config.evaluate.features=given"]) == 2
    assert "train.evaluate_every = 2 needs a network in evaluate.features" in capsys.readouterr().err
