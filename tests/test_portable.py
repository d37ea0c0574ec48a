"""What runs without this package: samplers as programs of JAX, networks as ONNX, levels from which anybody can sample."""

import json
import re
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import diffusion_jax as dj
from diffusion_jax.compose import checks, portable, processes, sample_conditions, sampling, stored
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import checkpoint, storage
from diffusion_jax.tools import export


def random_params(config, seed=0):
    """Returns parameters none of which is zero, so that every part of a network has an effect."""
    rng, like = np.random.default_rng(seed), jax.eval_shape(processes.network(config).init, jax.random.key(0))

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 1
        return rng.normal(scale=0.3 / np.sqrt(fan_in), size=leaf.shape).astype(leaf.dtype)

    return jax.tree.map(draw, like)


def test_a_sampler_draws_the_images_of_a_run_where_this_package_is_not(trained, tmp_path):
    """By the lines of the document; image 3 is the same alone."""
    out = tmp_path / "shared" / "digits_jax"
    assert export.main(["export", f"--workdir={trained}", f"--out={out}", "--to=jax"]) == 0
    document = (tiny.ROOT / "docs" / "serving.md").read_text()
    [lines] = re.findall(r"```python\n(.*?deserialize.*?)```", document, flags=re.DOTALL)
    hidden, kept = "import sys\nsys.modules['diffusion_jax'] = None\n", "import numpy as np\nnp.save('images.npy', images)\n"
    alone = "np.save('alone.npy', draw(jnp.int32(0), jnp.array([3]), {}))\n"
    subprocess.run([sys.executable, "-I", "-c", hidden + lines + kept + alone], cwd=tmp_path, check=True, timeout=300)
    images = np.load(tmp_path / "images.npy")
    wanted = dj.load(trained).sample(len(images), seed=0).astype(int)
    assert images.shape == (4, 8, 8, 1) and images.dtype == np.uint8 and np.std(wanted) > 10
    assert np.max(np.abs(images - wanted)) <= 1  # another program of the same arithmetic
    assert np.max(np.abs(np.load(tmp_path / "alone.npy")[0] - wanted[3])) <= 1
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["output"] == ["uint8", ["B", 8, 8, 1]] and manifest["sample"]["num_steps"] == 3


def write_run(folder, changes, seed=0):
    config = tiny.config_of({"train.ema_rates": (), "sample.ema_rate": 0.0, "sample.clip": "none"} | changes)
    checkpoint.save_weights(storage.path(folder), 0, random_params(config, seed))
    stored.write_config(storage.path(folder), config, weights_alone=True)


@pytest.mark.slow
def test_a_sampler_is_guided_as_the_run_is(tmp_path):
    """By a worse network, and to the class it is asked for."""
    classes = {"model.num_classes": 3, "model.null_label": True, "train.label_dropout": 0.1}
    for seed, name in enumerate(("run", "guide")):
        write_run(tmp_path / name, classes, seed)
    asked, labels = {"guidance": 2.5, "num_steps": 2}, jnp.array([1, 1])
    for guide in ("", str(tmp_path / "guide")):
        out, wanted = tmp_path / f"to_{bool(guide)}", dj.load(tmp_path / "run", guide=guide).sample(2, label=1, **asked)
        flags = [f"--config.sample.{name}={value}" for name, value in (asked | ({"guide": guide} if guide else {})).items()]
        assert export.main(["export", f"--workdir={tmp_path / 'run'}", f"--out={out}", "--to=jax", *flags]) == 0
        draw = jax.export.deserialize(bytearray((out / "sampler.jax").read_bytes())).call
        found = draw(jnp.int32(0), jnp.arange(2), {"label": labels})
        assert np.max(np.abs(found - wanted.astype(int))) <= 1
        assert ("guide" in json.loads((out / "manifest.json").read_text())) == bool(guide)


