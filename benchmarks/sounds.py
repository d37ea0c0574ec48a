"""What does the Frechet distance of spectrograms say of drums that are damaged in a known way, and of generated ones?

    python benchmarks/sounds.py
    python benchmarks/sounds.py --dump=runs/drums/samples_..._/samples_1000x1024x1.npz

Compares 1,000 sounds with 1,000 of the training set of configs/drums.py, in `audio.features`: 8 times x 16 bands, in
decibels. They are held-out ones as they are (the floor), with white noise at some levels, backwards, a fifth lower, and
without one class. With --dump also those of a dump, and the strongest frequencies of its tones against their law, by the
statistic of Kolmogorov and Smirnov. Writes benchmarks/sounds.json.
"""

import argparse
import json
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from configs import drums as settings
from diffusion_jax.data import audio, drums, feed
from diffusion_jax.metrics import frechet

NUM_SOUNDS = 1000
NOISES = (-60, -50, -40, -30)  # root mean square, in decibels of full scale


def noisy(sounds: np.ndarray, level: float) -> np.ndarray:
    """Returns sounds with white noise of a level in decibels of full scale."""
    noise = 32768 * 10 ** (level / 20) * np.random.default_rng(0).standard_normal(sounds.shape)
    return np.clip(np.round(sounds + noise), -32768, 32767).astype(np.int16)


def lower(sounds: np.ndarray) -> np.ndarray:
    """Returns sounds at two thirds of their frequencies, by linear interpolation."""
    places, whole = np.arange(sounds.shape[1]) * 2 / 3, np.arange(sounds.shape[1])
    return np.stack([np.interp(places, whole, sound[:, 0]) for sound in sounds]).astype(np.int16)[..., None]


def ks_of_tones(sounds: np.ndarray, sample_rate: int) -> float:
    """Returns the largest distance of the tones' frequencies from their law, which is uniform in the logarithm."""
    low, high = np.log(drums.TONE)
    places = np.sort((np.log(np.maximum(drums.pitch(sounds, sample_rate), 1)) - low) / (high - low))
    ends = np.arange(len(places) + 1) / len(places)
    return float(max(np.max(ends[1:] - places.clip(0, 1)), np.max(places.clip(0, 1) - ends[:-1])))


def main() -> int:
    """Writes benchmarks/sounds.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dump", default="", help="samples_*.npz of a run of configs/drums.py")
    dump, data = parser.parse_args().dump, settings.get_config().data
    train, test = (
        feed.read(drums.drums(image_size=data.image_size, sample_rate=data.sample_rate, split=split), range(NUM_SOUNDS))
        for split in ("", "test")
    )
    held_out, labels = test["x"], test["cond"]["label"]
    sets = {"held out": held_out}
    sets |= {f"noise {level} dB": noisy(held_out, level) for level in NOISES}
    sets |= {"backwards": held_out[:, ::-1], "a fifth lower": lower(held_out), "without tones": held_out[labels != 3]}
    tones = {"held out": held_out[labels == 3]}
    if dump:
        with np.load(dump, allow_pickle=False) as stored:
            sets["generated"], tones["generated"] = stored["arr_0"], stored["arr_0"][stored["arr_1"] == 3]
    known, result = frechet.of_features(audio.features(train["x"])), {"command": " ".join(sys.argv), "distances": {}}
    for name, sounds in sets.items():
        found = frechet.frechet_distance(audio.features(sounds), known)
        result["distances"][name] = {"frechet": found.value, "standard_error": found.standard_error, "num": len(sounds)}
        print(f"{name:15} {found.value:9.1f} +- {found.standard_error:.1f}")
    result["ks_of_tones"] = {
        name: {"statistic": ks_of_tones(sounds, data.sample_rate), "num": len(sounds)} for name, sounds in tones.items()
    }
    print(result["ks_of_tones"])
    (ROOT / "benchmarks" / "sounds.json").write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
