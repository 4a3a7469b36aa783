"""Studies in a storage: found, or made with all that workers need to know."""

from __future__ import annotations

import json

from optuna import Study, load_study
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage, _CachedStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from sqlalchemy.exc import IntegrityError

from search.config import StudyConfig
from search.definition import DEFINITION, MLFLOW_RUN, StudyDefinition
from tracking.errors import BadTracking, did_you_mean

__all__ = ["create", "directions", "exists", "find_study"]


def directions(options: StudyConfig) -> list[StudyDirection]:
    """Maximise or minimise, for each of the values."""
    match options.objective:
        case "loss":
            return [StudyDirection.MINIMIZE]
        case "accuracy,seconds":
            return [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    return [StudyDirection.MAXIMIZE]


def exists(storage: BaseStorage, name: str) -> bool:
    """Whether the storage has a study of that name."""
    return any(study.study_name == name for study in storage.get_all_studies())


def find_study(storage: BaseStorage, name: str) -> Study:
    """A study of the storage. Raises BadTracking: there is none of that name."""
    names = [study.study_name for study in storage.get_all_studies()]
    if name not in names:
        known = f"it has {', '.join(sorted(names)[:10])}" if names else "it has none"
        raise BadTracking(f"no study {name!r} in the storage; {known}.{did_you_mean(name, names)}")
    return load_study(study_name=name, storage=storage)


def create(storage: _CachedStorage, definition: StudyDefinition, mlflow_run_id: str) -> Study:
    """A new study with its definition and its run in MLflow, all of them or nothing.

    Raises DuplicatedStudyError: there is one of that name.
    """
    options = definition.options
    attributes = {MLFLOW_RUN: mlflow_run_id, DEFINITION: definition.to_json()}
    row = models.StudyModel(
        study_name=options.name,
        directions=[
            models.StudyDirectionModel(objective=objective, direction=direction)
            for objective, direction in enumerate(directions(options))
        ],
        user_attributes=[
            models.StudyUserAttributeModel(key=key, value_json=json.dumps(value))
            for key, value in attributes.items()
        ],
    )
    # Optuna writes each in a transaction of its own: a study whose maker is killed between them
    # could be used by nobody.
    backend = storage._backend  # noqa: SLF001
    try:
        with backend.scoped_session() as session, session.begin():
            session.add(row)
    except IntegrityError:
        raise DuplicatedStudyError(options.name) from None
    return load_study(study_name=options.name, storage=storage)
