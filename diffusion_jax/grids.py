"""The times t that sampling visits: from the noisiest on, 0, the data, at the end.

Every grid is a function of the process and of the number of steps S, and returns [S + 1] falling times: whole ones, as int,
where it counts the rows of a discrete process. `process.level(times)` is the grid that `samplers.sample` takes.
"""

from collections.abc import Sequence

import numpy as np

from diffusion_jax import errors
from diffusion_jax.errors import UserError
from diffusion_jax.process import Process, check_process

CLOSEST = 1e-9  # the least difference of neighbours of a grid, as a share of their times


def trailing(process: Process, num_steps: int) -> np.ndarray:
    """Returns T, T - T/S, ..., 0: always starts at T, where x_T really is noise. [Lin et al. 2023, table 2]

    Rounded for a discrete process, whose T must be at least S.

    Args:
        process: any.
        num_steps: S.

    Raises:
        UserError: for more steps than a discrete process has. So do the other grids of its rows.
    """
    check_process(process)
    if not process.num_steps:
        return np.linspace(process.last, 0, _at_least_one(num_steps) + 1)
    _checked(process, num_steps)
    return np.round(np.linspace(process.last, 0, num_steps + 1)).astype(np.int64)


def leading(process: Process, num_steps: int) -> np.ndarray:
    """Returns the rows 1 + k floor(T / S): never visits T, unlike `trailing`. [Lin et al. 2023, table 2]"""
    return _to_the_data(1 + np.arange(num_steps) * (_checked(process, num_steps) // num_steps))


def leading_offset(process: Process, num_steps: int) -> np.ndarray:
    """Returns the rows 2 + k floor(T / (S - 1)) for k < S - 1, with row 1 behind them.

    Its first S - 1 steps are those of Stable Diffusion's schedulers, which end at row 1: `steps_offset` is 1 and
    `set_alpha_to_one` is false.
    """
    between = np.arange(num_steps - 1) * (_checked(process, num_steps) // max(num_steps - 1, 1))
    return _to_the_data(np.append(1, 2 + between))


def linspace(process: Process, num_steps: int) -> np.ndarray:
    """Returns S rows evenly spaced from T to 1, both included, rounded. [Lin et al. 2023, table 2]"""
    return _to_the_data(1 + np.round(np.linspace(0, _checked(process, num_steps) - 1, num_steps)).astype(np.int64))


def iddpm(process: Process, num_steps: int | Sequence[int]) -> np.ndarray:
    """Returns rows evenly spaced within equal sections of 1 .. T, a number for each. [Nichol & Dhariwal 2021, section 4]

    Args:
        process: discrete.
        num_steps: how many rows each section gets, from the least noisy on: 50, or (10, 15, 20) for 45 in all.

    Raises:
        UserError: where a section is smaller than its number.
    """
    counts, rows = np.atleast_1d(num_steps).tolist(), []
    for section, count in zip(np.array_split(np.arange(1, _checked(process, 1) + 1), len(counts)), counts, strict=True):
        if not 1 <= count <= len(section):
            raise UserError(f"sections = {tuple(counts)}: a section of {len(section)} steps cannot give {count}.")
        stride = (len(section) - 1) / max(count - 1, 1)
        offsets = np.cumsum([0.0] + [stride] * (count - 1))  # summed up, as the published code does: roundings differ
        rows.append(section[0] + np.round(offsets).astype(np.int64))
    return _to_the_data(np.concatenate(rows))


def ddim_uniform(process: Process, num_steps: int) -> np.ndarray:
    """Returns the rows 1, 1 + c, 1 + 2c, ... with the whole stride c that gives S of them. [Song et al. 2021, DDIM, D.2]

    Raises:
        UserError: where no stride does.
    """
    last = _checked(process, num_steps)
    for stride in range(1, last + 1):
        rows = np.arange(1, last + 1, stride)
        if len(rows) == num_steps:
            return _to_the_data(rows)
    raise UserError(f"grid 'ddim_uniform' cannot take {num_steps} of {last} steps with one stride; use 'trailing'.")


def ddim_quadratic(process: Process, num_steps: int) -> np.ndarray:
    """Returns the rows 1 + floor(c k^2) up to 0.8 T: more steps where there is little noise. [Song et al. 2021, DDIM, D.2]

    Low rows that coincide are visited once, so that there may be fewer than S steps: 49 of 50, 96 of 100 at T = 1000.
    """
    rows = np.linspace(0, np.sqrt(0.8 * _checked(process, num_steps)), num_steps) ** 2
    return _to_the_data(1 + np.unique(rows.astype(np.int64)))


def uniform(process: Process, num_steps: int) -> np.ndarray:
    """Returns real-valued times evenly spaced from the last to the first, and 0."""
    return np.append(np.linspace(process.last, process.first, _at_least_one(num_steps)), 0)


def quadratic(process: Process, num_steps: int) -> np.ndarray:
    """Returns times whose square roots are evenly spaced, and 0: more steps where there is little noise."""
    times = np.linspace(np.sqrt(process.last), np.sqrt(process.first), _at_least_one(num_steps)) ** 2
    return np.append(np.clip(times, process.first, process.last), 0)  # the ends exactly


def log_snr(process: Process, num_steps: int) -> np.ndarray:
    """Returns times evenly spaced in log-SNR, and 0. [Lu et al. 2022, DPM-Solver]"""
    return _times_of_log_snr(process, np.linspace(*_ends(process), _at_least_one(num_steps)))


def karras(process: Process, num_steps: int, *, rho: float = 7.0) -> np.ndarray:
    """Returns times whose (sigma / alpha)^(1 / rho) are evenly spaced, and 0. [Karras et al. 2022, EDM, eq. 5]"""
    last, first = np.exp(-_ends(process) / (2 * rho))
    return _times_of_log_snr(process, -2 * rho * np.log(np.linspace(last, first, _at_least_one(num_steps))))


def polyexponential(process: Process, num_steps: int, *, rho: float = 1.0) -> np.ndarray:
    """Returns times whose log-SNRs fall short of the first's by shares (1 - k / (S - 1))^rho, and 0. [k-diffusion]

    rho = 1 is `log_snr`; a larger one takes more steps where there is little noise, and soon of no length.

    Raises:
        UserError: where it does, as `karras` for a rho near 0.
    """
    last, first = _ends(process)
    return _times_of_log_snr(process, first + (last - first) * np.linspace(1, 0, _at_least_one(num_steps)) ** rho)


def jumps(times: np.ndarray, *, jump_length: int = 10, num_resamples: int = 10) -> np.ndarray:
    """Returns the times of a grid with returns: [Lugmayr et al. 2022, RePaint, section 4.2]

    At every jump_length-th time, counted from the one above the data, it goes jump_length times up again, as long as the
    grid reaches, and comes down, num_resamples - 1 times. `process.level(...)` of it is for `editing.replaced`.

    Args:
        times: falling, the data at the end, such as `trailing(process, 250)`.
        jump_length: j; from 1 on.
        num_resamples: r; 1 leaves the grid as it is.

    Raises:
        UserError: where the grid is too short for any jump.
    """
    errors.check_whole("jump_length", jump_length, 1)
    errors.check_whole("num_resamples", num_resamples, 1)
    top = len(times) - 1
    if num_resamples > 1 and top == 1:
        raise UserError(f"num_resamples = {num_resamples} is not allowed on a grid of one step; it must be 1.")
    if num_resamples > 1 and jump_length >= top:
        raise UserError(f"jump_length = {jump_length} is not allowed on a grid of {top} steps; it must be below {top}.")
    left = dict.fromkeys(range(1, top + 1 - jump_length, jump_length), num_resamples - 1)
    place, visited = top, [top]  # places count from the data up
    while place:
        if left.get(place):
            left[place] -= 1
            visited += range(place + 1, place + jump_length + 1)
            place += jump_length
        place -= 1
        visited.append(place)
    return times[::-1][visited]


def ends(process: Process) -> np.ndarray:
    """Returns the last time, the first, and 0: for a sampler that chooses its own steps in between."""
    return np.array([process.last, process.first, 0.0])


def explicit(process: Process, times: Sequence[float]) -> np.ndarray:
    """Returns times given one by one, checked.

    Raises:
        UserError: where they do not fall, or leave the process.
    """
    found = np.atleast_1d(np.asarray(times, np.float64))
    noisy = found[:-1] if found.size and found[-1] == 0 else found
    inside = noisy.size and found.size > 1 and noisy[0] <= process.last and noisy[-1] >= process.first
    if not (inside and np.all(np.diff(found) < 0)):
        given = tuple(np.atleast_1d(times).tolist())
        raise UserError(
            f"times = {given} are not a valid grid: two or more must fall, from at most {process.last:g} to "
            f"at least {process.first:g}; 0, the data, may follow."
        )
    return found


def _ends(process: Process) -> np.ndarray:
    """Returns the log-SNR at the last and at the first time. # float64 [2]"""
    check_process(process)
    level = process.level(np.array([process.last, process.first]))
    if level.alpha[0] == 0:
        raise UserError(
            "grids 'log_snr', 'karras' and 'polyexponential' are impossible without signal at T; use 'trailing'."
        )
    return level.log_snr.astype(np.float64) + level.log_snr_lo


def _times_of_log_snr(process: Process, log_snr: np.ndarray) -> np.ndarray:
    """Returns the times of falling noise, the ends exact, with the data behind them; UserError for times that coincide."""
    times = process.time(log_snr)
    times[0] = process.last
    times = np.append(times, 0) if len(times) == 1 else np.concatenate([times[:-1], [process.first, 0]])
    if not np.all(times[1:] < (1 - CLOSEST) * times[:-1]):
        raise UserError(f"of {len(log_snr)} steps some would be of no length; take fewer, or another rho.")
    return times


def _checked(process: Process, num_steps: int) -> int:
    """Returns T of a discrete process.

    Raises:
        UserError: for another process, or for more steps than it has.
    """
    check_process(process)
    if not process.num_steps:
        raise UserError("this grid counts the rows of a discrete process; use 'trailing', 'uniform' or 'log_snr'.")
    errors.check_whole("num_steps", num_steps)
    if not 1 <= num_steps <= process.num_steps:
        raise UserError(
            f"a grid of {num_steps} steps is not allowed; it must have 1 to {process.num_steps}, the process's own."
        )
    return process.num_steps


def _at_least_one(num_steps: int) -> int:
    """Returns S of a grid in real-valued time, or raises UserError where it has no step."""
    errors.check_whole("num_steps", num_steps)
    if num_steps < 1:
        raise UserError(f"a grid of {num_steps} steps is not allowed; it must have at least 1.")
    return num_steps


def _to_the_data(rising: np.ndarray) -> np.ndarray:
    """Returns rising rows as a grid: falling, with row 0 at the end."""
    return np.append(rising[::-1], 0)
