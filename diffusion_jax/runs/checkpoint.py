"""Checkpoints: <workdir>/checkpoints/<step>/."""

import functools
import json
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from diffusion_jax import errors
from diffusion_jax.errors import RunError, UserError
from diffusion_jax.runs import logs, storage

MOST_ATTEMPTS = 10  # to read weights while a trainer removes them
MOST_ON_HOST = 2**20  # bytes of an array whose checksum NumPy takes: programs for dozens of shapes compile for seconds
NOT_DAMAGE = ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED")  # of XLA and of gs://
TrainState = Any  # `training.state.TrainState`


class Checkpoints:
    """The checkpoints of a workdir, saved in the background; the latest `keep` remain. Use as a context manager."""

    def __init__(self, workdir: storage.Path, *, keep: int = 1):
        policies = ocp.training.preservation_policies
        self._checkpointer = _open(workdir, preservation_policy=policies.LatestN(keep))
        self._known: int | None = None  # the step last saved or restored

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Waits for what is being saved."""
        try:
            self._checkpointer.close()
        except Exception as failed:  # of many names; where something else ended the run, that is what to say
            if error is None:
                raise _not_saved(failed) from failed

    def save(self, state: TrainState) -> None:
        """Starts to save a state under its own step; the arrays are copied before this returns.

        A checkpoint of that step is replaced, unless it was saved or restored here: it could not be read. Raises RunError
        where this one, or the one before, could not be saved.
        """
        step = int(state.step)
        if step != self._known:
            saved = _split(state)
            marks = {"checksums": checksums(saved)}
            try:
                self._checkpointer.save_checkpointables_async(step, saved, force=True, overwrite=True, custom_metadata=marks)
            except Exception as failed:
                raise _not_saved(failed) from failed
            self._known = step
            logs.say("checkpoint", f"of step {step:,}")

    def restore_latest(self, like: TrainState) -> TrainState | None:
        """Returns the latest state that can be read, or None where none was ever saved. What is frozen is `like`'s own.

        Raises UserError where there are checkpoints, but none can be read.

        Args:
            like: `jax.ShapeDtypeStruct`s with the shardings to restore onto.
        """
        found = _load_latest(self._checkpointer, _split(like))
        if found is None:
            return None
        self._known, saved = found
        return like._replace(**saved["training"]._asdict() | saved["weights"])


def _open(workdir: storage.Path, **options) -> ocp.training.Checkpointer:
    """Returns orbax's Checkpointer, which reads the metadata of every checkpoint at once; UserError names a damaged one."""
    try:
        return ocp.training.Checkpointer(_folder(workdir), **options)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"the checkpoints in {str(_folder(workdir))!r} cannot be listed ({errors.first_line(error)}); remove "
            f"{', '.join(_damaged(workdir)) or 'the damaged one'}, and the one before is used."
        ) from error


def _damaged(workdir: storage.Path) -> list[str]:
    """Returns the checkpoints with unreadable metadata."""
    found = []
    for folder in sorted(_folder(workdir).iterdir()):
        try:
            json.loads(storage.read_bytes(folder / "_CHECKPOINT_METADATA"))
        except (ValueError, RecursionError):
            found.append(folder.name)
        except OSError:
            continue  # not a whole checkpoint, which orbax leaves aside
    return found


def _not_saved(error: Exception) -> RunError:
    return RunError(f"a checkpoint could not be saved ({errors.first_line(error)}); earlier checkpoints are whole.")


class Saved(NamedTuple):
    """What a checkpoint names 'training': these fields of a state, by these names and in this order for good."""

    step: Any
    params: Any
    ema: Any
    opt_state: Any
    timestep_state: Any
    counters: Any


def _split(state: TrainState) -> dict[str, Any]:
    """Returns a state as the parts of a checkpoint: the weights, which sampling reads alone, and the rest."""
    rest = Saved(state.step, (), (), state.opt_state, state.timestep_state, state.counters)
    return {"weights": {"params": state.params, "ema": state.ema}, "training": rest}


def checksums(saved: dict[str, Any]) -> dict[str, list[int]]:
    """Returns the checksum of each array, by part of a checkpoint. One changed byte always changes it.

    sum of (2 i + 1) byte_i modulo 2^32: of whole numbers, so that it is the same however the array lies on the devices.

    Args:
        saved: {"weights": {"params": pytree, "ema": {name: pytree}}, "training": pytree}, or some of it.
    """
    parts = {"params": saved["weights"]["params"]} | saved["weights"].get("ema", {})
    parts |= {"training": saved["training"]} if "training" in saved else {}
    return {name: [_checksum(leaf) for leaf in jax.tree.leaves(part)] for name, part in parts.items()}


def _checksum(array: Any) -> int:
    if array.nbytes <= MOST_ON_HOST and getattr(array, "is_fully_addressable", True):
        return int(_sum_of_bytes(np.asarray(array), np))
    return int(_sum_on_devices(array))


