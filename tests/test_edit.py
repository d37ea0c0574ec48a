"""Editing of files and arrays: what is known stays, a run that was killed goes on, and what does not fit is one sentence."""

import json
import shutil

import files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

import diffusion_jax as dj
import main
from diffusion_jax import editing, model
from diffusion_jax.compose import command, edits, given
from diffusion_jax.compose.processes import network
from diffusion_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("one_device")

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
MASK = np.zeros((8, 8, 1), bool)
MASK[2:5, 3:7] = True
COLOUR = {"data.channels": 3, "train.ema_rates": (), "process.num_steps": 100}


@pytest.fixture(scope="module")
def colour():
    """A model of images in colour whose network's output is not 0, as that of a fresh one is."""
    config = tiny.config_of(COLOUR)
    params = jax.jit(network(config).init)(jax.random.key(0))
    params = jax.tree.map(lambda p: p + 0.1 * jnp.sin(jnp.arange(p.size)).reshape(p.shape), params)
    return model.Model(config, params, 0)


def given_of(name):
    """Returns the images that a task is given of IMAGES."""
    return {"super_resolve": IMAGES[:, ::2, ::2], "colourise": IMAGES[..., :1]}.get(name, IMAGES)


SETTINGS = {
    "inpaint": {"mask": MASK},
    "repaint": {"mask": MASK, "jump_length": 1, "num_resamples": 2},
    "outpaint": {"sides": (1, 0, 3, 2)},
    "vary": {},
    "super_resolve": {},
    "colourise": {},
    "deblur": {},
}


@pytest.mark.parametrize("task", SETTINGS)
def test_a_task_keeps_what_is_known_and_draws_the_rest_by_seed_and_number(colour, task):
    given, settings = given_of(task), {"task": task, "batch_per_device": 1, **SETTINGS[task]}
    found, again = colour.edit(given, **settings), colour.edit(given[:2], **settings)
    other = colour.edit(given, seed=1, **settings)
    known = np.ones((8, 8), bool) if task == "outpaint" else ~MASK[..., 0] if "mask" in settings else np.zeros((8, 8), bool)
    inside = found[:, 1:, 3:11] if task == "outpaint" else found
    assert found.dtype == np.uint8 and found.shape == ((3, 9, 13, 3) if task == "outpaint" else IMAGES.shape)
    np.testing.assert_array_equal(inside[:, known], IMAGES[:, known])
    np.testing.assert_array_equal(again, found[:2])
    assert np.mean(other != found) > (0.05 if known.any() else 0.3)


def test_strength_zero_is_the_image(colour):
    np.testing.assert_array_equal(colour.edit(IMAGES, task="vary", strength=0.0), IMAGES)


def test_a_seed_does_not_draw_again_what_it_drew_in_sampling(colour):
    drawn = colour.sample(3, sampler="ddim", batch_per_device=3)
    found = colour.edit(drawn, task="inpaint", mask=np.ones((8, 8, 1)), batch_per_device=3)
    assert np.mean(found != drawn) > 0.3


def test_what_is_measured_of_an_enlarged_image_is_what_was_given(colour):
    small = np.full((2, 4, 4, 3), 128, np.uint8)
    found = colour.edit(small, task="super_resolve", num_steps=10).astype(float)
    boxes = found.reshape(2, 4, 2, 4, 2, 3)
    is_whole = ((boxes > 0) & (boxes < 255)).all((2, 4))  # not cut off at black or white
    assert is_whole.any() and np.std(found) > 10
    np.testing.assert_allclose(boxes.mean((2, 4))[is_whole], 128, atol=0.5)  # each pixel is rounded


def test_from_one_image_to_another_is_the_way_back_reversed(colour):
    found = colour.edit(IMAGES[[0, 1, 1, 0]], task="interpolate", num_between=3, num_steps=2).astype(int)
    np.testing.assert_allclose(found[:3], found[:2:-1], atol=1)
    assert np.mean(found[0] != found[1]) > 0.3 and np.mean(found[1] != found[2]) > 0.3
    with pytest.raises(UserError, match="edit.task = 'interpolate' takes images in pairs; 3 are given"):
        colour.edit(IMAGES, task="interpolate")


def test_of_images_that_have_colours_their_brightness_is_coloured(colour, capsys):
    grey = np.asarray([Image.fromarray(image).convert("L") for image in IMAGES])[..., None].astype(int)
    config = colour.config.with_values("edit", task="colourise")
    found = given.batch(config, list(IMAGES), None)["x"]
    assert found.shape == (3, 8, 8, 1) and "3 of the images have colours; of these the brightness" in capsys.readouterr().out
    np.testing.assert_allclose(found, grey, atol=1)  # Pillow's weights have 16 bits
    np.testing.assert_array_equal(given.batch(config, list(found), None)["x"], found)


