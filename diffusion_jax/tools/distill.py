"""Progressive distillation: rounds of training, in each of which a student learns to draw in half its teacher's steps.

    python -m diffusion_jax.tools.distill --config=configs/digits_progressive.py --workdir=runs/digits_progressive

The first teacher is the run that train.init_from names; then each student teaches the next. The first student draws in
loss.num_steps steps of DDIM, the last in --last. Each is a run of its own, steps_<N> in the workdir, with which every mode
works. The same command goes on where it was stopped. [Salimans & Ho 2022, algorithm 2]

Flags:
    --config     of every round, with loss.name = 'progressive'; --config.<section>.<field>=<value> changes a field
    --workdir    the folder for the rounds; a folder or gs://
    --last       steps of the last student, 1 by default; loss.num_steps must be that times a power of 2
"""

import sys

from diffusion_jax import jobs
from diffusion_jax.compose import command, stored
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError
from diffusion_jax.jobs import train
from diffusion_jax.runs import compiling, logs, sharding, storage


def run(config: Config, workdir: storage.Path, *, last: int = 1) -> int:
    """Trains the students that are not trained yet, the fewest steps last; returns the exit code, as `jobs.train.run`."""
    for student in rounds(config, workdir, last=last):
        num_steps = student.loss.num_steps
        folder = workdir / f"steps_{num_steps}"
        if train.is_done(student, folder):
            logs.say("round", f"of {num_steps} steps: trained")
            continue
        logs.say("round", f"of {num_steps} step{'s' * (num_steps > 1)}, from {student.train.init_from}")
        if code := train.run(student, folder):
            return code
    return 0


def rounds(config: Config, workdir: storage.Path, *, last: int) -> list[Config]:
    """Returns the config of each round; UserError where halving does not lead from loss.num_steps to `last`."""
    if config.loss.name != "progressive":
        raise UserError(f"{config.show('loss.name')} is not allowed here; it must be 'progressive'.")
    found, num_steps, teacher = [], config.loss.num_steps, config.train.init_from
    if not 1 <= last <= num_steps or num_steps % last or (num_steps // last).bit_count() != 1:
        raise UserError(f"flag --last = {last} must be {config.show('loss.num_steps')} or a half of it, a half of that, ...")
    while num_steps >= last:
        student = config.with_values("loss", num_steps=num_steps).with_values("sample", num_steps=num_steps)
        found.append(student.with_values("train", init_from=teacher))
        teacher, num_steps = str(workdir / f"steps_{num_steps}"), num_steps // 2
    return found


@command.program(__doc__)
def main(argv: list[str]) -> int:
    """Trains all rounds; the exit code is 0, 2 for bad input, 1 for a failure, 128 + n for what signal n stopped."""
    compiling.pin_numerics()
    flags, changes = command.parse(argv, {"workdir": "", "last": "1"})
    command.check_given(flags, {"workdir": "the folder for the rounds"})
    last = command.whole_number(flags, "last")
    storage.allow_files()
    config, workdir = command.config_of(flags, changes), storage.path(flags["workdir"])
    if stored.has_config(workdir):
        raise UserError(f"flag --workdir = {str(workdir)!r} is the workdir of a run; give another folder for the rounds.")
    first, *_ = rounds(config, workdir, last=last)
    jobs.start(first, changes)
    code = run(config, workdir, last=last)
    sharding.wait_for_all("end")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv))
