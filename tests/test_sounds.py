"""Folders and .npz files of sounds, and a run on sounds: what it writes, and what is refused in one sentence."""

import functools
import io
import sys
import wave

import numpy as np
import pytest

import main
from diffusion_jax.compose import inputs
from diffusion_jax.compose.config import Config
from diffusion_jax.data import audio, feed, media, sources
from diffusion_jax.errors import UserError
from diffusion_jax.runs import dump

SOUNDS = {"medium": "sounds", "source": "folder", "sample_rate": 4000, "image_size": (64,), "channels": 1}
SOUNDS |= {"held_out": "", "random_flip": False}


def of(folder, **data):
    """Returns the training set of a folder of sounds."""
    return inputs.source(Config().with_values("data", **SOUNDS | {"path": str(folder)} | data))


def tone(frequency, seconds, sample_rate):
    return np.round(10_000 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * sample_rate)) / sample_rate))


def write(file, samples, sample_rate):
    """Writes a file of 16 bits, of samples [L] or [L, C], in the format of its suffix."""
    soundfile = pytest.importorskip("soundfile", reason="soundfile reads files of sounds")
    file.parent.mkdir(exist_ok=True)
    soundfile.write(file, np.asarray(samples).astype(np.int16), sample_rate)


def test_sub_folders_of_wav_and_flac_are_classes_and_what_is_shorter_is_followed_by_zeros(tmp_path):
    long, short = tone(500, 1, 4000), tone(500, 0.008, 4000)
    write(tmp_path / "kick" / "a.wav", long, 4000)
    write(tmp_path / "snare" / "b.FLAC", short, 4000)
    (tmp_path / "notes.txt").write_text("")
    found = sources.folder(path=str(tmp_path), medium=media.SOUNDS, image_shape=(64, 1), sample_rate=4000)
    assert (found.num_images, found.class_names, found.left_out) == (2, ("kick", "snare"), "1 .txt")
    records = feed.read(found)
    assert records["cond"]["label"].tolist() == [0, 1] and records["x"].dtype == np.int16
    np.testing.assert_allclose(records["x"][0, :, 0], long[:64] * 3.2767, atol=1)
    np.testing.assert_allclose(records["x"][1, :, 0], np.pad(short * 3.2767, (0, 32)), atol=1)


@pytest.mark.parametrize("sample_rate", [2000, 4000, 11_025, 44_100])
def test_files_of_any_rate_have_the_pitch_that_they_had(tmp_path, sample_rate):
    """Each is the sine itself, at the rate that is asked for, but for the filter's rise at the beginning."""
    write(tmp_path / "a.wav", tone(500, 1, sample_rate), sample_rate)
    x = of(tmp_path, image_size=(512,)).read(0)["x"][64:, 0] / 32768
    sine, cosine = (of_angle(2 * np.pi * 500 * np.arange(64, 512) / 4000) for of_angle in (np.sin, np.cos))
    assert abs(np.mean(x * cosine)) < 0.005 and np.mean(x * sine) == pytest.approx(0.5, abs=0.04)
    assert np.std(x - 2 * np.mean(x * sine) * sine) < 0.005


def test_mono_and_stereo_become_each_other(tmp_path):
    left, right = tone(500, 0.1, 4000), tone(250, 0.1, 4000)
    write(tmp_path / "mono" / "a.wav", left, 4000)
    write(tmp_path / "stereo" / "a.wav", np.stack([left, right], axis=1), 4000)
    two = of(tmp_path / "mono", channels=2).read(0)["x"]
    assert two.shape == (64, 2) and np.array_equal(two[:, 0], two[:, 1]) and np.max(two) == 32767
    mean, expected = of(tmp_path / "stereo").read(0)["x"][:, 0], (left + right)[:64]
    np.testing.assert_allclose(mean, expected * 32767 / np.max(np.abs(expected)), atol=2)
    both = of(tmp_path / "stereo", channels=2).read(0)["x"]
    np.testing.assert_allclose(both, np.stack([left, right], axis=1)[:64] * 3.2767, atol=1)


def test_sounds_that_cannot_be_read_are_named_with_the_reason_and_left_out_if_asked(tmp_path):
    write(tmp_path / "a.wav", tone(500, 0.1, 4000), 4000)
    write(tmp_path / "b.wav", np.zeros((100, 3)), 4000)
    write(tmp_path / "c.wav", [], 4000)
    (tmp_path / "d.wav").write_text("text")
    reasons = "1 of 3 channels, not 2 .*b.wav'.*, 1 without samples, .*c.wav'.*, 1 not WAV or FLAC, or damaged .*d.wav'"
    with pytest.raises(
        UserError, match=f"^3 of 4 sounds cannot be read: {reasons}.*; mend or remove them, or set data.skip"
    ):
        feed.read(of(tmp_path, channels=2))
    left = of(tmp_path, channels=2, skip_broken=True)
    assert left.num_images == 1 and left.skipped.startswith("3 of 4 sounds cannot be read")
    with pytest.raises(
        UserError, match=r"^sound file '.*d.wav' cannot be read \(not WAV or FLAC, or damaged\); remove it, or"
    ):
        of(tmp_path).read(3)
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"does not contain sounds; it must contain .flac, .wav files"):
        of(empty)


