"""Options of a training run that do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.choices import CYCLES, PCT_START

if TYPE_CHECKING:
    from pipelines.config import RunConfig

__all__ = ["check_together"]


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
