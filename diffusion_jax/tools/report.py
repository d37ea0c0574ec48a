"""Runs in a browser: curves, previews, configs and figures of one run or of several, as one HTML page.

    python -m diffusion_jax.tools.report --workdir=runs/digits --out=report.html
    python -m diffusion_jax.tools.report --workdir=runs/one --workdir=runs/two

The page needs no network. The workdirs are only read. Their runs may be training: the same command then shows what is new.

Flags:
    --workdir    of a run, a folder or gs://; once for each run
    --out        the .html file to write; report.html by default
"""

import sys
from collections.abc import Sequence

from diffusion_jax.compose import command
from diffusion_jax.errors import UserError
from diffusion_jax.runs import logs, report, storage


def run(workdirs: Sequence[storage.Path], out: storage.Path) -> int:
    """Writes the page of some runs; returns the exit code, 0. Raises UserError as `report.page` does."""
    page = report.page(workdirs)
    storage.write_text(out, page)
    logs.say("done", f"{out}, {len(page) / 1e6:.1f} MB: open it in a browser")
    return 0


@command.program(__doc__)
def main(argv: list[str]) -> int:
    """Writes the page; the exit code is 0, 2 for bad input, 1 for a failure."""
    flags, _ = command.parse(argv, {"workdir": "", "out": "report.html"}, fields=())
    workdirs = [storage.path(value) for name, value in command.pairs(argv[1:]) if name == "workdir" and value]
    out = storage.path(flags["out"])
    if not workdirs:
        raise UserError("flag --workdir is missing; it must be the folder of a run.")
    command.check_allowed(flags, "out", out.suffix == ".html" and not out.is_dir(), "a file such as report.html")
    if not storage.is_object_store(out) and not out.parent.is_dir():
        raise UserError(f"flag --out = {flags['out']!r} is not possible: there is no folder {str(out.parent)!r}.")
    return run(workdirs, out)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
