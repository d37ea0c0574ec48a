"""The weights of a run alone, as a workdir to share.

    python -m diffusion_jax.tools.export --workdir=runs/digits --out=shared/digits

writes a workdir with the config and the EMA weights of the latest checkpoint (--config.sample.step and
--config.sample.ema_rate choose others): a fraction of the run's size, enough to sample from and to start another run from
(train.init_from), not to resume.

Flags:
    --workdir    of the run; a folder or gs://
    --out        the folder to make
"""

import sys

from diffusion_jax import model
from diffusion_jax.compose import checks, command, processes, stored
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError
from diffusion_jax.runs import checkpoint, logs, storage


def run(workdir: storage.Path, config: Config, out: storage.Path) -> int:
    """Writes a workdir with one set of weights, as the parameters of a run without EMA; returns the exit code, 0.

    Raises UserError where `workdir` is not that of a run, or `out` is one already.
    """
    if stored.has_config(out):
        raise UserError(f"flag --out = {str(out)!r} is the workdir of a run already; choose another.")
    trained = model.restore(workdir, stored.agreed_config(workdir, config))
    alone = model.with_settings(
        trained.config.with_values("train", ema_rates=()), ema_rate=0.0, step=-1, guide="", guidance=1.0
    )
    checkpoint.save_weights(out, trained.step, trained.params)
    stored.write_config(out, alone, weights_alone=True)
    to_try = "" if processes.is_classifier(config) else f"; try: python main.py --mode=sample --workdir={out}"
    logs.say("done", f"the weights of step {trained.step:,}{to_try}")
    return 0


def main(argv: list[str]) -> int:
    """Exports; the exit code is 0, 2 for bad input, 1 for a failure."""
    return command.answer(argv, lambda: __doc__, _main)


def _main(argv: list[str]) -> int:
    flags, changes = command.parse(argv, {"workdir": "", "out": ""})
    if not flags["workdir"] or not flags["out"]:
        raise UserError("flag --workdir or --out is missing; they must be the folder of a run and the folder to make.")
    config = command.config_of(flags, changes, flags["workdir"])
    checks.check(config)
    return run(storage.path(flags["workdir"]), config, storage.path(flags["out"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