def _sum_of_bytes(array: Any, library: ModuleType) -> Any:
    """Returns the checksum of an array of NumPy or JAX, by that library."""
    byte = array[..., None].view(library.uint8).astype(library.uint32)  # [..., bytes of a value]
    place = library.zeros((1,) * byte.ndim, library.uint32)
    for axis, size in enumerate(byte.shape):
        along = [-1 if other == axis else 1 for other in range(byte.ndim)]
        place = place * np.uint32(size) + library.arange(size, dtype=library.uint32).reshape(along)
    return library.sum(byte * (2 * place + 1), dtype=library.uint32)


_sum_on_devices = jax.jit(functools.partial(_sum_of_bytes, library=jnp))


def restore_weights(workdir: storage.Path, *, step: int, like: Any, ema: str, all_ema: list[str]) -> tuple[int, Any]:
    """Returns (step, one set of weights) of a checkpoint, without reading the others.

    A trainer may save and remove checkpoints meanwhile: what is gone then is looked for again. Raises UserError where there
    is no such checkpoint; the sentence lists those that exist.

    Args:
        step: of the checkpoint; -1 is the latest that can be read.
        like: the parameters as `jax.ShapeDtypeStruct`s with shardings.
        ema: the name of an EMA rate, or "" for the parameters themselves.
        all_ema: the names of all EMA rates in the checkpoint.
    """
    unread = jax.tree.map(lambda _: ocp.PLACEHOLDER, like)
    averages = {name: like if name == ema else unread for name in all_ema}
    wanted = {"weights": {"params": unread if ema else like, "ema": averages}}
    for _ in range(MOST_ATTEMPTS):
        before = _listing(workdir)
        try:
            found_step, saved = _load_step(workdir, step, wanted)
            break
        except (UserError, OSError):
            if _listing(workdir) == before:
                raise
    else:
        raise RunError(f"the checkpoints in {str(workdir)!r} are removed faster than they can be read; keep more of them.")
    return found_step, saved["weights"]["ema"][ema] if ema else saved["weights"]["params"]


def _load_step(workdir: storage.Path, step: int, wanted: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Returns (step, the wanted part) of a step, -1 for the latest that can be read."""
    with _open(workdir) as checkpointer:
        steps = [found.step for found in checkpointer.checkpoints]
        if steps and step not in (-1, *steps):
            raise UserError(
                f"{str(workdir)!r} does not have a checkpoint of step {step}; it has {', '.join(map(str, steps))}."
            )
        found = _load_latest(checkpointer, wanted, [step] if step in steps else steps)
    if found is None:
        raise UserError(f"{str(workdir)!r} does not have a checkpoint yet.")
    return found


def steps(workdir: storage.Path) -> list[int]:
    """Returns the steps of a run's checkpoints, rising; errors as for `restore_weights`."""
    with _open(workdir) as checkpointer:
        return sorted(found.step for found in checkpointer.checkpoints)


def save_weights(workdir: storage.Path, step: int, params: Any) -> None:
    """Saves one set of weights as a checkpoint of a run without EMA, which cannot resume; RunError where that fails."""
    saved = {"weights": {"params": params, "ema": {}}}
    with _open(workdir) as checkpointer:
        try:
            checkpointer.save_checkpointables(step, saved, custom_metadata={"checksums": checksums(saved)})
        except (OSError, ValueError) as failed:
            raise _not_saved(failed) from failed


def _load_latest(
    checkpointer: ocp.training.Checkpointer, wanted: dict[str, Any], steps: list[int] | None = None
) -> tuple[int, dict[str, Any]] | None:
    """Returns (step, the wanted part) of the latest readable step; unreadable ones are named."""
    steps = [found.step for found in checkpointer.checkpoints] if steps is None else steps
    for step in sorted(steps, reverse=True):
        try:
            saved = checkpointer.load_checkpointables(step, wanted)
            marks = checkpointer.checkpointables_metadata(step).custom_metadata or {}
            _verify(saved, marks.get("checksums", {}))
            return step, saved
        except Exception as error:  # orbax and tensorstore have many names for a file that is cut short or missing
            what = f"the checkpoint of step {step:,} cannot be read ({type(error).__name__}: {errors.first_line(error)})"
            if isinstance(error, MemoryError) or any(word in str(error) for word in NOT_DAMAGE):
                raise RunError(f"{what}; this looks like a temporary storage error; try again.") from error
            logs.say("warning", f"{what}.")
    if steps:
        raise UserError(
            f"{str(checkpointer.directory)!r} does not have a readable checkpoint; tried "
            f"{', '.join(map(str, sorted(steps)))}."
        )
    return None


def _verify(saved: dict[str, Any], expected: dict[str, list[int]]) -> None:
    """Raises ValueError if an array is not what was saved."""
    read = jax.tree.map(lambda leaf: () if leaf is ocp.PLACEHOLDER else leaf, saved)
    for name, found in checksums(read).items():
        if found and (wrong := sum(one != other for one, other in zip(found, expected.get(name, found), strict=True))):
            raise ValueError(f"{wrong} of the {len(found)} arrays of {name!r} are not what was saved")


def _listing(workdir: storage.Path) -> list[str]:
    folder = _folder(workdir)
    return sorted(child.name for child in folder.iterdir()) if folder.is_dir() else []


def _folder(workdir: storage.Path) -> storage.Path:
    return storage.absolute(workdir) / "checkpoints"
