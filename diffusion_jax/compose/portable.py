"""A model that runs without this package: its sampler as a program of JAX, its network as one of ONNX, its noise levels."""

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from diffusion_jax.compose import coding, guiding, inputs, processes, sampling
from diffusion_jax.compose.choices import PARAMETERIZATIONS
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import RunError, UserError, first_line, needed

PLATFORMS = ("cpu", "cuda", "tpu")
MOST_BYTES = 2**31 - 2**20  # of the weights: both formats count the bytes of a file in 31 bits
BOUND = 1e-4  # of the largest output: how far onnxruntime may be from JAX
INSTALL = "pip install jax2onnx==0.13.0 onnxruntime"  # later ones want an older orbax-checkpoint than ours
CHECKED_BATCHES = (1, 3)  # with how many images it is compared
Specs = dict[str, jax.ShapeDtypeStruct]  # of inputs by name, for one image


def cond_specs(config: Config, guide: Config | None = None) -> Specs:
    """Returns what is given of each image, such as {"label": int32 [1]}; arguments as for `guiding.denoiser_of`."""
    return inputs.conditioning(guiding.labelled(config, guide)).spec(1)


def network_specs(config: Config) -> Specs:
    """Returns the inputs of `network_program`: x_t, c_noise and what `cond_specs` has; those of floats in float32."""
    shapes = {"x_t": (1, *processes.shape(config)), "c_noise": (1, 2) if config.model.jumps else (1,)}
    cond = cond_specs(config)
    types = {name: of.dtype for name, of in cond.items() if jnp.issubdtype(of.dtype, jnp.integer)}
    shapes |= {name: of.shape for name, of in cond.items()}
    return {name: jax.ShapeDtypeStruct(shape, types.get(name, jnp.float32)) for name, shape in shapes.items()}


def sampler_program(configs: Sequence[Config], weights: Any) -> bytes:
    """Returns (seed [], image numbers [B], cond) -> images, uint8 [B, H, W, C], as `jax.export` serializes it.

    It is for any B, and has the program of each of `PLATFORMS`. Image i is the one that `--mode=sample` draws.

    Args:
        configs: of the run, and of its guide where there is one; the section `sample` says how it draws.
        weights: as `guiding.denoiser_of` takes them for these configs.

    Raises:
        UserError: where the network draws no images, or is too large for one file, or a package is missing.
    """
    needed("flatbuffers", "jax.export writes its programs by a package: pip install flatbuffers.")
    processes.check_draws(configs[0])
    _check_size(weights)
    generate, levels = sampling.make_generate_given(*configs), sampling.grid(configs[0])
    weights = jax.tree.map(np.asarray, weights)  # constants that lie on no device
    (batch,) = jax.export.symbolic_shape("b")
    seed, numbers = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((), (batch,)))
    cond = {name: jax.ShapeDtypeStruct((batch, *of.shape[1:]), of.dtype) for name, of in cond_specs(*configs).items()}
    draw = jax.jit(lambda seed, numbers, cond: generate(weights, seed, numbers, cond, levels)[0])
    return bytes(jax.export.export(draw, platforms=PLATFORMS)(seed, numbers, cond).serialize())


def network_program(config: Config, params: Any) -> tuple[bytes, float]:
    """Returns the network as ONNX, and how far onnxruntime's outputs are from JAX's, as a share of the largest output.

    Its inputs are those of `network_specs`, for any number of images, its output is "output". It computes in float32.

    Raises:
        UserError: where a package is not installed, the network draws no images, has no counterpart or is too large.
        RunError: where onnxruntime's outputs are further away than `BOUND`.
    """
    processes.check_draws(config)
    config = config.with_values("model", dtype="float32", num_remat_stages=0)
    network, specs = processes.network(config), network_specs(config)
    params, names = jax.tree.map(np.asarray, params), list(specs)[2:]

    def output(x_t: Any, c_noise: Any, *cond: Any) -> Any:
        return network.apply(params, x_t, c_noise, dict(zip(names, cond, strict=True)), train=False, rngs=None)

    high = {"c_noise": sampling.grid(config).c_noise.max(), "label": config.model.num_classes}
    return _onnx(output, specs, params, high)


