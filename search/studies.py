"""Studies in a storage: found, or made with all that workers need to know."""

from __future__ import annotations

from optuna import Study, load_study
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

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


def create(storage: BaseStorage, definition: StudyDefinition, mlflow_run_id: str) -> Study:
    """A new study with its definition and its run in MLflow."""
    options = definition.options
    study_id = storage.create_new_study(directions(options), options.name)
    # The definition last: whoever finds it finds the run, too.
    storage.set_study_user_attr(study_id, MLFLOW_RUN, mlflow_run_id)
    storage.set_study_user_attr(study_id, DEFINITION, definition.to_json())
    return load_study(study_name=options.name, storage=storage)
