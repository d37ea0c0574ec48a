"""Folders of images as people have them: every format, shape and mode, with files between them that are not images."""

import json
import re

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

import main
from configs import folder
from diffusion_jax.compose import command, inputs, processes
from diffusion_jax.compose.config import Config
from diffusion_jax.data import feed, sources
from diffusion_jax.errors import UserError
from diffusion_jax.runs import sharding, storage
from diffusion_jax.runs.shards import flatten

SMALL = {"model.channels": 4, "model.multipliers": (1,), "model.num_groups": 2, "model.attention_stages": ()}
SMALL |= {"data.image_size": (8, 8), "train.batch_size": 8, "train.num_steps": 2, "train.warmup_steps": 1}
SMALL |= {"train.decay": "constant", "train.tensorboard": False, "sample.sampler": "ddim", "sample.num_steps": 3}
SMALL |= {"sample.num_images": 10, "sample.batch_per_device": 8}


@pytest.fixture
def messy(tmp_path):
    """18 images in three sub-folders, two broken ones, an empty one, and two files that are none."""
    rng = np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    options = [("png", "RGBA"), ("jpg", "L"), ("webp", "RGB"), ("gif", "P"), ("tif", "CMYK"), ("bmp", "RGB")]
    for number in range(18):
        file = tmp_path / "set" / ("cats", "dogs", "fish")[number % 3] / f"{number:02d}.{options[number % 6][0]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (9 + number, 26 - number, 3), np.uint8)
        image = Image.fromarray(pixels).convert(options[number % 6][1])
        image.save(file, **({"exif": turned} if file.suffix == ".jpg" else {}))
    (tmp_path / "set" / "cats" / "cut.png").write_bytes((tmp_path / "set" / "cats" / "00.png").read_bytes()[:200])
    (tmp_path / "set" / "cats" / "page.jpg").write_text("<html>404</html>")
    (tmp_path / "set" / "dogs" / "empty.png").write_bytes(b"")
    for name in ("notes.txt", "fish/phone.heic"):
        (tmp_path / "set" / name).write_text("")
    return tmp_path / "set"


def settings(changes):
    return [f"--config.{name}={value}" for name, value in changes.items()]


def of(path, **data):
    return Config().with_values("data", source="folder", path=str(path), resize=True, held_out="", **data)


