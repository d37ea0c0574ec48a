"""Sounds, int16 [L, C] from -32,768 to 32,767: out of WAV and FLAC files, as x_0, as spectrograms, as WAV files."""

import io
import math
import wave
from typing import BinaryIO

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax.errors import needed
from diffusion_jax.runs import pictures

SUFFIXES = (".flac", ".wav")
FORMATS = ("FLAC", "RF64", "WAV", "WAVEX")  # as libsndfile names them
RATES = (1000, 768_000)  # samples a second, of files
FULL_SCALE = 32768.0
FLOOR = -60.0  # decibels: what is quieter in a spectrogram counts as this
SIDE = 64  # times, and bands, of a picture
FEATURES = (8, 16)  # times and bands


def read(file: BinaryIO, *, shape: tuple[int, int], sample_rate: int) -> np.ndarray:
    """Returns the beginning of a WAV or FLAC file. # int16 [L, C]

    What is longer is cut off, and zeros follow what is shorter. Several channels become one as their mean, and one becomes
    several equal ones. The sample rate is changed by a polyphase filter. Then the sound is scaled to full scale: see
    `with_peak`.

    Raises UserError where soundfile is not installed; ValueError, in words that many files share, for another file.

    Args:
        file: what to read.
        shape: (L, C).
        sample_rate: of the result, samples a second.
    """
    soundfile = needed("soundfile", "data.medium = 'sounds' reads files by a package: pip install soundfile.")
    length, channels = shape
    try:
        with soundfile.SoundFile(file) as opened:
            rate, stored = opened.samplerate, opened.channels
            if opened.format not in FORMATS or not RATES[0] <= rate <= RATES[1]:
                raise ValueError(f"{opened.format} of {rate} Hz")
            wanted = math.ceil(length * rate / sample_rate) + 20 * math.ceil(rate / sample_rate)  # with the filter's tail
            samples = opened.read(wanted, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError("not WAV or FLAC, or damaged") from error
    if stored != channels and 1 not in (stored, channels):
        raise ValueError(f"of {stored} channels, not {channels}")
    if len(samples) == 0 or not np.all(np.isfinite(samples)):
        raise ValueError("without samples, or with some that are not numbers")
    samples = samples if stored == channels else samples.mean(axis=1, keepdims=True).repeat(channels, axis=1)
    beginning = resampled(samples, rate, sample_rate)[:length]
    return with_peak(np.pad(beginning, ((0, length - len(beginning)), (0, 0))))


def resampled(samples: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """Returns sounds, floating point [L, C], of `rate` samples a second at another sample rate, by a polyphase filter."""
    from scipy import signal  # takes half a second

    factor = math.gcd(rate, sample_rate)
    return signal.resample_poly(samples, sample_rate // factor, rate // factor)


def from_int16(sounds: Array) -> Array:
    """Returns int16 sounds in [-1, 1) as x / 32768, in float32."""
    return sounds.astype(jnp.float32) / FULL_SCALE


def to_int16(x: Array) -> Array:
    """Returns sounds in [-1, 1) as the nearest int16; values outside are clipped."""
    return jnp.clip(jnp.round(x * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(jnp.int16)


def spectrogram(sounds: np.ndarray, num_times: int, num_bands: int) -> np.ndarray:
    """Returns the power of sounds by time and frequency, in decibels of that of a sine of full scale.

    The squared magnitudes of Fourier transforms of Hann windows, which overlap by half or more, averaged in bands of equal
    width up to half the sample rate, and over channels. Power below -60 dB counts as -60 dB.

    Args:
        sounds: int16 [N, L, C].
        num_times: windows; they begin at equal distances from the first sample on, and see zeros after the last.
        num_bands: without the band of frequency 0.

    Returns:
        float32 [N, num_times, num_bands].
    """
    num, length, channels = sounds.shape
    hop = -(-length // num_times)
    size = 2 * num_bands * -(-2 * hop // (2 * num_bands))  # of a window: a multiple, and at least two hops
    padded = np.pad(sounds / np.float32(FULL_SCALE), ((0, 0), (0, num_times * hop + size - length), (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)[:, : num_times * hop : hop]  # [N, T, C, size]
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    amplitudes = np.abs(np.fft.rfft(views * window, axis=-1))[..., 1:] / (np.sum(window) / 2)
    powers = np.square(amplitudes).reshape(num, num_times, channels, num_bands, -1).mean(axis=(2, 4))
    return np.maximum(10 * np.log10(np.maximum(powers, 1e-30)), FLOOR).astype(np.float32)


def features(sounds: np.ndarray) -> np.ndarray:
    """Returns the spectrograms of int16 sounds [N, L, C] at 8 times in 16 bands, in decibels. # float32 [N, 128]"""
    return spectrogram(sounds, *FEATURES).reshape(len(sounds), -1)


def grid(sounds: np.ndarray, *, num_columns: int = 0) -> np.ndarray:
    """Returns a picture of the spectrograms of int16 sounds [N, L, C]: time to the right, frequency upwards.

    Black is -60 dB, white 0 dB. See `pictures.grid`.
    """
    levels = spectrogram(sounds, SIDE, SIDE).swapaxes(1, 2)[:, ::-1, :, None]
    return pictures.grid(np.round(255 * (1 - levels / FLOOR)).astype(np.uint8), num_columns=num_columns, min_size=2 * SIDE)


def wav(sound: np.ndarray, sample_rate: int) -> bytes:
    """Returns a WAV file's bytes.

    Args:
        sound: int16 [L, C].
        sample_rate: samples a second.
    """
    file = io.BytesIO()
    with wave.open(file, "wb") as opened:
        opened.setparams((sound.shape[1], 2, sample_rate, 0, "NONE", ""))
        opened.writeframes(sound.astype("<i2").tobytes())
    return file.getvalue()


def with_peak(sound: np.ndarray) -> np.ndarray:
    """Returns a sound, floating point [L, C], scaled so that its largest magnitude is 32,767; silence stays. # int16"""
    return np.round(sound * (32767 / max(np.max(np.abs(sound), initial=0.0), 1e-9))).astype(np.int16)
