"""Captions in training and prompts in sampling, as a config says them; what is kept of them, and what is refused."""

import json
import shutil

import files
import jax
import numpy as np
import pytest
import tiny
from PIL import Image
from test_guiding import alive

import diffusion_jax as dj
import main
from diffusion_jax.compose import (
    checks,
    chunked,
    command,
    frozen,
    guiding,
    inputs,
    processes,
    sample_conditions,
    stored,
    texts,
)
from diffusion_jax.data import captions as captions_of
from diffusion_jax.data import sources, tar
from diffusion_jax.errors import UserError
from diffusion_jax.runs import checkpoint, storage
from diffusion_jax.tools import shards
from diffusion_jax.weights import text

pytest.importorskip("tokenizers")
from test_latents import write_codec
from test_text import write_folder

CAPTIONS = ("red heart", "blue heart", "cat", "red heart")
TEXT = {"model.text": "folder", "model.text_length": 6, "train.label_dropout": 0.1, "train.ema_rates": ()}
FLAGS = {"data.source": "npz", "data.held_out": "", "sample.batch_per_device": 4}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache folder, empty; no encoder is remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    texts._loaded.cache_clear()
    return tmp_path / "cache" / "diffusion_jax" / "captions"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an encoder, a set with captions, and a run's weights, of which none is 0."""
    root = tmp_path_factory.mktemp("texts")
    write_folder(root / "encoder")
    write_npz(root / "set.npz", CAPTIONS)
    config = config_of(root)
    params = alive(jax.jit(processes.network(config).init)(jax.random.key(0)), 1)
    checkpoint.save_weights(storage.path(root / "run"), 2, params)
    stored.write_config(storage.path(root / "run"), config)
    return root


def write_npz(file, captions, **more):
    images = np.arange(len(captions) * 64, dtype=np.uint8).reshape(-1, 8, 8, 1)
    np.savez(file, images=images, **({"captions": np.array(captions)} if captions else {}), **more)


def config_of(root, **changes):
    places = {"model.text_folder": str(root / "encoder"), "data.path": str(root / "set.npz")}
    return tiny.config_of(TEXT | FLAGS | places | changes)


@pytest.fixture
def model(folder, one_device):
    return dj.load(folder / "run")


def draw(model, num_images=4, **settings):
    return model.sample(num_images, **settings)


def test_image_i_has_prompt_i_and_other_prompts_need_no_other_program(model, tmp_path):
    drawn = draw(model, prompt="red heart\n\ncat")
    before = chunked.compiled.cache_info().misses
    np.testing.assert_array_equal(draw(model, prompt="red heart")[[0]], drawn[[0]])
    np.testing.assert_array_equal(draw(model)[[1]], drawn[[1]])  # an empty line is no text
    np.testing.assert_array_equal(draw(model, prompt="cat")[[2]], drawn[[2]])
    np.testing.assert_array_equal(draw(model, prompt="red heart")[[3]], drawn[[3]])  # the first again
    assert np.any(draw(model, prompt="cat")[0] != drawn[0])
    (tmp_path / "prompts.txt").write_text("red heart\n\ncat\n")
    np.testing.assert_array_equal(draw(model, prompt=f"@{tmp_path}/prompts.txt"), drawn)
    assert chunked.compiled.cache_info().misses == before


def test_guidance_with_the_empty_prompt_is_unconditional_bit_for_bit(model):
    unguided = draw(model)
    np.testing.assert_array_equal(draw(model, guidance=4.0), unguided)
    assert np.any(draw(model, guidance=4.0, prompt="cat") != draw(model, prompt="cat"))


