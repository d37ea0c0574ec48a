"""Every config builds and has the network that its paper says; one of each kind takes a step at reduced width."""

import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import configs
from configs import celeba64, cifar10, lsun
from diffusion_jax import streams
from diffusion_jax.compose import checks, inputs, memory, processes, sampling, stored, texts, training
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError
from diffusion_jax.runs.shards import flatten
from diffusion_jax.training import start
from diffusion_jax.training import step as training_step

NUM_PARAMETERS = {
    "animated_emoji": 882_099,
    "avatars32": 688_243,
    "celeba64": 78_700_803,
    "celebahq256": 113_673_219,  # "114 million", Ho et al. 2020, appendix B
    "cifar10": 35_746_307,  # "35.7 million", ibid.
    "cifar10_ddpmpp": 61_804_419,  # the published code's, counted
    "cifar10_ect": 55_732_739,  # the network of cifar10_edm without augmentation
    "cifar10_edm": 55_733_891,  # Karras et al.'s, by their code
    "cifar10_improved": 52_546_438,  # the published code's, counted
    "cifar10_ncsnpp": 62_758_915,  # the published code's, counted; 128 of them are not trained
    "cifar10_vdm": 30_586_243,  # the published code's, counted, has 67 * 128 biases fewer and 512 weights more
    "cifar10_vlb": 52_546_438,
    "cifar10_vp_continuous": 35_746_307,
    "digits": 367_129,
    "digits_classes": 368_185,
    "digits_classifier": 170_122,
    "digits_dit": 1_058_500,
    "digits_ect": 367_129,
    "digits_edm": 367_129,
    "digits_imf": 378_841,
    "digits_progressive": 367_129,
    "digits_rectified_flow": 367_129,
    "digits_reflow": 367_129,
    "digits_vdm": 369_721,  # and 98 of its schedule
    "emoji_classes": 688_051,
    "drums": 671_297,
    "emoji64_autoencoder": 681_911,
    "emoji64_latents": 2_786_980,
    "emoji64_text": 3_536_804,
    "emoji_text": 942_899,
    "fashion_mnist": 686_769,
    "fashion_mnist_classes": 687_473,
    "folder": None,
    "folder_superres": 687_779,
    "imagenet256_dit": 674_834_720,  # the published code's, counted; "675M", Peebles & Xie 2023
    "imagenet64": 121_063_942,  # the published code's, counted; "120 million", Nichol & Dhariwal 2021, section 4
    "lsun:bedroom": 113_673_219,
    "lsun:bedroom_large": 255_677_955,  # "256 million", ibid.
    "lsun:cat": 113_673_219,
    "lsun:church": 113_673_219,
    "moving_digits": 1_977_385,
    "openclipart64_autoencoder": 681_911,
    "qm9": 4_259_598,
    "spoken_digits": 1_639_809,
    "sprites": 689_523,
    "two_moons": 54_402,
}

SAME_WHEN_SMALL = {"celebahq256", "lsun:bedroom", "lsun:bedroom_large", "lsun:cat"}  # as lsun:church, but for:
TRACED = {  # the step of one for each network, loss and condition
    "cifar10_edm",
    "cifar10_ncsnpp",
    "cifar10_vlb",
    "digits_classifier",
    "digits_dit",
    "digits_ect",
    "digits_imf",
    "digits_progressive",
    "emoji64_autoencoder",
    "emoji64_text",
    "folder_superres",
}
STEPPED = TRACED | {
    "cifar10",
    "cifar10_vdm",
    "digits_reflow",
    "emoji_classes",
    "moving_digits",
    "spoken_digits",
    "two_moons",
}
NUM_STEPS_AND_IMAGES = {"train.num_steps", "data.source", "data.name", "data.resize", "data.random_flip"}


@pytest.fixture
def images(tmp_path):
    """A folder with five grey PNG files of 70 x 90."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 70, 90), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.fixture(autouse=True)
def no_encoder_of_text(monkeypatch):
    """Texts have tokens of zeros: the encoder's weights are a package that need not be here."""
    monkeypatch.setattr(texts, "encoded", lambda config, said: np.zeros((len(said), *texts.shape(config)), np.float16))


def get_config(name, images):
    module, _, argument = name.partition(":")
    arguments = [str(images)] if module.startswith("folder") else [argument] * bool(argument)
    return importlib.import_module(f"configs.{module}").get_config(*arguments)


