"""Stable Diffusion 1 and 2 in diffusers' folders: the network, which is a UNet2DConditionModel, and its encoder of text."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from diffusion_jax.errors import UserError
from diffusion_jax.runs import storage
from diffusion_jax.weights import diffusers, maps, schedulers, sources, tensors, text
from diffusion_jax.weights.sources import Published, Source

KIND = "UNet2DConditionModel"
NEEDED = {  # what our network computes, and what a UNet2DConditionModel is where config.json is silent; SDXL's options first
    "addition_embed_type": None,
    "class_embed_type": None,
    "num_class_embeds": None,
    "encoder_hid_dim_type": None,
    "encoder_hid_dim": None,
    "transformer_layers_per_block": 1,
    "num_attention_heads": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "only_cross_attention": False,
    "mid_block_only_cross_attention": None,
    "dual_cross_attention": False,
    "cross_attention_norm": None,
    "attention_type": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "timestep_post_act": None,
    "time_embedding_act_fn": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
}
# of its blocks -> those of a UNet2DModel, which have attention in the same places; others have the same names
TYPES = {"CrossAttnDownBlock2D": "AttnDownBlock2D", "CrossAttnUpBlock2D": "AttnUpBlock2D"}
NUM_TOKENS = 77  # of CLIP's texts
END = "<|endoftext|>"
TOKENS = {"bos_token": "<|startoftext|>", "eos_token": END, "pad_token": END}  # unless a tokenizer's settings say others
FIELDS: dict[str, Any] = {"model.text": "folder", "model.text_block": "transformer", "model.text_length": NUM_TOKENS}
FIELDS |= {"train.label_dropout": 0.1, "sample.clip": "none", "sample.guidance": 7.5}  # a network that knows "no text"
FIELDS |= {"sample.num_images": 4, "sample.batch_per_device": 1}
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # of CLIP's tokenizer


def published(source: Source) -> Published | None:
    """Returns a UNet2DConditionModel, with what its scheduler says of the process; None for another model.

    Raises UserError for options that our network does not have, as those of SDXL, and where config.json is missing.
    """
    found = sources.part(source.tensors, "down_blocks.0.resnets.0.conv1.weight")
    if not found or not any(".attn2." in name for name in found):
        return None
    options = diffusers.options_of(source, KIND, diffusers.DEFAULTS | NEEDED)
    diffusers.check(options, NEEDED | {"in_channels": options["out_channels"]})
    fields, notes = schedulers.fields(source.settings.get("scheduler_config"))
    fields |= diffusers.fields_of(_as_unet2d(options)) | _heads(options) | FIELDS
    cosines_first = options["flip_sin_to_cos"]
    return Published(
        fields,
        found,
        lambda like, model: diffusers.map_of(like, cosines_first=cosines_first),
        notes,
        (("model.text_folder",),),
    )


def _as_unet2d(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a UNet2DModel with the same residual blocks, and attention in the same places."""
    blocks = {name: [TYPES.get(kind, kind) for kind in options[name]] for name in ("down_block_types", "up_block_types")}
    same = {name: diffusers.DEFAULTS[name] for name in ("mid_block_type", "attention_head_dim")}
    return {**options, **blocks, **same}


def _heads(options: Mapping[str, Any]) -> dict[str, int]:
    """Returns the heads of attention: what is named `attention_head_dim` is their number, one for all stages or one each."""
    given, widths = options["attention_head_dim"], options["block_out_channels"]
    if not isinstance(given, list):
        return {"model.num_heads": given, "model.head_channels": 0}
    channels = {width / number for width, number in zip(widths, given, strict=True)}
    if len(channels) > 1:
        raise UserError(
            f"config.json has attention_head_dim = {given}, numbers of heads; in stages of {widths} channels the heads must "
            "have as many channels each."
        )
    return {"model.head_channels": int(channels.pop())}


def write_encoder(folder: storage.Path, tokenizer: storage.Path, out: storage.Path, found: maps.Tensors) -> int:
    """Writes the folder of an encoder of text as `text.load` reads it; returns how many tokens it gives.

    Its tokenizer.json fills texts up to that number, as the network was trained on. Raises UserError where a file is missing
    or damaged, and for an encoder that is not CLIP's.

    Args:
        folder: with its config.json.
        tokenizer: the folder of its tokenizer.
        out: the folder to write.
        found: its tensors.
    """
    kind, network = text.network_of(folder)
    if kind != "clip_text_model":
        raise UserError(f"folder of a text encoder {str(folder)!r}: model_type is {kind!r}; it must be 'clip_text_model'.")
    said, length = _tokenizer(tokenizer)
    like = jax.eval_shape(network.init, jax.random.key(0))
    params = jax.tree.map(np.float32, text.read(kind, found, like))
    storage.write_bytes(out / "model.safetensors", tensors.as_bytes(maps.write(params, text.map_of(kind, like))))
    storage.write_text(out / "tokenizer.json", said)
    storage.write_text(out / "config.json", storage.read_text(folder / "config.json", text.FILES))
    return min(length, network.most_tokens)


def _tokenizer(folder: storage.Path) -> tuple[str, int]:
    """Returns the tokenizer.json of CLIP's tokenizer in a folder, and how many tokens its texts have."""
    settings = {}
    for name in ("tokenizer_config", "special_tokens_map"):  # the second counts, where both name a token
        if (file := folder / f"{name}.json").exists():
            settings |= sources.read_json(file)
    given = [settings.get(name, default) for name, default in TOKENS.items()]
    start, end, pad = (of.get("content", "") if isinstance(of, dict) else of for of in given)
    is_whole = (file := folder / "tokenizer.json").exists()
    said = storage.read_text(file, text.FILES) if is_whole else json.dumps(_of_words(folder, start, end))
    made = text.tokenizer_of(said, str(file))
    length, number = min(settings.get("model_max_length", NUM_TOKENS), NUM_TOKENS), made.token_to_id(pad)
    if number is None:
        raise UserError(f"tokenizer {str(folder)!r} has no token {pad!r}, with which it fills texts up.")
    made.enable_padding(pad_id=number, pad_token=pad, length=length)
    return made.to_str(), length


def _of_words(folder: storage.Path, start: str, end: str) -> dict[str, Any]:
    """Returns the tokenizer.json of CLIP's vocab.json and merges.txt. [Radford et al. 2021, section 2.4]"""
    ids = sources.read_json(folder / "vocab.json")
    _, *merges = storage.read_text(folder / "merges.txt", text.FILES).splitlines()  # the first line is a version
    words = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": True}
    flags = {"add_prefix_space": False, "trim_offsets": False}
    special = {"special": True, **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)}
    spaces = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    model = {"type": "BPE", "unk_token": end, "end_of_word_suffix": "</w>", "vocab": ids, "merges": [*filter(None, merges)]}
    return {
        "version": "1.0",
        "added_tokens": [{"id": ids.get(token), "content": token, **special} for token in (start, end)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, spaces, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, {"type": "ByteLevel", "use_regex": True, **flags}]},
        "post_processor": {"type": "RobertaProcessing", "sep": [end, ids.get(end)], "cls": [start, ids.get(start)], **flags},
        "model": model,
    }