@pytest.mark.slow
def test_a_negative_prompt_is_led_away_from(model):
    guided = draw(model, guidance=4.0, prompt="cat")
    away = draw(model, guidance=4.0, prompt="cat", negative_prompt="blue heart")
    assert np.any(away != guided)
    np.testing.assert_array_equal(draw(model, guidance=4.0, prompt="cat", negative_prompt="cat"), draw(model, prompt="cat"))

    def denoise(x_t, level):
        ours, other = (model.denoiser(prompts=[prompt] * 4) for prompt in ("cat", "blue heart"))
        return dj.guidance.autoguidance(ours, other, scale=4.0)(x_t, level)

    level = processes.process_of(model.config).level(np.float64(10))
    x_t = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    config = model.config.with_values("sample", guidance=4.0, negative_prompt="blue heart")
    found = guiding.denoiser_of(config)(model.params, {"text": texts.encoded(config, ["cat"] * 4)})(x_t, level)
    np.testing.assert_allclose(found.x_0, denoise(x_t, level).x_0, rtol=0, atol=2e-4)


@pytest.mark.slow
def test_edits_know_the_prompt(model):
    images = np.full((2, 8, 8, 1), 100, np.uint8)
    changes = {"task": "vary", "strength": 0.5, "batch_per_device": 2}
    one, other = (model.edit(images, prompt=prompt, **changes) for prompt in ("cat", "red heart"))
    assert np.any(one != other)


def test_captions_are_encoded_once_and_again_when_they_or_the_encoder_change(folder, cache, monkeypatch, tmp_path):
    config, encoded = config_of(folder), []
    encode = text.TextEncoder.encode
    monkeypatch.setattr(
        text.TextEncoder, "encode", lambda self, given, length: encoded.append(list(given)) or encode(self, given, length)
    )
    source = inputs.source(config)
    assert encoded == [["blue heart", "cat", "red heart"]]
    expected = texts.encoded(config, CAPTIONS)
    for number in range(4):
        np.testing.assert_array_equal(source.read(number)["cond"]["text"], expected[number])
    encoded.clear()
    assert inputs.source(config).captions == CAPTIONS and not encoded
    [kept] = cache.iterdir()

    kept.write_bytes(kept.read_bytes()[:200])  # damaged
    np.testing.assert_array_equal(inputs.source(config).read(2)["cond"]["text"], expected[2])
    assert len(encoded) == 1
    inputs.source(config.with_values("model", text_length=5))
    write_npz(tmp_path / "other.npz", (*CAPTIONS[:3], "blue cat"))
    other = config.with_values("data", path=str(tmp_path / "other.npz"))
    before, after = (inputs.data_fingerprint(config, inputs.source(each)) for each in (config, other))
    assert len(encoded) == 3 and before != after

    write_folder(tmp_path / "encoder")
    settings = json.loads((tmp_path / "encoder" / "tokenizer.json").read_text())
    settings["model"]["vocab"] |= {"red": 5, "blue": 4}
    (tmp_path / "encoder" / "tokenizer.json").write_text(json.dumps(settings))
    inputs.source(config.with_values("model", text_folder=str(tmp_path / "encoder")))
    assert len(encoded) == 4 and len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("kind", ["lines", "files"])