@pytest.mark.slow
def test_an_image_between_which_others_lie_is_inverted_once(colour, monkeypatch):
    inverted, invert = [], editing.inverted
    monkeypatch.setattr(editing, "inverted", lambda *given: inverted.append(len(given[2])) or invert(*given))
    settings = {"task": "interpolate", "num_between": 6, "num_steps": 3}
    found = colour.edit(IMAGES[[0, 1, 1, 2]], **settings, batch_per_device=12)
    assert inverted == [6]  # in one program: of 24 ends, 3 are distinct and 6 can be, if they are of 3 rows
    np.testing.assert_array_equal(found[5], found[6])  # image 1, which ends a row and begins the next
    in_pieces = colour.edit(IMAGES[[0, 1, 1, 2]], **settings, batch_per_device=4)
    assert inverted == [6, 4]
    np.testing.assert_allclose(in_pieces.astype(int), found, atol=1)


@pytest.fixture
def folder(tmp_path):
    """A folder with three grey images and the masks of two of them."""
    for i in range(3):
        (tmp_path / "images" / "some").mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[i, ..., 0]).save(tmp_path / "images" / (f"{i}.png" if i else "some/0.bmp"))
    (tmp_path / "masks").mkdir()
    for i in (1, 2):
        Image.fromarray(MASK[..., 0] ^ (i == 2)).save(tmp_path / "masks" / f"{i}.png")
    return tmp_path


def flags(trained, folder, **settings):
    settings = {"images": folder / "images", "mask": folder / "masks" / "1.png"} | settings
    fields = [f"--config.edit.{name}={value}" for name, value in settings.items()]
    return ["main.py", "--mode=edit", f"--workdir={trained}", "--config.sample.shard_size=1", *fields]


@pytest.mark.slow
def test_files_are_edited_and_an_edit_that_was_killed_goes_on(trained, folder, monkeypatch, capsys):
    arguments = flags(trained, folder)
    assert main.main([*arguments, f"--out={folder / 'whole'}"]) == 0
    said = capsys.readouterr().out
    whole = files.listing(folder / "whole")
    assert {"edit.png", "edit.json", "manifest.json", "images/1.png", "images/2.png", "images/some/0.png"} < set(whole)
    assert json.loads(whole["edit.json"])["num_evaluations"] == 3 and "3 evaluations an image" in said
    for i, name in enumerate(("1", "2", "some/0")):
        image, result = (np.asarray(Image.open(folder / place)) for place in _places(name))
        np.testing.assert_array_equal(result[~MASK[..., 0]], image[~MASK[..., 0]])
        assert np.any(result != image), i

    def dying(trained, given, first=0):
        yield next(edited(trained, given, first))
        raise KeyboardInterrupt

    edited = model.edited
    monkeypatch.setattr(model, "edited", dying)
    assert main.main([*arguments, f"--out={folder / 'killed'}"]) == 130
    assert sorted(files.listing(folder / "killed")) == ["manifest.json", "shards/00000000.npz"]
    monkeypatch.setattr(model, "edited", edited)
    assert main.main([*arguments, f"--out={folder / 'killed'}"]) == 0
    assert files.listing(folder / "killed") == whole

    capsys.readouterr()
    assert (
        main.main([*flags(trained, folder, task="repaint", jump_length=1), f"--out={folder / 'killed'}"])
        == command.BAD_INPUT
    )
    assert "holds other results (different edit.jump_length, " in capsys.readouterr().err
    assert files.listing(folder / "killed") == whole


def _places(name):
    return "images/" + (name + ".bmp" if "/" in name else name + ".png"), f"whole/images/{name}.png"


def test_each_image_has_the_mask_of_its_name_and_a_box_is_a_mask(folder):
    (folder / "images" / "some" / "0.bmp").unlink()
    named = {"edit.images": str(folder / "images"), "edit.mask": str(folder / "masks")}
    names, rows = given.read(tiny.config_of(named))
    assert names == ["1", "2"]
    np.testing.assert_array_equal(rows["mask"], [MASK, ~MASK])
    channels = given.batch(tiny.config_of(COLOUR), list(IMAGES), np.broadcast_to(MASK, (8, 8, 3)))["mask"]
    np.testing.assert_array_equal(channels, np.broadcast_to(MASK, IMAGES.shape))
    boxed = given.read(tiny.config_of(named | {"edit.mask": "", "edit.box": (2, 3, 3, 4)}))[1]
    np.testing.assert_array_equal(boxed["mask"], [MASK, MASK])


