"""A noisy classifier is trained as a denoiser is, and says what it cannot do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import diffusion_jax as dj
import main
from diffusion_jax.compose import processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, the command line) of two steps, and two more after a resume."""
    workdir = tmp_path_factory.mktemp("classifier") / "run"
    of_kind = ["--config.model.kind=noisy_classifier", "--config.loss.name=cross_entropy", "--config.model.num_classes=10"]
    with tiny.one_device():
        for num_steps in (2, 4):
            command = ["main.py", *tiny.flags(workdir, num_steps=num_steps, sample_every=2), *of_kind]
            assert main.main(command) == 0
    return workdir, command


def test_a_run_resumes_pictures_its_loss_and_draws_no_previews(run, capsys, one_device):
    workdir, command = run
    assert main.main(command) == 0
    said = capsys.readouterr().out
    assert "at step 4" in said and f'dj.load("{workdir}").log_prob(label)' in said
    assert f"--config.sample.guide={workdir}" in said and "previews" not in said
    assert (workdir / "loss.png").exists() and not (workdir / "previews").exists()
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 2


def test_its_probabilities_of_all_labels_sum_to_1(run):
    classifier = dj.load(run[0])
    level = processes.process_of(classifier.config).level(np.array([1.0, 10.0, 20.0]))
    x_t = jnp.linspace(-1, 1, 3 * 64).reshape(3, 8, 8, 1)
    logs = jax.jit(jax.vmap(lambda label: classifier.log_prob(label)(x_t, level)))(jnp.tile(jnp.arange(10)[:, None], 3))
    np.testing.assert_allclose(jnp.sum(jnp.exp(logs), axis=0), 1, rtol=1e-5)
    assert float(jnp.max(jnp.abs(logs + jnp.log(10)))) > 1e-4  # it was trained


@pytest.mark.parametrize("mode", ["sample", "evaluate", "likelihood"])
def test_asked_to_draw_it_is_one_sentence(run, mode, capsys, tmp_path):
    code = main.main(["main.py", f"--mode={mode}", f"--workdir={run[0]}", f"--out={tmp_path / 'out'}"])
    said = capsys.readouterr().err
    assert code == 2 and "model.kind = 'noisy_classifier' is a classifier: it draws no images" in said
    assert len(said.splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda classifier, _: classifier.sample(2), "is a classifier: it draws no images"),
        (lambda classifier, _: classifier.denoiser(jnp.zeros(2, jnp.int32)), "is a classifier: it draws no images"),
        (lambda classifier, _: classifier.log_prob(3), "label = 3 is not allowed; with 10 classes it must be int"),
        (lambda _, draws: draws.log_prob(jnp.zeros(2, jnp.int32)), "model.kind = 'unet' tells no classes; train one of"),
    ],
)
def test_a_mistake_in_python_is_one_sentence_too(run, trained, call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(dj.load(run[0]), dj.load(trained))
