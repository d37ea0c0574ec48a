"""What a network is shown beside x_t: closed forms, pairs that stay pairs, bad folders, and whole runs."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

import diffusion_jax as dj
import main
from diffusion_jax import model, streams
from diffusion_jax.compose import checks, coding, command, inputs, sample_conditions, training
from diffusion_jax.data import conditions, feed
from diffusion_jax.errors import UserError
from diffusion_jax.networks import conditioning
from diffusion_jax.runs.shards import flatten

WIDE = np.indices((1, 6, 8, 1)).astype(np.float32)  # of each pixel, its row [1] and its column [2]


HELD_OUT = {"held_out": "images", "condition_held_out": "beside"}


def keys(num):
    return streams.keys(0, "condition", np.arange(num))


def test_low_resolution_is_the_mean_of_each_square():
    x_0 = np.random.default_rng(0).uniform(-1, 1, (2, 4, 6, 3)).astype(np.float32)
    found = conditions.low_resolution(x_0, 2)
    for row in range(4):
        for column in range(6):
            square = x_0[:, row // 2 * 2 :, column // 2 * 2 :][:, :2, :2]
            np.testing.assert_allclose(found[:, row, column], square.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(conditions.low_resolution(found, 2), found, atol=1e-6)
    with pytest.raises(UserError, match="factor = 4 does not divide images of 4 x 6"):
        conditions.low_resolution(x_0, 4)


def test_edges_of_one_colour_a_slope_and_a_step():
    constant = jnp.full((1, 6, 8, 3), 0.3)
    np.testing.assert_array_equal(conditions.edges(constant), -np.ones((1, 6, 8, 1)))
    slope = 0.03 * WIDE[1] + 0.04 * WIDE[2]  # of length 0.05 a pixel, in any direction
    np.testing.assert_allclose(conditions.edges(slope)[:, 1:-1, 1:-1], 2 * 0.05 - 1, atol=1e-6)
    for axis in (1, 2):
        step = np.where(WIDE[axis] < 3, -1.0, 1.0)
        beside = np.where((WIDE[axis] == 2) | (WIDE[axis] == 3), 1, -1)
        np.testing.assert_array_equal(conditions.edges(step), beside)
        np.testing.assert_array_equal(conditions.edges(np.concatenate([constant[..., :2], step], axis=-1)), beside)


def test_grey_is_the_brightness_of_colours():
    found = conditions.grey(jnp.array([[[[1.0, 1, 1], [0, 1, 0], [-1, -1, -1]]]]))
    np.testing.assert_allclose(found[0, 0, :, 0], [1, 0.587, -1], atol=1e-6)


def test_a_random_mask_hides_a_rectangle_that_its_key_decides():
    x_0 = jnp.full((500, 8, 12, 2), 0.5)
    random_mask = jax.jit(conditions.random_mask)
    found = np.asarray(random_mask(x_0, keys(500)))
    hidden = found[..., -1] == 1
    np.testing.assert_array_equal(found[..., -1][~hidden], -1)
    np.testing.assert_array_equal(found[..., :2], np.where(hidden[..., None], [0, 0], 0.5))
    rows, columns = hidden.any(2), hidden.any(1)
    np.testing.assert_array_equal(hidden, rows[:, :, None] & columns[:, None, :])
    assert {*rows.sum(1)} == {*range(2, 7)} and {*columns.sum(1)} == {*range(3, 10)}
    assert np.all(np.abs(np.diff(rows, axis=1)).sum(1) <= 2) and hidden.any(0).all()  # in one piece; anywhere
    np.testing.assert_array_equal(random_mask(x_0[:1], keys(500)[7:8])[0], found[7])


def test_an_image_and_a_label_are_dropped_together():
    both = conditioning.with_image(conditioning.labels(10, null_label=True), (2, 2, 3))
    cond = {"label": jnp.arange(4000) % 10, "image": jnp.ones((4000, 2, 2, 3))}
    dropped = both.drop(cond, jax.random.key(0), 0.2)
    is_null = np.all(dropped["image"] == 0, axis=(1, 2, 3))
    assert np.all(is_null | np.all(dropped["image"] == 1, axis=(1, 2, 3)))
    assert np.sum(is_null) == pytest.approx(800, abs=114)  # 4.5 standard errors
    np.testing.assert_array_equal(dropped["label"] == 10, is_null)
    nothing = both.null(cond)
    assert np.all(nothing["label"] == 10) and np.all(nothing["image"] == 0)
    assert jax.tree.map(jnp.shape, both.spec(4000)) == jax.tree.map(jnp.shape, cond)


def test_without_a_null_label_nothing_is_not_known():
    assert conditioning.with_image(conditioning.labels(3), (2, 2, 1)).null is None
    assert conditioning.with_image(conditioning.unconditional(), (2, 2, 1)).null({"image": jnp.ones((1, 2, 2, 1))})


@pytest.fixture
def pairs(tmp_path):
    """Folders of 12 images of 8 x 8 in two classes and of what goes with each, its negative, in other formats."""
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        for folder, image, suffix in (("images", pixels, "png"), ("beside", 255 - pixels, "bmp")):
            file = tmp_path / folder / "ab"[number % 2] / f"{number:02d}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    return tmp_path


def config_of(folder: pathlib.Path, **data):
    data = {"source": "folder", "path": str(folder / "images"), "image_size": (8, 8), "channels": 3} | data
    data = {"held_out": "", "condition": "paired", "condition_path": str(folder / "beside")} | data
    return tiny.config_of({f"data.{name}": value for name, value in data.items()})


def test_a_pair_is_mirrored_together(pairs):
    config = config_of(pairs, random_flip=True)
    batch, part = feed.read(inputs.source(config)), training.parts(config)
    x_0, cond = part.prepare(batch, jax.random.split(jax.random.key(0)), keys(12))
    np.testing.assert_allclose(cond["image"], -x_0, atol=1e-6)
    is_flipped = np.any(np.abs(coding.codec(config).encode(batch["x"]) - x_0) > 0.1, axis=(1, 2, 3))
    assert 0 < np.sum(is_flipped) < 12


def test_a_pair_is_cut_and_scaled_together_and_has_the_images_channels(pairs):
    for number, mode in enumerate(("L", "RGBA", "1")):
        file = pairs / "beside" / "ab"[number % 2] / f"{number:02d}"
        Image.open(file.with_suffix(".bmp")).convert(mode).save(file.with_suffix(".png"))
        file.with_suffix(".bmp").unlink()
    batch = feed.read(inputs.source(config_of(pairs, center_crop=6, image_size=(4, 4), resize=True)))
    assert batch["x"].shape == batch["cond"]["image"].shape == (12, 4, 4, 3)
    np.testing.assert_allclose(batch["x"][3:].astype(int) + batch["cond"]["image"][3:], 255, atol=2)  # two roundings


def test_the_cache_on_the_devices_counts_what_goes_with_each_image(pairs):
    num_bytes = 12 * 8 * 8 * 3
    for condition, num_copies in {"paired": 2, "edges": 1}.items():
        cached = config_of(pairs, condition=condition, device_cache_gib=num_copies * num_bytes / 2**30)
        assert inputs.is_resident(cached, 12) and not inputs.is_resident(cached, 13)


def test_a_broken_pair_is_left_out_where_that_is_asked_for(pairs):
    (pairs / "beside" / "a" / "00.bmp").write_bytes(b"")
    Image.new("RGB", (9, 8)).save(pairs / "beside" / "b" / "01.bmp")
    source = inputs.source(config_of(pairs, skip_broken=True))
    assert source.num_images == 10 and "1 of another size than its image ('" in source.skipped
    with pytest.raises(
        UserError, match="2 of 12 images cannot be read: 1 not an image .*, 1 of another size than its image"
    ):
        feed.read(inputs.source(config_of(pairs)))


def test_a_pair_of_another_size_is_named(pairs):
    Image.new("RGB", (9, 8)).save(pairs / "beside" / "b" / "01.bmp")
    sentence = r"^image file '.*beside/b/01.bmp' is 8 x 9 pixels, and '.*images/b/01.png' 8 x 8; scale it, or set data.skip_"
    with pytest.raises(UserError, match=sentence):
        feed.read(inputs.source(config_of(pairs)))


def test_a_missing_pair_is_named(pairs):
    (pairs / "beside" / "b" / "03.bmp").unlink()
    sentence = (
        r"field data.condition_path = '.*beside' has no image for 1 of the 12 images: 'b/03'; each needs one of its name"
    )
    with pytest.raises(UserError, match=sentence):
        inputs.source(config_of(pairs))


@pytest.mark.parametrize("folder", ["images", "beside"])
def test_two_files_of_one_name_are_refused(pairs, folder):
    Image.new("RGB", (8, 8)).save(pairs / folder / "a" / "00.gif")
    with pytest.raises(UserError, match=rf"folder '.*{folder}' has '00.*' and '00.*', which differ in the suffix alone"):
        inputs.source(config_of(pairs))


def test_the_held_out_pairs_are_named_by_their_own_field(pairs):
    config = config_of(pairs, held_out=str(pairs / "images"), condition_held_out=str(pairs / "none"))
    with pytest.raises(UserError, match="config field data.condition_held_out = '.*none' is not a folder"):
        inputs.held_out(config)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data.condition": "grey"}, "data.condition = 'grey' needs images in colour: data.channels = 3"),
        (
            {"data.condition": "low_resolution", "data.condition_factor": 3},
            r"data.condition_factor = 3 must divide data.image_size = \(8, 8\)",
        ),
        (
            {"data.condition": "paired", "data.condition_path": "x"},
            "data.condition = 'paired' needs data.source = 'folder', whose files have names",
        ),
        (
            {"data.condition": "paired", "data.source": "folder", "data.path": "x"},
            "data.condition_path = '' must be a folder with an image for each of data.path = 'x'",
        ),
        ({"data.condition_held_out": "x"}, "data.condition_held_out = 'x' is for data.condition = 'paired'; leave it empty"),
        ({"data.condition": "depth"}, "data.condition = 'depth' is not allowed; it must be one of edges, grey, low_res"),
        (
            {"data.condition": "edges", "model.num_classes": 10, "train.label_dropout": 0.1},
            "train.label_dropout = 0.1 needs model.num_classes above 0 and model.null_label = True, or data.condition",
        ),
        (
            {"data.condition": "edges", "sample.guidance": 2.0},
            "sample.guidance = 2.0 needs .* 'no image' .train.label_dropout",
        ),
    ],
)
def test_contradictions(changes, sentence):
    with pytest.raises(UserError, match=f"^config field {sentence}"):
        checks.check(tiny.config_of(changes))


def test_images_can_be_guided_from_nothing_where_conditions_were_dropped():
    checks.check(tiny.config_of({"data.condition": "edges", "train.label_dropout": 0.1, "sample.guidance": 2.0}))


def test_what_an_image_is_shown_depends_on_its_number_alone(one_device):
    config = tiny.config_of({"data.condition": "mask"})
    read = functools.partial(sample_conditions.read, sample_conditions.source(config))
    cond_of = sample_conditions.cond_of_image(config)
    numbers = np.array([3, 1800, 1798])
    cond = cond_of(7, numbers, read(numbers))["image"]
    assert len(np.unique(cond[..., -1], axis=0)) == 3
    np.testing.assert_array_equal(cond[1:2], cond_of(7, numbers[1:2], read(numbers[1:2]))["image"])
    np.testing.assert_array_equal(read(numbers)["x"][1], read(np.array([3]))["x"][0])  # of 1,797 digits


def test_the_label_of_a_classifier_that_guides_is_not_what_the_network_is_told(one_device):
    config = tiny.config_of({"data.condition": "edges", "sample.guide": "elsewhere", "sample.label": 3})
    read = functools.partial(sample_conditions.read, sample_conditions.source(config))
    assert list(sample_conditions.cond_of_image(config)(7, np.arange(2), read(np.arange(2)))) == ["image"]
    told = sample_conditions.cond_of_image(config.with_values("model", num_classes=10))(7, np.arange(2), read(np.arange(2)))
    assert sorted(told) == ["image", "label"] and told["label"].tolist() == [3, 3]


@pytest.mark.slow
def test_random_masks_are_the_same_after_a_stop(tmp_path, one_device):
    whole, stopped = ([*tiny.flags(tmp_path / name, num_steps=4), "--config.data.condition=mask"] for name in "ab")
    assert main.main(["main.py", *whole]) == 0
    for num_steps in (2, 4):
        assert main.main(["main.py", *stopped, f"--config.train.num_steps={num_steps}"]) == 0
    weights = [jax.tree.leaves(dj.load(tmp_path / name, ema_rate=0.0).params) for name in "ab"]
    assert all(np.array_equal(*leaves) for leaves in zip(*weights, strict=True))


@pytest.mark.slow
def test_a_paired_folder_is_trained_on_and_shown_when_drawing(pairs, tmp_path, one_device, capsys, monkeypatch):
    config = config_of(pairs).with_values("model", num_classes=2).with_values("sample", batch_per_device=5)
    settings = {name: value for name, value in config.flat().items() if value != tiny.config_of({}).flat()[name]}
    run, dump = tmp_path / "run", tmp_path / "dump"
    train = [*tiny.flags(run, num_steps=2), *(f"--config.{name}={value}" for name, value in settings.items())]
    assert main.main(["main.py", *train]) == 0
    assert "condition   paired, 3 channel(s) beside x_t" in capsys.readouterr().out

    draw = ["main.py", "--mode=sample", f"--workdir={run}", f"--out={dump}", "--config.sample.num_images=14"]
    held_out = {name: str(pairs / of) for name, of in HELD_OUT.items()}
    opened, open_held_out = [], inputs.held_out
    monkeypatch.setattr(inputs, "held_out", lambda config: opened.append(config) or open_held_out(config))
    assert main.main([*draw, *(f"--config.data.{name}={path}" for name, path in held_out.items())]) == 0
    assert len(opened) == 1  # for labels, images and picture
    drawn, trained = np.load(dump / "samples_14x8x8x3.npz"), dj.load(run)
    trained = trained._replace(config=trained.config.with_values("data", **held_out))
    labels = [0] * 6 + [1] * 6 + [0] * 2  # of the images that are shown: those of the sub-folder a, those of b, again
    np.testing.assert_array_equal(drawn["arr_1"], labels)
    np.testing.assert_array_equal(model.images(trained, [7])[0], drawn["arr_0"][7])
    assert np.any(drawn["arr_0"][0] != drawn["arr_0"][12])  # shown the same, but drawn from another noise

    beside, images = sample_conditions.pictured(trained.config, sample_conditions.source(trained.config))
    np.testing.assert_array_equal(beside, 255 - images)
    picture = np.asarray(Image.open(dump / "cond.png"))
    cells = [picture[2:66:8, 2 + 66 * column : 66 + 66 * column : 8] for column in range(6)]  # eight times as large
    np.testing.assert_array_equal(cells, [row[n] for n in (0, 1) for row in (beside, drawn["arr_0"], images)])
    assert {"condition.files", "condition.pairs"} <= {*flatten(json.loads((dump / "manifest.json").read_text()))}
    assert main.main(draw) == command.BAD_INPUT
    assert "holds other results (different " in capsys.readouterr().err
