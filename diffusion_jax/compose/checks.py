"""What must hold between the fields of a config: checked before any device works and before anything is written."""

from types import ModuleType

from diffusion_jax.compose import conditions, guiding, processes, sampling, training
from diffusion_jax.compose.config import Config
from diffusion_jax.errors import UserError


def check(config: Config) -> None:
    """Raises UserError, with one sentence, for the first two fields that do not fit together."""
    check_kind(config)
    _check(config, conditions)  # of which the network is asked for its channels
    processes.network(config)
    _check(config, processes, training, sampling, guiding)
    sampling.make_solve(config)  # grid and sampler fit the process


def _check(config: Config, *parts: ModuleType) -> None:
    for part in parts:
        for sentence in part.contradictions(config):
            raise UserError(sentence)


def check_kind(config: Config) -> None:
    """Raises UserError for what is not a `Config`, such as what get_config() of a file of configs/ returns."""
    if not isinstance(config, Config):
        raise UserError(
            f"a config of type {type(config).__name__} is not allowed; it must be a Config, such as "
            "Config.of_flat(flatten(get_config().to_dict())) makes of a file of configs/."
        )
