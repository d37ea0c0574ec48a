"""How programs are compiled: what a loop converts, what is kept between runs, and options that XLA takes."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.extend.core import ClosedJaxpr

import main
from diffusion_jax.compose import command, processes, sampling
from diffusion_jax.runs import compiling


def converted_in_loops(jaxpr, in_loop=False):
    """Returns the shapes of all matrices that a program's loops convert to bfloat16."""
    found = []
    for equation in jaxpr.eqns:
        if in_loop and equation.primitive.name == "convert_element_type" and equation.params["new_dtype"] == jnp.bfloat16:
            found.append(equation.invars[0].aval.shape)
        for value in equation.params.values():
            if isinstance(value, ClosedJaxpr):
                found += converted_in_loops(value.jaxpr, in_loop or equation.primitive.name == "scan")
    return found


def test_a_sampler_converts_no_kernel_in_its_loop():
    config = tiny.config_of({"model.dtype": "bfloat16"})
    params = jax.eval_shape(processes.network(config).init, jax.random.key(0))
    kernels = {leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "kernel"}
    draw = jax.make_jaxpr(sampling.draw(config))(params, 0, jnp.arange(2))
    assert len(converted_in_loops(draw.jaxpr)) > 0 and not kernels & set(converted_in_loops(draw.jaxpr))


def test_converting_before_the_loop_changes_no_bit():
    config = tiny.config_of({"model.dtype": "bfloat16"})
    network = processes.network(config)
    params = jax.jit(network.init)(jax.random.key(0))
    x_t, condition = jax.random.normal(jax.random.key(1), (2, 8, 8, 1)), jnp.array([3.0, 7.0])
    apply = jax.jit(lambda params: network.apply(params, x_t, condition, {}))
    np.testing.assert_array_equal(apply(params), apply(network.cast(params)))


def test_the_option_for_reproducible_programs_is_one_that_xla_knows(monkeypatch):
    """Only a GPU needs it; here XLA at least reads it, and refuses one that it does not know."""
    assert compiling.options(deterministic=True) == {}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiling.options(deterministic=False) == {}
    options = compiling.options(deterministic=True)
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(lambda x: x + 1, compiler_options={"xla_gpu_deterministic_opps": True})(1)


def test_a_second_start_takes_its_programs_from_the_first(tmp_path):
    """From the user's cache folder, or from where JAX was told to keep them."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    program = "import jax; from diffusion_jax.runs import compiling; compiling.keep_compiled(); jax.jit(jax.numpy.sin)(2.0)"

    def kept(folder):
        subprocess.run([sys.executable, "-c", program], cwd=tiny.ROOT, env=environment, check=True)
        return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.endswith("-cache")}

    programs = kept(tmp_path / "diffusion_jax" / "compiled")
    assert programs and kept(tmp_path / "diffusion_jax" / "compiled") == programs
    environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "elsewhere")
    assert kept(tmp_path / "elsewhere")


@pytest.mark.parametrize("wanted", [True, False])
def test_the_config_decides_whether_programs_are_kept(tmp_path, monkeypatch, wanted):
    asked = []
    monkeypatch.setattr(compiling, "keep_compiled", lambda: asked.append(True))
    flags = [*tiny.flags(tmp_path), f"--config.compilation_cache={wanted}", "--config.train.num_fsdp=3"]
    assert main.main(["main.py", *flags]) == command.BAD_INPUT and bool(asked) == wanted
