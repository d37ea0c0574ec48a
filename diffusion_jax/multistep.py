"""Fast samplers: solvers of the probability flow, and of its stochastic sibling, that remember predictions.

With lambda = log(alpha / sigma) the flow from level t to level s is, exactly,

    x_s = sigma_s / sigma_t x_t + alpha_s int_0^h e^{u - h} x_0(lambda_t + u) du          h = lambda_s - lambda_t
    x_s = alpha_s / alpha_t x_t - sigma_s int_0^h e^{h - u} eps(lambda_t + u) du

[Lu et al. 2022, DPM-Solver++, eq. 8 and DPM-Solver, eq. 3.4]. The solvers put a polynomial through predictions they have and
integrate it exactly; they differ in which predictions those are. The weights depend on the grid alone: `init` computes
them for all steps at once, and a step is

    x_s = keep x_t + sum_j weights[j] outputs[j]                                           the latest output first

Of order 2 with x_0, DPM-Solver++(2M), that is keep = sigma_s / sigma_t and, with m = alpha_s (1 - e^{-h}) and r = the step
before over this one in lambda, weights = m (1 + 1 / (2 r)), -m / (2 r). Euler's method is `samplers.ddim()`.
"""

import functools
import math
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion_jax import errors, process
from diffusion_jax.denoiser import Denoiser
from diffusion_jax.process import Level
from diffusion_jax.samplers import Interval, Noise, Sampler

SolvesFor = Literal["x_0", "eps"]
Line = Literal["exact", "bh1", "bh2"]  # what a line through two predictions counts as, see `_combination`

TERMS = range(12)  # of the series of an integral over a step below 1/2: what is left out is below 1e-12 of it


class Combination(NamedTuple):
    """How steps combine what they have: keep x + sum_j weights[j] outputs[j]."""

    keep: Array  # [S]
    weights: Array  # of the outputs, the latest first; 0 where a step takes fewer, [S, n]


class History(NamedTuple):
    """A state that remembers the latest predictions."""

    x: Array  # [B, ...]
    start: Array  # the last corrected point, of `unipc`
    outputs: Array  # the predictions, the latest first, [n, B, ...]
    plan: Any  # of all steps, a pytree of [S, ...]


def dpm_solver(*, order: int = 2, solves_for: SolvesFor = "x_0", lower_order_final: bool = True) -> Sampler:
    """Returns the multistep sampler through the latest predictions: DPM-Solver++ for x_0, DPM-Solver for eps.

    One evaluation a step. Order 2 is DPM-Solver++(2M): the slope of the line, held at the middle of the step. [Lu et al.
    2022, DPM-Solver++, algorithm 2]. Order 3 integrates the parabola exactly; the published code of order 3 (DPM-Solver's,
    and its copies) takes half of the second difference, and so stays of order 2.

    Args:
        order: 1 to 3, and 1 is DDIM. The first steps have fewer predictions. Where x_0 already moves at the noisiest level
            (a log-SNR above about -8) order 3 becomes order 2 by them.
        solves_for: which prediction the polynomial is of; 'x_0' where a level has no signal. Limits on x_0 act on either.
        lower_order_final: whether the last steps go down to order 1, which is steadier for fewer than about 15 steps. A step
            to the data always has order 1: no polynomial reaches there.

    Raises:
        ValueError: for another order.

    Example:
        >>> process = dj.chain(dj.linear(1000))
        >>> denoise, keys = dj.make_denoiser(lambda x_t, c_noise: x_t, dj.V), jax.random.split(jax.random.key(1), 4)
        >>> grid, x_T = process.level(dj.trailing(process, 20)), jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
        >>> int(dj.sample(denoise, dj.dpm_solver(order=2), x_T, grid, keys).num_evaluations)
        20
    """
    _check(order, solves_for)

    def plan(grid: Level, index: Array) -> Combination:
        num = _num_nodes(order, grid, index, lower_order_final)
        return _combination(solves_for, grid, index, index + 1, _before(index, order), num, line="bh2")

    return _planned(order, plan, solves_for)


