"""Videos: the U-Net over frames, files, digits whose motion is known, and a run on them."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import diffusion_jax as dj
import main
from diffusion_jax import editing, networks, operators, samplers, streams
from diffusion_jax.data import media, moving, videos
from diffusion_jax.errors import UserError
from diffusion_jax.networks import attention, layers
from diffusion_jax.training import start

CONFIG = "--config=configs/moving_digits.py"
SMALL = ["model.channels=8", "model.multipliers=(1,)", "model.attention_stages=()", "train.batch_size=2"]
SMALL += ["train.num_steps=2", "train.log_every=2", "train.sample_every=2", "train.checkpoint_every=2"]
SMALL += ["train.tensorboard=False", "data.image_size=(2,9,9)", "sample.num_images=3", "sample.batch_per_device=3"]
SMALL += ["sample.num_steps=2", "sample.strip=2"]
FLAGS = [f"--config.{flag}" for flag in SMALL]
TINY = {"channels": 8, "multipliers": (1, 2), "num_res_blocks": 1, "attention_stages": (1,), "dropout": 0.0, "num_groups": 2}


def drawn(of, num):
    return np.stack([of.read(number)["x"] for number in range(num)])


def test_frames_know_their_order_while_attention_is_uniform():
    """Identical frames, the same weight for each: what still differs between them is which frame they are."""
    style = layers.Style(num_groups=2, norm_epsilon=1e-6, scale_shift_norm=False, dropout=0.0, dtype=jnp.float32)
    branch = attention.OverFrames(num_frames=3, num_heads=1, style=style)
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (2, 2, 4)), (3, 2, 2, 4))
    params = branch.init(jax.random.key(1), x)["params"]
    params = {name: jax.tree.map(jnp.zeros_like, of) if name == "query" else of for name, of in params.items()}
    params["out"]["kernel"] = jax.random.normal(jax.random.key(2), params["out"]["kernel"].shape)
    told = branch.apply({"params": params}, x)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert np.max(np.abs(told[one] - told[other])) > 0.1


@pytest.mark.parametrize("shape", [(16, 2), (3, 8, 8, 1)])
def test_a_network_of_sounds_or_videos_may_be_shown_another(shape):
    network = networks.unet(shape, dtype="float32", cond_channels=2, **TINY)
    params = jax.eval_shape(network.init, jax.random.key(0))
    x_t, shown = jnp.zeros((1, *shape)), {"image": jnp.zeros((1, *shape[:-1], 2))}
    assert jax.eval_shape(network.apply, params, x_t, jnp.zeros(1), shown).shape == (1, *shape)


@pytest.mark.slow
def test_a_new_video_network_is_its_image_network_frame_by_frame_until_frames_are_told_of_each_other():
    of_images, of_videos = (networks.unet(shape, dtype="float32", **TINY) for shape in ((8, 8, 1), (3, 8, 8, 1)))
    alive = jax.jit(of_images.init)(jax.random.key(0))
    alive = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), alive)
    params, fresh, left = start.copy_matching(jax.jit(of_videos.init)(jax.random.key(2)), alive)
    assert fresh and all("_frames" in name for name in fresh) and not left
    x_t, c_noise = jax.random.normal(jax.random.key(3), (2, 3, 8, 8, 1)), jnp.array([1.0, 300.0])
    apply = jax.jit(lambda params, x_t: of_videos.apply(params, x_t, c_noise, {}))
    frames = jax.jit(lambda x_t: of_images.apply(alive, x_t.reshape(6, 8, 8, 1), jnp.repeat(c_noise, 3), {}))(x_t)
    np.testing.assert_allclose(apply(params, x_t), frames.reshape(x_t.shape), atol=1e-5)

    def told(path, leaf):
        is_out = "_frames" in jax.tree_util.keystr(path) and "'out'" in jax.tree_util.keystr(path)
        return leaf + 0.3 * jax.random.normal(jax.random.key(4), leaf.shape) if is_out else leaf

    told_params = jax.tree_util.tree_map_with_path(told, params)
    before, after = (apply(told_params, x) for x in (x_t, x_t.at[0, 0].add(1.0)))
    assert np.all(np.max(np.abs(before - after)[0], axis=(1, 2, 3)) > 1e-3)  # every frame of the first video
    np.testing.assert_allclose(before[1], after[1], atol=1e-5)
    assert np.max(np.abs(apply(told_params, x_t[:, ::-1])[:, ::-1] - before)) > 1e-3  # time has a direction


@pytest.mark.parametrize("split", ["", "test"])
def test_digits_move_as_their_class_says_and_are_others_when_held_out(split):
    of = moving.moving_digits(image_size=(4, 12, 13), split=split)
    x = drawn(of, 45)
    assert x.shape == (45, 4, 12, 13, 1) and x.dtype == np.uint8 and of.class_names[5] == "+0,+1"
    directions, left = moving.moves(x)
    np.testing.assert_array_equal(directions, np.repeat(np.arange(45)[:, None] % 9, 3, axis=1))
    assert np.all(left == 0)
    directions, left = moving.moves(x[:, ::-1])
    np.testing.assert_array_equal(directions, np.repeat(8 - np.arange(45)[:, None] % 9, 3, axis=1))
    kinds = {split: {digit.tobytes() for digit in _digits(split)} for split in ("", "test")}
    assert len(kinds["test"]) > 10 and not kinds[""] & kinds["test"]


def _digits(split):
    resting = drawn(moving.moving_digits(image_size=(1, 8, 8), split=split), 60)
    return resting[:, 0, ..., 0]


def test_what_does_not_move_so_is_refused():
    with pytest.raises(UserError, match="digits of 8 pixels move by 5, so that height and width must be at least 13"):
        moving.moving_digits(image_size=(6, 16, 12))
    with pytest.raises(UserError, match="split 'other' is unknown"):
        moving.moving_digits(image_size=(6, 16, 16), split="other")


def animated(frames, kind):
    file, (first, *rest) = io.BytesIO(), [Image.fromarray(frame) for frame in frames]
    first.save(
        file, format=kind, save_all=True, append_images=rest, duration=50, **({} if kind == "GIF" else {"lossless": True})
    )
    return io.BytesIO(file.getvalue())


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_frames_of_a_file_are_evenly_spaced_and_cover_the_size(kind):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (5, 8, 16, 3))
    found = videos.read(animated(frames, kind), shape=(3, 4, 4, 3))
    np.testing.assert_array_equal(found, np.broadcast_to(colours[[0, 2, 4], None, None], (3, 4, 4, 3)))
    assert videos.read(animated(frames, kind), shape=(2, 4, 4, 1)).shape == (2, 4, 4, 1)
    with pytest.raises(ValueError, match="of fewer than 6 frames"):
        videos.read(animated(frames, kind), shape=(6, 4, 4, 3))
    with pytest.raises(ValueError, match="not GIF, WebP or APNG, or damaged"):
        videos.read(io.BytesIO(b"none"), shape=(3, 4, 4, 3))


def test_a_written_video_has_the_same_frames_enlarged():
    video = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    found = videos.read(io.BytesIO(videos.webp(video)), shape=(3, 128, 160, 3))
    np.testing.assert_array_equal(found, video.repeat(32, axis=1).repeat(32, axis=2))


def test_a_contact_sheet_has_a_row_for_each_video():
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 1), dtype=np.uint8)
    sheet = videos.grid(x)
    assert sheet.shape == (2 * 34 + 2, 3 * 34 + 2, 1)
    np.testing.assert_array_equal(sheet[36:68, 70:102], x[1, 2])
    last = videos.grid(x, num_columns=2)[2:66, 68:132]  # enlarged by 2
    np.testing.assert_array_equal(last, x[1, 2].repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.slow
def test_a_run_on_videos_draws_and_predicts_from_first_frames(tmp_path, capsys, one_device):
    assert main.main(["main.py", CONFIG, f"--workdir={tmp_path}", *FLAGS]) == 0
    assert "moving_digits: 9,000 videos, 2 x 9 x 9 x 1" in capsys.readouterr().out
    assert main.main(["main.py", "--mode=sample", f"--workdir={tmp_path}", f"--out={tmp_path / 'out'}"]) == 0
    x = np.load(tmp_path / "out" / "samples_3x2x9x9x1.npz")["arr_0"]
    assert x.dtype == np.uint8 and x.shape == (3, 2, 9, 9, 1)
    assert {"grid.png", "strip.png", "000.webp", "002.webp"} <= {file.name for file in (tmp_path / "out").iterdir()}
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["image_shape"] == [2, 9, 9, 1]

    denoise = dj.load(tmp_path).denoiser(label=jnp.array([0, 1, 2]))
    known = dj.from_uint8(jnp.asarray(drawn(moving.moving_digits(image_size=(2, 9, 9)), 3)))
    mask = jnp.zeros((2, 9, 9, 1), bool).at[1:].set(True)  # the first frame is known
    consistent = editing.consistent(denoise, known, operators.known(mask))
    process = dj.chain(dj.cosine(1000))
    keys, noise = streams.keys(0, "sampler", np.arange(3)), jax.random.normal(jax.random.key(0), known.shape)
    grid = process.level(np.array([999.0, 500.0, 0.0]))
    found = jax.jit(lambda x_T: dj.sample(consistent, samplers.ddim(), x_T, grid, keys).x)(noise)
    np.testing.assert_allclose(found[:, 0], known[:, 0], atol=1e-5)
    assert np.max(np.abs(found[:, 1] - known[:, 1])) > 0.01


def test_videos_of_a_file_have_five_axes():
    assert media.VIDEOS.fits(np.zeros((1, 2, 4, 4, 3), np.uint8))
    assert not any(media.VIDEOS.fits(x) for x in (np.zeros((2, 4, 4, 3), np.uint8), np.zeros((1, 2, 4, 4, 3))))
