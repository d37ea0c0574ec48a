"""Shared by all tests: eight CPU devices, so that meshes are real, quick compilation, and float64 on request."""

import gc
import os
import tempfile
from importlib import metadata

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
if metadata.version("jaxlib").startswith("0.10."):  # a training step compiles in half the time; later ones lack the flag
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"  # threads gain nothing where there is a worker a core
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="xla_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
# Each worker shares one with the processes that it starts; JAX writes there in place, so that two workers would read halves.
os.environ["JAX_COMPILATION_CACHE_DIR"] += "/" + os.environ.get("PYTEST_XDIST_WORKER", "")

import jax
import pytest
import tiny

import main

gc.set_threshold(200_000, 50, 1000)  # what JAX keeps makes each collection long
gc.freeze()  # and what was imported stays


@pytest.fixture(autouse=True, scope="module")
def forgetting():
    """Lets go of a file's programs after its last test: gigabytes of them would slow the others down."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The workdir of a tiny run of two steps with two averages, to be read; `shutil.copytree` gives one to write in."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    with tiny.one_device():
        assert main.main(["main.py", *tiny.flags(workdir, **tiny.TRAINED)]) == 0
    return workdir


@pytest.fixture
def one_device():
    """Lets a run see one device, for which everything is sooner compiled: where a test is not about devices."""
    with tiny.one_device():
        yield


@pytest.fixture
def optimized():
    """Compiles a test's programs as users' are: what computes for long is then sooner done."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def x64():
    """Runs a test in float64: what it finds then is mathematics, not rounding."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """Runs a test in both precisions; gives the relative tolerance that each deserves."""
    jax.config.update("jax_enable_x64", request.param == "float64")
    yield {"float32": 2e-6, "float64": 1e-12}[request.param]
    jax.config.update("jax_enable_x64", False)
