"""Runs at whose end records wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tracking.errors import RecordsWaiting
from tracking.mlflow_runs.session import TrackedRun, tracked_run

__all__ = ["run_that_waits"]


@contextmanager
def run_that_waits(patience: float) -> Iterator[tuple[TrackedRun, list[RecordsWaiting]]]:
    """A run at whose end records wait; the list holds what it raised then."""
    raised: list[RecordsWaiting] = []
    try:
        with tracked_run("tests", patience=patience) as tracked:
            yield tracked, raised
    except RecordsWaiting as error:
        raised.append(error)
