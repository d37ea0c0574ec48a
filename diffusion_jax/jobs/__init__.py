"""One file for each mode of main.py, each with one function `run`; and what comes before all of them."""

from collections.abc import Collection

from diffusion_jax.compose.config import Config


def start(config: Config, changed: Collection[str]) -> None:
    """Checks a config, joins the other processes and starts the devices, once before the first job of a process.

    Args:
        changed: fields that the user has set; of those that do nothing a warning is printed.

    Raises:
        UserError: where the fields do not fit together.
    """
    from diffusion_jax.compose import checks
    from diffusion_jax.runs import compiling, logs, sharding

    checks.check(config)
    sharding.join_processes()
    sharding.start_devices()
    logs.say("warning", *checks.without_effect(config, changed))
    if config.compilation_cache:
        compiling.keep_compiled()
