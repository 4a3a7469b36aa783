"""Stores by their URI, as records name them that are sent from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracking.mlflow_runs.store_uri import absolute_uri

__all__: list[str] = []


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/abs/mlruns",
        "file:///abs/mlruns",
        "sqlite:////abs/mlflow.db",
        "sqlite://",
        "http://127.0.0.1:5000",
        "postgresql+psycopg2://me:secret@host/db",
        "databricks",
        "databricks://profile",
    ],
)
def test_what_is_the_same_everywhere_stays(uri: str) -> None:
    assert absolute_uri(uri) == uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("./mlruns", "{here}/mlruns"),
        ("my runs", "{here}/my runs"),
        ("file:mlruns", "file://{here}/mlruns"),
        ("file:./my%20runs", "file://{here}/my%20runs"),
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
    ],
)
def test_relative_paths_begin_here(
    uri: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri(uri) == expected.format(here=tmp_path)
