"""Shards: the images of the set that they were made of, in its order, for any number of hosts and after any interruption."""

import itertools
import re
import tarfile

import files
import numpy as np
import pytest
from PIL import Image
from test_storage import object_store  # noqa: F401 (a fixture)

from diffusion_jax.compose import inputs
from diffusion_jax.compose.config import Config
from diffusion_jax.data import feed, sources, tar, transforms
from diffusion_jax.errors import UserError
from diffusion_jax.runs import storage
from diffusion_jax.tools import shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """11 images of different sizes and formats in two sub-folders."""
    root, rng = tmp_path_factory.mktemp("set"), np.random.default_rng(0)
    for number in range(11):
        file = root / ("cats", "dogs")[number % 2] / f"{number:02d}.{('png', 'jpg')[number % 3 == 0]}"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9 + number, 26 - number, 3), np.uint8)).save(file)
    return root


def config_of(folder, **data):
    return Config().with_values(
        "data", source="folder", path=str(folder), image_size=(8, 8), resize=True, held_out="", **data
    )


def written(folder, out, *, num_shards, **data):
    """Returns the config of shards that were made of a folder."""
    config = config_of(folder, **data)
    assert shards.run(config, storage.path(out), num_shards=num_shards) == 0
    return config.with_values("data", source="tar", path=str(out), resize=False)


def assert_same(one, other):
    assert one.num_images == other.num_images
    for number in range(one.num_images):
        np.testing.assert_array_equal(one.read(number)["x"], other.read(number)["x"])
        assert one.read(number)["cond"] == other.read(number)["cond"]


def batches(source, num, *, first_step=0, part=0, num_parts=1):
    options = {"batch_size": 4, "seed": 0, "first_step": first_step, "part": part, "num_parts": num_parts}
    return list(itertools.islice(feed.make_feed(source, None, **options).items, num))


@pytest.mark.parametrize("num_shards", [1, 3, 11])
def test_shards_have_the_images_classes_and_order_of_the_folder(folder, tmp_path, num_shards):
    config = written(folder, tmp_path / "out", num_shards=num_shards).with_values("model", num_classes=2)
    found = inputs.source(config)
    assert_same(found, inputs.source(config_of(folder).with_values("model", num_classes=2)))
    assert (found.class_names, found.num_classes) == (("cats", "dogs"), 2)
    assert len([name for name in files.listing(tmp_path / "out") if name.endswith(".tar")]) == num_shards


def test_shards_are_read_without_their_index_too(folder, tmp_path):
    found = tar.source(path=written(folder, tmp_path, num_shards=3).data.path)
    (tmp_path / tar.INDEX).unlink()
    assert_same(found, tar.source(path=str(tmp_path)))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_other_programs_write_is_read(folder, tmp_path, form):
    """Long names, heads that span two blocks, classes before their images, and files that are not images."""
    found = sources.image_files(str(folder))[0]
    deep = "a" * 90 + "/" + "b" * 90 + "/"
    members = {f"{deep}{number}.cls": f"{number}\n".encode() for number in range(len(found))}
    members |= {f"{deep}{number}{file.suffix}": storage.read_bytes(file) for number, file in enumerate(found)}
    members |= {f"{deep}0.txt": b"a cat", f"{deep}._0.png": b"of macOS"}
    (tmp_path / "b.tar").write_bytes(files.tar(members, form=form))
    (tmp_path / "a.tar").write_bytes(files.tar({"x.PNG": files.encoded("PNG"), "x.cls": b"3"}, form=form))
    source, whole = tar.source(path=str(tmp_path)), sources.folder(path=str(folder))
    assert (source.num_images, source.num_classes, source.read(0)["cond"]) == (12, 11, {"label": 3})
    for number in range(11):
        np.testing.assert_array_equal(source.read(number + 1)["x"], whole.read(number)["x"])
        assert source.read(number + 1)["cond"] == {"label": number}


