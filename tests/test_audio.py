"""Sounds: stored and x_0, spectrograms and their closed form, WAV files, and the sounds that formulas make."""

import io
import wave

import numpy as np
import pytest

from diffusion_jax.data import audio, drums
from diffusion_jax.errors import UserError


def sine(frequency, *, length=2048, sample_rate=8000, amplitude=32767):
    return np.round(amplitude * np.sin(2 * np.pi * frequency * np.arange(length) / sample_rate)).astype(np.int16)


def test_every_stored_value_comes_back_and_what_is_louder_is_clipped():
    stored = np.arange(-32768, 32768, dtype=np.int16)
    x_0 = audio.from_int16(stored)
    assert x_0.dtype == np.float32 and x_0.min() == -1 and x_0.max() == 32767 / 32768
    np.testing.assert_array_equal(audio.to_int16(x_0), stored)
    np.testing.assert_array_equal(audio.to_int16(np.float32([-1.1, 1.0, 7])), [-32768, 32767, 32767])


@pytest.mark.parametrize("amplitude", [32767, 3277])
def test_a_spectrogram_of_a_sine_is_its_closed_form(amplitude):
    """A Hann window gives a sine's power to three frequencies, 1, 1/4 and 1/4; a band of 16 averages them."""
    sounds = np.stack([sine(1125, amplitude=amplitude), np.zeros(2048, np.int16)], axis=-1)[None]
    found = audio.spectrogram(sounds, 8, 16)[0]
    expected = 20 * np.log10(amplitude / 32768) + 10 * np.log10(1.5 / 16 / 2)
    assert found.shape == (8, 16)
    np.testing.assert_allclose(found[:7, 4], expected, atol=0.01)
    np.testing.assert_array_equal(np.delete(found, 4, axis=1)[:7], audio.FLOOR)
    assert audio.features(sounds).shape == (1, 128)


def test_a_picture_has_time_to_the_right_and_frequency_upwards():
    fading = np.clip(np.cos(np.pi * np.arange(2048) / 2048), 0, 1)  # to 0 in the middle; an abrupt end has all frequencies
    picture = audio.grid((sine(3900) * fading).astype(np.int16)[None, :, None])[2:-2, 2:-2, 0]
    assert picture.shape == (128, 128) and picture[:6, :60].max() > 150
    assert picture[16:].max() < 30 and picture[:, 70:].max() == 0


@pytest.mark.parametrize("num_channels", [1, 2])
def test_a_wav_file_has_the_samples_as_they_are(num_channels):
    sound = np.random.default_rng(0).integers(-32768, 32768, (100, num_channels), np.int16)
    with wave.open(io.BytesIO(audio.wav(sound, 8000))) as opened:
        assert opened.getparams()[:4] == (num_channels, 2, 8000, 100)
        np.testing.assert_array_equal(np.frombuffer(opened.readframes(100), "<i2").reshape(100, -1), sound)


def test_drums_are_the_same_each_time_of_full_scale_and_other_ones_are_held_out():
    train, again, test = (drums.drums(image_size=(512,), sample_rate=4000, split=split) for split in ("", "", "test"))
    assert train.class_names == ("hat", "kick", "snare", "tone") and train.num_classes == 4
    for number in range(8):
        record = train.read(number)
        assert record["cond"]["label"] == number % 4 and record["x"].shape == (512, 1) and record["x"].dtype == np.int16
        assert np.max(np.abs(record["x"])) == 32767 and record["x"][0] == record["x"][-1] == 0
        np.testing.assert_array_equal(record["x"], again.read(number)["x"])
        assert np.any(record["x"] != test.read(number)["x"])
    with pytest.raises(UserError, match="^split 'train' is unknown; data.source = 'drums' has 'test' beside the training"):
        drums.drums(image_size=(512,), sample_rate=4000, split="train")


def test_the_logarithms_of_the_tones_frequencies_are_uniform():
    source = drums.drums(image_size=(2048,), sample_rate=8000)
    peaks = drums.pitch(np.stack([source.read(number)["x"] for number in range(3, 803, 4)]), 8000)
    low, high = np.log(drums.TONE)
    places = np.sort((np.log(peaks) - low) / (high - low))
    assert np.max(np.abs(places - (np.arange(200) + 0.5) / 200)) < 1.63 / np.sqrt(200)  # Kolmogorov and Smirnov, at 1%
