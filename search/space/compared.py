"""Compared: the values of one option that a comparison trains with the same seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.config import RunConfig
from pipelines.options import config_from
from search.space.conditions import ACTIVE_WHEN, is_active
from search.space.dimension_text import value_text, values_of
from search.space.searchable import SEARCHABLE, flag
from tracking.errors import BadOption, did_you_mean

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

__all__ = ["FACTORS", "SEED", "Compared"]

FACTORS = (
    *(name for name in SEARCHABLE if name != "momentum_drop"),  # no option of a training
    *("epochs", "train_limit", "image_size"),
)
"""What may be compared: what a study may search, and what a study must not vary, since it judges
trials at equal numbers of samples."""
SEED = "seed"
MOST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Compared:
    """An option and its values, the first of which the others are compared with."""

    factor: str
    values: tuple[Any, ...]
    """Plain JSON values, as ``option_value`` gives them."""
    lr_scaling: str = "none"

    @classmethod
    def read(cls, factor: str, text: str, lr_scaling: str = "none") -> Compared:
        """From what a command gives. Raises BadOption: it cannot be compared."""
        if not factor:
            raise BadOption("factor is missing; name the option to compare: --factor norm")
        if factor not in FACTORS:
            hint = did_you_mean(factor, FACTORS) or f" Allowed: {', '.join(FACTORS)}"
            raise BadOption(f"factor={factor}: cannot be compared.{hint}")
        if lr_scaling != "none" and factor not in {"batch_size", "accumulate"}:
            raise BadOption(
                f"lr_scaling={lr_scaling}: goes with factor=batch_size or accumulate, and the "
                f"factor is {factor}; leave it out"
            )
        try:
            values = values_of(factor, text)
        except BadOption as error:
            raise BadOption(f"values={text}: {error}") from None
        if len(values) < 2:
            raise BadOption(
                f"values={text}: a comparison needs two values or more, such as --values A,B"
            )
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise BadOption(f"values={text}: {value_text(twice[0])} is given twice")
        return cls(factor, values, lr_scaling)

    def texts(self) -> list[str]:
        """The values as they are written on the command line."""
        return [value_text(value) for value in self.values]

    def check(self, base: RunConfig) -> None:
        """Raises BadOption: a value does not go with the other options, or changes nothing."""
        for value, text in zip(self.values, self.texts(), strict=True):
            try:
                config_from(RunConfig, base.model_dump() | self.options(value, base.seed, base))
            except BadOption as error:
                raise BadOption(f"{self.factor}={text}: {error}") from None
        if not is_active(self.factor, base.model_dump()):
            condition, values = ACTIVE_WHEN[self.factor]
            raise BadOption(
                f"factor={self.factor}: has no meaning for {condition}={getattr(base, condition)}; "
                f"it has for: {', '.join(values)}"
            )

    def check_seeds(self, first: int, number: int) -> None:
        """Raises BadOption: there are not so many seeds from the first one on."""
        if first + number - 1 > MOST_SEED:
            raise BadOption(
                f"seed={first}: with seeds={number} the last one would be {first + number - 1:,}; "
                f"allowed is a seed up to {MOST_SEED - number + 1}"
            )

    def base_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What was given, with the first value in the place of the factor's default.

        No run has that default, and it need not go with what was given. With lr_scaling it stays:
        the learning rate is that of this batch size.
        """
        own = {} if self.lr_scaling != "none" else {self.factor: self.values[0]}
        return {**given, **own}

    def options(self, value: Any, seed: int, base: RunConfig) -> dict[str, Any]:
        """What a training with a value and a seed has otherwise than the base."""
        own = {self.factor: value, SEED: seed}
        if self.lr_scaling != "none":
            own["lr_max"] = base.lr_max * self._lr_factor(value, base)
        return own

    def params(self, value: Any, seed: int) -> dict[str, Any]:
        """Optuna's parameters of such a training."""
        return {self.factor: value, SEED: seed}

    def suggest(self, trial: BaseTrial, base: RunConfig) -> dict[str, Any]:
        """The options of a trial that was made with ``params``."""
        value = trial.suggest_categorical(self.factor, self.values)
        return self.options(value, trial.suggest_int(SEED, 0, MOST_SEED), base)

    def name(self, base: RunConfig, objective: str, without: Sequence[str]) -> str:
        """A name that is the same for the same comparison, whatever the number of seeds.

        ``without``: options that do not make it another one.
        """
        content = [self.to_dict(), objective, base.model_dump(mode="json", exclude=set(without))]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{self.factor}-{digest[:6]}"

    def differences(self, other: Compared | None) -> list[str]:
        """How this one differs from a stored one, a line each."""
        if other is None:
            return ["it is a search, and no comparison"]
        pairs = {
            "factor": (self.factor, other.factor),
            "values": (",".join(self.texts()), ",".join(other.texts())),
            "lr_scaling": (self.lr_scaling, other.lr_scaling),
        }
        return [
            f"{name}: {here} here, {there} there"
            for name, (here, there) in pairs.items()
            if here != there
        ]

    def to_dict(self) -> dict[str, Any]:
        """A plain JSON value that ``from_dict`` reads back."""
        return {
            "factor": self.factor,
            "values": list(self.values),
            "lr_scaling": self.lr_scaling,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Compared:
        """What ``to_dict`` wrote."""
        return cls(value["factor"], tuple(value["values"]), value["lr_scaling"])

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return flag(self.factor)

    def _lr_factor(self, value: int, base: RunConfig) -> float:
        """As in search_space.py: samples per optimizer step against the base's."""
        power = {"sqrt": 0.5, "linear": 1.0}.get(
            self.lr_scaling, 1.0 if base.optimizer == "sgd" else 0.5
        )
        return float((value / getattr(base, self.factor)) ** power)