def test_captions_of_a_folder(kind, tmp_path):
    (tmp_path / "sub").mkdir()
    names = ["b.png", "sub/a.png"]
    for name, caption in zip(names, ["two\n", "ünï"], strict=True):
        Image.new("L", (8, 8)).save(tmp_path / name)
        if kind == "files":
            (tmp_path / name).with_suffix(".txt").write_text(caption)
    if kind == "lines":
        rows = [{"file_name": "sub/a.png", "text": "ünï", "more": 1}, {"file_name": "b.png", "text": "two"}]
        (tmp_path / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    source = sources.folder(path=str(tmp_path), captions=True)
    assert dict(zip(names, source.captions, strict=True)) == {"b.png": "two", "sub/a.png": "ünï"}
    without = sources.folder(path=str(tmp_path))
    assert without.captions == () and without.left_out == {"files": "2 .txt", "lines": "1 .jsonl"}[kind]
    assert source.left_out == ""  # they are read


def test_texts_that_are_cut_are_said_each_time(folder, cache, capsys):
    config = config_of(
        folder, **{"model.text_length": 3, "sample.prompt": "cat\nred red red", "sample.negative_prompt": "dog"}
    )
    for _ in range(2):  # the second time the captions' vectors are in the cache
        inputs.source(config)
        assert "captions    2 of 3 have more than model.text_length = 3 tokens, and are cut" in capsys.readouterr().out
    sample_conditions.source(config)
    assert "prompts     1 of 3 have more than model.text_length = 3 tokens, and are cut" in capsys.readouterr().out


def test_captions_go_into_shards_and_are_read_with_an_index_and_without(folder, cache, tmp_path):
    config, out = config_of(folder, **{"data.random_flip": False}), tmp_path / "out"
    assert shards.run(config, storage.path(out), num_shards=2) == 0
    of_tar = config.with_values("data", source="tar", path=str(out))
    found, whole = inputs.source(of_tar), inputs.source(config)
    assert found.captions == CAPTIONS
    for number in range(4):
        np.testing.assert_array_equal(found.read(number)["x"], whole.read(number)["x"])
        np.testing.assert_array_equal(found.read(number)["cond"]["text"], whole.read(number)["cond"]["text"])
    (out / tar.INDEX).unlink()
    assert tar.source(path=str(out), captions=True).captions == CAPTIONS and tar.source(path=str(out)).captions == ()
    (out / "00001-of-00002.tar").write_bytes(files.tar({"a.png": files.encoded("PNG"), "a.txt": b"\xff\n", "b.txt": b""}))
    assert tar.source(path=str(out), captions=True).captions == (*CAPTIONS[:2], "\ufffd")
    (out / "00001-of-00002.tar").write_bytes(files.tar({"a.png": files.encoded("PNG")}))
    with pytest.raises(
        UserError,
        match="^1 of 3 images .* have no .txt, and no caption in a .json beside them; all must, or none.$",
    ):
        tar.source(path=str(out), captions=True)
    (out / "00000-of-00002.tar").unlink()
    with pytest.raises(UserError, match="data.path = .* has no captions: each image NAME.png needs its text in NAME.txt"):
        tar.source(path=str(out), captions=True)


def test_captions_in_json_are_read_from_shards_where_there_is_no_txt(tmp_path):
    members = {
        "a.json": b'{"caption": " one\\n", "text": "no"}',
        "b.json": b'{"text": "two"}',
        "c.json": b'{"caption": "no"}',
    }
    members |= {"c.txt": b"three"} | {f"{name}.png": files.encoded("PNG") for name in "abc"}
    for order in (members, dict(reversed(members.items()))):
        (tmp_path / "a.tar").write_bytes(files.tar(order))
        assert sorted(tar.source(path=str(tmp_path), captions=True).captions) == ["one", "three", "two"]
    for other in (b"[1]", b"{", b'{"caption": null}', b"[" * 10**5):
        (tmp_path / "a.tar").write_bytes(files.tar(members | {"a.json": other}))
        with pytest.raises(UserError, match="^1 of 3 images in the shards have no .txt, and no caption in a .json beside"):
            tar.source(path=str(tmp_path), captions=True)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"file_name": "b.png", "text": "x"}', r"has no caption for 1 of 1 images: 'a.png'; each needs a line"),
        ("nonsense", r"^line 1 of '.*metadata.jsonl' is not understood; it must be {\"file_name\": \"...\", \"text\""),
        ('{"file_name": "a.png", "text": 3}', "^line 1 of .* is not understood"),
        ("[1]", "^line 1 of .* is not understood"),
    ],
)
def test_an_image_without_a_caption_and_a_bad_line_are_said(line, sentence, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(UserError, match=sentence):
        sources.folder(path=str(tmp_path), captions=True)


def test_captions_of_an_npz_file_are_text_of_each_image(tmp_path):
    write_npz(tmp_path / "set.npz", CAPTIONS, labels=np.arange(4))
    found = sources.npz(path=str(tmp_path / "set.npz"), captions=True)
    assert found.captions == CAPTIONS and found.num_classes == 4
    assert sources.npz(path=str(tmp_path / "set.npz")).captions == ()
    write_npz(tmp_path / "set.npz", ())
    with pytest.raises(UserError, match=r"must hold 'captions' as text, \[0\].*; found no such array"):
        captions_of.of_array(None, 0, "x")
    with pytest.raises(UserError, match=r"must hold 'captions' as text, \[4\].*; found int64 \[4\]"):
        captions_of.of_array(np.arange(4), 4, "x")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.text": "none", "model.text_folder": ""}, ""),
        (
            {"model.text": "none", "model.text_folder": "", "train.label_dropout": 0.0, "sample.prompt": "red heart"},
            "sample.prompt = 'red heart' is for a network that is given texts, and model.text is 'none'; leave it empty",
        ),
        ({"model.kind": "ncsnpp"}, "model.text = 'folder' is for model.kind = 'dit' or 'unet'; set 'none'"),
        (
            {"model.text": "minilm"},
            "model.text_folder = .* does not fit model.text = 'minilm': 'folder' needs a folder with",
        ),
        ({"model.text_length": 21}, "model.text_length = 21 is more than the 20 tokens that the encoder takes"),
        (
            {"data.source": "digits"},
            "model.text = 'folder' needs captions: data.source = 'folder', 'npz', 'tar' or 'tfds'; found 'digits'",
        ),
        (
            {"train.label_dropout": 0.0, "sample.guidance": 2.0},
            "sample.guidance = 2.0 needs .* or no text .as in configs/emoji_text.py",
        ),
    ],
)
def test_contradictions(changes, sentence, folder):
    if not sentence:
        changes, sentence = changes | {"sample.negative_prompt": "x"}, "sample.negative_prompt = 'x' is for a network"
    with pytest.raises(UserError, match=f"^config field {sentence}"):
        checks.check(config_of(folder, **changes))


