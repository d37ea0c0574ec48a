"""Whether images show what their prompts say: of a run with captions, by the real images that are nearest to what it draws.

    python benchmarks/text_retrieval.py --workdir=runs/emoji_text --name=emoji --guidance 1 3 --picture

The prompts are captions that were held out, evenly spaced, each with one image. Distances are Euclidean in the features of
EfficientNet-lite0. `words` is the share of a prompt's words that the caption of the nearest training image has. `rank` is
the share of the held-out images that are farther from the drawn image than the one of which the prompt is the caption. The
row 'chance' gives each image the prompts of all others; 'no prompt' draws without one; 'real' takes the held-out image.
Writes benchmarks/text_retrieval_<name>.json, and with --picture docs/images/text_<name>.png.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import sys
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from diffusion_jax import evaluation
from diffusion_jax.compose import stored
from diffusion_jax.data import feed, sources
from diffusion_jax.runs import pictures

PICTURED = [
    "red heart",
    "yellow star",
    "smiling face",
    "angry red face",
    "black cat",
    "blue car",
    "green apple",
    "house",
    "full moon",
    "clock",
    "man running dark skin",
    "thumbs up light skin",
    "keycap 5",
    "arrow pointing left",
    "pizza",
    "whale",
    "train",
    "tree",
    "rose",
    "umbrella",
    "snowman",
    "crown",
    "blue square",
    "flag",
]
COLUMNS, SCALE, LINES, LETTER = (
    8,
    3,
    2,
    15,
)  # of the picture: images in a row, pixels for one, lines of a prompt, their height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="of the run")
    parser.add_argument("--name", required=True, help="of the result")
    parser.add_argument("--num", type=int, default=96, help="prompts")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0], help="scales; 1 is without guidance")
    parser.add_argument("--picture", action="store_true", help="whether to draw some prompts, with the last scale")
    flags = parser.parse_args()
    model = dj.load(flags.workdir)
    training, held_out = (read(path) for path in (model.config.data.path, model.config.data.held_out))
    numbers = np.unique(np.linspace(0, len(held_out[0]) - 1, flags.num).astype(int))
    prompts = [held_out[1][number] for number in numbers]
    extract = evaluation.extractor("efficientnet_lite0").extract
    of_training, of_held_out = (extract(images)["features"] for images, _ in (training, held_out))

    def row(images: np.ndarray, told: bool = True) -> dict[str, list[float]]:
        features = extract(images)["features"]
        nearest = [training[1][i] for i in np.argmin(distances(features, of_training), axis=1)]
        words = np.array([[share_of_words(prompt, caption) for caption in nearest] for prompt in prompts])
        ranks = ranks_of(distances(features, of_held_out), numbers)
        return {
            "words": mean(np.diag(words) if told else others(words)),
            "rank": mean(np.diag(ranks) if told else others(ranks)),
        }

    drawn = {scale: draw(model, prompts, guidance=scale) for scale in flags.guidance}
    rows = {f"guidance {scale:g}": row(images) for scale, images in drawn.items()}
    rows |= {"chance": row(drawn[flags.guidance[-1]], told=False)}
    rows |= {"no prompt": row(draw(model, [""] * len(prompts), guidance=1.0)), "real": row(held_out[0][numbers])}
    result = {"command": " ".join(["python", "benchmarks/text_retrieval.py", *sys.argv[1:]]), "step": model.step}
    result |= {"num_prompts": len(prompts), "num_training": len(training[0]), "num_held_out": len(held_out[0])}
    result |= {"machine": f"{os.cpu_count()} CPU cores, {platform.machine()}", "versions": stored.versions(), "rows": rows}
    text = json.dumps(result, indent=1)
    (ROOT / "benchmarks" / f"text_retrieval_{flags.name}.json").write_text(text + "\n")
    print(text)
    if flags.picture:
        images = draw(model, PICTURED, guidance=flags.guidance[-1])
        (ROOT / "docs" / "images" / f"text_{flags.name}.png").write_bytes(pictures.encode_png(captioned(images, PICTURED)))


def read(path: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the images and the captions of an .npz file."""
    source = sources.npz(path=path, captions=True)
    return feed.read(source)["x"], source.captions


def draw(model: dj.Model, prompts: list[str], **settings) -> np.ndarray:
    """Returns an image of each prompt."""
    return model.sample(len(prompts), prompt="\n".join(prompts), batch_per_device=24, **settings)


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the squared distance of each row of one to each of the other."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    return np.sum(one**2, 1)[:, None] + np.sum(other**2, 1) - 2 * one @ other.T


def share_of_words(prompt: str, caption: str) -> float:
    asked, found = (set(re.findall(r"\w+", text)) for text in (prompt, caption))
    return len(asked & found) / len(asked)


def ranks_of(to_held_out: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Returns, for prompt i and drawn image j, which share of the held-out images is farther from j than that of i."""
    own = to_held_out[:, numbers]
    return np.stack([np.mean(to_held_out > own[:, [i]], axis=1) for i in range(len(numbers))])


def others(table: np.ndarray) -> np.ndarray:
    """Returns the mean of each row without its diagonal."""
    return (table.sum(1) - np.diag(table)) / (len(table) - 1)


def mean(values: np.ndarray) -> list[float]:
    """Returns the mean over prompts and its standard error."""
    return [round(float(np.mean(values)), 4), round(float(np.std(values, ddof=1) / np.sqrt(len(values))), 4)]


def captioned(images: np.ndarray, prompts: list[str]) -> np.ndarray:
    """Returns a picture of images with their prompts under them."""
    side = images.shape[1] * SCALE
    height, width = side + LINES * LETTER + 8, side + 8
    rows = -(-len(images) // COLUMNS)
    picture = Image.new("RGB", (COLUMNS * width, rows * height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(LETTER - 3)
    for i, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        left, top = i % COLUMNS * width + 4, i // COLUMNS * height + 4
        picture.paste(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST), (left, top))
        pen.multiline_text((left, top + side), "\n".join(textwrap.wrap(prompt, 15)[:LINES]), "black", font, spacing=1)
    return np.asarray(picture)


if __name__ == "__main__":
    main()
