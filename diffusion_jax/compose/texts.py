"""What a config says of texts: the encoder, the captions of images, and the prompts of generated ones.

An encoder is frozen, so that each distinct caption is encoded once; its vectors are kept in the user's cache folder.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion_jax import errors
from diffusion_jax.compose.config import Config
from diffusion_jax.data.sources import Record, Source
from diffusion_jax.errors import UserError
from diffusion_jax.runs import arrays, logs, storage
from diffusion_jax.weights import text
from diffusion_jax.weights.text import TextEncoder

MINILM = (384, 512)  # width and most tokens, known without the package
NAMES_A_FILE = "@"  # how a prompt begins that is in a file


class _Encoded(NamedTuple):
    """Captions as an encoder gives them."""

    vectors: np.ndarray  # of all tokens, float16 [T, D]
    starts: np.ndarray  # where those of each caption begin and end, int [N + 1]
    num_cut: np.ndarray  # how many captions have more tokens, int []


def shape(config: Config) -> tuple[int, int]:
    """Returns the shape (L, D) of a text as a network gets it; (L, 0) where it gets none."""
    return config.model.text_length, _sizes(config.model.text, config.model.text_folder)[0]


@functools.lru_cache(maxsize=4)
def _sizes(name: str, folder: str) -> tuple[int, int]:
    """Returns the width of a token's vector, and how many tokens a text may have."""
    if name != "folder":
        return MINILM if name == "minilm" else (0, 0)
    with errors.of("config field model.text_folder: "):
        _, network = text.network_of(storage.path(folder))
    return network.width, network.most_tokens


def encoder(config: Config) -> TextEncoder:
    """Returns the encoder that a config names; UserError where its package, or a file of it, is missing or damaged."""
    return _loaded(str(text.folder_of_minilm() if config.model.text == "minilm" else config.model.text_folder))


@functools.lru_cache(maxsize=1)
def _loaded(folder: str) -> TextEncoder:
    return text.load(storage.path(folder))


def encoded(config: Config, texts: Sequence[str]) -> np.ndarray:
    """Returns texts as a network gets them. A token of zeros is padding. # float16 [N, L, D]"""
    found = np.zeros((len(texts), *shape(config)), np.float16)
    for row, vectors in zip(found, encoder(config).encode(texts, config.model.text_length), strict=True):
        row[: len(vectors)] = vectors
    return found


def empty(config: Config) -> np.ndarray:
    """Returns the empty text, which stands for no text. # float16 [L, D]"""
    return encoded(config, [""])[0]


def prompts(config: Config) -> list[str]:
    """Returns the prompts that `sample.prompt` says, one a line, at least one; UserError where they are in no file."""
    given = config.sample.prompt
    if given.startswith(NAMES_A_FILE):
        file = storage.path(given.removeprefix(NAMES_A_FILE))
        if not file.exists():
            raise UserError(
                f"{config.show('sample.prompt')} names a file that does not exist; it must have a prompt a line."
            )
        given = storage.read_text(file, "a folder with a file of prompts")
    return given.splitlines() or [""]


def of_prompts(config: Config) -> np.ndarray:
    """Returns the prompts as a network gets them. # float16 [n, L, D]"""
    return encoded(config, prompts(config))


def identity(config: Config) -> dict[str, Any]:
    """Returns what texts depend on, for a manifest; {} for none."""
    if config.model.text == "none":
        return {}
    of_prompts = hashlib.sha256("\n".join(prompts(config)).encode("utf-8", "replace")).hexdigest()
    return {"text": {"encoder_sha256": encoder(config).sha256, "prompts_sha256": of_prompts}}