def unipc(*, order: int = 2, solves_for: SolvesFor = "x_0", lower_order_final: bool = True, variant: str = "bh2") -> Sampler:
    """Returns UniPC: `dpm_solver`, its points corrected by the predictions made there. [Zhao et al. 2023, UniPC]

    One evaluation a step: a corrected point is not evaluated again. The last point is not corrected, nor one that was
    reached from a level without signal.

    Args:
        order: 1 to 3, of the predictor; the corrector's is one more. The first steps have less, as in `dpm_solver`.
        solves_for: as in `dpm_solver`; with 'eps' the image may leave limits on x_0 a little, since the point is corrected.
        lower_order_final: as in `dpm_solver`.
        variant: the paper's B(h), which matters for lines alone: 'bh1' is h; 'bh2' is e^h - 1, for x_0 1 - e^{-h}.

    Raises:
        ValueError: for another order or variant.
    """
    _check(order, solves_for)
    if variant not in ("bh1", "bh2"):
        raise ValueError(f"variant = {variant!r} is unknown; known: bh1, bh2.")

    def plan(grid: Level, index: Array) -> tuple[Combination, Combination, Array]:
        before = np.maximum(index - 1, 0)
        num = np.minimum(order, index)  # of predictions that the step to t was made from
        num = np.minimum(num, index[::-1] + 2) if lower_order_final else num
        corrects = (index > 0) & (grid.alpha[before] > 0)
        corrector = _combination(solves_for, grid, before, index, _before(index, order + 1), num + 1, line=variant)
        where = process.numpy_of(grid.log_snr).where
        corrector = Combination(where(corrects, corrector.keep, 0), where(corrects[:, None], corrector.weights, 0))
        num = _num_nodes(order, grid, index, lower_order_final)
        predictor = _combination(solves_for, grid, index, index + 1, _before(index, order + 1), num, line=variant)
        return corrector, predictor, corrects

    def step(denoise: Denoiser, state: History, interval: Interval, noise: Noise) -> tuple[History, int]:
        corrector, predictor, corrects = state.plan
        state = _remember(state, getattr(denoise(state.x, interval.t), solves_for))
        corrected = _combined(corrector, interval.index, state.start, state.outputs)
        start = jnp.where(corrects[interval.index], corrected, state.x)
        return state._replace(x=_combined(predictor, interval.index, start, state.outputs), start=start), 1

    return _sampler(order + 1, plan, step, needs_signal=solves_for == "eps")


def dpm_solver_singlestep(*, order: int = 2, solves_for: SolvesFor = "x_0", lower_order_final: bool = True) -> Sampler:
    """Returns the singlestep DPM-Solver: blocks of `order` steps of the grid, each block a Runge-Kutta step of that order.

    The grid's levels inside a block are its stages, so that an evaluation is a step here too. Order 2 is algorithm 1 of
    [Lu et al. 2022, DPM-Solver], with its stage anywhere; order 3 takes the whole parabola through its stages ('taylor' in
    their code), of which algorithm 2 leaves out the middle one: that has order 3 at a third and two thirds only.

    Args:
        order: 1 to 3.
        solves_for: as in `dpm_solver`.
        lower_order_final: whether no block of `order` steps is the last: it ends with a block of one. Those of
            order 3 are DPM-Solver-fast's, such as 3, 3, 2, 1. A step to the data always is a block of its own.

    Raises:
        ValueError: for another order.
    """
    _check(order, solves_for)
    return _planned(order, functools.partial(_blocks, order, solves_for, lower_order_final, False), solves_for)


