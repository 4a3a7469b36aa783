"""One dimension of a search space: its values, or its range."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

__all__ = ["Choice", "Dimension", "Range", "distribution", "nearest", "suggest_value"]


@dataclass(frozen=True)
class Choice:
    """One of some values: plain JSON values, as ``option_value`` gives them."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included."""

    low: float
    high: float
    log: bool = False
    integer: bool = False
    step: float | None = None

    @property
    def last(self) -> float:
        """The largest number in the range: where the steps from the low end stop."""
        if self.step is None:
            return self.high
        # In decimals, so that 0.1 fits into 0:0.3 three times.
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
        return float(low + (high - low) // step * step)


Dimension = Choice | Range


def distribution(dimension: Dimension) -> BaseDistribution:
    """The same as Optuna sees it."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    low, high, log = dimension.low, dimension.last, dimension.log
    if dimension.integer:
        return IntDistribution(int(low), int(high), log, int(dimension.step or 1))
    return FloatDistribution(low, high, log, dimension.step)


def suggest_value(trial: BaseTrial, parameter: str, dimension: Dimension) -> Any:
    """Ask a trial for a parameter's value."""
    if isinstance(dimension, Choice):
        return trial.suggest_categorical(parameter, dimension.values)
    low, high, log = dimension.low, dimension.last, dimension.log
    if dimension.integer:
        step = int(dimension.step or 1)
        return trial.suggest_int(parameter, int(low), int(high), step=step, log=log)
    return trial.suggest_float(parameter, low, high, step=dimension.step, log=log)


def nearest(dimension: Dimension, value: Any) -> Any:
    """The value of a range that is closest to a number; of a choice, the value itself or None."""
    if isinstance(dimension, Choice):
        return value if value in dimension.values else None
    low, last = dimension.low, dimension.last
    if dimension.step is not None:
        value = low + round((value - low) / dimension.step) * dimension.step
    clipped = min(max(value, low), last)
    return round(clipped) if dimension.integer else float(clipped)
