"""The search space of a study: dimensions over RunConfig's options, and what a trial makes of them.

Beside RunConfig's options there is ``momentum_drop``: momentum_min is momentum_max less this drop,
which a sampler can vary on its own, while the two momentums must not cross.

The learning rate is searched relative to the batch size, since the two move together: where both
are in the space, the parameter ``lr_max@64`` is the peak rate at the base configuration's batch
size (64 here), and a trial with k times as many samples per step uses it times k (``linear``:
Krizhevsky 2014, arXiv:1404.5997; Goyal et al. 2017, arXiv:1706.02677) or times the square root of k
(``sqrt``: Malladi et al. 2022, arXiv:2205.10287, for Adam). ``auto`` is linear for SGD and the
square root for Adam and AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.config import RunConfig
from search.space.conditions import check_combinations, is_active, is_always_active
from search.space.dimension_text import as_text, check_dimension, parse_dimension
from search.space.dimensions import Choice, Dimension, Range, distribution, nearest, suggest_value
from search.space.entries import check_not_empty, read_entries
from search.space.searchable import SEARCHABLE, option_value
from tracking.errors import BadOption

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

__all__ = ["Choice", "Dimension", "LrScaling", "Range", "SearchSpace"]

LrScaling = Literal["none", "sqrt", "linear", "auto"]

_POWERS = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}


@dataclass(frozen=True)
class SearchSpace:
    """What a study searches: option -> values or range.

    ``base`` in its methods is the configuration that all trials share; a trial's options are base's
    with this space's overrides laid over them.
    """

    dimensions: Mapping[str, Dimension]
    lr_scaling: LrScaling = "auto"

    @classmethod
    def read(
        cls, texts: Sequence[str] = (), path: Path | None = None, lr_scaling: LrScaling = "auto"
    ) -> SearchSpace:
        """A space from texts such as ``lr_max=log:1e-3:1`` and a YAML file of the same.

        A text replaces the file's entry of its name. With neither, this is the shipped default.
        Raises BadOption: the file cannot be read, the space is empty, or a dimension is not
        allowed.
        """
        entries = read_entries(texts, path)
        parsed = {name: parse_dimension(name, given) for name, given in entries.items()}
        return cls(parsed, lr_scaling)

    def check(self, base: RunConfig) -> None:
        """Judge the whole space, before anything runs.

        Raises BadOption: the space is empty, an option is unknown or not searched, a value or an
        end of a range is outside the option's limits, an option can never have an effect, or
        options clash.
        """
        check_not_empty(self.dimensions)
        for name, dimension in self.dimensions.items():
            check_dimension(name, dimension)
        check_combinations(self.dimensions, base)

    def parameter(self, name: str, base: RunConfig) -> str:
        """The name that Optuna knows a dimension by."""
        relative = name == "lr_max" and self._lr_is_relative
        return f"{name}@{base.batch_size}" if relative else name

    def distributions(
        self, base: RunConfig, *, conditional: bool = True
    ) -> dict[str, BaseDistribution]:
        """Optuna's by parameter name; not ``conditional``: of what every trial is asked for."""
        return {
            self.parameter(name, base): distribution(self.dimensions[name])
            for name in self._names()
            if conditional or is_always_active(name, self.dimensions, base)
        }

    def suggest(self, trial: BaseTrial, base: RunConfig) -> dict[str, Any]:
        """A trial's overrides of base's options; it is asked for nothing that has no effect."""
        options = base.model_dump()
        chosen: dict[str, Any] = {}
        for name in self._names():
            if is_active(name, options):
                value = suggest_value(trial, self.parameter(name, base), self.dimensions[name])
                chosen[name] = options[name] = value
        if "lr_max" in chosen:
            chosen["lr_max"] *= self._lr_factor(options, base)
        if "momentum_drop" in chosen:
            drop = chosen.pop("momentum_drop")
            chosen["momentum_min"] = max(0.0, options["momentum_max"] - drop)
        for name in ("pct_start", "cycles"):  # set in base for another schedule than the trial's
            if options[name] is not None and not is_active(name, options):
                chosen[name] = None
        return chosen

    def grid(self, base: RunConfig) -> dict[str, list[Any]]:
        """Every parameter's values, for Optuna's GridSampler.

        Raises BadOption: a dimension is a range.
        """
        ranges = [name for name in self._names() if isinstance(self.dimensions[name], Range)]
        if ranges:
            texts = ", ".join(f"{name}={self.describe()[name]}" for name in ranges)
            raise BadOption(
                f"space {texts}: a grid needs values, not ranges; give some, such as "
                f"{ranges[0]}=a,b,c, or take another sampler"
            )
        return {
            self.parameter(name, base): list(dimension.values)
            for name in self._names()
            if isinstance(dimension := self.dimensions[name], Choice)
        }

    def centred(self, lr: float) -> SearchSpace:
        """The log range of lr_max moved so that ``lr`` is its geometric middle, as wide as before.

        The same space where lr_max is no log range. Raises ValueError: lr is not above 0.
        """
        dimension = self.dimensions.get("lr_max")
        if not (isinstance(dimension, Range) and dimension.log):
            return self
        if not 0 < lr < math.inf:
            raise ValueError(f"lr={lr}; allowed: numbers above 0")
        half = math.sqrt(dimension.high / dimension.low)
        moved = replace(dimension, low=_rounded(lr / half), high=_rounded(lr * half))
        return replace(self, dimensions={**self.dimensions, "lr_max": moved})

    def params(self, config_overrides: Mapping[str, Any], base: RunConfig) -> dict[str, Any]:
        """Optuna's parameters for given values of options, to enqueue as a trial.

        Numbers are clipped into the ranges. Left out, so that the sampler fills them in: options
        that are not in the space, that are None or have no effect, and values that a choice does
        not offer. Raises BadOption: RunConfig does not allow a value.
        """
        given = {
            name: option_value(name, value)
            for name, value in config_overrides.items()
            if name in SEARCHABLE and value is not None
        }
        known = base.model_dump() | given
        if "momentum_min" in given and "momentum_drop" not in given:
            given["momentum_drop"] = max(0.0, known["momentum_max"] - given["momentum_min"])
        if "lr_max" in given:
            given["lr_max"] /= self._lr_factor(known, base)
        values = {
            self.parameter(name, base): nearest(self.dimensions[name], given[name])
            for name in self._names()
            if name in given and is_active(name, given)
        }
        return {parameter: value for parameter, value in values.items() if value is not None}

    def describe(self) -> dict[str, str]:
        """Option -> its dimension as it is written on the command line."""
        return {name: as_text(name, self.dimensions[name]) for name in self._names()}

    def to_dict(self) -> dict[str, Any]:
        """A plain JSON value that ``from_dict`` reads back."""
        return {"dimensions": self.describe(), "lr_scaling": self.lr_scaling}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> SearchSpace:
        """The space that ``to_dict`` wrote. Raises BadOption: this version does not know it."""
        texts = value["dimensions"]
        parsed = {name: parse_dimension(name, text) for name, text in texts.items()}
        return cls(parsed, value["lr_scaling"])

    def differences(self, other: SearchSpace) -> list[str]:
        """How this space differs from a study's, one line for each option; none where it does not.

        The order of a choice's values counts: Optuna takes another order for another choice.
        """
        here = self.describe() | {"lr_scaling": self.lr_scaling}
        there = other.describe() | {"lr_scaling": other.lr_scaling}
        return [
            f"{name}: {here.get(name, 'not')} here, {there.get(name, 'not')} in the study"
            for name in dict.fromkeys([*here, *there])
            if here.get(name) != there.get(name)
        ]

    def _names(self) -> list[str]:
        """In the order of suggestion, whatever the order in which they were given."""
        return sorted(self.dimensions, key=SEARCHABLE.index)

    @property
    def _lr_is_relative(self) -> bool:
        batches = self.dimensions.keys() & {"batch_size", "accumulate"}
        is_range = isinstance(self.dimensions.get("lr_max"), Range)
        return is_range and bool(batches) and self.lr_scaling != "none"

    def _lr_factor(self, options: Mapping[str, Any], base: RunConfig) -> float:
        """What a trial multiplies the parameter with: samples per optimizer step against base's."""
        if not self._lr_is_relative:
            return 1.0
        auto = "linear" if options["optimizer"] == "sgd" else "sqrt"
        power = _POWERS[auto if self.lr_scaling == "auto" else self.lr_scaling]
        samples: int = options["batch_size"] * options["accumulate"]
        return float((samples / (base.batch_size * base.accumulate)) ** power)


def _rounded(value: float) -> float:
    """To four digits, which is finer than any range test."""
    return float(f"{value:.4g}")