def test_jpeg_files_in_shards_have_drafts_too(tmp_path):
    Image.new("RGB", (640, 427), (200, 100, 50)).save(tmp_path / "a.jpg")
    (tmp_path / "a.tar").write_bytes(files.tar({"a.jpg": storage.read_bytes(storage.path(tmp_path / "a.jpg"))}))
    found = tar.source(path=str(tmp_path), draft_size=64).read(0)["x"]
    np.testing.assert_array_equal(found, sources.folder(path=str(tmp_path), draft_size=64).read(0)["x"])
    assert found.shape == (107, 160, 3)


def test_the_batches_are_those_of_the_folder_for_any_number_of_hosts_and_after_a_stop(folder, tmp_path):
    config = written(folder, tmp_path, num_shards=3)
    wanted = batches(inputs.source(config_of(folder)), 9)  # beyond three epochs
    for num_parts in (1, 2, 4):
        parts = [
            batches(inputs.source(config), 5, first_step=4, part=part, num_parts=num_parts) for part in range(num_parts)
        ]
        for number, batch in enumerate(wanted[4:]):
            np.testing.assert_array_equal(np.concatenate([part[number]["x"] for part in parts]), batch["x"])


def test_the_same_set_gives_the_same_bytes_and_a_killed_command_is_done_again(folder, tmp_path, monkeypatch):
    written(folder, tmp_path / "one", num_shards=3)
    monkeypatch.setattr(tar, "write_index", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        written(folder, tmp_path / "two", num_shards=3)
    monkeypatch.undo()
    written(folder, tmp_path / "two", num_shards=3)
    assert files.listing(tmp_path / "one") == files.listing(tmp_path / "two")


def test_a_set_without_classes_has_none(folder, tmp_path):
    config = written(folder / "cats", tmp_path, num_shards=1)
    found = inputs.source(config)
    assert (found.class_names, found.num_classes, found.num_images) == ((), 0, 6)
    with pytest.raises(UserError, match="the data have no labels"):
        inputs.with_num_classes(config.with_values("model", num_classes=-1))


def test_shards_lie_in_an_object_store(folder, object_store):  # noqa: F811
    config = written(folder, "gs://bucket/shards", num_shards=2)
    assert_same(inputs.source(config), inputs.source(config_of(folder)))
    storage.path("gs://bucket/shards/index.npz").unlink()
    with pytest.raises(UserError, match="is in an object store and has no index.npz, where every head would be a request"):
        tar.source(path="gs://bucket/shards")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num_shards=2"], "flag --out is missing; it must be the folder to make"),
        (["--out=OUT"], "flag --num_shards = '' is not allowed; it must be a whole number from 1 on"),
        (["--out=OUT", "--num_shards=1798"], "flag --num_shards = 1798 is not allowed; it must be from 1 to 1,797"),
        (
            ["--out=OUT", "--num_shards=2", "--split=test"],
            "flag --split = 'test' is not allowed; it must be one of training",
        ),
        (["--out=OUT", "--num_shards=2", "--split=held_out"], "data.held_out = '' is empty; set it to the held-out images"),
        (["--out=FULL", "--num_shards=2"], "has other files, such as 'notes.txt'; choose another folder"),
        (["--out=OUT", "--num_shards=2", "--config.data.channels=2"], "data.channels = 2, .* one image of 1 or 3 chan"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(tmp_path, capsys, flags, said):
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "notes.txt").write_text("")
    flags = [flag.replace("=OUT", f"={tmp_path}/OUT").replace("=FULL", f"={tmp_path}/FULL") for flag in flags]
    assert shards.main(["shards", "--config=configs/digits.py", *flags]) == 2
    found = capsys.readouterr().err
    assert re.search(said, found) and found.count("\n") == 1


def test_a_folder_without_shards_is_named(tmp_path):
    with pytest.raises(UserError, match="has no images in uncompressed .tar files; it must have some, with .avif"):
        tar.source(path=str(tmp_path))
    for path in ("", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match="is not a folder; it must be a folder of .tar files"):
            tar.source(path=path)


def test_digits_are_written_by_the_command_and_read(tmp_path):
    assert shards.main(["shards", "--config=configs/digits.py", f"--out={tmp_path}/out", "--num_shards=2"]) == 0
    found = tar.source(path=f"{tmp_path}/out")
    digits = transforms.subsampled(sources.digits(), 30)
    assert_same(transforms.subsampled(found, 30), digits)
