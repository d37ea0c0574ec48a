"""Short sounds made by formulas with random parameters: a data set of any length and sample rate that needs no file."""

import numpy as np

from diffusion_jax.data import audio
from diffusion_jax.data.sources import Record, Source, labelled, seed_of_split

NUM_SOUNDS = 8000  # of each split
CLASSES = ("hat", "kick", "snare", "tone")
TONE = (150.0, 1200.0)  # Hz; the logarithm of a tone's frequency is uniform between them
FADE = 0.002  # seconds, in which each begins and ends


def drums(*, image_size: tuple[int], sample_rate: int, split: str = "") -> Source:
    """Returns 8,000 one-channel sounds in four classes: hats, kicks, snares and decaying tones; see `drum`.

    Raises UserError for a split other than '' and 'test', which has other sounds.

    Args:
        image_size: (samples of each,).
        sample_rate: samples a second.
        split: of the set.
    """
    seed = seed_of_split("drums", split)

    def read(number: int) -> Record:
        label = number % len(CLASSES)
        rng = np.random.default_rng([seed, number])
        return labelled(drum(CLASSES[label], rng, length=image_size[0], sample_rate=sample_rate), label)

    return Source(NUM_SOUNDS, read, CLASSES, len(CLASSES))


def drum(kind: str, rng: np.random.Generator, *, length: int, sample_rate: int) -> np.ndarray:
    """Returns a sound of a class, of full scale. # int16 [length, 1]

    A kick is a sine that falls to a low frequency, a snare a sine and white noise, a hat noise whose low frequencies are
    weak, a tone a sine and its octave. Each part decays exponentially. Frequencies and times of decay are random, each
    logarithm uniform between two bounds.
    """
    t = np.arange(length) / sample_rate

    def drawn(low: float, high: float) -> float:
        return low * (high / low) ** rng.random()

    def decaying(low: float, high: float) -> np.ndarray:
        return np.exp(-t / drawn(low, high))

    def sine(frequency: np.ndarray | float) -> np.ndarray:
        return np.sin(2 * np.pi * np.cumsum(np.broadcast_to(frequency, t.shape)) / sample_rate)

    if kind == "kick":
        sound = sine(drawn(40, 70) + drawn(150, 400) * decaying(0.01, 0.03)) * decaying(0.05, 0.12)
    elif kind == "snare":
        sound = sine(drawn(160, 260)) * decaying(0.02, 0.06)
        sound += drawn(0.3, 1) * rng.standard_normal(length) / 2 * decaying(0.03, 0.08)
    elif kind == "hat":
        sound = np.diff(rng.standard_normal(length + 2), 2) * decaying(0.01, 0.06)
    else:
        frequency = drawn(*TONE)
        sound = (sine(frequency) + drawn(0.1, 0.6) * sine(2 * frequency)) * decaying(0.05, 0.2)
    return audio.with_peak((sound * np.minimum(1, np.minimum(t, t[-1] - t) / FADE))[:, None])


def pitch(sounds: np.ndarray, sample_rate: int) -> np.ndarray:
    """Returns the strongest frequency of sounds, by a Fourier transform with zeros after each. # Hz, [N]

    Args:
        sounds: int16 [N, L, 1].
        sample_rate: samples a second.
    """
    size = 8 * sounds.shape[1]
    return np.argmax(np.abs(np.fft.rfft(sounds[..., 0], size)), axis=-1) * sample_rate / size