def captioned(config: Config, source: Source) -> Source:
    """Returns a source whose records have their captions' vectors, cond["text"], float16 [L, D]."""
    length, distinct = shape(config), sorted(set(source.captions))
    row = {caption: i for i, caption in enumerate(distinct)}
    vectors, starts, num_cut = _cached(config, distinct)
    _say_cut(config, "captions", int(num_cut), len(distinct))

    def read(number: int) -> Record:
        i, padded = row[source.captions[number]], np.zeros(length, np.float16)
        found = vectors[starts[i] : starts[i + 1]]
        padded[: len(found)] = found
        record = source.read(number)
        return {**record, "cond": {**record["cond"], "text": padded}}

    return source._replace(read=read)


def prompted(config: Config, shown: Source | None, nothing: np.ndarray) -> Source:
    """Returns a source whose record i has prompt i % n, cond["text"], beside image i % m of what is shown.

    Args:
        config: with the prompts.
        shown: images of which the network is shown something, or None.
        nothing: stands for an image that is not shown.
    """
    given = [*prompts(config), *filter(None, [config.sample.negative_prompt])]
    _say_cut(config, "prompts", encoder(config).num_cut(given, config.model.text_length), len(given))
    vectors = of_prompts(config)

    def read(number: int) -> Record:
        record = shown.read(number % shown.num_images) if shown else {"x": nothing, "cond": {}}
        return {**record, "cond": {**record["cond"], "text": vectors[number % len(vectors)]}}

    return Source(config.sample.num_images, read)


def _say_cut(config: Config, kind: str, num_cut: int, num_texts: int) -> None:
    """Says how many texts are longer than what the network is told of them."""
    if num_cut:
        length = config.model.text_length
        logs.say(kind, f"{num_cut:,} of {num_texts:,} have more than model.text_length = {length} tokens, and are cut")


def _cached(config: Config, captions: Sequence[str]) -> _Encoded:
    """Returns captions encoded.

    They are kept in a file that is named by what they depend on: the encoder, the captions, and how many tokens each has.
    """
    of, length = encoder(config), config.model.text_length
    key = digest([of.sha256, str(length), *captions])
    kept = storage.user_cache() / "captions" / f"{key}.npz"
    try:
        with storage.reading(kept) as file:
            return _Encoded(**arrays.read_npz(file, _Encoded._fields))
    except Exception:  # it is not there, or damaged: NumPy has a dozen names for that
        found = _encoded_all(of, captions, length)
    try:
        with storage.writing(kept) as file:
            np.savez(file, **found._asdict())
    except OSError as error:
        logs.say("captions", f"their vectors are not kept in {kept.parent}: {error}")
    return found


def _encoded_all(of: TextEncoder, captions: Sequence[str], length: int) -> _Encoded:
    found, progress = [], logs.Progress("captions", total=len(captions))
    for start in range(0, len(captions), text.AT_ONCE):
        found += of.encode(captions[start : start + text.AT_ONCE], length)
        progress.update(len(found))
    logs.clear_progress()
    starts = np.cumsum([0, *map(len, found)])
    return _Encoded(np.concatenate(found), starts, np.array(of.num_cut(captions, length)))


def digest(texts: Sequence[str]) -> str:
    """Returns 16 hexadecimal digits by which lists of texts are told apart."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]


def contradictions(config: Config) -> Iterator[str]:
    """Yields a sentence for everything that does not fit together in texts."""
    model = config.model
    if (model.text == "folder") != bool(model.text_folder):
        yield f"{config.show('model.text_folder')} does not fit model.text = {model.text!r}: 'folder' needs {text.FILES}."
    if model.text == "none" and model.text_block == "transformer":
        yield f"{config.show('model.text_block')} attends to a text, and model.text is 'none'; set 'attention'."
    for name in ("sample.prompt", "sample.negative_prompt") if model.text == "none" else ():
        if config.flat()[name]:
            yield f"{config.show(name)} is for a network that is given texts, and model.text is 'none'; leave it empty."
    if model.text != "none" and model.text_length > (most := _sizes(model.text, model.text_folder)[1]):
        yield f"{config.show('model.text_length')} is more than the {most} tokens that the encoder takes."