def test_the_images_of_a_row_are_called_by_its_ends(folder):
    names, rows = given.read(tiny.config_of({"edit.task": "interpolate", "edit.images": str(folder / "masks")}))
    assert names == [f"1_to_2_0{i}" for i in range(8)]
    np.testing.assert_allclose(rows["weight"], np.arange(8) / 7, rtol=1e-6)
    np.testing.assert_array_equal(rows["other"] == 255, np.broadcast_to(~MASK, (8, 8, 8, 1)))


def test_grey_and_colour_become_each_other_where_nothing_is_lost(folder):
    Image.fromarray(IMAGES[1, ..., 0]).convert("RGB").save(folder / "grey.png")
    config = {"edit.task": "vary", "edit.images": str(folder / "grey.png")}
    np.testing.assert_array_equal(given.read(tiny.config_of(config))[1]["x"], IMAGES[1:2, ..., :1])
    as_colour = given.read(tiny.config_of(config | COLOUR | {"edit.images": str(folder / "images" / "1.png")}))[1]["x"]
    np.testing.assert_array_equal(as_colour, IMAGES[1:2, ..., :1].repeat(3, -1))


def test_a_network_of_classes_is_told_the_class_or_that_there_is_none():
    classes = {"model.num_classes": 10}
    with pytest.raises(UserError, match="sample.label = -1 does not say of which class the images are.* 0 to 9"):
        edits.settled(tiny.config_of(classes))
    assert edits.settled(tiny.config_of(classes | {"sample.label": 3})).sample.label == 3
    assert edits.settled(tiny.config_of(classes | {"model.null_label": True})).sample.label == 10
    with pytest.raises(UserError, match="sample.guidance = 2.0 needs sample.label, which says what the images show"):
        edits.settled(tiny.config_of(classes | {"model.null_label": True, "sample.guidance": 2.0}))


def test_repaint_needs_a_grid_on_which_it_can_jump():
    with pytest.raises(UserError, match="edit.jump_length = 10 is not allowed on a grid of 3 steps; it must be below 3"):
        edits.settled(tiny.config_of({"edit.task": "repaint"}))
    assert edits.settled(tiny.config_of({"edit.task": "repaint", "edit.num_resamples": 1}))
    with pytest.raises(UserError, match="edit.num_resamples = 10 is not allowed on a grid of one step; it must be 1"):
        edits.settled(tiny.config_of({"edit.task": "repaint", "sample.num_steps": 1}))


def test_from_one_image_to_another_leads_no_single_step():
    with pytest.raises(UserError, match="edit.task = 'interpolate' is impossible in one step; set sample.num_steps = 2"):
        edits.settled(tiny.config_of({"edit.task": "interpolate", "sample.num_steps": 1}))
    assert edits.settled(tiny.config_of({"edit.task": "interpolate", "sample.num_steps": 2}))


def test_a_classifier_does_not_edit():
    classifier = {"model.kind": "noisy_classifier", "loss.name": "cross_entropy", "model.num_classes": 10}
    with pytest.raises(UserError, match="model.kind = 'noisy_classifier' is a classifier: it draws no images"):
        edits.settled(tiny.config_of(classifier))


def test_a_network_that_is_shown_an_image_does_not_edit():
    with pytest.raises(UserError, match="data.condition = 'edges': a network that is shown an image does not edit"):
        edits.settled(tiny.config_of({"data.condition": "edges"}))


def test_a_run_with_any_sampler_may_edit():
    ode = tiny.config_of({"sample.sampler": "ode", "sample.clip": "none"})
    heun = {"process.kind": "ve", "loss.time_density": "log_normal", "predicts": "edm", "sample.sampler": "heun"}
    heun |= {"sample.grid": "uniform", "sample.last_level": "min_noise", "sample.churn": (1.0, 0.0, 50.0, 1.0)}
    for config in (ode, tiny.config_of(heun)):
        settings = edits.settled(config).sample
        assert (settings.sampler, settings.last_level, settings.churn[0]) == ("ddim", "data", 0)