def test_without_soundfile_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError, match="^data.medium = 'sounds' reads files by a package: pip install soundfile.$"):
        audio.read(io.BytesIO(), shape=(8, 1), sample_rate=4000)


def test_sounds_of_an_npz_file_are_int16(tmp_path):
    file, stored = tmp_path / "sounds.npz", np.arange(12, dtype=np.int16).reshape(3, 4)
    for arrays in (stored, stored[..., None]):
        np.savez(file, arr_0=arrays, labels=[0, 1, 1])
        assert sources.npz(path=str(file), medium=media.SOUNDS).read(2)["x"].tolist() == [[8], [9], [10], [11]]
    np.savez(file, arr_0=stored.astype(np.float32))
    with pytest.raises(UserError, match=r"must hold 'images' or 'arr_0' as int16 \[N, L, C\]; found float32 \[3, 4\]"):
        sources.npz(path=str(file), medium=media.SOUNDS)


@pytest.mark.parametrize(
    ("flag", "sentence"),
    {
        "data.medium=images": "config field data.source = 'drums' has sounds; found data.medium = 'images'.",
        "data.source=idx": "config field data.source = 'idx' has images; found data.medium = 'sounds'.",
        "data.image_size=(1000,)": "data.image_size = (1000,) does not fit stages of 16, 32, 32, 64, 64 channels; each",
        "data.channels=2": "say [1024, 2], but the data are [1024, 1]; set data.image_size = (1024,) and data.channels = 1.",
        "model.kind=dit": "config field model.kind = 'dit' does not fit data.medium = 'sounds'; it must be 'unet'.",
        "evaluate.features=inception": "does not fit data.medium = 'sounds'; it must be 'given' or 'pixels' or",
    }.items(),
)
def test_what_sounds_have_not_is_one_sentence(tmp_path, capsys, flag, sentence):
    assert main.main(["main.py", f"--workdir={tmp_path / 'w'}", "--config=configs/drums.py", f"--config.{flag}"]) == 2
    assert sentence in capsys.readouterr().err


def test_a_dump_of_sounds_has_a_wav_file_of_each_that_is_pictured(tmp_path):
    sounds, medium = np.random.default_rng(0).integers(-32768, 32768, (20, 64, 2), np.int16), media.SOUNDS
    write_one = functools.partial(medium.write, sample_rate=4000)
    look = dump.Look(medium.dtype, 3, medium.grid, medium.num_pictured, write_one, medium.written)
    options = {"manifest": {}, "num_images": 20, "shard_size": 8}
    file = dump.write(tmp_path / "dump", lambda first: [sounds[first:]], look=look, **options)
    with np.load(file) as stored:
        np.testing.assert_array_equal(stored["arr_0"], sounds)
    assert sorted(found.name for found in file.parent.glob("*.wav")) == [f"{number:03d}.wav" for number in range(16)]
    with wave.open(str(file.parent / "003.wav")) as opened:
        assert opened.getframerate() == 4000
        np.testing.assert_array_equal(np.frombuffer(opened.readframes(64), "<i2").reshape(64, 2), sounds[3])


@pytest.mark.slow
def test_a_run_on_sounds_writes_a_picture_and_wav_files_and_is_evaluated(tmp_path, capsys):
    small = ["data.image_size=(128,)", "model.channels=16", "model.multipliers=(1,1)", "model.attention_stages=(1,)"]
    small += ["train.num_steps=20", "train.batch_size=8", "train.log_every=20", "train.checkpoint_every=20"]
    small += ["train.sample_every=20", "train.tensorboard=False", "sample.num_images=20", "sample.batch_per_device=20"]
    small += ["sample.num_steps=4", "evaluate.num_images=20", "evaluate.num_real=40", "data.device_cache_gib=0.1"]
    flags = [f"--workdir={tmp_path / 'run'}", *(f"--config.{flag}" for flag in small)]
    assert main.main(["main.py", "--config=configs/drums.py", *flags]) == 0
    assert "drums: 8,000 sounds, 128 x 1, on the devices" in capsys.readouterr().out
    assert main.main(["main.py", "--mode=sample", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'dump'}"]) == 0
    with np.load(tmp_path / "dump" / "samples_20x128x1.npz") as stored:
        sounds = stored["arr_0"]
    assert sounds.dtype == np.int16 and sounds.shape == (20, 128, 1) and np.std(sounds) > 0
    assert len(list((tmp_path / "dump").glob("*.wav"))) == 16 and (tmp_path / "dump" / "grid.png").exists()
    with wave.open(str(tmp_path / "dump" / "003.wav")) as opened:
        assert opened.getframerate() == 4000
        np.testing.assert_array_equal(np.frombuffer(opened.readframes(128), "<i2"), sounds[3, :, 0])
    assert main.main(["main.py", "--mode=evaluate", f"--workdir={tmp_path / 'run'}", "--config.evaluate.num_images=20"]) == 0
    assert "frechet" in capsys.readouterr().out.lower()
