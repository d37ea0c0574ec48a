"""--mode=verify: a config against its published figures."""

import importlib
import json

import pytest

from diffusion_jax.compose import stored
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError
from diffusion_jax.jobs import main, published, verify
from diffusion_jax.runs import storage
from diffusion_jax.runs.shards import flatten


def config_of(name, **changes):
    return Config.of_flat(flatten(importlib.import_module(f"configs.{name}").get_config().to_dict()) | changes)


def verified(capsys, config, workdir, name):
    """Returns (exit code, lines) of a verification, of a run of that config where there is a workdir."""
    if workdir:
        stored.write_config(storage.path(workdir), config)
    code = verify.run(config, workdir and storage.path(workdir), preset=f"configs/{name}.py")
    return code, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", published.PUBLISHED)
def test_every_preset_has_what_is_published_of_its_network(capsys, name):
    """And where a figure needs weights, the command that measures it is one that main.py takes."""
    code, lines = verified(capsys, config_of(name), None, name)
    kinds = [figure.kind for figure in published.PUBLISHED[name]]
    assert code == 0 and [line.split()[0] for line in lines].count("pass") == sum(
        kind not in verify.FOLDERS for kind in kinds
    )
    commands = [line.split("main.py ")[1] for line in lines if "python main.py" in line]
    assert len(commands) == sum(kind in verify.FOLDERS for kind in kinds)
    for command in commands:
        flags, config, _ = main.parse(["main.py", *command.split()])
        assert flags["mode"] != "evaluate" or config.evaluate.num_images == 50_000


def test_another_network_fails(capsys):
    code, lines = verified(capsys, config_of("cifar10", **{"model.channels": 64}), None, "cifar10")
    assert code == 1
    assert lines[0] == (
        "fail        8,952,067 parameters; published 35,700,000, tolerance 50,000 (Ho et al. 2020, appendix B)"
    )


def write(workdir, name, content):
    file = workdir / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def evaluation(config, fid, *, network="inception", num_images=50_000, num_real=50_000, **sample):
    """What evaluate.json has of a checkpoint, as far as it matters."""
    figures = {"frechet_distance": {"value": {"value": fid, "standard_error": 0.02}}}
    against = {"training": {"made_from": {"num_images": num_real}, "figures": figures}}
    made_from = {"sample": {**config.sample.model_dump(), **sample}}
    return {"features": {"network": network}, "num_images": num_images, "against": against, "made_from": made_from}


@pytest.mark.parametrize(("fid", "code"), [(2.9, 0), (3.17 * 1.049, 0), (3.17 * 1.051, 1)])
def test_an_fid_passes_unless_it_is_worse(tmp_path, capsys, fid, code):
    config = config_of("cifar10")
    write(tmp_path, "evaluate/step_1/evaluate.json", [evaluation(config, fid, seed=7, step=800_000)])
    found, lines = verified(capsys, config, tmp_path, "cifar10")
    assert found == code and lines[1].startswith(f"{'fail' if code else 'pass':<12}{fid:.4g} FID, of {tmp_path}")


@pytest.mark.parametrize("in_one_file", [False, True])
def test_the_latest_checkpoint_decides(tmp_path, capsys, in_one_file):
    config = config_of("cifar10")
    results = [evaluation(config, fid, step=step) for fid, step in ((9.0, 100_000), (3.1, 800_000))]
    parts = {"checkpoints_x": results} if in_one_file else {"step_0100000_x": results[:1], "step_0800000_x": results[1:]}
    for name, content in parts.items():
        write(tmp_path, f"evaluate/{name}/evaluate.json", content)
    code, lines = verified(capsys, config, tmp_path, "cifar10")
    assert code == 0 and lines[1].startswith("pass        3.1 FID")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"network": "efficientnet_lite0"}, "in features of efficientnet_lite0, published in Inception's"),
        ({"num_images": 2000}, "of 2,000 images, published of 50,000"),
        ({"num_real": 10_000}, "against 10,000 images of the training set, published against 50,000"),
        ({"sampler": "ddim"}, "with sample.sampler = 'ddim', the config's is 'ancestral'"),
    ],
)
def test_an_fid_by_another_protocol_is_not_compared(tmp_path, capsys, changes, reason):
    config = config_of("cifar10")
    write(tmp_path, "evaluate/step_1/evaluate.json", [evaluation(config, 99.0, **changes)])
    code, lines = verified(capsys, config, tmp_path, "cifar10")
    assert code == 0 and lines[1].startswith("no verdict  FID not comparable: ") and lines[1].endswith(reason)


@pytest.mark.parametrize(
    ("bits", "num_images", "held_out", "verdict"),
    [
        (2.95, 10_000, True, "pass"),
        (3.5, 10_000, True, "fail"),
        (3.5, 64, True, "no verdict"),
        (2.9, 10_000, False, "no verdict"),
    ],
)
def test_bits_per_dimension_are_compared_over_the_whole_held_out_set(tmp_path, capsys, bits, num_images, held_out, verdict):
    config = config_of("cifar10_vlb")
    made_from = {"num_images": num_images, "likelihood": {"held_out": held_out}, "sample": config.sample.model_dump()}
    write(tmp_path, "likelihood/bound_step_1/bound.json", {"bound_bits_per_dim": bits, "made_from": made_from})
    code, lines = verified(capsys, config, tmp_path, "cifar10_vlb")
    assert lines[0][:12].strip() == verdict and code == (verdict == "fail")


@pytest.mark.parametrize(("text", "said"), [("{", "is damaged: it is not JSON"), ("[{}]", "does not have results as this")])
def test_results_that_are_none_are_a_sentence(tmp_path, text, said):
    (tmp_path / "evaluate" / "step_1").mkdir(parents=True)
    (tmp_path / "evaluate" / "step_1" / "evaluate.json").write_text(text)
    with pytest.raises(UserError, match=said):
        verified(None, config_of("cifar10"), tmp_path, "cifar10")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--config=configs/digits.py"], "'configs/digits.py' has no published figures; these have: configs/cifar10.py, "),
        (["--workdir=run"], "flag --config is missing; it must be a config with published figures: configs/cifar10.py, "),
        (["--config=configs/cifar10.py", "--workdir=none"], "there is no folder 'none'; it must be the workdir of a run"),
        (["--config=configs/cifar10.py", "--workdir=empty"], "'empty' has no config.json; it must be the workdir of a run"),
        (
            ["--config=configs/cifar10.py", "--workdir=run"],
            "(data.random_flip: False -> True); set each of these by --config.<field>=<stored value> to compare that run",
        ),
    ],
)
def test_what_cannot_be_verified_is_a_sentence(tmp_path, capsys, flags, said):
    (tmp_path / "empty").mkdir()
    stored.write_config(storage.path(tmp_path / "run"), config_of("cifar10", **{"data.random_flip": False}))
    flags = [flag.replace("--workdir=", f"--workdir={tmp_path}/") for flag in flags]
    assert main.main(["main.py", "--mode=verify", *flags]) == 2
    error = capsys.readouterr().err.replace(f"{tmp_path}/", "")
    assert said in error and error.count("\n") == 1
