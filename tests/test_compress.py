"""Bits-back coding: images come back as they were, from files as long as the bound says, and bad files are refused."""

import re

import jax
import numpy as np
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax import ans, bits_back
from diffusion_jax.tools import compress, decompress

CHAIN = {"num_steps": 4, "variance": "large"}


@pytest.fixture(scope="module")
def packed(trained, tmp_path_factory):
    """The workdir, the images, and a file that holds them."""
    folder = tmp_path_factory.mktemp("compressed")
    images = np.stack([tiny.digits_source().read(number)["x"] for number in range(7)])
    np.savez(folder / "images.npz", images)
    asked = [f"--config.sample.{name}={value}" for name, value in CHAIN.items()]
    names = [f"--workdir={trained}", f"--images={folder / 'images.npz'}", f"--out={folder / 'out.bits'}"]
    assert compress.main(["compress", *names, *asked]) == 0
    return trained, images, folder / "out.bits"


def unpack(workdir, file, out):
    return decompress.main(["decompress", f"--workdir={workdir}", f"--file={file}", f"--out={out}"])


def test_the_same_bytes_come_back(packed, tmp_path, capsys):
    workdir, images, file = packed
    assert unpack(workdir, file, tmp_path / "again.npz") == 0
    assert "7 images, as they were" in capsys.readouterr().out
    with np.load(tmp_path / "again.npz") as found:
        np.testing.assert_array_equal(found["arr_0"], images)


@pytest.mark.parametrize("place", [3, 200, -1])
def test_a_damaged_file_is_refused(packed, tmp_path, capsys, place):
    workdir, _, file = packed
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    (tmp_path / "damaged.bits").write_bytes(content)
    assert unpack(workdir, tmp_path / "damaged.bits", tmp_path / "again.npz") == 2
    assert re.search(r"error: flag --file = '.*damaged.bits' is damaged, or not what tools.compress writes\.$", said(capsys))
    assert not (tmp_path / "again.npz").exists()


def test_other_weights_are_refused(packed, tmp_path, capsys, monkeypatch):
    workdir, _, file = packed
    monkeypatch.setattr(compress, "weights_of", lambda trained: "0123456789abcdef")
    assert unpack(workdir, file, tmp_path / "again.npz") == 2
    assert "is of other weights" in said(capsys)


def test_a_number_that_differs_in_its_last_bit_is_noticed(packed, tmp_path, capsys, monkeypatch):
    workdir, _, file = packed
    make_coder = compress.make_coder

    def elsewhere(trained):
        chain, law = make_coder(trained)
        return chain, lambda i, x: (np.nextafter(law(i, x)[0].astype(np.float32), 1), law(i, x)[1])

    monkeypatch.setattr(compress, "make_coder", elsewhere)
    assert unpack(workdir, file, tmp_path / "again.npz") == 1
    assert "the network's numbers differ here in their last bits" in said(capsys)
    assert not (tmp_path / "again.npz").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("sampler=ddim", "config field sample.sampler = 'ddim' does not sample from a chain of Gaussians"),
        ("last_level=min_noise", "config field sample.last_level = 'min_noise'"),
    ],
)
def test_what_has_no_chain_is_refused(packed, capsys, change, sentence):
    workdir, _, file = packed
    names = [f"--workdir={workdir}", f"--images={file.parent / 'images.npz'}", f"--out={file}"]
    asked = [f"--config.sample.{change}", "--config.sample.grid=linspace"]
    assert compress.main(["compress", *names, *asked]) == 2
    assert sentence in said(capsys)


def test_a_config_has_no_effect_on_unpacking(packed, capsys):
    workdir, _, file = packed
    flags = [f"--workdir={workdir}", f"--file={file}", f"--out={file.parent / 'again'}", "--config=configs/digits.py"]
    assert decompress.main(["decompress", *flags]) == 2
    assert "flag --config has no effect on this program; leave it out." in said(capsys)


def said(capsys) -> str:
    return capsys.readouterr().err.strip()


def test_the_file_is_as_long_as_the_bound():
    """The data are Gaussian pixels whose denoiser is known: the length is the bound's, but for the spread over images."""
    process = dj.chain(dj.cosine(100))
    grid = process.level(dj.trailing(process, 10))
    draws = np.random.default_rng(0)
    x_0 = np.clip(np.round(127.5 + 40 * draws.normal(size=(40, 64))), 0, 255).astype(np.uint8)
    variance = (40 / 127.5) ** 2

    def denoise(x_t, level):
        shrink = level.alpha * variance / (level.alpha**2 * variance + level.sigma**2)
        x_0 = shrink * x_t
        return dj.Prediction(x_0, (x_t - level.alpha * x_0) / level.sigma)

    @jax.jit
    def law_of(index, x):
        return dj.likelihood.reverse_law(denoise, x, grid, index, variance="small")

    def law(i, x):
        found = law_of(10 - i, x.astype(np.float32))
        return np.asarray(found.mean, np.float64), np.exp(np.asarray(found.log_variance, np.float64) / 2)

    noise = lambda step: draws.normal(size=x_0.shape).astype(np.float32)  # noqa: E731
    bound = float(np.mean(dj.likelihood.bound(denoise, dj.from_uint8(x_0), grid, noise, variance="small").total))
    stack, chain = ans.Stack(64), bits_back.chain(grid)
    for image in x_0:
        bits_back.push(stack, image, chain, law)
    assert stack.num_bits() / x_0.size == pytest.approx(bound, rel=0.02)
    for image in x_0[:-4:-1]:
        np.testing.assert_array_equal(bits_back.pop(stack, chain, law), image)
