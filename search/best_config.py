"""The configuration that repeats a trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.config import RunConfig
from pipelines.options import config_from
from tracking.errors import BadOption

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["best_config"]


def best_config(base: RunConfig, trial: FrozenTrial) -> RunConfig | None:
    """The configuration that repeats a trial: the base with the options that the trial noted.

    None where it noted none, or where this version allows them no more.
    """
    own = trial.user_attrs.get("config")
    if not isinstance(own, dict):
        return None
    try:
        return config_from(RunConfig, base.model_dump(mode="json") | own)
    except BadOption:
        return None