def dpm_solver_sde_singlestep(*, lower_order_final: bool = True) -> Sampler:
    """Returns DPM++ SDE of k-diffusion: `dpm_solver_singlestep` of order 2 for the reverse SDE of `dpm_solver_sde`.

    A block's two noises are of one path, so that its weak order is 2. k-diffusion's stages are halfway in log-SNR.

    Args:
        lower_order_final: as in `dpm_solver_singlestep`.
    """
    return _planned(2, functools.partial(_blocks, 2, "x_0", lower_order_final, True), "x_0", is_sde=True)


def _blocks(
    order: int, solves_for: SolvesFor, lower_order_final: bool, is_sde: bool, grid: Level, index: np.ndarray
) -> Combination:
    """Returns the steps of blocks, each from the stage before: what it adds to the block's way there."""
    xp = process.numpy_of(grid.log_snr)
    ends_block = index % order == order - 1
    stage = xp.where((grid.sigma[1:] == 0) | (lower_order_final & (index[::-1] == 0) & ends_block), 0, index % order)
    no_signal = grid.alpha[index - stage] == 0  # a step from there has no length: begin one level later
    stage = xp.where(no_signal, xp.maximum(stage - 1, 0), stage)
    line = "bh2" if order == 2 else "exact"
    block = _combination(
        solves_for, grid, index - stage, index + 1, _before(index, order), stage + 1, line=line, is_sde=is_sde
    )
    before = Combination(xp.roll(block.keep, 1), xp.roll(block.weights, (1, 1), (0, 1)))  # the latest output is new
    with np.errstate(all="ignore"):  # of steps that begin a block
        keep = xp.where(stage > 0, block.keep / before.keep, block.keep)
        known = xp.where(np.arange(order) > 0, before.weights, 0)
        weights = xp.where((stage > 0)[:, None], block.weights - keep[:, None] * known, block.weights)
    return Combination(keep, weights)


def dpm_solver_sde(*, order: int = 2, midpoint: bool = True) -> Sampler:
    """Returns SDE-DPM-Solver++: the reverse SDE with a polynomial through the latest predictions of x_0, one a step.

    x_s = sigma_s / sigma_t e^{-h} x_t + 2 alpha_s int_0^h e^{2 (u - h)} x_0(lambda_t + u) du + sigma_s sqrt(1 - e^{-2 h}) z.
    Order 1 is `samplers.ancestral(variance="small")`; order 2 takes x_0 at the middle of the step. [Lu et al. 2022,
    DPM-Solver++, section 5]. Order 3 takes the whole parabola, of which k-diffusion's 3M SDE takes half of the curvature.

    Args:
        order: 1 to 3. The first steps have fewer predictions, and a step to the data takes the latest alone.
        midpoint: whether order 2 holds the line at its middle; otherwise it is integrated ('heun' of k-diffusion's 2M SDE).

    Raises:
        ValueError: for another order.
    """
    _check(order, "x_0")

    def plan(grid: Level, index: Array) -> Combination:
        num = _num_nodes(order, grid, index, False)
        line = "bh2" if midpoint and order == 2 else "exact"
        return _combination("x_0", grid, index, index + 1, _before(index, order), num, line=line, is_sde=True)

    return _planned(order, plan, "x_0", is_sde=True)


def lms(*, order: int = 3) -> Sampler:
    """Returns the linear multistep method of Adams and Bashforth on d(x / alpha) / d(sigma / alpha) = eps.

    One evaluation a step. In this variable a polynomial reaches the data, so that no step is of a lower order but the first
    ones, and an image may leave limits on x_0 a little. [Liu et al. 2022, PNDM, section 3; k-diffusion's LMS]

    Args:
        order: 1 to 4, and 1 is DDIM. The levels must have signal.

    Raises:
        ValueError: for another order.
    """
    _check(order, "eps", most=4)

    def plan(grid: Level, index: Array) -> Combination:
        kappa = grid.sigma / grid.alpha
        step = kappa[index + 1] - kappa[index]
        places = (kappa[_before(index, order)] - kappa[index][:, None]) / step[:, None]
        moments = [step / (j + 1) for j in range(order)]
        weights = _polynomial_weights_of(np.minimum(order, index + 1), places, moments, moments)
        return Combination(grid.alpha[1:] / grid.alpha[:-1], grid.alpha[1:, None] * weights)

    return _planned(order, plan, "eps")


