"""What a function has to compute: the floating-point operations of its matrix products and convolutions."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

JAXPRS = (ClosedJaxpr, Jaxpr)  # one class from jax 0.12 on


def count(fn: Callable, *args) -> int:
    """Returns the operations (a multiplication and an addition are two) that `fn(*args)` takes; nothing is computed.

    Only matrix products and convolutions count, as is usual for a network's FLOPs. A loop counts as often as it runs (a
    `while` loop once, since nobody knows), a branch as the dearest one, and zeros that pad or widen a convolution's input
    count where they pad, not where they widen.

    Args:
        *args: arrays or `jax.ShapeDtypeStruct`s.
    """
    traceable = fn if hasattr(fn, "trace") else jax.jit(fn)
    return _of_jaxpr(traceable.trace(*args).jaxpr.jaxpr)


def _of_jaxpr(jaxpr: Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        _, features_in, *window = params["dimension_numbers"].rhs_spec
        kernel = equation.invars[1].aval.shape
        taps = math.prod(kernel[axis] for axis in (features_in, *window))
        return 2 * equation.outvars[0].aval.size * taps // math.prod(params["lhs_dilation"])
    inner = [_of_jaxpr(jaxpr) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _inner(params: dict[str, Any]) -> list[Jaxpr]:
    """Returns the functions that an operation calls."""
    values = [leaf for value in params.values() for leaf in (value if isinstance(value, tuple | list) else [value])]
    return [value.jaxpr if isinstance(value, ClosedJaxpr) else value for value in values if isinstance(value, JAXPRS)]