def decoder_program(config: Config) -> tuple[bytes, float]:
    """Returns x_0, which are latents, -> images in [-1, 1], as ONNX; else as `network_program`."""
    codec, specs = config.data.codec, {"x_0": network_specs(config)["x_t"]}
    decode, (_, params) = coding.coder(codec).decode, coding.first_stage(codec)
    return _onnx(lambda x_0: decode(coding.latents_of(config, x_0)), specs, params, {})


def levels(config: Config) -> dict[str, list[float | None]]:
    """Returns the noise levels that sampling visits, a list of S + 1 numbers for each column; None is infinity.

    With a and b, the coefficients of the network's output a x_0 + b eps, and the factor `input_scale` of x_t in its input.
    """
    grid, of = sampling.grid(config), PARAMETERIZATIONS[config.predicts]
    with np.errstate(divide="ignore"):
        a, b = of.coefficients(grid)
        columns = {"alpha": grid.alpha, "sigma": grid.sigma, "c_noise": grid.c_noise, "a": a, "b": b}
        columns |= {"log_snr": np.float64(grid.log_snr) + grid.log_snr_lo, "input_scale": of.input_scale(grid)}
    return {name: [float(x) if np.isfinite(x) else None for x in np.asarray(of)] for name, of in columns.items()}


def _check_size(weights: Any) -> None:
    if (size := sum(leaf.nbytes for leaf in jax.tree.leaves(weights))) > MOST_BYTES:
        raise UserError(f"weights of {size / 2**30:.1f} GiB do not fit into one such file, of 2 GiB; use --to=safetensors.")


def _onnx(fn: Callable, specs: Specs, weights: Any, high: dict[str, float]) -> tuple[bytes, float]:
    """Returns a function as ONNX, and its error; `high` are bounds of inputs that are counted from 0 to there."""
    _check_size(weights)
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(f"flag --to = 'onnx' needs packages ({error}): {INSTALL}.") from error
    for name in ("jax2onnx", "onnx_ir"):  # they warn of what is not installed, and of each shape that is found later
        logging.getLogger(name).setLevel(logging.ERROR)
    batched = [jax.ShapeDtypeStruct(("B", *of.shape[1:]), of.dtype) for of in specs.values()]
    try:
        with warnings.catch_warnings(action="ignore"):
            found = jax2onnx.to_onnx(fn, batched, input_names=list(specs), output_names=["output"]).SerializeToString()
        session = onnxruntime.InferenceSession(found, providers=["CPUExecutionProvider"])
    except Exception as error:  # both have many names for what they cannot do
        sentence = f"flag --to = 'onnx' has no counterpart of this network ({first_line(error)}); use 'jax'."
        raise UserError(sentence) from error
    rng = np.random.default_rng(0)
    difference = max(_difference(session, fn, _drawn(rng, specs, size, high)) for size in CHECKED_BATCHES)
    if not difference <= BOUND:
        raise RunError(f"onnxruntime differs from JAX by {difference:.1g} of the largest output, above {BOUND:.0e}.")
    return found, difference


def _drawn(rng: np.random.Generator, specs: Specs, size: int, high: dict[str, float]) -> dict[str, np.ndarray]:
    """Returns random inputs of `size` images: normal ones, or from 0 to what `high` has."""
    shapes = {name: (size, *of.shape[1:]) for name, of in specs.items()}
    drawn = {name: rng.uniform(0, high[name], of) if name in high else rng.normal(size=of) for name, of in shapes.items()}
    return {name: of.astype(specs[name].dtype) for name, of in drawn.items()}


def _difference(session: Any, fn: Callable, given: dict[str, np.ndarray]) -> float:
    """Returns how far onnxruntime's output is from JAX's, as a share of the largest."""
    wanted, [found] = np.asarray(jax.jit(fn)(*given.values())), session.run(None, given)
    return float(np.max(np.abs(found - wanted)) / max(np.max(np.abs(wanted)), np.finfo(np.float32).tiny))
