"""Studies in a storage: made with all that workers need, and found again."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import _CachedStorage
from optuna.study import StudyDirection

from pipelines.config import RunConfig
from search.config import StudyConfig
from search.definition import MLFLOW_RUN, StudyDefinition
from search.space.search_space import SearchSpace
from search.storage.database import open_storage
from search.storage.studies import create, directions, exists, find_study
from search.storage.url import storage_url
from tracking.errors import BadTracking

__all__: list[str] = []

MAX, MIN = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE


def definition(name: str, **options: object) -> StudyDefinition:
    return StudyDefinition(RunConfig(), StudyConfig(name=name, **options), SearchSpace.read())


@pytest.fixture
def storage(tmp_path: Path) -> _CachedStorage:
    return open_storage(storage_url(f"sqlite:///{tmp_path}/s.db"))


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("accuracy", [MAX]), ("loss", [MIN]), ("accuracy,seconds", [MAX, MIN])],
)
def test_what_is_best(
    objective: str, expected: list[StudyDirection], storage: _CachedStorage
) -> None:
    options = StudyConfig(objective=objective)
    assert directions(options) == expected
    study = create(storage, definition("S", objective=objective), "run")
    assert study.directions == expected


def test_a_study_is_made_and_found(storage: _CachedStorage) -> None:
    wanted = definition("lr & batch, 2nd", trials=7)
    assert not exists(storage, "lr & batch, 2nd")
    made = create(storage, wanted, "0123abcd")
    assert exists(storage, "lr & batch, 2nd")
    found = find_study(storage, "lr & batch, 2nd")
    assert (found.study_name, found.trials) == (made.study_name, [])
    assert StudyDefinition.of(found) == wanted
    assert found.user_attrs[MLFLOW_RUN] == "0123abcd"


def test_names_are_told_apart(storage: _CachedStorage) -> None:
    create(storage, definition("S"), "one")
    create(storage, definition("s"), "two")
    assert find_study(storage, "s").user_attrs[MLFLOW_RUN] == "two"
    with pytest.raises(DuplicatedStudyError):
        create(storage, definition("S"), "three")
    assert find_study(storage, "S").user_attrs[MLFLOW_RUN] == "one"


def test_an_empty_storage_has_none(storage: _CachedStorage) -> None:
    with pytest.raises(BadTracking, match=r"^no study 'S' in the storage; it has none\.$"):
        find_study(storage, "S")


def test_a_study_that_is_not_there_has_a_suggestion(storage: _CachedStorage) -> None:
    for name in ["schedules", "batch", *map(str, range(10))]:
        create(storage, definition(name), "run")
    with pytest.raises(BadTracking) as caught:
        find_study(storage, "schedule")
    assert str(caught.value) == (
        "no study 'schedule' in the storage; it has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9. "
        "Did you mean 'schedules'?"
    )
