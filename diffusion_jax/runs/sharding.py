"""Where arrays live: a mesh of all devices, a rule for parameters, batches from hosts. The rest is the compiler's work."""

import contextlib
import importlib.util
import math
import os
import signal
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffusion_jax import errors
from diffusion_jax.errors import UserError, some

AXES = ("data", "fsdp")
MIN_SHARDED_SIZE = 2**16  # smaller parameters are replicated: gathering them costs more than it saves


def join_processes() -> None:
    """Joins the other processes of a run, where there are any; to be called before anything is computed.

    Those of a Cloud TPU slice and of a SLURM job find each other; elsewhere JAX_COORDINATOR_ADDRESS (host:port of the
    first), JAX_NUM_PROCESSES and JAX_PROCESS_ID say who they are. Raises UserError where these do not fit together.
    """
    if jax.distributed.is_initialized():
        return
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        try:
            numbers = {name: int(os.environ[f"JAX_{name.upper()}"]) for name in ("num_processes", "process_id")}
            jax.distributed.initialize(**numbers)
        except (KeyError, ValueError) as error:
            raise UserError(
                "variable JAX_COORDINATOR_ADDRESS needs JAX_NUM_PROCESSES = 1, 2, ... and JAX_PROCESS_ID below it as well "
                f"({type(error).__name__}: {error})."
            ) from error
    elif _num_slurm_tasks() > 1 or _may_have_tpus():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # all are this process's, where JAX would take one of them
        with contextlib.suppress(ValueError):  # a machine by itself
            jax.distributed.initialize(local_device_ids=list(range(len(visible.split(",")))) if visible else None)


def start_devices() -> None:
    """Starts JAX on its devices.

    Raises:
        UserError: where there are none of the wanted kind.
    """
    try:
        jax.devices()
    except RuntimeError as error:
        wanted, said = os.environ.get("JAX_PLATFORMS", ""), errors.first_line(error)
        raise UserError(f"JAX cannot start with variable JAX_PLATFORMS = {wanted!r} ({said}).") from error


def platform() -> str:
    """Returns 'cpu', 'gpu' or 'tpu', after joining the other processes and starting JAX; errors as for these."""
    join_processes()
    start_devices()
    return jax.default_backend()


def _num_slurm_tasks() -> int:
    text = os.environ.get("SLURM_NTASKS", "1")
    if not text.isdigit():
        raise UserError(f"variable SLURM_NTASKS = {text!r} is not allowed; it must be a whole number.")
    return int(text)


def _may_have_tpus() -> bool:
    return importlib.util.find_spec("libtpu") is not None and os.environ.get("JAX_PLATFORMS") != "cpu"


def is_first() -> bool:
    """Returns whether this process writes the files that are written once: the first one."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Waits until every process has come to the same place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def check_same(what: str, number: int) -> None:
    """Raises UserError, in every process, where they do not all have the same number of something."""
    found = [number] if jax.process_count() == 1 else multihost_utils.process_allgather(np.int32(number)).tolist()
    if len(set(found)) > 1:
        raise UserError(f"the {what} must be the same for all processes, and is {some(list(map(str, found)))}.")


def all_stop(call: int, caught: list[int]) -> bool:
    """Returns whether to stop before a call, where a signal was caught; several processes agree on the call.

    Args:
        call: its number, rising by one.
        caught: signals; gets SIGTERM where one of several processes had it.
    """
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(call):
        caught.append(signal.SIGTERM)
    return bool(caught)


def local_mesh() -> Mesh:
    """Returns a mesh of this process's devices, for work that processes share without communication, such as sampling."""
    return make_mesh(devices=jax.local_devices())


def make_mesh(*, num_fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with axes ("data", "fsdp"); UserError where `num_fsdp` does not divide the devices.

    Batches are split over both, parameters over the second.

    Args:
        num_fsdp: devices that share each parameter; must divide the number of devices.
        devices: to take; by default all of all processes.
    """
    num_devices = len(devices or jax.devices())
    if num_devices % num_fsdp:
        raise UserError(f"config field train.num_fsdp = {num_fsdp} must divide the number of devices, {num_devices}.")
    shape = num_devices // num_fsdp, num_fsdp
    placed = mesh_utils.create_device_mesh(shape, devices or jax.devices(), allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, P())


def batched(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
    """Returns the sharding that splits one axis over all devices."""
    return NamedSharding(mesh, P(*[None] * axis, AXES))


def state_shardings(state: Any, mesh: Mesh, *, shard_optimizer: bool) -> Any:
    """Returns a sharding for each array, or `jax.ShapeDtypeStruct`, of a `TrainState`.

    With `shard_optimizer` averages and optimizer state are split over all devices, so that each updates its part of the
    parameters only. [Xu et al. 2020, weight-update sharding]
    """
    shardings = param_shardings(state, mesh)
    if not shard_optimizer:
        return shardings
    parts = {name: param_shardings(getattr(state, name), mesh, axes=AXES) for name in ("ema", "opt_state")}
    return shardings._replace(**parts)


def param_shardings(tree: Any, mesh: Mesh, *, axes: tuple[str, ...] = ("fsdp",)) -> Any:
    """Returns a sharding for each array, or `jax.ShapeDtypeStruct`, of a pytree.

    Of a large one the largest dimension that the axes divide is split.
    """
    num_parts = math.prod(mesh.shape[axis] for axis in axes)

    def rule(leaf) -> NamedSharding:
        splittable = [axis for axis, size in enumerate(leaf.shape) if size % num_parts == 0]
        if num_parts == 1 or leaf.size < MIN_SHARDED_SIZE or not splittable:
            return replicated(mesh)
        axis = max(splittable, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, P(*[None] * axis, axes))

    return jax.tree.map(rule, tree)


def with_shardings(tree: Any, where: Any) -> Any:
    """Returns a `jax.ShapeDtypeStruct` for each array of a pytree, with its sharding: one for all, or a pytree of them."""
    where = jax.tree.map(lambda _: where, tree) if isinstance(where, NamedSharding) else where
    return jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), tree, where)


def check_batch_size(batch_size: int, mesh: Mesh, *, num_microbatches: int = 1) -> None:
    """Raises UserError where the devices do not divide a batch, or its parts."""
    if batch_size % (mesh.size * num_microbatches):
        parts = f", times train.num_microbatches, {num_microbatches}" if num_microbatches > 1 else ""
        raise UserError(
            f"config field train.batch_size = {batch_size} must be a multiple of the number of devices, {mesh.size}{parts}."
        )


def device_name() -> str:
    """Returns the kind of the devices; of a CPU also the number of cores, by which the order of its sums is chosen."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{device.device_kind} with {cores} core{'s' * (cores != 1)}"


def memory_per_device() -> int:
    """Returns how many bytes a device may use, 0 where that is unknown; CPU devices share half of the machine's memory."""
    device = jax.local_devices()[0]
    statistics = device.memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    if device.platform != "cpu":
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 // jax.local_device_count()


def put_global(tree: Any, sharding: NamedSharding) -> Any:
    """Returns arrays that every process has whole as global arrays."""

    def placed(leaf: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(np.shape(leaf), sharding, lambda index: np.asarray(leaf)[index])

    return jax.tree.map(placed, tree)


def put_local_part(batch: Any, sharding: NamedSharding) -> Any:
    """Returns a host's part of a batch as global arrays."""
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch)
