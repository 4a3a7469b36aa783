"""The command in this process, and the runs that it leaves in the store."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

import layerscope
from tests.mlflow_stores import sqlite_store
from tests.own_signals import own_signals_kept

__all__ = ["SCRIPT", "SMALL", "Command", "command_here", "runs"]

Command = Callable[..., tuple[int, str, str]]
"""Takes the arguments; gives exit code, standard output and standard error."""
SCRIPT = str(Path(layerscope.__file__).resolve())
SMALL = [
    *("--train-limit", "60", "--batch-size", "16", "--image-size", "16", "--widths", "4"),
    *("--device", "cpu", "--log-model", "false", "--experiment", "tests"),
]


def runs() -> dict[str, Run]:
    """Every run in the store."""
    client = MlflowClient(sqlite_store())
    experiments = [e.experiment_id for e in client.search_experiments()]
    return {run.info.run_id: run for run in client.search_runs(experiments, max_results=1000)}


@contextmanager
def command_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """The command, working in a folder, with the test process's store."""
    level = logging.getLogger("layerscope").level
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LAYERSCOPE_RECORDS", str(folder / "records"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["layerscope", *arguments])
        capfd.readouterr()
        code = 0
        try:
            layerscope.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    try:
        with own_signals_kept():
            yield run
    finally:
        logging.getLogger("layerscope").setLevel(level)
