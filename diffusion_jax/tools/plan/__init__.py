"""What a config needs of a TPU slice, without having one.

    python -m diffusion_jax.tools.plan --config=configs/cifar10.py --topology=v5e:4x4

compiles the training step and the sampler for that slice on this machine (pip install "jax[tpu]"; minutes for a large
network), and says what they take of each chip, what the chips send each other, how fast that could be, and whether it fits.
With --topology=local it is for the devices of this machine.

Flags:
    --config            a file of configs/; --config.<field> changes any field of it
    --topology          generation and shape of the slice: v4:2x2x1, v5e:4x4, v5p:2x2x1, v6e:16x16; or local
    --out               a file for the same as JSON
    --sampler=False     leaves the sampler out
"""

import functools
import json
import os
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh

from diffusion_jax import errors
from diffusion_jax.compose import checks, command, inputs, memory, processes, sampling, training
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError
from diffusion_jax.runs import compiling, flops, hardware, logs, sharding, storage
from diffusion_jax.tools.plan import collectives, traffic
from diffusion_jax.training import start, step

GIB, MIB = 2**30, 2**20


class Plan(NamedTuple):
    """What a compiled program takes of each chip."""

    memory: int  # bytes in use at once: arguments, results and temporary arrays
    state: int  # bytes of the arguments alone
    flops: float  # operations of one step, counted from the program as it was written
    traffic: float  # bytes that reach its memory in one step; but for a TPU the compiler's count, of fast memories too
    collectives: dict[str, int]  # {kind: bytes} in one step
    seconds: float  # that compiling took


class TooLargeError(Exception):
    """The compiler found that the memory of a chip is too small."""


def run(config: Config, topology: str, *, with_sampler: bool = True) -> dict[str, Any]:
    """Returns, and prints, what a config takes on a topology.

    The config is checked by `checks.check`. Raises UserError for a topology that there is not, or a batch that it does not
    divide.
    """
    devices = devices_of(topology)
    chip = hardware.PUBLISHED.get(devices[0].device_kind) or hardware.Chip(sharding.memory_per_device())
    if not chip.memory:
        raise UserError(
            f"flag --topology = {topology!r} cannot be planned: the memory of {devices[0].device_kind} is unknown."
        )
    mesh = sharding.make_mesh(num_fsdp=config.train.num_fsdp, devices=devices)
    config = memory.with_batch_size(inputs.with_num_classes(config), mesh, memory=chip.memory)
    found = {"topology": topology, "devices": f"{mesh.size} x {devices[0].device_kind}", "dtype": config.model.dtype}
    logs.say("devices", found["devices"])
    config = _of_latents(config) if config.data.codec else config
    draws = with_sampler and processes.draws(config)
    programs = {"training": (_training, config.train.batch_size)}
    programs |= {"sampling": (_sampling, config.sample.batch_per_device * mesh.size)} if draws else {}
    for name, (make, num_images) in programs.items():
        logs.say(name, f"{num_images} images a step, {num_images // mesh.size} on a chip; compiling...")
        try:
            found[name] = _report(make(config, mesh), config, chip, num_images)
        except TooLargeError as error:
            found[name] = {"fits": False, "compiler": str(error)}
            logs.say("", str(error))
    found["fits"] = all(found[name]["fits"] for name in programs)
    logs.say("verdict", "fits" if found["fits"] else f"does not fit: {_advice(config, chip, mesh)}")
    return found


def _of_latents(config: Config) -> Config:
    """Returns the config of a network of latents as that of one whose images they are: its codec is not counted."""
    height, width, channels = processes.shape(config)
    logs.say("codec", "not counted: what encodes images and decodes latents")
    alone = {"codec": "", "latents": "", "latent_shape": (), "latent_scale": 0.0, "latent_shift": 0.0}
    return config.with_values("data", **alone, image_size=(height, width), channels=channels)


def devices_of(topology: str) -> list[jax.Device]:
    """Returns the devices of a slice that this machine need not have."""
    if topology == "local":
        return jax.devices()
    # libtpu asks; and no lock file, which a killed run would leave behind
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4"}
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    jax.config.update("jax_platforms", "cpu")
    options = {"chip_config_name": "megacore"} if topology.startswith("v4") else {}
    options |= {"chips_per_host_bounds": (1, 1, 1)} if re.search(r":1(x1)+$", topology) else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices)
    except Exception as error:  # jax has no exception of its own for this
        missing = "" if "libtpu" not in str(error) else ' It needs: pip install "jax[tpu]".'
        said = errors.first_line(error).rstrip(".")
        raise UserError(f"flag --topology = {topology!r} is not possible ({said}).{missing}") from error


def _training(config: Config, mesh: Mesh) -> Plan:
    """Returns what one training step takes, its images sent by the host."""
    parts, num_images = training.parts(config), config.train.batch_size
    abstract = jax.eval_shape(functools.partial(start.make_state, parts=parts), jax.random.key(0))
    shardings = sharding.state_shardings(abstract, mesh, shard_optimizer=config.train.shard_optimizer)
    state = sharding.with_shardings(abstract, shardings)
    batch = sharding.with_shardings(inputs.batch_spec(config, num_images), sharding.batched(mesh))
    take = step.compile_step(parts, lambda _, item: item, mesh, shardings, num_steps=1)
    return _compiled(take, (state, {}, batch), mesh, flops.count(take, state, {}, batch))


