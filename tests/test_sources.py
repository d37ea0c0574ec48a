"""Sources: what is stored is what is read, and a file that cannot be read is named."""

import contextlib
import gzip
import json
import math
import os
import sys
from unittest import mock

import numpy as np
import pytest
from files import idx, wide_profile
from PIL import EpsImagePlugin, Image, ImageCms

from diffusion_jax.compose import inputs, stored
from diffusion_jax.compose.config import Config
from diffusion_jax.data import sources, tfds, transforms
from diffusion_jax.errors import UserError
from diffusion_jax.runs import shards, storage

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)


def read_all(source):
    """Returns ([image], [label])."""
    records = [source.read(number) for number in range(source.num_images)]
    return [record["x"] for record in records], [record["cond"]["label"] for record in records]


def test_digits_are_seventeen_grey_levels_over_the_whole_range():
    images, labels = read_all(sources.digits())
    assert np.shape(images) == (1797, 8, 8, 1) and images[0].dtype == np.uint8
    np.testing.assert_array_equal(np.unique(images), np.round(np.arange(17) * 255 / 16))
    assert sorted(set(labels)) == list(range(10))
    with pytest.raises(UserError, match="does not have splits"):
        sources.digits(split="test")


def test_npz_gives_back_what_was_stored(tmp_path):
    np.savez(tmp_path / "set.npz", images=PIXELS[:2], labels=[3, 1])
    images, labels = read_all(sources.npz(path=str(tmp_path / "set.npz")))
    np.testing.assert_array_equal(images, PIXELS[:2])
    assert labels == [3, 1]
    np.savez(tmp_path / "grey.npz", arr_0=PIXELS[..., 0])
    np.testing.assert_array_equal(read_all(sources.npz(path=str(tmp_path / "grey.npz")))[0], PIXELS[..., :1])


