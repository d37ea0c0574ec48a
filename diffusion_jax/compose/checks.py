"""What must hold between the fields of a config: checked before any device works and before anything is written."""

import itertools
from collections.abc import Collection
from types import ModuleType

from diffusion_jax.compose import choices, conditions, guiding, inputs, latents, processes, sampling, texts, training
from diffusion_jax.compose.config import FIELDS, Config
from diffusion_jax.errors import UserError


def check(config: Config) -> None:
    """Raises UserError, with one sentence, for the first two fields that do not fit together."""
    check_kind(config)
    _check(config, inputs, texts, conditions, latents)  # before the network is made: its channels follow from these
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


OF_ALL = ("data.channels", "data.image_size", "data.medium")  # fields that act with sources that do not name them too


def without_effect(config: Config, names: Collection[str]) -> list[str]:
    """Returns a sentence for each of some fields that is not at its default, and that the choice beside it ignores."""
    flat, found = config.flat(), []
    tables = {choice: {row: choices.named(made) for row, made in table.items()} for choice, table in choices.TABLES.items()}
    tables["model.kind"] = {kind: processes.fields_of(kind) for kind in processes.NETWORKS}
    for name, (choice, table) in itertools.product([name for name in names if name not in OF_ALL], tables.items()):
        section, _, field_name = name.partition(".")
        is_beside = choice.startswith(f"{section}.")
        rows = [row for row, taken in table.items() if is_beside and field_name in taken]
        if rows and flat[choice] not in rows and flat[name] != FIELDS[name].default:
            wanted = " or ".join(map(repr, rows))
            found.append(f"config field {name} = {flat[name]!r} does nothing: it is for {choice} = {wanted}.")
    return found
