"""Does a recogniser of speech hear the digits that a run of configs/spoken_digits.py was asked for?

    pip install pocketsphinx scikit-learn
    python benchmarks/spoken_digits.py
    python benchmarks/spoken_digits.py --workdir=runs/spoken_digits

Two judges say which digit each sound is: of 500 of the training set, of 500 held-out ones, and with --workdir of 500 that
the run draws, 50 of each digit, and of 500 with guidance. pocketsphinx 5.1, whose acoustic model of American English knows
neither the data nor espeak-ng, hears one of ten words, in white noise: digital silence is unlike all that its model knows.
The level of this noise was chosen on sounds of the training set. A logistic regression of `audio.features` has learned the
held-out sounds. Beside these shares is the Frechet distance in these features to 1,000 other sounds of the training set.

Writes benchmarks/spoken_digits.json, with a row for each digit that was asked for: how often which was heard, the last
number for none. With --workdir also docs/images/spoken_digits_generated.png: a held-out sound of each digit above a
generated one.
"""

import argparse
import json
import pathlib
import platform
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import diffusion_jax as dj
from benchmarks import sounds as drums
from configs import spoken_digits as settings
from diffusion_jax.data import audio
from diffusion_jax.metrics import frechet
from diffusion_jax.runs import pictures
from diffusion_jax.tools.fetch.spoken_digits import WORDS

NUM_SOUNDS, NUM_KNOWN, GUIDANCE = 500, 1000, 2.0
SAMPLE_RATE, PAUSE = 16_000, 2400  # of the recogniser; samples before and after
NOISE = -44  # decibels of full scale, of which the speech has half
GRAMMAR = f"#JSGF V1.0; grammar digits; public <digit> = {' | '.join(WORDS)};"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", default="", help="a run of configs/spoken_digits.py")
    workdir, data = parser.parse_args().workdir, settings.get_config().data
    (training, digits), (held_out, labels) = (shuffled(path) for path in (data.path, data.held_out))
    judge, known = classifier(held_out, labels), frechet.of_features(audio.features(training[-NUM_KNOWN:]))
    sets = {"training set": (training[:NUM_SOUNDS], digits[:NUM_SOUNDS])}
    sets["held out"] = held_out[:NUM_SOUNDS], labels[:NUM_SOUNDS]
    result = {
        "command": " ".join(["python", *sys.argv]),
        "hardware": f"{platform.machine()}, CPU",
        "num_sounds": NUM_SOUNDS,
        "words": WORDS,
    }
    if workdir:
        trained, asked = dj.load(workdir), np.arange(NUM_SOUNDS) % len(WORDS)
        sets["generated"] = trained.sample(NUM_SOUNDS), asked
        sets[f"generated, guidance {GUIDANCE}"] = trained.sample(NUM_SOUNDS, guidance=GUIDANCE), asked
        result["checkpoint_step"] = trained.step
        write_picture(sets["held out"], sets["generated"])
    for name, (x, wanted) in sets.items():
        words, features = heard(x, data.sample_rate), audio.features(x)
        distance = frechet.frechet_distance(features, known)
        result[name] = {
            "recogniser": agreement(words, wanted),
            "recogniser, labels shuffled": agreement(words, np.random.default_rng(0).permutation(wanted)),
            "classifier": agreement(judge.predict(features), wanted) if name != "held out" else "learned these",
            "frechet": {"value": distance.value, "standard_error": distance.standard_error},
        }
        print(name, json.dumps(result[name]))
    (ROOT / "benchmarks" / "spoken_digits.json").write_text(json.dumps(result, indent=2) + "\n")


def write_picture(*sets: tuple[np.ndarray, np.ndarray]) -> None:
    """Writes the spectrograms of the first sound of each digit, a row for each pair of sounds and digits."""
    shown = [x[digits == digit][0] for x, digits in sets for digit in range(len(WORDS))]
    picture = pictures.encode_png(audio.grid(np.stack(shown), num_columns=len(WORDS)))
    (ROOT / "docs" / "images" / "spoken_digits_generated.png").write_bytes(picture)


def shuffled(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (sounds, digits) of an .npz file in random order."""
    with np.load(path, allow_pickle=False) as stored:
        rows = np.random.default_rng(0).permutation(len(stored["labels"]))
        return stored["images"][rows], stored["labels"][rows]


def heard(sounds: np.ndarray, sample_rate: int) -> np.ndarray:
    """Returns the digits that pocketsphinx hears in int16 sounds [N, L, 1], 10 where it hears none. # int [N]"""
    import pocketsphinx

    decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL")
    decoder.add_jsgf_string("digits", GRAMMAR)
    decoder.activate_search("digits")
    halves = audio.resampled(sounds[..., 0].T.astype(np.float32) / 2, sample_rate, SAMPLE_RATE).T
    found = []
    for sound in drums.noisy(np.pad(halves, ((0, 0), (PAUSE, PAUSE)))[..., None], NOISE):
        decoder.start_utt()
        decoder.process_raw(sound.tobytes(), no_search=False, full_utt=True)
        decoder.end_utt()
        said = decoder.hyp()
        found.append(WORDS.index(said.hypstr) if said and said.hypstr in WORDS else len(WORDS))
    return np.array(found)


def classifier(sounds: np.ndarray, digits: np.ndarray):
    """Returns scikit-learn's logistic regression of digits on the features of sounds."""
    from sklearn import linear_model, pipeline, preprocessing

    model = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=1000))
    return model.fit(audio.features(sounds), digits)


def agreement(found: np.ndarray, digits: np.ndarray) -> dict:
    """Returns the share of sounds that are of their digit, and how many of each digit, a row, were taken for which."""
    share, table = float(np.mean(found == digits)), np.zeros((len(WORDS), len(WORDS) + 1), int)
    np.add.at(table, (digits, found), 1)
    return {
        "share": share,
        "standard_error": float(np.sqrt(share * (1 - share) / len(digits))),
        "heard": [" ".join(map(str, row)) for row in table],
    }


if __name__ == "__main__":
    main()
