"""The configuration that repeats a trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.config import RunConfig
from pipelines.options import config_from
from tracking.errors import BadOption

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["best_config"]


def best_config(base: RunConfig, trial: FrozenTrial) -> RunConfig:
    """The configuration that repeats a trial: the base with the options that the trial noted.

    Raises BadOption: it noted none, or this version allows them no more.
    """
    own = trial.user_attrs.get("config")
    if not isinstance(own, dict):
        raise BadOption(f"trial {trial.number}: it has noted no options, so it cannot be repeated")
    try:
        return config_from(RunConfig, base.model_dump(mode="json") | own)
    except BadOption as error:
        raise BadOption(
            f"trial {trial.number}: this version of layerscope cannot repeat it ({error})"
        ) from None
