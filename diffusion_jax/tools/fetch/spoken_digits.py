"""The digits zero to nine, as the program espeak-ng says them in many voices: made here, from no recording.

So what a digit sounds like is as good as the program, and the set is the same on every machine with the same version of it.
"""

import io
import itertools
import re
import tempfile
import wave

import numpy as np

from diffusion_jax.data import audio
from diffusion_jax.runs import logs, storage
from diffusion_jax.tools.fetch import collection, packages
from diffusion_jax.tools.fetch.collection import Made, Picture

PROGRAM, TRIED = "espeak-ng", "1.51"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Accents of English, and speakers that sound human, without a whisper or an echo.
VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc", "en-029")
VARIANTS = ("m1", "m3", "m4", "m5", "m6", "m7", "f1", "f3")
HELD_OUT = tuple(f"{voice}+{variant}" for voice, variant in zip(VOICES, VARIANTS, strict=True))
PITCHES = (30, 40, 50, 60, 70)  # of 0 to 99
SPEEDS = (200, 220, 240)  # words a minute
SAMPLE_RATE, LENGTH = 8000, 4096
QUIET = round(32767 * 10 ** (-40 / 20))  # -40 dB of full scale: what begins and ends below it is cut off
LICENCE = "Made on this machine by {program} {version}. Its licence, GPL-3, is that of the program, not of what it says.\n"


def make() -> Made:
    """Returns sounds at 8 kHz, int16 [4096, 1], with the digit as their class.

    The held-out ones are of eight pairs of an accent and a speaker. Each accent and each speaker is in the training set, but
    not these two together. Raises UserError where espeak-ng is missing or says something too long, RunError where it fails.
    """
    takes = list(itertools.product(VOICES, VARIANTS, PITCHES, SPEEDS, range(len(WORDS))))
    sounds = []
    with tempfile.TemporaryDirectory() as folder:
        told = re.search(r"\d+(\.\d+)+", packages.ask([PROGRAM, "--version"], folder))
        about = {"program": PROGRAM, "version": told[0] if told else "unknown"}
        for voice, variant, pitch, speed, digit in logs.with_progress(takes, "sounds"):
            name = f"{voice}+{variant} {pitch} {speed} {digit}"
            said = ["-v", f"{voice}+{variant}", "-p", str(pitch), "-s", str(speed), "-w", "said.wav", WORDS[digit]]
            packages.ask([PROGRAM, *said], folder)
            with packages.understood(f"{PROGRAM}: {name}"):
                sounds.append(Picture(name, str(digit), fitted(storage.read_bytes(storage.path(folder) / "said.wav"))))
    if about["version"] != TRIED:
        logs.say("warning", f"{PROGRAM} is of version {about['version']}; the documents speak of {TRIED}.")
    about |= {"sample_rate": SAMPLE_RATE, "held_out": HELD_OUT}
    return collection.split("spoken_digits", sounds, _is_held_out, LICENCE.format(**about), about)


def fitted(content: bytes) -> np.ndarray:
    """Returns what a WAV file of one channel of 16 bits says, of full scale, without the silence around it, then zeros.

    Raises ValueError where that is nothing, or longer than 4,096 samples. # int16 [4096, 1]
    """
    with wave.open(io.BytesIO(content)) as opened:
        rate, samples = opened.getframerate(), np.frombuffer(opened.readframes(opened.getnframes()), "<i2")
    sound = audio.with_peak(audio.resampled(samples[:, None].astype(np.float32), rate, SAMPLE_RATE))
    loud = np.flatnonzero(np.abs(sound) > QUIET)
    if not 0 < (length := loud[-1] + 1 - loud[0] if len(loud) else 0) <= LENGTH:
        raise ValueError(f"{length:,} samples are not silent; 1 to {LENGTH:,} can be")
    return np.pad(sound[loud[0] :][:length], ((0, LENGTH - length), (0, 0)))


def _is_held_out(sound: Picture) -> bool:
    return sound.name.split(" ")[0] in HELD_OUT
