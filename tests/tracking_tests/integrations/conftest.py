"""What the tests of all libraries share. A library is imported by the tests that need it only."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import mlflow
import pytest

__all__: list[str] = []


@pytest.fixture(autouse=True)
def _work_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trainers leave folders where they work, and set MLflow's store for the whole process."""
    monkeypatch.chdir(tmp_path)
    yield
    mlflow.set_tracking_uri(None)  # then the environment decides again


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the drawing, which takes longer than all the rest of a small run."""
    monkeypatch.setattr("tracking.recording.draw", lambda *args: iter(()))


@pytest.fixture(scope="session")
def library() -> Callable[[str], ModuleType]:
    """Imports a module that needs a library; what that library warns of is not ours."""

    def imported(name: str) -> ModuleType:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(name)

    return imported
