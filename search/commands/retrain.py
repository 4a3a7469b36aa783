"""`study retrain`: the best configuration, trained on all that is not test data, tested once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from pipelines.commands import train_command
from pipelines.config import RunConfig
from pipelines.options import config_from
from search.best_config import best_config
from search.definition import StudyDefinition, refuse_comparison
from search.outcome import Outcome
from search.storage.database import open_storage
from search.storage.studies import find_study
from search.storage.url import StorageUrl
from tracking.errors import BadOption
from tracking.mlflow_runs.model_names import check_model_name

__all__ = ["retrain_best"]


def retrain_best(
    name: str, url: StorageUrl, number: int | None, register: str, local: Mapping[str, Any]
) -> None:
    """Train a trial's configuration (the best one's, unless ``number`` says which) on training and
    validation data, look at the test data once, and register the model in MLflow as ``register``.

    ``local``: this machine's own options (data_dir, device, threads). The rest is what ``study
    best`` writes, and not what a trial leaves out.

    Raises BadOption: there is no such trial, it was not trained to its end, or this version cannot
    repeat it.
    """
    try:
        check_model_name(register)
    except BadOption as error:
        raise BadOption(f"{error}; give the model another name: --register NAME") from None
    study = find_study(open_storage(url, create=False), name)
    definition = StudyDefinition.of(study).on_this_machine(local)
    refuse_comparison(definition, "train the value that you choose")
    trial = _chosen(study, number)
    config = best_config(definition.base, trial)
    own = {"valid_fraction": 0.0, "log_model": True, "run_name": f"{name} retrained"}
    train_command(
        config_from(RunConfig, config.model_dump() | own),
        register=register,
        tags={"layerscope.study": name, "layerscope.trial": str(trial.number)},
    )


def _chosen(study: Study, number: int | None) -> FrozenTrial:
    outcome = Outcome.of(study)
    trials = outcome.trials
    if number is not None:
        if not 0 <= number < len(trials) or "accuracy" not in trials[number].user_attrs:
            raise BadOption(
                f"trial={number}: not one that was trained to its end; look at: study trials"
            )
        return trials[number]
    if outcome.best is None:
        raise BadOption(
            f"study {study.study_name!r} has no completed trial yet; look at: study status"
        )
    return outcome.best