def test_every_config_is_listed_here():
    files = {file.stem for file in pathlib.Path(configs.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {name.partition(":")[0] for name in NUM_PARAMETERS}


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_config(name, images):
    nested = get_config(name, images)
    checks.check(config := Config.of_flat(flatten(nested.to_dict())))
    changed = {name for name, value in flatten(nested.to_dict()).items() if config.flat()[name] != value}
    assert changed <= {"sample.num_steps", "sample.ema_rate"} and stored.from_json(stored.to_json(config)) == config
    params = check_shapes(config)
    assert NUM_PARAMETERS[name] in (None, sum(leaf.size for leaf in jax.tree.leaves(params)))
    if not processes.is_classifier(config) and not processes.is_autoencoder(config):
        sampling.make_generate(config)  # its settings fit together
    check_first_loss(config)
    if name in SAME_WHEN_SMALL:
        one, other = small(config).flat(), small(Config.of_flat(flatten(get_config("lsun:church", images).to_dict()))).flat()
        assert {field for field in one if one[field] != other[field]} <= NUM_STEPS_AND_IMAGES
    if name in TRACED:
        take_steps(small(config), traced, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STEPPED))
def test_two_steps_of_a_config_move_its_weights(name, images):
    """A transformer takes three: its last layer and its gates begin as 0, and pass no gradient on before they have moved.

    So does a network with texts, for its attention to them.
    """
    config = Config.of_flat(flatten(get_config(name, images).to_dict()))
    num_steps = 3 if config.model.kind == "dit" or config.model.text != "none" else 2
    state, after, metrics = take_steps(small(config), jax.jit, num_steps)
    assert int(after.step) == num_steps and int(after.counters["skipped"]) == 0 and np.isfinite(metrics["loss"])
    moved = jax.tree.leaves(jax.tree.map(lambda old, new: bool(jnp.any(old != new)), state.params, after.params))
    assert np.mean(moved) > 0.9  # two steps at 2e-5 are too small for some of the parameters near 1


def small(config):
    """Returns a config with a network of two stages on 8 x 8 pixels, and all else as it was."""
    network = {"channels": 4, "multipliers": (1, 1), "attention_stages": (1,), "num_res_blocks": 1, "depth": 2}
    config = config.with_values("model", **network, num_groups=2, num_heads=1, head_channels=0)
    if config.data.codec:
        config = config.with_values("data", latent_shape=(8, 8, config.data.latent_shape[-1]))
    size = config.data.image_size
    if config.data.medium != "molecules":  # whose classes are the numbers of atoms
        size = (*size[:-2], *(8 for _ in size[-2:]))  # of videos as many frames
    return config.with_values("data", image_size=size, center_crop=0).with_values("train", warmup_steps=0)


def traced(function):
    """Returns a function that gives shapes; nothing is compiled or computed."""
    return functools.partial(jax.eval_shape, function)


FIELDS_OF_SHAPES = ("medium", "image_size", "channels", "condition", "codec", "latent_shape", "augment_rate")


def check_shapes(config):
    """Returns the shapes of the parameters at full size, and checks a small network's output; nothing is computed."""
    check_output(of_network(small(config)))
    return params_of(of_network(config))


def of_network(config):
    """Returns the defaults with what the network depends on: many configs have the same."""
    shape = {name: getattr(config.data, name) for name in FIELDS_OF_SHAPES}
    return Config().with_values("model", **dict(config.model)).with_values("data", **shape)


@functools.cache
def params_of(config):
    return jax.eval_shape(processes.network(config).init, jax.random.key(0))


@functools.cache
def check_output(config):
    params, x_t = params_of(config), jax.ShapeDtypeStruct((2, *processes.shape(config)), jnp.float32)
    if processes.is_autoencoder(config):
        of = processes.first_stage(config)
        latents = jax.eval_shape(of.encode, params, x_t).mean
        assert latents.shape == (2, *of.shape) and jax.eval_shape(of.decode, params, latents).shape == x_t.shape
        return
    cond, c_noise = inputs.conditioning(config).spec(2), jax.ShapeDtypeStruct((2,), jnp.float32)
    output = jax.eval_shape(processes.network(config).apply, params, x_t, c_noise, cond)
    num_outputs = (1 + config.model.learned_variance) * x_t.shape[-1]
    expected = (2,) if processes.is_classifier(config) else (*x_t.shape[:-1], num_outputs)
    assert output.shape == expected and output.dtype == jnp.float32


def check_first_loss(config):
    """Of data of 0 and a network that says 0, as one that is untrained does: the variance of what it should say.

    Images are of one pixel, for which all configs have the same programs.
    """
    if config.loss.name != "simple" or config.predicts == "edm":  # whose variance is 1 for data of variance 1/4
        return
    shape = processes.shape(config) if config.data.medium == "molecules" else (1, 1, 1)
    parts, x_0 = training.parts(config), jnp.zeros((2**16 // np.prod(shape) + 1, *shape))
    t, weight = parts.timesteps.draw(parts.timesteps.init(), jax.random.key(0), len(x_0))
    cond = {"label": jnp.full(len(x_0), config.model.num_classes - 1)}  # of molecules, which are then without padding
    denoise = parts.predictor(lambda x_t, c_noise: jnp.zeros_like(x_t), cond)
    losses, _ = parts.loss(0, None)(denoise, x_0, parts.level_of(None, t), jax.random.normal(jax.random.key(1), x_0.shape))
    expected = jnp.mean(parts.level_of(None, t).alpha ** 2) if config.predicts == "v" else 1.0
    assert float(jnp.mean(weight * losses)) == pytest.approx(float(expected), rel=0.05)


def take_steps(config, jit, num_steps):
    checks.check(config)
    parts = training.parts(config)
    state = after = jit(functools.partial(start.make_state, parts=parts))(streams.key(0, "init"))
    batch = jax.tree.map(
        lambda of_two: np.full(of_two.shape, of_two.dtype == np.float16, of_two.dtype), inputs.batch_spec(config, 2)
    )
    step = jit(functools.partial(training_step.train_step, parts=parts))
    for _ in range(num_steps):
        after, metrics = step(after, batch)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state) and metrics["loss"].shape == ()
    return state, after, metrics


def test_the_defaults_are_those_of_cifar10():
    assert Config.of_flat(flatten(cifar10.get_config().to_dict())) == Config.of_flat(Config().flat())


def test_cifar10_is_the_papers():
    """Ho et al. 2020, section 4 and appendix B."""
    config = cifar10.get_config()
    assert (config.process.schedule, config.process.num_steps, config.predicts) == ("linear", 1000, "eps")
    assert (config.train.num_steps, config.train.batch_size, config.train.learning_rate) == (800_000, 128, 2e-4)
    assert (config.train.warmup_steps, config.train.grad_clip, config.train.ema_rates) == (5000, 1.0, (0.9999,))
    assert (config.data.random_flip, config.model.dropout, config.loss.name) == (True, 0.1, "simple")
    assert (config.sample.sampler, config.sample.variance, config.sample.num_steps) == ("ancestral", "large", 0)


def test_lsun_turns_no_cats():
    assert not lsun.get_config("cat").data.random_flip and lsun.get_config("church").data.random_flip
    with pytest.raises(UserError, match=r"lsun.py:dog is unknown; it must be .* bedroom, bedroom_large, cat, church"):
        lsun.get_config("dog")


def test_celeba_is_cut_before_it_is_shrunk():
    config = celeba64.get_config()
    assert (config.data.center_crop, config.data.resize, config.data.image_size) == (140, True, (64, 64))


@pytest.mark.slow
def test_what_an_image_takes_is_known_before_anything_runs():
    """The CIFAR-10 network: XLA itself needs 83 MB more for each image of a step (on a CPU, float32)."""
    config = Config()
    assert 1.0 < (memory.activation_bytes(config, 2) - memory.activation_bytes(config, 1)) / 83e6 < 1.3


def test_a_batch_follows_from_the_memory(monkeypatch):
    monkeypatch.setattr(memory, "activation_bytes", functools.cache(memory.activation_bytes))
    config = small(Config()).with_values("data", device_cache_gib=0.0)
    config = config.with_values("model", multipliers=(1,), attention_stages=())
    one = memory.activation_bytes(config, 2) - memory.activation_bytes(config, 1)
    of = functools.partial(memory.batch_size, config)
    assert of(memory=80e9, num_devices=1) == 128
    assert of(memory=80e9, num_devices=6) == 6 * 16
    assert of(memory=100 * one / memory.MEMORY_USED, num_devices=1) == 64
    in_parts = config.with_values("train", num_microbatches=6)
    assert memory.batch_size(in_parts, memory=100 * one / memory.MEMORY_USED, num_devices=1) == 6 * 16
    with pytest.raises(
        UserError, match=r"train.batch_size = 0 is not possible: one image takes 0.0 GiB and 0.0 GiB are free"
    ):
        of(memory=1e4, num_devices=1)