def test_a_prompt_that_cannot_be_read_or_has_no_use_is_said(model, trained):
    with pytest.raises(UserError, match="sample.prompt = '@nowhere.txt' names a file that does not exist; it must have"):
        draw(model, prompt="@nowhere.txt")
    with pytest.raises(
        UserError, match=r"text = None is not allowed; with config field model.text = 'folder' it must be fl"
    ):
        model.denoiser()
    with pytest.raises(UserError, match="sample.prompt = 'cat' is for a network that is given texts"):
        draw(dj.load(trained), prompt="cat")
    with pytest.raises(UserError, match="model.text = 'none' it must be None"):
        dj.load(trained)._cond(text=np.zeros((1, 2, 3), np.float16))


def test_a_workdir_has_its_encoder_and_no_other_of_that_name(folder, cache, tmp_path):
    """It may be moved, and the folder that it was trained with may change."""
    given = shutil.copytree(folder / "encoder", tmp_path / "encoder")
    config, workdir = (
        config_of(folder, **{"model.text_folder": str(given)}),
        shutil.copytree(folder / "run", tmp_path / "run"),
    )
    frozen.keep(config, storage.path(workdir))
    stored.write_config(storage.path(workdir), config, frozen_sha256=frozen.hashes(config))
    write_folder(given, weights=lambda name, tensor: 2 * tensor)
    shutil.move(workdir, moved := tmp_path / "moved")
    own = dj.load(moved).config
    assert own.model.text_folder == str(moved / "text_encoder")
    np.testing.assert_array_equal(texts.encoded(own, CAPTIONS), texts.encoded(config_of(folder), CAPTIONS))
    changed = f"model.text_folder = '{given}' has not the weights that workdir '{moved}' was trained with"
    with pytest.raises(UserError, match=f"{changed}.* Set --config.model.text_folder to a folder with those"):
        dj.model.restore(storage.path(moved), config)
    shutil.rmtree(moved / "text_encoder")
    with pytest.raises(UserError, match=changed):
        dj.load(moved)
    assert dj.model.restore(storage.path(moved), config_of(folder)).step == 2  # the same weights, elsewhere


