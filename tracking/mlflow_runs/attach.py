"""Runs in MLflow that somebody else has opened and will end: records for them, links to others."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from tracking import __version__
from tracking.errors import BadTracking, RecordsWaiting
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.run_folders import (
    check_records_root,
    records_root,
    remove_if_empty,
)
from tracking.mlflow_runs.session import TrackedRun
from tracking.mlflow_runs.sink import MlflowSink
from tracking.reasons import reason

__all__ = ["attached_run", "link_caller"]

log = logging.getLogger("layerscope")


@contextmanager
def attached_run(
    run_id: str, tracking_uri: str | None = None, *, patience: float = 60.0
) -> Iterator[TrackedRun]:
    """Deliver records to a run that Lightning's MLFlowLogger, mlflow.start_run() or another opened.

    What is given to the run's ``sink`` has arrived when the context ends; the run goes on, or ends,
    as its owner says. ``tracking_uri`` is MLflow's own choice unless it is given. The run's
    ``directory``, where records wait for MLflow, is removed when they have arrived.

    Raises BadTracking: no such run, the store cannot be used, or another process records for this
    run; RecordsWaiting, at the end: the store is away, `layerscope replay` sends the records later.
    Where the body fails, that is a warning and the body's failure is raised.
    """
    check_records_root()
    try:
        run = MlflowRun.known(run_id, tracking_uri)
    except BadTracking:
        remove_if_empty(records_root())
        raise
    directory = records_root() / run.run_id
    sink = MlflowSink(run, directory, owned=False, patience=patience)
    sink.tags({"layerscope.version": __version__})
    attached = TrackedRun(run, sink, directory)
    try:
        yield attached
    except BaseException:
        try:
            attached.deliver()
        except RecordsWaiting as waiting:
            log.warning("%s", waiting)
        raise
    attached.deliver()


def link_caller(run: MlflowRun, tag: str) -> None:
    """Where `mlflow run` has begun another run than the one that is worked on, it says which."""
    caller = os.environ.get("MLFLOW_RUN_ID")
    if caller and caller != run.run_id:
        try:
            MlflowRun.known(caller).tag({tag: run.run_id})
        except Exception as error:  # of the store: the link is not worth the work
            log.warning("run %s has no link to run %s (%s)", caller, run.run_id, reason(error))
