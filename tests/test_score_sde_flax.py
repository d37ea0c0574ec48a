"""Checkpoints of score_sde's Flax code: its own code said the recorded names and outputs (g14, see goldens/README.md)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
from test_models import alive
from test_ncsnpp import NCSNPP, PYRAMIDS, SLOW, SMALL, network_of

import diffusion_jax as dj
from diffusion_jax import networks
from diffusion_jax.compose import imported, processes
from diffusion_jax.errors import UserError
from diffusion_jax.tools import import_weights
from diffusion_jax.weights import formats, maps, score_sde
from diffusion_jax.weights.sources import Source

OPTIONS = {"ddpmpp": {}, "ncsnpp": NCSNPP, "pyramids": PYRAMIDS}
CONFIG = {"multipliers": (1, 2, 2, 2), "attention_stages": (1,)}
SAID = ["process.sigma_max=100", "data.image_size=(8,8)", "model.attention_stages=(1,)"]


def stored():
    return recorded.load("g14_score_sde_flax")


def state(params):
    """Returns the tensors of a checkpoint, by the names of theirs: the average is `params`."""
    written = maps.write(params, score_sde.flax_map_of(params))
    found = {f"optimizer.target.{name}": np.zeros_like(tensor) for name, tensor in written.items()}
    found |= {f"optimizer.state.param_states.{name}.grad_ema": tensor for name, tensor in written.items()}
    return found | {f"params_ema.{name}": tensor for name, tensor in written.items()} | {"rng": np.zeros(2, np.uint32)}


@pytest.mark.parametrize("name", OPTIONS)
def test_names_and_shapes_are_those_of_the_flax_code(name):
    params = alive(network_of(OPTIONS[name]))
    written = maps.write(params, score_sde.flax_map_of(params))
    assert sorted(f"{key} {list(tensor.shape)}" for key, tensor in written.items()) == stored()[f"{name}.names"].tolist()
    jax.tree.map(np.testing.assert_array_equal, maps.read(written, params, score_sde.flax_map_of(params)), params)


def test_a_checkpoint_becomes_a_workdir_with_the_network_of_the_flax_code(tmp_path, capsys):
    """Their images are in [0, 1], so that sigma is half of ours, and they divide by it.

    1e-4: the frequencies multiply a float32 logarithm by up to 300.
    """
    (tmp_path / "checkpoint_26").write_bytes(stored()["pyramids.checkpoint"].tobytes())
    flags = [f"--from={tmp_path / 'checkpoint_26'}", f"--workdir={tmp_path / 'run'}"]
    assert import_weights.main(["import_weights", *flags, *(f"--config.{field}" for field in SAID)]) == 0
    said = capsys.readouterr().out
    assert "of 'checkpoint_26' the tensors of params_ema are used; left out: optimizer, rng, step.\n" in said
    model, sigma = dj.load(tmp_path / "run"), stored()["pyramids.in.sigma"]
    level = processes.process_of(model.config).level(2 * sigma)
    network = networks.bind(processes.network(model.config), model.params, {})
    output = jax.jit(network)(2 * stored()["pyramids.in.x"] - 1, jnp.asarray(level.c_noise))
    np.testing.assert_allclose(output, stored()["pyramids.out"] * sigma[:, None, None, None], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "side"),
    [
        (CONFIG, 32),
        (CONFIG | NCSNPP, 32),
        (CONFIG | NCSNPP | {"num_res_blocks": 2}, 32),
        (PYRAMIDS | {"multipliers": (1, 1, 2, 2, 2, 2, 2), "attention_stages": (4,)}, 256),
        pytest.param(PYRAMIDS | {"multipliers": (1, 2, 2, 2, 2, 4, 4, 4), "attention_stages": (6,)}, 1024, marks=SLOW),
    ],
)
def test_a_published_shape_needs_no_size(options, side):
    """Which stages have attention is not in the weights where several are of one width."""
    like = jax.eval_shape(network_of(options, image_shape=(128, 128, 3)).init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    found = formats.recognised(Source("checkpoint_26", state(params)))
    unknown = "process.kind" if "embedding" not in options else "process.sigma_max"
    assert found.needed == (((unknown,),) if unknown == "process.kind" or side > 32 else ())
    config = imported.config_of(found, {"process.kind": "vp"} if unknown == "process.kind" else {unknown: 700.0})
    assert config.data.image_size == (side, side)
    assert {field: getattr(config.model, field) for field in SMALL | PYRAMIDS} == (
        {"embedding": "positional", "resample_filter": (1, 1), "progressive_input": "none", "progressive": "none"}
        | SMALL
        | options
    )
    imported.params_of(found, config)  # of which every tensor is used


def test_other_shapes_need_their_size_and_their_attention():
    found = formats.recognised(Source("x", state(alive(network_of({})))))
    assert set(found.needed) == {("data.image_size",), ("model.attention_stages",), ("process.kind",)}
    found = formats.recognised(Source("x", state(alive(network_of({"attention_stages": ()})))))
    assert set(found.needed) == {("data.image_size",), ("process.kind",)}  # that of the middle is always there
    assert found.fields["model.attention_stages"] == ()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("params_ema.ResnetBlockDDPM_0.Conv_0.kernel", "score_sde's `ddpm`"),
        ("params_ema.RefineBlock_0.RCUBlock_0.Conv_0.kernel", "score_sde's `ncsn` or `ncsnv2`"),
        ("params_ema.CondRefineBlock_0.CondRCUBlock_0.Conv_0.kernel", "score_sde's `ncsn` or `ncsnv2`"),
        ("model.module.all_modules.4.NIN_0.W", "another network of score_sde than `ncsnpp`, such as its `ddpm`"),
    ],
)
def test_networks_that_the_library_does_not_have_are_named(name, what):
    with pytest.raises(UserError, match=f"the weights of 'x' are those of {what}, which the library does not have.$"):
        formats.recognised(Source("x", {name: np.ones((2, 2), np.float32)}))