CASES = {
    "guided": {"model.num_classes": 3, "model.null_label": True, "train.label_dropout": 0.1, "sample.guidance": 2.0},
    "ode": {"sample.sampler": "ode", "sample.clip": "none", "sample.tolerance": 1e-2},
    "dit": {"model.kind": "dit", "model.depth": 1, "model.num_heads": 2, "model.patch_size": 4, "sample.sampler": "unipc"},
    "churned": {"sample.sampler": "heun", "sample.churn": (4.0, 0.0, 1e9, 1.0), "sample.clip": "dynamic"},
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("churned", marks=pytest.mark.slow),
        "guided",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("ode", "dit")),
    ],
)
def test_a_sampler_is_for_any_number_of_images_and_for_every_platform(case):
    config = tiny.config_of(CASES[case])
    checks.check(config)
    params, numbers = random_params(config), jnp.arange(4)
    cond = sample_conditions.cond_of_image(config)(0, numbers, None)
    exported = jax.export.deserialize(bytearray(portable.sampler_program([config], params)))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    wanted = jax.jit(sampling.make_generate(config))(params, 5, numbers)[0].astype(int)
    for few in (slice(0, 4), slice(1, 2)):
        found = exported.call(jnp.int32(5), numbers[few], {name: rows[few] for name, rows in cond.items()})
        assert np.max(np.abs(found - wanted[few])) <= 1 and np.std(wanted) > 5


@pytest.mark.parametrize("predicts", ["v", *(pytest.param(name, marks=pytest.mark.slow) for name in ("eps", "edm"))])
def test_a_manifest_is_enough_to_sample(predicts):
    """Its levels, and a network that is a black box, give DDIM's images in NumPy: in another language it is the same."""
    config = tiny.config_of({"predicts": predicts, "sample.sampler": "ddim", "sample.clip": "none", "sample.num_steps": 5})
    params, numbers, apply = random_params(config), jnp.arange(2), jax.jit(processes.network(config).apply)
    levels = {name: np.array(column) for name, column in json.loads(json.dumps(portable.levels(config))).items()}
    x = np.stack([jax.random.normal(key, (8, 8, 1)) for key in dj.streams.keys(0, "x_T", numbers)]) * levels["sigma"][0]
    for i in range(5):
        alpha, sigma, a, b, scale = (levels[name][i] for name in ("alpha", "sigma", "a", "b", "input_scale"))
        told = jnp.full(2, levels["c_noise"][i], jnp.float32)
        output = np.asarray(apply(params, jnp.asarray(scale * x, jnp.float32), told, {}))
        x_0 = (b * x - sigma * output) / (alpha * b - sigma * a)
        eps = (alpha * output - a * x) / (alpha * b - sigma * a)
        x = levels["alpha"][i + 1] * x_0 + levels["sigma"][i + 1] * eps
    wanted = jax.jit(sampling.make_generate(config))(params, 0, numbers)[0].astype(int)
    assert np.max(np.abs(np.clip(np.round((x + 1) * 127.5), 0, 255) - wanted)) <= 1
    assert levels["log_snr"][-1] is None and np.all(np.diff(levels["log_snr"][:-1].astype(float)) > 0)


