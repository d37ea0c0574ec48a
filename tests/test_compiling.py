"""How programs are compiled: what a loop converts, what is kept between runs, and options that XLA takes."""

import functools
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.extend.core import ClosedJaxpr

import main
from diffusion_jax.compose import command, processes, sampling
from diffusion_jax.runs import compiling, sharding


def mesh_of(platform):
    return SimpleNamespace(devices=np.array([SimpleNamespace(platform=platform)]))


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
    draw = jax.make_jaxpr(sampling.make_generate(config))(params, 0, jnp.arange(2))
    assert len(converted_in_loops(draw.jaxpr)) > 0 and not kernels & set(converted_in_loops(draw.jaxpr))


def test_converting_before_the_loop_changes_no_bit():
    config = tiny.config_of({"model.dtype": "bfloat16"})
    network = processes.network(config)
    params = jax.jit(network.init)(jax.random.key(0))
    x_t, condition = jax.random.normal(jax.random.key(1), (2, 8, 8, 1)), jnp.array([3.0, 7.0])
    apply = jax.jit(lambda params: network.apply(params, x_t, condition, {}))
    np.testing.assert_array_equal(apply(params), apply(network.cast(params)))


def test_the_option_for_reproducible_programs_is_one_that_xla_knows():
    """Only a GPU needs it; here XLA at least reads it, and refuses one that it does not know."""
    assert compiling.options(mesh_of("gpu")) == compiling.options(mesh_of("tpu"), deterministic=True) == {}
    options = compiling.options(mesh_of("gpu"), deterministic=True)
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(lambda x: x + 1, compiler_options={"xla_gpu_deterministic_opps": True})(1)


def test_on_a_cpu_the_gradient_by_a_kernel_is_an_eigen_convolution(optimized):
    convolve = functools.partial(jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME")
    loss = lambda kernel, x: jnp.sum(convolve(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC")) ** 2)  # noqa: E731
    arguments = jnp.ones((3, 3, 64, 64)), jnp.ones((2, 16, 16, 64))
    fused_by_ynn = [
        "ynn_fusion" in jax.jit(jax.grad(loss), compiler_options=options).lower(*arguments).compile().as_text()
        for options in ({}, compiling.options(sharding.local_mesh()))
    ]
    assert fused_by_ynn == [True, False]


def test_exported_variables_change_no_number():
    """A run sets each back; here as if JAX_ENABLE_X64=1 and the others were exported."""
    before = {name: jax.config.values[name] for name in compiling.NUMERICS}
    others = [True, False, 7, "strict", "bfloat16"]
    for name, other in zip(compiling.NUMERICS, others, strict=True):
        jax.config.update(name, other)
    compiling.pin_numerics()
    assert {name: jax.config.values[name] for name in compiling.NUMERICS} == compiling.NUMERICS == before


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(compiling, "EIGEN_CONVOLUTIONS", {"xla_cpu_experimental_option_of_a_later_version": True})
    assert compiling.options(sharding.local_mesh()) == {}


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
