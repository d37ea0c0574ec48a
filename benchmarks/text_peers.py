"""What transformers says of encoders of text, for tests/goldens/g15_text.npz.

    text_peers.py MINILM

MINILM is the folder with the weights of all-MiniLM-L6-v2. Of it every 16th channel is recorded. The other three encoders
are small and have random weights, rounded to float16, which are recorded with what they say: KIND.weight.NAME,
KIND.config (JSON), KIND.tokens, KIND.mask, KIND.output. Needs torch and transformers, which the library does not.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers

OUT = pathlib.Path(__file__).parents[1] / "tests" / "goldens" / "g15_text.npz"
SENTENCES = ["red heart", "", "A smiling cat, with heart-shaped eyes!", "naïve Übermensch 心 🍕 xyzzyplugh", "the " * 40]
LENGTH = 16
SIZES = {"vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
KINDS = {
    "bert": (transformers.BertModel, transformers.BertConfig(**SIZES, max_position_embeddings=20)),
    "clip_text_model": (
        transformers.CLIPTextModel,
        transformers.CLIPTextConfig(**SIZES, max_position_embeddings=20, eos_token_id=2, bos_token_id=1, pad_token_id=0),
    ),
    "t5": (
        transformers.T5EncoderModel,
        transformers.T5Config(
            vocab_size=24, d_model=16, d_kv=6, d_ff=24, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
        ),
    ),
}


def of_kind(kind: str) -> dict[str, np.ndarray]:
    """Returns what is recorded of a small encoder; half of its lengths go beyond T5's single distances."""
    torch.manual_seed(0)
    make, config = KINDS[kind]
    model = make(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 1.0 if "norm" not in name.lower() else 0.3
            parameter.copy_((spread * torch.randn_like(parameter) * 0.4 + ("norm" in name.lower())).half().float())
    tokens = torch.randint(3, 24, (3, 20))
    mask = torch.arange(20)[None] < torch.tensor([[20], [7], [2]])
    with torch.no_grad():
        output = model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    found = {f"weight.{name}": value.numpy() for name, value in model.state_dict().items() if "position_ids" not in name}
    found = {name: value.astype(np.float16) for name, value in found.items() if "embed_tokens" not in name}
    found |= {"config": np.array(json.dumps(config.to_dict(), default=str, sort_keys=True))}
    return found | {"tokens": tokens.numpy(), "mask": mask.numpy(), "output": output.numpy()}


def of_minilm(folder: str) -> dict[str, np.ndarray]:
    """Returns what is recorded of MiniLM."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder).eval()
    given = tokenizer(SENTENCES, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**given).last_hidden_state[..., ::16]
    tokens, mask = given["input_ids"].numpy(), given["attention_mask"].numpy().astype(bool)
    return {"sentences": np.array(SENTENCES), "tokens": tokens, "mask": mask, "output": output.numpy()}


if __name__ == "__main__":
    found = {f"{kind}.{name}": value for kind in KINDS for name, value in of_kind(kind).items()}
    found |= {f"minilm.{name}": value for name, value in of_minilm(sys.argv[1]).items()}
    np.savez_compressed(OUT, **found)