def test_an_encoder_that_is_not_there_is_named(folder, cache, tmp_path):
    with pytest.raises(UserError, match="field model.text_folder: folder of a text encoder '.*nothing': there is no folder"):
        checks.check(config_of(folder, **{"model.text_folder": str(tmp_path / "nothing")}))


@pytest.mark.slow
def test_a_run_with_captions_resumes_and_draws_what_is_asked(folder, cache, tmp_path, one_device, capsys):
    encoder = shutil.copytree(folder / "encoder", tmp_path / "encoder")
    changes = TEXT | FLAGS | {"model.text_folder": encoder, "data.path": folder / "set.npz"}
    settings = tiny.SETTINGS | changes | {"train.num_steps": 2, "train.batch_size": 2, "sample.prompt": "cat"}
    flags = [f"--workdir={tmp_path / 'run'}", *(f"--config.{name}={value}" for name, value in settings.items())]
    train = ["main.py", "--config=configs/digits.py", *flags]
    assert main.main(train) == 0
    said = capsys.readouterr().out
    assert f"captions    3 distinct, as 6 tokens of {encoder}" in said
    shutil.move(encoder, tmp_path / "elsewhere")  # the workdir has its own
    assert main.main([*train, "--config.train.num_steps=4"]) == 0

    write_npz(tmp_path / "other.npz", (*CAPTIONS[:3], "blue cat"))
    other = [*train, "--config.train.num_steps=6", f"--config.data.path={tmp_path / 'other.npz'}"]
    assert main.main(other) == command.BAD_INPUT
    assert "was begun on other images (captions: " in capsys.readouterr().err

    drawing = ["main.py", "--mode=sample", f"--workdir={tmp_path / 'run'}", "--config.sample.num_images=2"]
    asked = ["--config.sample.prompt=red heart", "--config.sample.negative_prompt=cat", "--config.sample.guidance=2.0"]
    assert main.main([*drawing, *asked, f"--out={tmp_path / 'a'}"]) == 0
    assert main.main([*drawing, f"--out={tmp_path / 'a'}"]) == command.BAD_INPUT
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["sample"]["prompt"] == "red heart" and len(manifest["text"]["encoder_sha256"]) == 64
    images = np.load(tmp_path / "a" / "samples_2x8x8x1.npz")["arr_0"]
    settings = {"prompt": "red heart", "negative_prompt": "cat", "guidance": 2.0}
    np.testing.assert_array_equal(dj.load(tmp_path / "run").sample(2, **settings), images)


@pytest.mark.slow
def test_latents_are_drawn_of_prompts_too(folder, cache, tmp_path):
    """The latents of a set are kept without its captions, which another encoder would make other vectors of."""
    codec = write_codec(tmp_path / "codec", 0)
    of_latents = {"data.codec": codec, "data.random_flip": True, "model.multipliers": (1,), "sample.clip": "none"}
    config = config_of(folder, **of_latents, **{"train.num_steps": 2, "sample.num_steps": 2, "process.num_steps": 10})
    settings = [f"--config.{name}={value}".replace(" ", "") for name, value in config.flat().items() if value != ""]
    assert main.main(["main.py", "--config=configs/digits.py", f"--workdir={tmp_path / 'run'}", *settings]) == 0
    [shard] = (tmp_path / "run" / "latents").glob("training_*/shards/*.npz")
    assert set(np.load(shard)) == {"x"}
    model = dj.load(tmp_path / "run")
    model = model._replace(params=alive(model.params, 1))
    one, same, other = (model.sample(2, prompt=prompt) for prompt in ("red heart", "red heart", "cat"))
    np.testing.assert_array_equal(one, same)
    assert one.shape == (2, 8, 8, 1) and np.any(one != other)