def _planned(num_outputs: int, plan: Any, solves_for: SolvesFor, *, is_sde: bool = False) -> Sampler:
    """Returns a sampler whose steps are combinations of the last point and of so many predictions, one new one a step."""

    def step(denoise: Denoiser, state: History, interval: Interval, noise: Noise) -> tuple[History, int]:
        t, s = interval.t, interval.s
        state = _remember(state, getattr(denoise(state.x, t), solves_for))
        x = _combined(state.plan, interval.index, state.x, state.outputs)
        x = x + process.std(process.log_variance(t, s, "small"), s) * noise(0) if is_sde else x
        return state._replace(x=x), 1

    return _sampler(num_outputs, plan, step, needs_signal=solves_for == "eps")


def _sampler(num_outputs: int, plan: Any, step: Any, *, needs_signal: bool) -> Sampler:
    """Returns a sampler that remembers so many outputs, its plan for the whole grid; from noise alone eps leads nowhere."""

    def init(x_T: Array, grid: Level) -> History:
        if needs_signal and not isinstance(grid.alpha, jax.core.Tracer) and grid.alpha[0] == 0:
            of_x_0 = "set solves_for = 'x_0', or for lms take unipc"
            raise errors.UserError(f"a first level without signal is impossible for a solver of eps; {of_x_0}.")
        made = plan(grid, np.arange(len(grid.alpha) - 1))
        made = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype if leaf.dtype == bool else x_T.dtype), made)
        return History(x_T, x_T, jnp.zeros((num_outputs, *x_T.shape), x_T.dtype), made)

    return Sampler(step, init, lambda state: state.x)


def _check(order: int, solves_for: str, most: int = 3) -> None:
    errors.check_whole("order", order, 1, most)
    if solves_for not in get_args(SolvesFor):
        raise ValueError(f"solves_for = {solves_for!r} is unknown; known: {', '.join(get_args(SolvesFor))}.")


def _remember(state: History, output: Array) -> History:
    """Returns the state after one more evaluation; the oldest is forgotten."""
    return state._replace(outputs=jnp.concatenate([output[None], state.outputs[:-1]]))


def _combined(combination: Combination, index: Array, x: Array, outputs: Array) -> Array:
    """Returns what step `index` makes of x and of the outputs."""
    keep, weights = combination.keep[index], combination.weights[index]
    return keep * x + jnp.tensordot(weights, outputs[: len(weights)], 1)


def _before(index: np.ndarray, num: int) -> np.ndarray:
    """Returns the rows of the latest outputs after step `index`; those before the first do not count. # [S, n]"""
    return np.maximum(index[:, None] - np.arange(num), 0)


def _num_nodes(order: int, grid: Level, index: np.ndarray, lower_order_final: bool) -> Array:
    """Returns how many predictions a multistep step is made from. # [S]"""
    num = np.minimum(order, index + 1)
    num = np.minimum(num, index[::-1] + 1) if lower_order_final else num
    return process.numpy_of(grid.log_snr).where(grid.sigma[1:] > 0, num, 1)


