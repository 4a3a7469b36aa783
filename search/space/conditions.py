"""When an option is active, and which parts of a space do not go together.

A trial only gets values for what has an effect on it: a parameter without one would be noise to the
sampler, and would look like a finding in Optuna's plots.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pipelines.choices import CYCLES, PCT_START
from pipelines.config import RunConfig
from search.space.dimension_text import about_dimension, as_text
from search.space.dimensions import Choice, Dimension
from tracking.errors import BadOption

__all__ = ["ACTIVE_WHEN", "check_combinations", "is_active", "is_always_active", "possible"]

_SCHEDULES = get_args(RunConfig.model_fields["schedule"].annotation)


def _schedules_without(*names: str) -> tuple[str, ...]:
    return tuple(name for name in _SCHEDULES if name not in names)


_MOMENTUM = ("schedule", _schedules_without("constant"))
_ADAM = ("optimizer", ("adam", "adamw"))
_SIMPLE = ("model", ("simple_cnn",))

ACTIVE_WHEN: dict[str, tuple[str, tuple[str, ...]]] = {
    "pct_start": ("schedule", tuple(PCT_START)),
    "cycles": ("schedule", tuple(CYCLES)),
    "cycle_mult": ("schedule", ("warm_restarts",)),
    "div": ("schedule", ("one_cycle", "one_cycle_linear", "triangular", "linear")),
    "final_div": ("schedule", _schedules_without("triangular", "constant")),
    "momentum_min": _MOMENTUM,
    "momentum_drop": _MOMENTUM,
    "nesterov": ("optimizer", ("sgd",)),
    "beta2": _ADAM,
    "eps": _ADAM,
    "widths": _SIMPLE,
    "first_kernel": _SIMPLE,
    "norm": _SIMPLE,
    "downsample": _SIMPLE,
    "head": _SIMPLE,
    "activation": ("model", ("simple_cnn", "resnet_small")),
}
"""Option -> the option it depends on, and the values of that one for which it has an effect."""


def is_active(name: str, known: Mapping[str, Any]) -> bool:
    """Whether an option has an effect, given the values that are known of others.

    True where the option that it depends on is not among them.
    """
    condition, values = ACTIVE_WHEN.get(name, ("", ()))
    return condition not in known or known[condition] in values


def is_always_active(name: str, dimensions: Mapping[str, Dimension], base: RunConfig) -> bool:
    """Whether an option has an effect in every trial over these dimensions."""
    if name not in ACTIVE_WHEN:
        return True
    condition, values = ACTIVE_WHEN[name]
    return set(possible(condition, dimensions, base)) <= set(values)


def check_combinations(dimensions: Mapping[str, Dimension], base: RunConfig) -> None:
    """Judge dimensions, each of them allowed, beside one another and beside the fixed options.

    Raises BadOption: an option that can never have an effect, or combinations of values that
    RunConfig refuses.
    """
    for name in dimensions:
        if name in ACTIVE_WHEN:
            _check_active(name, dimensions, base)
    _check_pct_start(dimensions, base)
    _check_momentum(dimensions, base)


def possible(name: str, dimensions: Mapping[str, Dimension], base: RunConfig) -> tuple[Any, ...]:
    """What an option may be in a trial; of a range, its two ends."""
    if name not in dimensions:
        return (getattr(base, name),)
    dimension = dimensions[name]
    return dimension.values if isinstance(dimension, Choice) else (dimension.low, dimension.last)


def _check_active(name: str, dimensions: Mapping[str, Dimension], base: RunConfig) -> None:
    condition, values = ACTIVE_WHEN[name]
    found = possible(condition, dimensions, base)
    if not set(found) & set(values):
        with about_dimension(name, as_text(name, dimensions[name])):
            raise BadOption(
                f"{name} has no meaning for {condition}={','.join(found)}; "
                f"it has for: {', '.join(values)}"
            )


def _check_pct_start(dimensions: Mapping[str, Dimension], base: RunConfig) -> None:
    largest = max(share or 0.0 for share in possible("pct_start", dimensions, base))
    if "one_cycle_linear" not in possible("schedule", dimensions, base) or largest <= 0.5:
        return
    # Neither is in the space only where the fixed options clash, and RunConfig has refused those.
    name = "pct_start" if "pct_start" in dimensions else "schedule"
    with about_dimension(name, as_text(name, dimensions[name])):
        raise BadOption(
            f"pct_start={largest} leaves no room for the fall of schedule=one_cycle_linear; "
            "keep pct_start to 0.5, or leave that schedule out"
        )


def _check_momentum(dimensions: Mapping[str, Dimension], base: RunConfig) -> None:
    """Momentum is lowest at the peak learning rate, in every trial."""
    if "momentum_drop" in dimensions:
        if "momentum_min" in dimensions:
            drop = as_text("momentum_drop", dimensions["momentum_drop"])
            with about_dimension("momentum_drop", drop):
                raise BadOption("momentum_min is in the space too; search one of the two")
        return
    highest = max(possible("momentum_min", dimensions, base))
    lowest = min(possible("momentum_max", dimensions, base))
    if highest <= lowest or set(possible("schedule", dimensions, base)) == {"constant"}:
        return
    name = next(n for n in ("momentum_min", "momentum_max", "schedule") if n in dimensions)
    with about_dimension(name, as_text(name, dimensions[name])):
        raise BadOption(
            f"momentum_min={highest} would be above momentum_max={lowest} in some trials; search "
            "momentum_max and momentum_drop instead, or choose ranges that do not cross"
        )
