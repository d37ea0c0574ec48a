"""Fast samplers: the solvers of the probability flow and of its stochastic sibling, each a `Sampler` for any process.

With lambda = log(alpha / sigma) the flow from level t to level s is, exactly,

    x_s = sigma_s / sigma_t x_t + alpha_s int_0^h e^{u - h} x_0(lambda_t + u) du          h = lambda_s - lambda_t
    x_s = alpha_s / alpha_t x_t - sigma_s int_0^h e^{h - u} eps(lambda_t + u) du

[Lu et al. 2022, DPM-Solver++, eq. 8 and DPM-Solver, eq. 3.4]. The solvers put a polynomial through predictions they have and
integrate it exactly; they differ in which predictions those are. Euler's method is `samplers.ddim()`, and Euler's with
ancestral noise `samplers.ddim(eta=1)`, in any process.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array

from diffusion_jax import ode, process, samplers
from diffusion_jax.denoiser import Denoiser
from diffusion_jax.process import Level
from diffusion_jax.samplers import Interval, Noise, Sampler, Samples, State

SolvesFor = Literal["x_0", "eps"]

TERMS = range(12)  # of the series of an integral over a step below 1/2: what is left out is below 1e-12 of it


class History(NamedTuple):
    """A state that remembers the latest predictions, and where their polynomial's step begins.

    That is the first level of a block for `singlestep`, the corrected point before this one for `unipc`.
    """

    x: Array  # [B, H, W, C]
    num_evaluations: Array  # int32 []
    start: Array  # [B, H, W, C]
    outputs: Array  # the predictions, the latest first, [n, B, H, W, C]
    levels: Level  # where they were made, [n]


def dpm_solver(*, order: int = 2, solves_for: SolvesFor = "x_0", lower_order_final: bool = True) -> Sampler:
    """Returns the multistep sampler through the latest predictions: DPM-Solver++ for x_0, DPM-Solver for eps.

    One evaluation a step. Order 2 is DPM-Solver++(2M): the slope of the line, held at the middle of the step. [Lu et al.
    2022, DPM-Solver++, algorithm 2]. Order 3 integrates the parabola exactly; the published code of order 3 (DPM-Solver's,
    and its copies) takes half of the second difference, and so stays of order 2.

    Args:
        order: 1 to 3, and 1 is DDIM. The first steps have fewer predictions: where x_0 already moves at the noisiest level
            (above a log-SNR of about -8) they leave order 2 of order 3.
        solves_for: which prediction the polynomial is of; 'x_0' where a level has no signal. Limits on x_0 act on either.
        lower_order_final: whether the last steps go down to order 1, which is steadier for fewer than about 15 steps. A step
            to the data always has order 1: no polynomial reaches there.

    Raises:
        ValueError: for another order.
    """
    _check(order, solves_for)

    def step(denoise: Denoiser, state: History, interval: Interval, noise: Noise) -> History:
        t, s = interval.t, interval.s
        state = _remember(state, getattr(denoise(state.x, t), solves_for), t)
        num = _num_nodes(order, interval, lower_order_final)
        return state._replace(x=_integrate(solves_for, state.x, state, t, s, num, midpoint=True))

    return Sampler(lambda x_T: _history(x_T, order), step)


def unipc(*, order: int = 2, solves_for: SolvesFor = "x_0", lower_order_final: bool = True) -> Sampler:
    """Returns UniPC: `dpm_solver`, its points corrected by the predictions made there. [Zhao et al. 2023, UniPC, B_2]

    One evaluation a step: a corrected point is not asked about again. The last point is not corrected, nor one that was
    reached from a level without signal.

    Args:
        order: 1 to 3, of the predictor; the corrector's is one more. The first steps have less, as in `dpm_solver`.
        solves_for: as in `dpm_solver`; with 'eps' the image may leave limits on x_0 a little, since the point is corrected.
        lower_order_final: as in `dpm_solver`.

    Raises:
        ValueError: for another order.
    """
    _check(order, solves_for)

    def step(denoise: Denoiser, state: History, interval: Interval, noise: Noise) -> History:
        t, s = interval.t, interval.s
        before = process.at(state.levels, 0)
        state = _remember(state, getattr(denoise(state.x, t), solves_for), t)
        num = jnp.minimum(order, interval.index)  # of predictions that the step to t was made from
        num = jnp.minimum(num, interval.remaining + 2) if lower_order_final else num
        start = jax.lax.cond(
            (interval.index > 0) & (before.alpha > 0),
            lambda: _integrate(solves_for, state.start, state, before, t, num + 1, midpoint=True),
            lambda: state.x,
        )
        x = _integrate(solves_for, start, state, t, s, _num_nodes(order, interval, lower_order_final), midpoint=True)
        return state._replace(x=x, start=start)

    return Sampler(lambda x_T: _history(x_T, order + 1), step)


def singlestep(*, order: int = 2, solves_for: SolvesFor = "x_0", lower_order_final: bool = True) -> Sampler:
    """Returns the singlestep DPM-Solver: blocks of `order` steps of the grid, each block a Runge-Kutta step of that order.

    The grid's levels inside a block are its stages, so that an evaluation is a step here too. Order 2 is algorithm 1 of
    [Lu et al. 2022, DPM-Solver], with its stage anywhere; order 3 takes the whole parabola through its stages ('taylor' in
    their code), of which algorithm 2 leaves out the middle one: that has order 3 at a third and two thirds only.

    Args:
        order: 1 to 3.
        solves_for: as in `dpm_solver`.
        lower_order_final: whether the last step is a block of its own; it always is where it leads to the data.

    Raises:
        ValueError: for another order.
    """
    _check(order, solves_for)

    def step(denoise: Denoiser, state: History, interval: Interval, noise: Noise) -> History:
        t, s = interval.t, interval.s
        state = _remember(state, getattr(denoise(state.x, t), solves_for), t)
        alone = (s.sigma == 0) | (lower_order_final & (interval.remaining == 0))
        stage = jnp.where(alone, 0, interval.index % order)
        no_signal = process.at(state.levels, stage).alpha == 0  # a step from there has no length: begin one level later
        stage = jnp.where(no_signal, jnp.maximum(stage - 1, 0), stage)
        start = jnp.where(stage == 0, state.x, state.start)
        x = _integrate(solves_for, start, state, process.at(state.levels, stage), s, stage + 1, midpoint=order == 2)
        return state._replace(x=x, start=start)

    return Sampler(lambda x_T: _history(x_T, order), step)


def sde_dpm_solver() -> Sampler:
    """Returns SDE-DPM-Solver++(2M): ancestral sampling with x_0 extrapolated to the middle of the step.

    x_s ~ q(x_s | x_t, x_0 + (x_0 - x_0 of the step before) / (2 r)), r the earlier step over this one in log-SNR. The first
    step, and the last where it leads to the data, take x_0 as it is. [Lu et al. 2022, DPM-Solver++, section 5]
    """

    def step(denoise: Denoiser, state: History, interval: Interval, noise: Noise) -> History:
        t, s = interval.t, interval.s
        state = _remember(state, denoise(state.x, t).x_0, t)
        x_0, earlier = state.outputs
        ratio = process.log_snr_gap(s, t) / process.log_snr_gap(t, process.at(state.levels, 1))
        ahead = jnp.where((interval.index > 0) & (s.sigma > 0), ratio / 2, 0)
        law = process.posterior(x_0 + ahead * (x_0 - earlier), state.x, t, s)
        return state._replace(x=law.mean + jnp.where(s.sigma > 0, jnp.exp(law.log_variance / 2), 0) * noise(0))

    return Sampler(lambda x_T: _history(x_T, 2), step)


def heun() -> Sampler:
    """Returns the sampler that takes dx = x_0 d alpha + eps d sigma by the trapezoidal rule, Euler's step ahead of it.

    Where alpha is constant it is algorithm 2 of [Karras et al. 2022, EDM] without its noise (see `churn`); for rectified
    flow, Heun's method in t. The step to the data is Euler's, so that S steps take 2 S - 1 evaluations.
    """

    def step(denoise: Denoiser, state: State, interval: Interval, noise: Noise) -> State:
        t, s = interval.t, interval.s
        x_0, eps, _ = denoise(state.x, t)
        euler = s.alpha * x_0 + s.sigma * eps

        def trapezoid() -> Array:
            ahead = denoise(euler, s)
            return state.x + (s.alpha - t.alpha) * (x_0 + ahead.x_0) / 2 + (s.sigma - t.sigma) * (eps + ahead.eps) / 2

        x = jax.lax.cond(s.sigma > 0, trapezoid, lambda: euler)
        return State(x, state.num_evaluations + jnp.where(s.sigma > 0, 2, 1))

    return Sampler(samplers.initial_state, step)


def churn(
    sampler: Sampler,
    *,
    level_of: Callable[[Array], Level],
    amount: float,
    low: float = 0.0,
    high: float = math.inf,
    noise_std: float = 1.0,
) -> Sampler:
    """Returns a sampler whose steps first go up in noise a little: sigma / alpha to (1 + gamma) times its value.

    gamma = min(amount / S, sqrt(2) - 1) where low <= sigma / alpha <= high, else 0; then no noise is drawn.
    [Karras et al. 2022, EDM, algorithm 2]

    Args:
        sampler: one that remembers no earlier step, such as `heun()` or `samplers.ddim()`.
        level_of: log-SNR [] -> `Level` of [], such as `continuous.level_of_log_snr` gives.
        amount: S_churn.
        low: S_min.
        high: S_max.
        noise_std: S_noise.
    """

    def step(denoise: Denoiser, state: State, interval: Interval, noise: Noise) -> State:
        t, num_steps = interval.t, interval.index + interval.remaining + 1
        kappa = t.sigma / t.alpha
        inside = (low <= kappa) & (kappa <= high) & (t.alpha > 0)  # nothing is above a level without signal
        gamma = jnp.where(inside, jnp.minimum(amount / num_steps, math.sqrt(2) - 1), 0)

        def raised() -> tuple[Array, Level]:
            up = level_of(t.log_snr - 2 * jnp.log1p(gamma))
            added = up.alpha * kappa * jnp.sqrt(gamma * (2 + gamma))
            return up.alpha / t.alpha * state.x + added * noise_std * noise(1), up  # noise(0) is the sampler's own

        x, t = jax.lax.cond(gamma > 0, raised, lambda: (state.x, t))
        return sampler.step(denoise, state._replace(x=x), interval._replace(t=t), noise)

    return Sampler(sampler.init, step)


def probability_flow(
    denoise: Denoiser,
    x_T: Array,
    level_of: Callable[[Array], Level],
    *,
    first: float,
    last: float,
    to_data: bool,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Samples:
    """Returns images at the end of dx = x_0 d alpha + eps d sigma, by Runge-Kutta with a step size for each image.

    NaN where 1,000 steps did not get there: the tolerance was too small. The evaluations are those of the slowest image.
    Forward-mode derivatives alone go through it. [Song et al. 2021, score SDE, section 4.3; the integrator is
    `ode.integrate`]

    Args:
        denoise: the denoiser; x_0 not limited, since the flow must be smooth.
        x_T: draws of the noisiest level, [B, H, W, C].
        level_of: time [B] -> `Level` of [B], smooth in time, of which noise falls as it grows.
        first: time of x_T.
        last: time of the least noisy level.
        to_data: whether the images are the x_0 predicted at the last level, or what has arrived there.
        rtol: relative tolerance.
        atol: absolute tolerance.
    """

    def slope(time: Array, x: Array) -> Array:
        level = level_of(time)
        moving = jax.jvp(lambda time: (level_of(time).alpha, level_of(time).sigma), (time,), (jnp.ones_like(time),))[1]
        x_0, eps, _ = denoise(x, level)
        return process.expand(moving[0], x) * x_0 + process.expand(moving[1], x) * eps

    found = ode.integrate(slope, x_T, first, last, rtol=rtol, atol=atol)
    x = denoise(found.y, level_of(jnp.asarray(last, x_T.dtype))).x_0 if to_data else found.y
    x = jnp.where(process.expand(found.reached_end, x), x, jnp.nan)
    return Samples(x, jnp.max(found.num_evaluations) + int(to_data), x_T[None][:0])


def _check(order: int, solves_for: str) -> None:
    if order not in (1, 2, 3):
        raise ValueError(f"order = {order!r} is not allowed; it must be 1, 2 or 3.")
    if solves_for not in get_args(SolvesFor):
        raise ValueError(f"solves_for = {solves_for!r} is unknown; known: {', '.join(get_args(SolvesFor))}.")


def _history(x_T: Array, num: int) -> History:
    nothing = jnp.zeros(num, x_T.dtype)
    return History(x_T, jnp.zeros((), jnp.int32), x_T, jnp.zeros((num, *x_T.shape), x_T.dtype), Level(*[nothing] * 5))


def _remember(state: History, output: Array, level: Level) -> History:
    """Returns the state after one more evaluation; the oldest is forgotten."""

    def pushed(column: Array, new: Array) -> Array:
        return jnp.concatenate([jnp.asarray(new, column.dtype)[None], column[:-1]])

    return state._replace(
        num_evaluations=state.num_evaluations + 1,
        outputs=pushed(state.outputs, output),
        levels=jax.tree.map(pushed, state.levels, level),
    )


def _num_nodes(order: int, interval: Interval, lower_order_final: bool) -> Array:
    """Returns how many predictions a multistep step is made from."""
    num = jnp.minimum(order, interval.index + 1)
    num = jnp.minimum(num, interval.remaining + 1) if lower_order_final else num
    return jnp.where(interval.s.sigma > 0, num, 1)


def _integrate(solves_for: SolvesFor, x: Array, state: History, t: Level, s: Level, num: Array, *, midpoint: bool) -> Array:
    """Returns x_s from x at t, with the polynomial through the latest `num` predictions in the exact integral.

    With `midpoint` a line counts as its value in the middle of the step, as the published solvers of order 2 have it.
    """
    h = process.log_snr_gap(s, t) / 2
    total = len(state.outputs)
    if solves_for == "x_0":
        keep, gain, moments = s.sigma / t.sigma, s.alpha, _moments(h, total, from_end=True)
    else:
        keep, gain, moments = s.alpha / t.alpha, -s.alpha * t.sigma / t.alpha, _moments(h, total, from_end=False)
    gap = process.log_snr_gap(state.levels, t) / (2 * h)
    nodes = list(jnp.clip(gap, -1e12, 1e12))  # a level without signal is at -inf: so far that its weight is none
    rows = [
        _weights(nodes[:n], [moments[0], moments[0] / 2] if midpoint and n == 2 else moments) for n in range(1, total + 1)
    ]
    weights = jnp.stack([jnp.stack(row + [jnp.zeros_like(h)] * (total - len(row))) for row in rows])[num - 1]
    return keep * x + gain * jnp.tensordot(weights, state.outputs, 1)


def _moments(h: Array, num: int, *, from_end: bool) -> list[Array]:
    """Returns h int_0^1 w(v) v^j dv for j below num, w(v) = e^{-(1 - v) h} seen from the end of the step, else e^{-v h}.

    By their recurrences, which cancel where h is small; there by the series.
    """
    near = jnp.where(jnp.abs(h) < 0.5, h, 0)
    found = [-jnp.expm1(-h)]
    for j in range(1, num):
        found.append(1 - j / h * found[-1] if from_end else j / h * found[-1] - jnp.exp(-h))
    for j in range(num):
        over = [
            math.factorial(k + j + 1) / math.factorial(j) if from_end else math.factorial(k) * (k + j + 1) for k in TERMS
        ]
        series = h * sum((-near) ** k / divisor for k, divisor in zip(TERMS, over, strict=True))
        found[j] = jnp.where(jnp.abs(h) < 0.5, series, found[j])
    return found


def _weights(nodes: list[Array], moments: list[Array]) -> list[Array]:
    """Returns the weights of values at nodes in the integral of the polynomial through them; moments are those of v^j."""
    weights = []
    for node in range(len(nodes)):
        basis = [jnp.ones_like(nodes[0])]  # Lagrange's polynomial of this node, coefficients of rising powers
        for other in range(len(nodes)):
            if other != node:
                scale = 1 / (nodes[node] - nodes[other])
                raised, shifted = [0.0, *basis], [*[-nodes[other] * c for c in basis], 0.0]
                basis = [scale * (a + b) for a, b in zip(raised, shifted, strict=True)]
        weights.append(sum(c * moment for c, moment in zip(basis, moments, strict=False)))
    return weights
