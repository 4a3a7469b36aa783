"""What is wrong with options: truth values in place of numbers, and what does not go together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

from pipelines.choices import CYCLES, PCT_START

if TYPE_CHECKING:
    from pipelines.config import RunConfig

__all__ = ["check_number", "check_together"]


def check_number(value: Any, kind: Any) -> Any:
    """The value, given for an option of this type.

    Raises ValueError: the option is a number, or several, and the value is true or false, which
    Python would take for 1 and 0.
    """
    values = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(one, bool) for one in values) and {int, float} & set(_parts(kind)):
        raise ValueError("allowed: a number, not true or false")
    return value


def _parts(kind: Any) -> Iterator[Any]:
    """The types that a type is made of: int of ``tuple[Annotated[int, ...], ...] | None``."""
    yield kind
    for part in get_args(kind):
        yield from _parts(part)


def check_together(config: RunConfig) -> None:
    """Raise ValueError where two options contradict each other."""
    if config.momentum_min > config.momentum_max and config.schedule != "constant":
        raise ValueError(
            f"momentum_min={config.momentum_min} is above momentum_max={config.momentum_max}; "
            "momentum is lowest at the peak learning rate"
        )
    for name, having in (("pct_start", PCT_START), ("cycles", CYCLES)):
        if getattr(config, name) is not None and config.schedule not in having:
            raise ValueError(
                f"{name} has no meaning for schedule={config.schedule}; "
                f"schedules that have it: {', '.join(having)}"
            )
    if config.patience and not config.valid_fraction:
        raise ValueError(
            f"patience={config.patience} waits for a better validation loss, and "
            "valid_fraction=0 leaves no validation; allowed: patience=0, or a valid_fraction "
            "above 0"
        )
    if config.stop_on != "none" and not (config.diagnose and config.record):
        raise ValueError(f"stop_on={config.stop_on} needs diagnose=true and record=true")
    if config.schedule == "one_cycle_linear" and (config.pct_start or 0) > 0.5:
        raise ValueError(
            f"pct_start={config.pct_start} leaves no room for the fall of one_cycle_linear, "
            "which takes as many steps as the rise; allowed: up to 0.5"
        )