MISTAKES = {
    "no images": ({"images": ""}, "edit.images = '' is missing; it must be an image file, a folder or an .npz file"),
    "no such file": ({"mask": "/nowhere.png"}, "edit.mask = '/nowhere.png' does not exist"),
    "not an image": ({"mask": "broken.png"}, "edit.mask: image file 'broken.png' cannot be used (not an image)"),
    "an empty folder": ({"images": "empty"}, "edit.images = 'empty' does not contain images"),
    "sizes": ({"images": "large.png"}, "image 'large' is [16, 8, 1]; edit.task = 'inpaint' with this model takes [8, 8, 1]"),
    "colours": ({"images": "colour.png"}, "image 'colour' is [8, 8, 3]"),
    "several sizes": ({"images": "mixed"}, "edit.images: image 'large' is [16, 8, 1] and 'a' is [8, 8, 1]; all must be of"),
    "size of the mask": ({"mask": "large.png"}, "mask of [1, 16, 8, 1] does not fit images of [3, 8, 8, 1]"),
    "a black mask": ({"mask": "black.png"}, "the mask has no free pixel"),
    "a missing mask": ({"mask": "masks"}, "edit.mask = 'masks' has no mask for 'some/0'"),
    "mask and box": ({"box": "(0,0,2,2)"}, "needs either edit.mask or edit.box; both are given"),
    "neither": ({"mask": ""}, "needs either edit.mask or edit.box; neither is given"),
    "a large box": (
        {"mask": "", "box": "(6,0,3,2)"},
        "edit.box = (6, 0, 3, 2) is (top, left, height, width), and reaches beyond",
    ),
    "half a box": ({"mask": "", "box": "(6,0)"}, "edit.box = (6, 0) is not allowed; it must be a tuple of 0 or 4 whole"),
    "far sides": (
        {"task": "outpaint", "sides": "(0,1025,0,0)"},
        "a tuple of 4 whole numbers, each from 0 to 1024",
    ),
    "a wide blur": (
        {"task": "deblur", "blur_std": "1e9"},
        "edit.blur_std = 1000000000.0 is not allowed",
    ),
    "no sides": ({"task": "outpaint"}, "edit.sides = (0, 0, 0, 0) makes 8 x 8 pixels of 8 x 8; it must add some"),
    "strength": ({"task": "vary", "strength": 1.5}, "edit.strength = 1.5 is not allowed; it must be a number from 0 to 1"),
    "factor": ({"task": "super_resolve", "factor": 3}, "edit.task = 'super_resolve' does not fit this model: factor = 3"),
    "no colours": ({"task": "colourise"}, "edit.task = 'colourise' does not fit this model: images of [..., 1] have no"),
    "unknown": ({"task": "upscale"}, "edit.task = 'upscale' is not allowed; it must be one of colourise, deblur, inpaint"),
    "one name": (
        {"images": "twins"},
        "twins' has 'a.bmp' and 'a.png', which differ in the suffix alone; rename one",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_does_not_fit_is_one_sentence_and_nothing_is_written(trained, folder, name, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    grey = Image.fromarray(IMAGES[0, ..., 0])
    for place in ("empty", "mixed", "twins"):
        (folder / place).mkdir()
    (folder / "broken.png").write_bytes(b"broken")
    Image.fromarray(IMAGES[0]).save("colour.png")
    Image.new("L", (8, 8)).save("black.png")
    for file in ("large.png", "mixed/large.png"):
        Image.new("L", (8, 16), 255).save(file)
    for file in ("mixed/a.png", "twins/a.png", "twins/a.bmp"):
        grey.save(file)
    before, (settings, sentence) = files.listing(trained), MISTAKES[name]
    assert main.main([*flags(trained, folder, **settings), "--out=out"]) == command.BAD_INPUT
    err = capsys.readouterr().err
    assert err.startswith("error: ") and sentence in err and err.count("\n") == 1
    assert not (folder / "out").exists() and files.listing(trained) == before


def test_results_do_not_lie_among_the_images(trained, folder, capsys):
    assert main.main([*flags(trained, folder), f"--out={folder / 'images' / 'out'}"]) == command.BAD_INPUT
    assert "results would be taken for given images; choose another --out" in capsys.readouterr().err
    shutil.copytree(trained, folder / "images" / "run")
    assert main.main(flags(folder / "images" / "run", folder)) == command.BAD_INPUT


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"images": IMAGES[0]}, r"images = uint8\[8, 8, 3\] is not allowed; it must be uint8 \[N, H, W, C\]"),
        ({"images": IMAGES / 255}, r"images = float64\[3, 8, 8, 3\] is not allowed"),
        ({"mask": MASK * 255}, "mask of values 0 to 255 is not allowed; 1 is free, 0 is known"),
        ({"mask": MASK, "task": "vary"}, "a mask does not fit task = 'vary'"),
        ({"step": 3}, r"setting 'step' selects the weights; pass it to load\(\)"),
        ({"stregth": 0.3}, "'sample.stregth' is unknown"),
    ],
)
def test_arrays_and_settings_that_do_not_fit_are_one_sentence(colour, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        colour.edit(**{"images": IMAGES, "task": "inpaint"} | arguments)


def test_the_loaded_model_edits_as_the_command_does(trained, folder):
    assert main.main([*flags(trained, folder), f"--out={folder / 'out'}"]) == 0
    image = IMAGES[1:2, ..., :1]
    found = dj.load(trained).edit(image, task="inpaint", mask=MASK)
    np.testing.assert_array_equal(found[0, ..., 0], np.asarray(Image.open(folder / "out" / "images" / "1.png")))
