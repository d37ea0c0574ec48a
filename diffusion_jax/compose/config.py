"""The config of a run: its sections, how it is made of names and values, and what may change when a run resumes."""

from collections.abc import Mapping
from typing import Any

import pydantic

from diffusion_jax import errors
from diffusion_jax.compose import choices, fields, sections
from diffusion_jax.compose.sections import Field, Flag, Section, field, one_of
from diffusion_jax.errors import UserError
from diffusion_jax.runs.shards import flatten


class Config(Section):
    """What a run is. Attributes are sections, and their attributes the fields: config.sample.eta."""

    compilation_cache: Flag = field(
        True,
        "keep compiled programs for later runs: in $JAX_COMPILATION_CACHE_DIR, or without it in ~/.cache/diffusion_jax",
        free=True,
    )
    process: fields.Process = field(fields.Process(), "how noise is added")
    predicts: one_of(choices.PARAMETERIZATIONS) = field("eps", "what the network's output is")
    model: fields.Model = field(fields.Model(), "the network")
    loss: fields.Loss = field(fields.Loss(), "what training minimises")
    train: fields.Train = field(fields.Train(), "how training goes")
    data: fields.Data = field(fields.Data(), "the images")
    sample: fields.Sample = field(
        fields.Sample(), "how images are generated: --mode=sample, and the previews of training", free=True
    )
    likelihood: fields.Likelihood = field(
        fields.Likelihood(), "--mode=likelihood, of the weights that `sample` names", free=True
    )
    evaluate: fields.Evaluate = field(
        fields.Evaluate(), "--mode=evaluate, of images that are generated as `sample` says", free=True
    )
    edit: fields.Edit = field(fields.Edit(), "--mode=edit, with the steps, the seed and the label of `sample`", free=True)

    @classmethod
    def of_flat(cls, flat: Mapping[str, Any]) -> "Config":
        """Returns the config that {"section.field": value} describes; UserError with field, value and what is allowed."""
        for name in flat:
            sections.check_name(name, FIELDS)
        if missing := [name for name in FIELDS if name not in flat]:
            raise UserError(f"config field {missing[0]!r} is missing; it must be {FIELDS[missing[0]].allowed}.")
        try:
            return cls.model_validate(sections.nested(flat))._settled()
        except pydantic.ValidationError as error:
            place = error.errors(include_input=False)[0]["loc"]  # (section, field, what in a tuple) or (field,)
            name = ".".join(place[:2])
        value, allowed, instead = errors.shown(flat[name]), FIELDS[name].allowed, errors.instead(flat[name])
        if instead and cls._takes(flat | {name: int(flat[name])}):
            allowed += instead
        if isinstance(FIELDS[name].default, tuple) and not isinstance(flat[name], tuple):
            allowed += f", in a shell as '--config.{name}={FIELDS[name].default}'"
        it = errors.it(flat[name], FIELDS[name].names)
        raise UserError(f"config field {name} = {value} is not allowed; {it} must be {allowed}.")

    def _settled(self) -> "Config":
        """Returns the config with a value for the fields that leave it to others."""
        sample, rates = self.sample, self.train.ema_rates
        values = {"num_steps": self.process.num_steps} if sample.num_steps == 0 else {}
        values |= {"ema_rate": rates[-1] if rates else 0.0} if sample.ema_rate == -1 else {}
        return self.model_copy(update={"sample": sample.model_copy(update=values)})

    @classmethod
    def _takes(cls, flat: Mapping[str, Any]) -> bool:
        try:
            return bool(cls.model_validate(sections.nested(flat)))
        except pydantic.ValidationError:
            return False

    def with_values(self, section: str, **values: Any) -> "Config":
        """Returns the config with fields of one section changed, each checked."""
        return self.of_flat(self.flat() | {f"{section}.{name}": value for name, value in values.items()})

    def flat(self) -> dict[str, Any]:
        """Returns {"section.field": value}."""
        return flatten(self.model_dump())

    def show(self, name: str) -> str:
        """Returns how a sentence names a field and its value."""
        return f"config field {name} = {errors.shown(self.flat()[name])}"

    def identity(self) -> dict[str, Any]:
        """Returns the fields that identify a run: those that may not change on resume, flat."""
        return {name: value for name, value in self.flat().items() if not FIELDS[name].free}


FIELDS: dict[str, Field] = sections.fields_of(Config)
