"""What a profile says of one call: how much of the device's time goes into matrix products, and how long it waits."""

import gzip
import json
import pathlib
import re
import tempfile
from collections.abc import Callable

import jax

PRODUCTS = re.compile(
    r"conv(?!ert)|ynn|cudnn|fprop|dgrad|wgrad|xmma|cutlass|gemm|nvjet|cublas|dot|addmm|bmm|mm$|attention|flash", re.I
)
CONTAINERS = re.compile(r"^(while|call|conditional|command_buffer)")


def of_jax(call: Callable[[], None]) -> dict[str, float]:
    """Returns shares of a call that waits for its end, from JAX's own trace."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            call()
        [file] = pathlib.Path(folder).rglob("perfetto_trace.json.gz")
        with gzip.open(file) as stored:
            found = json.load(stored)
    events = found["traceEvents"] if isinstance(found, dict) else found
    done = [
        (f"{event['name']} {event['args']['hlo_op']}", event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("ph") == "X" and "hlo_op" in event.get("args", {}) and not CONTAINERS.match(event["name"])
    ]
    return shares(done)


def of_torch(call: Callable[[], None]) -> dict[str, float]:
    """Returns shares of a call that waits for its end, from torch's own trace; on a CPU that of products alone."""
    import torch

    with torch.profiler.profile() as profile:
        call()
    if torch.cuda.is_available():
        kernels = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        return shares([(event.name, event.time_range.start, event.time_range.end) for event in kernels])
    own = {event.key: event.self_cpu_time_total for event in profile.key_averages()}  # without what an operation calls
    return {"products_of_device_time": sum(time for name, time in own.items() if PRODUCTS.search(name)) / sum(own.values())}


def shares(events: list[tuple[str, float, float]]) -> dict[str, float]:
    """Returns which share of all time matrix products and convolutions have, and which of the span something runs.

    Args:
        events: (name, start, end), which may overlap where several threads or streams work.
    """
    if not events:
        return {}
    total = sum(end - start for _, start, end in events)
    products = sum(end - start for name, start, end in events if PRODUCTS.search(name))
    covered, until = 0.0, min(start for _, start, _ in events)
    span = max(end for _, _, end in events) - until
    for _, start, end in sorted(events, key=lambda event: event[1]):
        covered, until = covered + max(0.0, end - max(start, until)), max(until, end)
    return {"products_of_device_time": products / total, "busy_of_span": covered / span}