def test_without_flatbuffers_one_sentence_says_what_to_install(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    assert export.main(["export", f"--workdir={trained}", f"--out={tmp_path / 'out'}", "--to=jax"]) == 2
    assert capsys.readouterr().err == "error: jax.export writes its programs by a package: pip install flatbuffers.\n"
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_said(trained, tmp_path, monkeypatch, capsys):
    config = tiny.config_of({"model.kind": "noisy_classifier", "model.num_classes": 10})
    for program in (lambda: portable.sampler_program([config], {}), lambda: portable.network_program(config, {})):
        with pytest.raises(UserError, match="is a classifier: it draws no images"):
            program()
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    assert export.main(["export", f"--workdir={trained}", f"--out={tmp_path / 'x'}", "--to=onnx"]) == 2
    assert re.search(r"needs packages \(.*jax2onnx.*\): pip install jax2onnx==0\.13\.0 onnxruntime", capsys.readouterr().err)
    monkeypatch.setattr(portable, "MOST_BYTES", 1000)
    for to in ("jax", "onnx"):
        assert export.main(["export", f"--workdir={trained}", f"--out={tmp_path / 'x'}", f"--to={to}"]) == 2
        assert "GiB do not fit into one such file, of 2 GiB; use --to=safetensors." in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.fixture
def onnxruntime():
    pytest.importorskip("jax2onnx", reason=f"jax2onnx is not installed: {portable.INSTALL}")
    return pytest.importorskip("onnxruntime", reason=f"onnxruntime is not installed: {portable.INSTALL}")


NETWORKS = {
    "labels": {"model.num_classes": 10, "model.attention_stages": (0,), "model.learned_variance": True},
    "bfloat16": {"model.dtype": "bfloat16", "model.num_remat_stages": 1, "data.condition": "low_resolution"},
    "text": {"model.text": "minilm", "data.source": "folder", "data.path": "x"},
    "jumps": {"model.kind": "dit", "model.depth": 1, "model.num_heads": 2, "model.jumps": True},
    "ncsnpp": {"model.kind": "ncsnpp", "process.kind": "ve_sde", "predicts": "scaled_score", "model.multipliers": (1, 1)},
}


@pytest.mark.parametrize(
    "kind", [kind if kind == "jumps" else pytest.param(kind, marks=pytest.mark.slow) for kind in NETWORKS]
)
def test_a_network_is_the_same_in_onnxruntime(kind, onnxruntime):
    config = tiny.config_of(NETWORKS[kind])
    content, difference = portable.network_program(config, random_params(config))
    taken = {given.name: given.shape for given in onnxruntime.InferenceSession(content).get_inputs()}
    assert taken == {name: ["B", *of.shape[1:]] for name, of in portable.network_specs(config).items()}
    assert 0 < difference < 1e-5


@pytest.mark.slow
def test_a_network_that_onnxruntime_computes_otherwise_is_refused(onnxruntime, monkeypatch):
    monkeypatch.setattr(portable, "BOUND", 1e-12)
    config = tiny.config_of({})
    with pytest.raises(RunError, match="onnxruntime differs from JAX by .* of the largest output, above 1e-12."):
        portable.network_program(config, random_params(config))


@pytest.mark.slow
def test_the_files_of_onnx_draw_the_images_of_a_run_of_latents(onnxruntime, tmp_path, capsys):
    """In one step: levels, network, decoder."""
    run, codec, out = (tmp_path / name for name in ("run", "codec", "shared"))
    coded = {"data.codec": str(codec), "data.latent_shape": (4, 4, 3), "data.latent_scale": 0.5}
    write_run(codec, {"model.kind": "autoencoder_kl", "model.latent_channels": 3, "model.multipliers": (1, 1)})
    write_run(run, coded | {"sample.sampler": "ddim", "sample.num_steps": 1})
    assert export.main(["export", f"--workdir={run}", f"--out={out}", "--to=onnx"]) == 0
    assert "onnxruntime differs by" in capsys.readouterr().out
    levels = json.loads((out / "manifest.json").read_text())["levels"]
    network, decoder = (onnxruntime.InferenceSession((out / f"{name}.onnx").read_bytes()) for name in ("network", "decoder"))
    noise = np.stack([jax.random.normal(key, (4, 4, 3)) for key in dj.streams.keys(0, "x_T", jnp.arange(3))])
    alpha, sigma, a, b, c_noise = (levels[name][0] for name in ("alpha", "sigma", "a", "b", "c_noise"))
    [output] = network.run(None, {"x_t": sigma * noise, "c_noise": np.full(3, c_noise, np.float32)})
    [images] = decoder.run(
        None, {"x_0": ((b * sigma * noise - sigma * output) / (alpha * b - sigma * a)).astype(np.float32)}
    )
    found, wanted = np.clip(np.round((images + 1) * 127.5), 0, 255), dj.load(run).sample(3).astype(int)
    assert np.max(np.abs(found - wanted)) <= 1 and np.std(wanted) > 5