def _combination(
    solves_for: SolvesFor,
    grid: Level,
    start: Array,
    end: Array,
    nodes: np.ndarray,
    num: Array,
    *,
    line: Line,
    is_sde: bool = False,
) -> Combination:
    """Returns steps from rows `start` to rows `end`: the exact integrals of the polynomials through outputs at rows `nodes`.

    Args:
        grid: [S + 1].
        start, end: [S].
        nodes: rows of the outputs, the latest first, [S, n].
        num: how many of them the polynomial goes through, [S].
        line: what a line counts as: itself, or as published solvers have it: 'bh2' is its value in the middle of the step,
            'bh1' the same but for its rise, which counts h / 2 and not (e^h - 1) / 2, for x_0 (1 - e^{-h}) / 2.
        is_sde: whether the integral for 'x_0' is that of the reverse SDE, which forgets twice as fast.
    """
    xp = process.numpy_of(grid.log_snr)  # so that the weights of a grid that is known are float64
    with np.errstate(all="ignore"):  # steps from a level without signal and to the data are infinite
        grid = jax.tree.map(lambda column: column.astype(np.float64), grid) if xp is np else grid
        t, s = process.rows(grid, start), process.rows(grid, end)
        h = process.log_snr_gap(s, t) / 2
        if solves_for == "x_0":
            forgotten = 2 * h if is_sde else h
            keep, gain = s.sigma / t.sigma * (xp.exp(-h) if is_sde else 1), s.alpha
            moments, first = _moments(xp, forgotten, nodes.shape[1], from_end=True), forgotten
        else:
            gain = -s.alpha * t.sigma / t.alpha
            keep, moments = s.alpha / t.alpha, _moments(xp, h, nodes.shape[1], from_end=False)
            first = h * xp.exp(-h)
        gap = process.log_snr_gap(process.rows(grid, nodes), process.rows(grid, start[:, None])) / (2 * h[:, None])
        places = xp.clip(gap, -1e12, 1e12)  # a level without signal is at -inf: so far that its weight is none
        of_line = {"exact": moments, "bh1": [moments[0], first / 2], "bh2": [moments[0], moments[0] / 2]}[line]
        return Combination(keep, gain[:, None] * _polynomial_weights_of(num, places, moments, of_line))


def _moments(xp: Any, h: Array, num: int, *, from_end: bool) -> list[Array]:
    """Returns h int_0^1 w(v) v^j dv for j below num, w(v) = e^{-(1 - v) h} seen from the end of the step, else e^{-v h}.

    By their recurrences, which cancel where h is small; there by the series.
    """
    is_small = xp.abs(h) < 0.5
    small_h = xp.where(is_small, h, 0)
    moments = [-xp.expm1(-h)]
    for j in range(1, num):
        moments.append(1 - j / h * moments[-1] if from_end else j / h * moments[-1] - xp.exp(-h))
    for j in range(num):
        divisors = [
            math.factorial(k + j + 1) / math.factorial(j) if from_end else math.factorial(k) * (k + j + 1) for k in TERMS
        ]
        series = h * sum((-small_h) ** k / divisor for k, divisor in zip(TERMS, divisors, strict=True))
        moments[j] = xp.where(is_small, series, moments[j])
    return moments


def _polynomial_weights_of(num: Array, places: Array, moments: list[Array], of_line: list[Array]) -> Array:
    """Returns the `polynomial_weights` of the first `num` nodes at places [S, n], 0 for the others. # [S, n]"""
    xp, nodes, found = process.numpy_of(places), list(places.T), 0
    with np.errstate(all="ignore"):  # of nodes that do not count
        for n in range(1, len(nodes) + 1):
            row = polynomial_weights(nodes[:n], of_line if n == 2 else moments)
            row += [xp.zeros_like(nodes[0])] * (len(nodes) - n)
            found = xp.where((num == n)[:, None], xp.stack(row, axis=-1), found)
    return found


def polynomial_weights(nodes: list[Array], moments: list[Array]) -> list[Array]:
    """Returns the weights of values at nodes in the integral of the polynomial through them; moments are those of v^j."""
    weights = []
    for node in range(len(nodes)):
        basis = [1.0]  # Lagrange's polynomial of this node, coefficients of rising powers
        for other in range(len(nodes)):
            if other != node:
                scale = 1 / (nodes[node] - nodes[other])
                raised, shifted = [0.0, *basis], [*[-nodes[other] * c for c in basis], 0.0]
                basis = [scale * (a + b) for a, b in zip(raised, shifted, strict=True)]
        weights.append(sum(c * moment for c, moment in zip(basis, moments, strict=False)))
    return weights