@pytest.mark.slow
def test_a_messy_folder_is_trained_on_by_class_resumed_and_drawn_from(messy, tmp_path, capsys, one_device):
    changes = SMALL | {"data.skip_broken": True, "model.num_classes": -1}
    train = ["main.py", f"--config=configs/folder.py:{messy}", f"--workdir={tmp_path / 'run'}", *settings(changes)]
    assert main.main(train) == 0
    said = capsys.readouterr().out
    assert "found       21 image files, colour, median 13 px; no accelerator, so the defaults are small" in said
    assert "skipped     3 of 21 images cannot be read: " in said and "data        folder: 18 images, 8 x 8 x 3" in said
    assert "classes     0 cats, 1 dogs, 2 fish" in said and "left out    1 .heic, 1 .txt" in said
    assert "images      scaled to cover 8 x 8, the rest cut off; half of them mirrored" in said
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["config"]["model"]["num_classes"] == 3 and stored["images"]["num_images"] == 18
    assert main.main([*train, "--config.train.num_steps=14"]) == 0
    said = capsys.readouterr().out
    assert "resumed     at step 2" in said and re.search(r"^speed       12/14 steps  .* steps/s  ETA", said, re.MULTILINE)
    assert main.main(["main.py", "--mode=sample", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'dump'}"]) == 0
    with np.load(tmp_path / "dump" / "samples_10x8x8x3.npz") as dump:
        assert dump["arr_0"].shape == (10, 8, 8, 3) and dump["arr_1"].tolist() == [0, 1, 2] * 3 + [0]


def test_all_broken_images_are_named_at_once_and_the_way_out(messy, tmp_path, capsys):
    train = ["main.py", f"--config=configs/folder.py:{messy}", f"--workdir={tmp_path / 'run'}", *settings(SMALL)]
    assert main.main(train) == command.BAD_INPUT
    err = capsys.readouterr().err
    assert err.startswith("error: 3 of 21 images cannot be read: 1 damaged or cut short ('") and err.count("\n") == 1
    assert "cats/cut.png'), 2 not an image ('" in err and "cats/page.jpg', '" in err and "dogs/empty.png')" in err
    assert err.endswith("; mend or remove them, or set data.skip_broken = True to leave them out.\n")
    assert not (tmp_path / "run").exists()


def test_ten_of_many_broken_images_are_named(tmp_path):
    for number in range(30):
        (tmp_path / f"{number:02d}.png").write_text("" if number % 2 else "text")
        Image.new("L", (2, 2)).save(tmp_path / f"{number:02d}.bmp")
    with pytest.raises(UserError, match=r"30 of 60 images cannot be read: 30 not an image \('.*09.png' and 20 more\);"):
        feed.read(sources.folder(path=str(tmp_path)))


def test_broken_images_are_left_out_and_the_others_keep_their_order_and_classes(messy):
    whole, all_files = (sources.folder(path=str(messy), skip_broken=skip) for skip in (True, False))
    assert (whole.num_images, all_files.num_images, whole.class_names) == (18, 21, all_files.class_names)
    broken = {6, 7, 14}  # cats/cut.png, cats/page.jpg, dogs/empty.png
    kept = [number for number in range(21) if number not in broken]
    for number, original in enumerate(kept):
        one, other = whole.read(number), all_files.read(original)
        assert one["cond"] == other["cond"]
        np.testing.assert_array_equal(one["x"], other["x"])


def test_held_out_images_that_are_broken_are_left_out_too(messy):
    config = of(messy, skip_broken=True).with_values("data", held_out=str(messy / "cats"))
    assert inputs.held_out(config).num_images == 6
    measured = config.with_values("likelihood", held_out=False, num_images=4)
    assert feed.read(inputs.evaluated(measured))["x"].shape == (4, 32, 32, 3)


def test_a_folder_in_which_nothing_can_be_read_is_named(tmp_path):
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(UserError, match=r"does not contain images that can be read: 1 of 1 images cannot be read: 1 not an"):
        sources.folder(path=str(tmp_path), skip_broken=True)
    with pytest.raises(
        UserError, match=r"a.png' cannot be read \(not an image\); remove it, or set data.skip_broken = True to"
    ):
        feed.read(sources.folder(path=str(tmp_path)))


def test_as_many_classes_as_the_data_have(messy, tmp_path):
    images = np.zeros((4, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "labelled.npz", images=images, labels=[0, 6, 2, 2])
    np.savez(tmp_path / "plain.npz", images=images)

    def classes_of(config):
        return inputs.with_num_classes(config.with_values("model", num_classes=-1)).model.num_classes

    assert classes_of(of(messy)) == 3 and classes_of(tiny.config_of({})) == 10
    assert classes_of(of(messy).with_values("data", source="npz", path=str(tmp_path / "labelled.npz"))) == 7
    assert inputs.with_num_classes(Config()) == Config()
    with pytest.raises(UserError, match="model.num_classes = -1 is not possible: the data have no labels. Set 0 for none"):
        classes_of(of(messy).with_values("data", source="npz", path=str(tmp_path / "plain.npz")))
    with pytest.raises(UserError, match="the data have no sub-folders, one for each class. Set 0 for none"):
        classes_of(of(messy / "cats"))


def test_a_label_beyond_the_classes_of_the_data_is_refused(messy, tmp_path, capsys):
    """Which is known only when they have been counted."""
    changes = SMALL | {"model.num_classes": -1, "sample.label": 3}
    train = ["main.py", f"--config=configs/folder.py:{messy}", f"--workdir={tmp_path / 'run'}", *settings(changes)]
    assert main.main(train) == command.BAD_INPUT
    assert "error: config field sample.label = 3 is not a label of model.num_classes = 3" in capsys.readouterr().err


def test_sub_folders_that_are_not_used_are_said(messy):
    config = of(messy)
    said = dict(inputs.summary(config, inputs.source(config)))
    assert said["classes"] == "3 sub-folders, not used; --config.model.num_classes=-1 trains with them"
    flat = of(messy / "cats", skip_broken=True)
    assert "classes" not in dict(inputs.summary(flat, inputs.source(flat)))
    cut = of(messy, center_crop=8, random_flip=False)
    assert dict(inputs.summary(cut, inputs.source(cut)))["images"] == (
        "the middle 8 x 8 pixels of each, scaled to cover 32 x 32, the rest cut off; none mirrored"
    )


def test_images_that_will_be_learned_by_heart_are_said(messy):
    config = of(messy)
    source = inputs.source(config)

    def notes(num_images, **data):
        changed = config.with_values("data", **data)
        return [text for label, text in inputs.summary(changed, source._replace(num_images=num_images)) if label == "note"]

    assert notes(999) == ["so few images are soon learned by heart; docs/recipes.md, Few images, has an answer."]
    assert notes(1000) == notes(999, augment_rate=0.12, random_flip=False) == []


@pytest.mark.parametrize(("size", "picked"), [((70, 90), 64), ((20, 300), 32), ((600, 256), 256), ((255, 255), 128)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_on_accelerators_the_network_follows_from_the_images(tmp_path, size, picked, mode, monkeypatch):
    monkeypatch.setattr(sharding, "platform", lambda: "gpu")
    Image.new(mode, size).save(tmp_path / "image.png")
    config = folder.get_config(str(tmp_path))
    assert (config.data.image_size, config.data.channels) == ((picked, picked), {"L": 1, "RGB": 3}[mode])
    [level] = config.model.attention_stages
    assert picked // 2**level == 16


def test_on_a_cpu_the_network_is_small_whatever_the_images(messy, capsys):
    config = Config.of_flat(flatten(folder.get_config(str(messy)).to_dict()))
    params = jax.eval_shape(processes.network(config).init, jax.random.key(0))
    assert config.data.image_size == (32, 32) and sum(leaf.size for leaf in jax.tree.leaves(params)) < 1e6
    assert "no accelerator" in capsys.readouterr().out


def photograph(file, size, **options):
    """Writes a smooth JPEG of a size, (width, height)."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 8, 3), np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, quality=95, **options)


@pytest.mark.parametrize(("size", "decoded"), [((640, 427), (107, 160)), ((160, 100), (100, 160)), ((127, 640), (640, 127))])
def test_a_draft_has_twice_the_pixels_that_are_needed_each_way(tmp_path, size, decoded):
    photograph(tmp_path / "a.jpg", size)
    file = storage.path(tmp_path / "a.jpg")
    assert sources.decode(file, draft_size=64).shape[:2] == decoded
    assert sources.decode(file).shape[:2] == size[::-1]


def test_a_draft_looks_like_the_whole_and_stands_upright(tmp_path):
    """What differs is less than a grey level on average where the image is smooth. PNG has no drafts."""
    turned = Image.Exif()
    turned[0x0112] = 6
    photograph(tmp_path / "a.jpg", (640, 427), exif=turned)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "b.png")
    whole, draft = (inputs.source(of(tmp_path, jpeg_draft=draft)) for draft in (False, True))
    one, other = (source.read(0)["x"].astype(float) for source in (whole, draft))
    assert one.shape == (32, 32, 3) and 0 < np.abs(one - other).mean() < 1
    np.testing.assert_array_equal(whole.read(1)["x"], draft.read(1)["x"])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"resize": False}, "needs data.resize = True; found False"),
        ({"center_crop": 64}, "needs data.center_crop = 0; found 64"),
        ({"source": "npz"}, "needs data.source = 'folder' or 'tar'; found 'npz'"),
        ({"condition": "paired"}, "needs data.condition = one that is not 'paired'; found 'paired'"),
    ],
)
def test_what_a_draft_does_not_fit_is_said(tmp_path, data, said):
    config = of(tmp_path, jpeg_draft=True).with_values("data", **data)
    assert [f"config field data.jpeg_draft = True {said}."] == list(inputs.contradictions(config))
    assert not list(inputs.contradictions(config.with_values("data", jpeg_draft=False)))


def test_only_drafts_change_what_says_which_images_were_measured(messy):
    before, draft = (inputs.identity(of(messy, jpeg_draft=draft), "training") for draft in (False, True))
    assert "jpeg_draft" not in before["data"] and draft["data"]["jpeg_draft"]


def test_processes_must_have_the_same_number_of_images(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(sharding.multihost_utils, "process_allgather", lambda number: np.stack([number, np.int32(299)]))
    sharding.check_same("number of images", 299)
    with pytest.raises(UserError, match="the number of images must be the same for all processes, and is 300, 299"):
        sharding.check_same("number of images", 300)