def _sampling(config: Config, mesh: Mesh) -> Plan:
    """Returns what one step of the sampler takes."""
    draw, whole = sampling.make_generate(config), sharding.replicated(mesh)
    params = sharding.with_shardings(jax.eval_shape(processes.network(config).init, jax.random.key(0)), whole)
    num_images = config.sample.batch_per_device * mesh.size
    is_shown = config.data.condition != "none" or config.model.text != "none"
    shown = inputs.batch_spec(config, num_images) if is_shown else None
    of_images = sharding.with_shardings((jax.ShapeDtypeStruct((num_images,), jnp.int32), shown), sharding.batched(mesh))
    arguments = params, jax.ShapeDtypeStruct((), jnp.int32, sharding=whole), *of_images
    num_steps = 1 if config.sample.sampler == "ode" else len(sampling.grid_times(config)) - 1
    jitted = jax.jit(draw, out_shardings=sharding.batched(mesh), compiler_options=compiling.options(mesh))
    return _compiled(jitted, arguments, mesh, flops.count(draw, *arguments) / num_steps)


def _compiled(jitted: Callable, arguments: tuple, mesh: Mesh, num_flops: float) -> Plan:
    start = time.monotonic()
    try:
        compiled = jitted.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLargeError(re.sub(r"\s+", " ", errors.first_line(error))) from error
    sizes = compiled.memory_analysis()
    state = sizes.argument_size_in_bytes
    used = state + sizes.output_size_in_bytes - sizes.alias_size_in_bytes + sizes.temp_size_in_bytes
    return Plan(
        memory=used + sizes.generated_code_size_in_bytes,
        state=state,
        flops=num_flops / mesh.size,
        traffic=_traffic(compiled, mesh),  # of a loop, once its body
        collectives=collectives.moved(compiled.as_text()),
        seconds=time.monotonic() - start,
    )


def _traffic(compiled: jax.stages.Compiled, mesh: Mesh) -> float:
    if mesh.devices.flat[0].platform == "tpu":
        return float(traffic.hbm_bytes(compiled.as_text()))
    return (compiled.cost_analysis() or {}).get("bytes accessed", 0.0)


def _report(plan: Plan, config: Config, chip: hardware.Chip, num_images: int) -> dict[str, Any]:
    """Returns a program's figures with the least time that they allow, and prints them."""
    is_exact = (config.model.dtype, config.model.precision) == ("float32", "highest")  # others are TF32, bfloat16 or several
    bounds = {
        "compute": plan.flops / (chip.float32 if is_exact else chip.bfloat16),
        "memory": plan.traffic / chip.bandwidth,
        "links": sum(plan.collectives.values()) / chip.links,
    }
    least, limit = max((seconds, name) for name, seconds in bounds.items())
    fits = plan.memory + config.data.device_cache_gib * GIB <= chip.memory
    sent = ", ".join(f"{kind} {size / MIB:,.1f} MiB" for kind, size in plan.collectives.items()) or "nothing"
    used, cache = f"{plan.memory / GIB:.2f} of {chip.memory / GIB:.0f} GiB", config.data.device_cache_gib
    logs.say("  memory", f"{used} a chip, {plan.state / GIB:.2f} of it state")
    logs.say("", f"and {cache:g} GiB at most for the data set (data.device_cache_gib), counted in full")
    logs.say("  compute", f"{plan.flops / 1e9:,.1f} GFLOP a chip, {plan.traffic / GIB:.2f} GiB read and written")
    logs.say("  sent", sent)
    if least:
        logs.say("  roofline", "  ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in bounds.items()))
        logs.say("", f"so about {1e3 * least:.3g} ms a step at best, for the {limit}")
    else:
        logs.say("  roofline", "unknown: the speed of this device is not in the table")
    logs.say("  compiled", f"in {plan.seconds:.0f} s")
    return {
        **plan._asdict(),
        "num_images": num_images,
        "bounds_s": bounds if least else None,
        "least_s": least or None,
        "limit": limit if least else None,
        "memory_of_chip": chip.memory,
        "fits": fits,
    }


def _advice(config: Config, chip: hardware.Chip, mesh: Mesh) -> str:
    """Returns what to change."""
    is_whole = mesh.size > 1 and config.train.num_fsdp == 1 and not config.train.shard_optimizer
    again = f"model.num_remat_stages = {processes.network(config).parts.num_stages}"
    lever = f"train.shard_optimizer = True, {again}" if is_whole else again
    try:
        size = memory.batch_size(config, memory=chip.memory, num_devices=mesh.size)
    except UserError:
        return f"set {lever}, or train.num_fsdp = {mesh.size}."
    if size < config.train.batch_size:
        return f"set {lever}, or train.batch_size = {size}."
    return f"set {lever}, or a smaller data.device_cache_gib or sample.batch_per_device."


@command.program(__doc__)
def main(argv: list[str]) -> int:
    """Prints the plan; the exit code is 0 where it fits, 1 where it does not, 2 for bad input."""
    flags, changes = command.parse(argv, {"topology": "", "out": "", "sampler": "True"})
    config = command.config_of(flags, changes)
    checks.check(config)
    wanted = "a TPU slice, such as v5e:4x4, or local, the devices of this machine"
    command.check_given(flags, {"topology": wanted})
    command.check_allowed(flags, "topology", flags["topology"] == "local" or flags["topology"].startswith("v"), wanted)
    command.check_allowed(flags, "sampler", flags["sampler"] in ("True", "False"), "True or False")
    found = run(config, flags["topology"], with_sampler=flags["sampler"] == "True")
    if flags["out"]:
        storage.write_text(storage.path(flags["out"]), json.dumps(found, indent=2) + "\n")
    return 0 if found["fits"] else command.RUN_FAILED
