"""Small real studies: a storage in a folder of its own, runs in the test process's MLflow store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import RunConfig
from search.config import StudyConfig
from search.definition import StudyDefinition
from search.space.search_space import SearchSpace
from tests.mlflow_stores import sqlite_store

__all__: list[str] = []

SMALL: dict[str, Any] = {
    "train_limit": 60,
    "batch_size": 16,
    "epochs": 2,
    "image_size": 16,
    "widths": (4, 8),
    "device": "cpu",
    "experiment": "tests",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the test process's MLflow store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    monkeypatch.setenv("LAYERSCOPE_RECORDS", str(tmp_path / "records"))
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all the rest of a small trial, and have tests of their own."""
    monkeypatch.setattr("tracking.recording.draw", lambda *_: iter(()))


@pytest.fixture
def defined() -> Callable[..., StudyDefinition]:
    """Makes a definition: options of the study, and ``base`` and ``space`` for the others."""

    def make(
        space: tuple[str, ...] = ("lr_max=log:1e-3:0.1",),
        base: dict[str, Any] | None = None,
        **options: Any,
    ) -> StudyDefinition:
        config = StudyConfig(**({"name": "study", "rung_least_steps": 1, "bootstrap": 0} | options))
        return StudyDefinition(
            RunConfig(**(SMALL | (base or {}))),
            config,
            SearchSpace.read(space, lr_scaling=config.lr_scaling),
        )

    return make