def test_npz_gives_the_names_of_its_labels(tmp_path):
    """Which count as classes, whether an image has them or not."""
    np.savez(tmp_path / "set.npz", images=PIXELS[:2], labels=[1, 0], label_names=["cats", "dogs", "emus"])
    found = sources.npz(path=str(tmp_path / "set.npz"))
    assert (found.class_names, found.num_classes) == (("cats", "dogs", "emus"), 3)
    np.savez(tmp_path / "no_labels.npz", images=PIXELS[:2], label_names=["cats"])
    assert sources.npz(path=str(tmp_path / "no_labels.npz")).class_names == ()


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"images": np.zeros((2, 4, 4, 3))}, r"uint8 \[N, H, W, C\], 0 to 255; found float64 \[2, 4, 4, 3\]"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, r"found uint8 \[0, 4, 4, 3\]"),
        ({"images": np.zeros((4, 4), np.uint8)}, r"found uint8 \[4, 4\]"),
        ({"pictures": PIXELS}, "no such array"),
        ({"images": PIXELS, "labels": np.zeros(6, int)}, r"whole numbers below 2\^31, \[7\]; found int64 \[6\]"),
        ({"images": PIXELS, "labels": np.full(7, 2**31)}, "whole numbers below 2"),
        ({"images": PIXELS.transpose(0, 3, 1, 2)}, r"\[N, C, H, W\], \[7, 3, 32, 32\]; store them as \[N, H, W, C\]"),
        ({"images": PIXELS, "labels": np.arange(7), "label_names": ["cats"]}, r"\[7\] or more; found <U4 \[1\]"),
        ({"images": PIXELS, "labels": np.arange(7), "label_names": np.arange(7)}, r"as text, .* found int64 \[7\]"),
        ({"images": PIXELS, "labels": np.zeros(7)}, r"whole numbers below 2\^31, \[7\]; found float64 \[7\]"),
    ],
)
def test_npz_of_something_else_is_refused(tmp_path, arrays, found):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UserError, match=found):
        sources.npz(path=str(tmp_path / "set.npz"))


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "npy", "objects", "folder", "flipped"])
def test_npz_that_cannot_be_read_is_named(tmp_path, kind):
    file = tmp_path / "set.npz"
    np.savez_compressed(file, images=PIXELS)
    whole = file.read_bytes()
    if kind == "text":
        file.write_text("images")
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "truncated":
        file.write_bytes(whole[: len(whole) // 2])
    elif kind == "flipped":
        file.write_bytes(whole[:500] + bytes(byte ^ 255 for byte in whole[500:600]) + whole[600:])
    elif kind == "npy":
        with file.open("wb") as opened:
            np.save(opened, np.zeros(3))
    elif kind == "objects":
        np.savez(file, images=np.array([{}, None], object))
    else:
        file = tmp_path
    with pytest.raises(UserError, match="cannot be read as an .npz file of arrays|is not a file"):
        sources.npz(path=str(file))


@pytest.mark.parametrize("path", ["", "nowhere.npz"])
def test_npz_that_is_missing_is_named(path):
    with pytest.raises(UserError, match=f"data.path = '{path}' is not a file; .*, such as one by .*fetch"):
        sources.npz(path=path)


def write_idx(folder, images, labels, prefix="train", compress=gzip.compress):
    suffix = ".gz" if compress is gzip.compress else ""
    (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(compress(idx(*images.shape, data=images.tobytes())))
    (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(compress(idx(*labels.shape, data=labels.tobytes())))


@pytest.mark.parametrize("compress", [gzip.compress, bytes])
@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_idx_gives_back_what_was_stored(tmp_path, compress, split, prefix):
    write_idx(tmp_path, PIXELS[..., 0], np.arange(7, dtype=np.uint8), prefix, compress)
    images, labels = read_all(sources.idx(path=str(tmp_path), split=split))
    np.testing.assert_array_equal(images, PIXELS[..., :1])
    assert labels == list(range(7))


IDX_DAMAGE = {
    "truncated": lambda whole: whole[:-5],
    "truncated head": lambda whole: whole[:10],
    "longer": lambda whole: whole + b"0",
    "of floats": lambda whole: whole[:2] + b"\x0d" + whole[3:],
    "empty": lambda whole: b"",
    "no images": lambda whole: idx(0, 28, 28),
    "of labels": lambda whole: idx(3),
}


@pytest.mark.parametrize("damage", IDX_DAMAGE)
def test_a_damaged_idx_file_is_named(tmp_path, damage):
    write_idx(tmp_path, PIXELS[..., 0], np.arange(7, dtype=np.uint8))
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(IDX_DAMAGE[damage](gzip.decompress(file.read_bytes()))))
    with pytest.raises(UserError, match=r"data file '.*train-images-idx3-ubyte.gz' (is damaged|is not an IDX file)"):
        sources.idx(path=str(tmp_path), split="train")


def test_a_truncated_gzip_file_is_named(tmp_path):
    write_idx(tmp_path, PIXELS[..., 0], np.arange(7, dtype=np.uint8))
    file = tmp_path / "train-images-idx3-ubyte.gz"
    for content in (file.read_bytes()[:-100], file.read_bytes()[:300] + b"?" * 5000, b"no gzip"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"data file '.*ubyte.gz' cannot be read"):
            sources.idx(path=str(tmp_path), split="train")


def test_idx_files_that_miss_or_disagree_are_named(tmp_path):
    with pytest.raises(UserError, match="has no train-images-idx3-ubyte or train-images-idx3-ubyte.gz"):
        sources.idx(path=str(tmp_path), split="train")
    with pytest.raises(UserError, match="split 'validation' is unknown; an IDX set has train and test"):
        sources.idx(path=str(tmp_path), split="validation")
    write_idx(tmp_path, PIXELS[..., 0], np.arange(6, dtype=np.uint8))
    with pytest.raises(UserError, match="has 7 images, but 6 labels"):
        sources.idx(path=str(tmp_path), split="train")


def save(file, pixels, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **options)


def test_a_folder_is_read_in_the_order_of_its_names_with_a_class_for_each_sub_folder(tmp_path):
    save(tmp_path / "dogs" / "b.png", PIXELS[2])
    save(tmp_path / "cats" / "z.webp", PIXELS[1], lossless=True)
    save(tmp_path / "cats" / "a.PNG", PIXELS[0], format="PNG")
    save(tmp_path / ".thumbnails" / "a.png", PIXELS[3])
    (tmp_path / "cats" / "notes.txt").write_text("not an image")
    source = sources.folder(path=str(tmp_path))
    images, labels = read_all(source)
    np.testing.assert_array_equal(images, PIXELS[:3])
    assert labels == [0, 0, 1] and source.class_names == ("cats", "dogs")


GREY = np.zeros((4, 4), np.uint8)


def test_hidden_files_are_left_out_and_links_are_what_they_lead_to(tmp_path):
    """A set may be put together of links; its classes are the names of the links."""
    root, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    for name in (root / "cats" / "a.png", root / "cats" / ".b.png", root / ".hidden" / "c.png", elsewhere / "d.png"):
        save(name, GREY)
    (root / "dogs").symlink_to(elsewhere)
    (root / "cats" / "e.png").symlink_to(elsewhere / "d.png")
    source = sources.folder(path=str(root))
    labels = [source.read(number)["cond"]["label"] for number in range(source.num_images)]
    assert labels == [0, 0, 1]
    assert source.class_names == ("cats", "dogs")


def test_a_link_that_leads_nowhere_and_a_pipe_are_named(tmp_path):
    (tmp_path / "a.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "b.png")
    source = sources.folder(path=str(tmp_path))
    for number, name in enumerate(["a.png", "b.png"]):
        with pytest.raises(UserError, match=f"{name}' cannot be read"):
            source.read(number)


def test_a_pipe_in_the_place_of_a_file_is_named(tmp_path):
    for name in ("set.npz", "train-images-idx3-ubyte", "config.json", "manifest.json"):
        os.mkfifo(tmp_path / name)
    readers = [
        lambda: sources.npz(path=str(tmp_path / "set.npz")),
        lambda: sources.idx(path=str(tmp_path)),
        lambda: stored.read_config(storage.path(tmp_path)),
        lambda: shards.check_or_write_manifest(storage.path(tmp_path), {"seed": 0}),
    ]
    for read in readers:
        with pytest.raises(UserError, match="cannot be read"):
            read()


def test_each_folder_is_visited_once(tmp_path):
    """Links that lead in a circle end, and so do those that double what they lead to."""
    save(tmp_path / "cats" / "a.png", GREY)
    (tmp_path / "cats" / "again").symlink_to("..")
    (tmp_path / "dogs").symlink_to("cats")
    source = sources.folder(path=str(tmp_path))
    assert (source.num_images, source.class_names) == (1, ("cats",))


def test_a_sub_folder_may_have_the_name_of_an_image(tmp_path):
    for name in ("cats.png", "dogs.jpg"):
        save(tmp_path / name / "a.png", GREY)
    assert sources.folder(path=str(tmp_path)).class_names == ("cats.png", "dogs.jpg")


@pytest.mark.parametrize("inside", [".", "runs/mine", "../link/runs"])
def test_a_workdir_among_the_images_is_refused(tmp_path, inside):
    (tmp_path / "set").mkdir()
    (tmp_path / "link").symlink_to("set")
    config = Config().with_values("data", source="folder", path=str(tmp_path / "set"))
    with pytest.raises(UserError, match="lies in config field data.path = .* choose another --workdir or --out"):
        inputs.check_apart(config, storage.path(tmp_path / "set" / inside))
    inputs.check_apart(config, storage.path(tmp_path / "runs"))
    inputs.check_apart(config.with_values("data", source="npz"), storage.path(tmp_path / "set" / inside))
    inputs.check_apart(config.with_values("data", path=""), storage.path("runs/published"))


def test_files_that_are_not_images_are_counted(tmp_path):
    save(tmp_path / "a.png", GREY)
    for name in ("b.heic", "c.HEIC", "notes.txt", "Makefile", ".hidden"):
        (tmp_path / name).write_text("")
    assert sources.folder(path=str(tmp_path)).left_out == "2 .heic, 1 .txt, 1 without a suffix"


@pytest.mark.parametrize("suffix", ["avif", "bmp", "gif", "jfif", "tif", "TIFF"])
def test_images_of_other_formats_are_read(tmp_path, suffix):
    colour = np.broadcast_to(np.uint8([200, 100, 50]), (8, 8, 3))
    image = Image.fromarray(colour)
    options = {"gif": {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}, "avif": {"quality": 100}}
    image.save(tmp_path / f"a.{suffix}", "JPEG" if suffix == "jfif" else None, **options.get(suffix, {}))
    np.testing.assert_allclose(sources.folder(path=str(tmp_path)).read(0)["x"], colour, atol=3)


def test_a_colour_profile_is_applied(tmp_path):
    """What littlecms makes of it, relative colorimetric, to sRGB; a damaged one changes nothing, and neither does sRGB."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile, expected in [(wide_profile(), [0, 201, 37]), (b"damaged", [60, 200, 60]), (srgb, [60, 200, 60])]:
        Image.new("RGB", (8, 8), (60, 200, 60)).save(tmp_path / "a.png", icc_profile=profile)
        pixel = sources.folder(path=str(tmp_path)).read(0)["x"][0, 0]
        np.testing.assert_allclose(pixel.astype(int), expected, atol=0 if expected[0] else 6)


def test_jpeg_is_read_upright(tmp_path):
    """EXIF orientation 6: the camera was turned, the viewer must turn back. On even colour JPEG is exact enough."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.jpg", pixels, quality=100, subsampling=0, exif=exif)
    image = sources.folder(path=str(tmp_path)).read(0)["x"]
    assert image.shape == (32, 16, 3)
    np.testing.assert_allclose(image[:16], 0, atol=2)
    np.testing.assert_allclose(image[16:], 255, atol=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_are_white(tmp_path, channels):
    """And not whatever colour the file keeps beneath them; grey stays grey."""
    opacity = np.zeros((32, 32, 1), np.uint8)
    opacity[:, :16] = 255
    save(tmp_path / "a.png", np.concatenate([PIXELS[0, :, :, :channels], opacity], axis=-1))
    pixels = sources.folder(path=str(tmp_path)).read(0)["x"]
    assert pixels.shape == (32, 32, channels)
    np.testing.assert_array_equal(pixels[:, 16:], 255)
    np.testing.assert_array_equal(pixels[:, :16], PIXELS[0, :, :16, :channels])


@pytest.mark.parametrize("kind", ["truncated", "empty", "text"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_broken_image_is_named(tmp_path, suffix, kind):
    file = tmp_path / f"broken.{suffix}"
    save(file, PIXELS[0])
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"not an image"}[kind])
    source = sources.folder(path=str(tmp_path))
    with pytest.raises(UserError, match=rf"image file '.*broken.{suffix}' cannot be read"):
        source.read(0)


def test_sixteen_bits_are_not_cut_in_silence(tmp_path):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"deep.png' has more than 8 bits a colour"):
        sources.folder(path=str(tmp_path)).read(0)


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(UserError, match="does not contain images; it must contain .avif, .bmp, .gif, .jfif, .jpeg"):
        sources.folder(path=str(tmp_path))
    for path in ("", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match="is not a folder; it must be a folder with images"):
            sources.folder(path=path)


def of(*images):
    return sources.Source(len(images), lambda number: sources.labelled(images[number], 3))


def fit(image, shape, *, center_crop=0, resize=True, num_classes=0):
    fitted = transforms.resized(
        of(image), image_shape=shape, center_crop=center_crop, resize=resize, num_classes=num_classes
    )
    return fitted.read(0)["x"]


def test_shrinking_takes_the_mean_of_areas():
    means = PIXELS[0].reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(fit(PIXELS[0], (8, 8, 3)), means, atol=1.001)  # Pillow rounds after each of two passes


def test_the_middle_of_a_long_image_remains():
    wide = np.zeros((8, 24, 1), np.uint8)
    wide[:, 8:16] = 200
    np.testing.assert_array_equal(fit(wide, (4, 4, 1)), 200)
    np.testing.assert_array_equal(fit(wide.transpose(1, 0, 2), (4, 4, 1)), 200)
    np.testing.assert_array_equal(fit(wide, (16, 16, 1))[:, 4:-4], 200)  # growing, the kernel reaches over edges


def test_the_crop_comes_before_the_scale():
    framed = np.zeros((218, 178, 3), np.uint8)
    framed[39:179, 19:159] = 200  # the 140 pixels in the middle of CelebA's 218 x 178
    np.testing.assert_array_equal(fit(framed, (64, 64, 3), center_crop=140), 200)
    with pytest.raises(UserError, match="data.center_crop = 180 is larger than an image of"):
        fit(framed, (64, 64, 3), center_crop=180)


@pytest.mark.parametrize("shape", [(32, 32, 1), (32, 32, 3)])
def test_grey_and_colour_become_each_other(shape):
    grey = PIXELS[0, :, :, :1]
    colour = grey.repeat(3, axis=-1)
    np.testing.assert_array_equal(fit(grey, shape), grey if shape[-1] == 1 else colour)
    np.testing.assert_array_equal(fit(colour, shape), grey if shape[-1] == 1 else colour)


def test_other_numbers_of_channels_are_kept_or_said():
    pixels = np.zeros((12, 12, 5), np.uint8)
    assert fit(pixels, (12, 12, 5)).shape == (12, 12, 5)
    with pytest.raises(UserError, match="an image of 5 channels cannot be scaled; set data.resize = False"):
        fit(pixels, (8, 8, 5))
    with pytest.raises(UserError, match=r"say \[12, 12, 3\], but the images are \[12, 12, 4\]"):
        fit(pixels[..., :4], (12, 12, 3))


def test_a_shape_that_differs_from_the_config_says_what_to_set():
    with pytest.raises(UserError, match=r"set data.image_size = \(32, 32\) and data.channels = 3, or data.resize = True"):
        fit(PIXELS[0], (8, 8, 3), resize=False)


def test_a_network_without_classes_gets_no_label():
    for num_classes, cond in ((0, {}), (4, {"label": 3})):
        fitted = transforms.resized(
            of(PIXELS[0]), image_shape=(32, 32, 3), center_crop=0, resize=True, num_classes=num_classes
        )
        assert fitted.read(0)["cond"] == cond


def test_labels_beyond_the_networks_are_refused():
    fit(PIXELS[0], (32, 32, 3), num_classes=4)
    with pytest.raises(UserError, match=r"model.num_classes = 3 does not fit the data, which has an image of class 3\."):
        fit(PIXELS[0], (32, 32, 3), num_classes=3)
    named = of(PIXELS[0])._replace(class_names=(".", "cat", "cow", "dog"))
    fitted = transforms.resized(named, image_shape=(32, 32, 3), center_crop=0, resize=True, num_classes=3)
    with pytest.raises(UserError, match=r"an image of class 3, of \., cat, cow, dog\."):
        fitted.read(0)


def test_thinning_keeps_images_from_everywhere():
    numbers = sources.Source(100, lambda number: {"x": number, "cond": {}})
    assert [transforms.subsampled(numbers, 4).read(i)["x"] for i in range(4)] == [0, 25, 50, 75]
    assert transforms.subsampled(numbers, 1000).num_images == 100


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with 'cifar10:3.0.2' prepared from made-up images: the real set's features, array_record."""
    datasets = pytest.importorskip("tensorflow_datasets")
    tensorflow = pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("tfds")
    records = {"id": [f"train_{i}" for i in range(7)], "image": PIXELS, "label": np.arange(7)}
    datasets.dataset_builders.store_as_tfds_dataset(
        name="cifar10",
        version="3.0.2",
        features=datasets.builder("cifar10:3.0.2", data_dir=str(folder / "none")).info.features,
        split_datasets={"train": tensorflow.data.Dataset.from_tensor_slices(records)},
        data_dir=str(folder),
        file_format="array_record",
        disable_shuffling=True,
    )
    return str(folder)


def test_tfds_sets_are_read_by_name(prepared):
    source = tfds.source(name="cifar10:3.0.2", path=prepared, split="train")
    images, labels = read_all(source)
    assert source.num_classes == 10
    order = np.argsort(labels)
    np.testing.assert_array_equal(np.array(labels)[order], np.arange(7))
    np.testing.assert_array_equal(np.array(images)[order], PIXELS)


@pytest.mark.parametrize("key", ["caption", "captions"])
def test_captions_of_tfds_sets_are_read(tmp_path, key):
    """Also as coco_captions has them, several of an image."""
    datasets, tensorflow = pytest.importorskip("tensorflow_datasets"), pytest.importorskip("tensorflow")
    texts, one = np.array(["ein", "zwo"]), datasets.features.Text()
    several = datasets.features.Sequence({"text": one})
    records = {"image": PIXELS[:2], key: {"text": np.stack([texts, ["no", "no"]], 1)} if key == "captions" else texts}
    datasets.dataset_builders.store_as_tfds_dataset(
        name="told",
        version="1.0.0",
        features=datasets.features.FeaturesDict(
            {"image": datasets.features.Image(shape=PIXELS[0].shape), key: several if key == "captions" else one}
        ),
        split_datasets={"train": tensorflow.data.Dataset.from_tensor_slices(records)},
        data_dir=str(tmp_path),
        file_format="array_record",
        disable_shuffling=True,
    )
    source = tfds.source(name="told:1.0.0", path=str(tmp_path), captions=True)
    np.testing.assert_array_equal(read_all(source)[0], PIXELS[:2])
    assert source.captions == ("ein", "zwo") and tfds.source(name="told:1.0.0", path=str(tmp_path)).captions == ()


@pytest.mark.parametrize("broken", [{"captions": {"text": []}}, {"captions": {"id": [1]}}, {"captions": 7}])
def test_an_image_of_a_tfds_set_without_a_caption_is_named(broken):
    with pytest.raises(UserError, match="feature 'captions' of image 1 holds no text"):
        tfds._captions("told:1.0.0", [{"captions": {"text": [b"ein"]}}, broken], ["image", "captions"])


def test_a_tfds_set_without_captions_is_said(prepared):
    with pytest.raises(UserError, match="needs one of the features caption, captions, text; it has .*image"):
        tfds.source(name="cifar10:3.0.2", path=prepared, captions=True)


@pytest.mark.parametrize("key", ["pythonClassName", "type"])
def test_a_tfds_set_that_names_a_class_of_others_is_refused(tmp_path, key):
    folder = tmp_path / "evil" / "1.0.0"
    folder.mkdir(parents=True)
    image = {key: "evil_module.Feature"}
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": {"image": image}}}))
    with pytest.raises(UserError, match="features.json' names the class 'evil_module.Feature'"):
        tfds.source(name="evil:1.0.0", path=str(tmp_path))


@pytest.mark.parametrize("name", ["huggingface:mnist", "user:cifar10/plain", "kaggle:x:1.0.0", "../up", "gs://bucket/set"])
def test_a_name_that_leads_to_code_of_others_is_refused(name):
    with pytest.raises(UserError, match="config field data.name = .* it must be name:1.2.3 or name/config:1.2.3"):
        tfds.source(name=name, path="")


def test_a_split_that_does_not_exist_is_named(prepared):
    with pytest.raises(UserError, match="split 'test' is unknown; 'cifar10:3.0.2' has train"):
        tfds.source(name="cifar10:3.0.2", path=prepared, split="test")


def test_a_set_that_cannot_be_downloaded_is_said_at_once(tmp_path, monkeypatch):
    def no_network(*arguments):
        raise OSError("Name or service not known")

    monkeypatch.setattr(tfds.socket, "getaddrinfo", no_network)
    with pytest.raises(UserError, match="'cifar10:3.0.2' is not prepared in .* and there is no network to download it"):
        tfds.source(name="cifar10:3.0.2", path=str(tmp_path), split="train")


def test_a_set_that_must_be_downloaded_by_hand_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.socket, "getaddrinfo", lambda *arguments: [])
    with pytest.raises(UserError, match=r"'celeb_a_hq/256:2.0.0' cannot be prepared \(AssertionError: Manual directory"):
        tfds.source(name="celeb_a_hq/256:2.0.0", path=str(tmp_path), split="train")


@pytest.mark.parametrize("name", ["cifar11", "cifar10:9.9.9", "cifar10/none", "", "Cifar 10"])
def test_a_set_that_does_not_exist_is_named(tmp_path, name):
    with pytest.raises(UserError, match=f"config field data.name = '{name}' is not (a data set that TFDS knows|allowed)"):
        tfds.source(name=name, path=str(tmp_path), split="train")


def test_a_cut_out_does_not_keep_the_photograph_in_memory():
    assert fit(PIXELS[0], (8, 8, 3), center_crop=8, resize=False).base is None


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="data.source = 'tfds' needs a package: pip install tensorflow-datasets"):
        tfds.source(name="cifar10", path="", split="train")


def test_a_thin_image_is_not_scaled_beyond_the_limit_of_pixels(tmp_path):
    """1 x 60,000 pixels scaled to cover 256 x 256 would be 256 x 15,360,000."""
    Image.new("L", (1, 60_000)).save(tmp_path / "a.png")
    options = {"image_shape": (256, 256, 1), "center_crop": 0, "resize": True, "num_classes": 0}
    source = transforms.resized(sources.folder(path=str(tmp_path)), **options)

    def resize(image, size, *arguments, **options):
        assert math.prod(size) <= Image.MAX_IMAGE_PIXELS
        return Image.new(image.mode, size)

    with mock.patch.object(Image.Image, "resize", resize), contextlib.suppress(UserError):
        assert source.read(0)["x"].shape == (256, 256, 1)


def test_an_image_file_starts_no_other_program(tmp_path):
    """Pillow gives PostScript to Ghostscript, which executes it."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", format="EPS")
    with mock.patch.object(EpsImagePlugin, "Ghostscript", side_effect=OSError) as started, pytest.raises(UserError):
        sources.decode(storage.path(tmp_path / "a.png"))
    assert not started.called
