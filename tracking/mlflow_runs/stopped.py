"""Runs that were stopped and are to go on: what they have left is brought here."""

from __future__ import annotations

import logging
from pathlib import Path

from tracking.diagnosis.saved import GRADIENTS, STATS, STEPS, UPDATES
from tracking.errors import BadTracking
from tracking.mlflow_runs.replay import replay_run
from tracking.mlflow_runs.report import download
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.run_folders import records_root
from tracking.reasons import reason
from tracking.shown_commands import replay_command
from tracking.spool import SpoolInUse

__all__ = ["fetch_stopped_run"]

log = logging.getLogger("layerscope")

TABLES = (STEPS, STATS, GRADIENTS, UPDATES)


def fetch_stopped_run(run_id: str, checkpoint: str, folder: Path) -> MlflowRun:
    """Bring a run's checkpoint and its tables, or the parts that were to become them, below
    ``folder``, under the names of the run's artifacts.

    What still waits here to be sent is sent before; a run whose process was killed ends so. Raises
    BadTracking: there is no such run, it has not been stopped, has left no checkpoint, or the store
    cannot be used.
    """
    if (records_root() / run_id / "spool").is_dir():
        _send_what_waits(run_id)
    run = MlflowRun.known(run_id)
    _check_state(run)
    absent = download(run, [checkpoint], folder)
    if not (folder / checkpoint).exists():
        why = absent.get(checkpoint, "it has none among its artifacts")
        raise BadTracking(
            f"run {run_id} has no checkpoint to go on from ({why}): a training keeps one from its "
            "first seconds on, unless checkpoint=false or it failed of itself; train anew with its "
            "config.yaml"
        )
    try:
        wanted = [name for table in TABLES for name in _stored(run, table)]
    except Exception as error:
        raise _unreachable(run_id, reason(error)) from None
    for name, why in download(run, wanted, folder).items():
        raise _unreachable(run_id, f"{name} {why}")
    return run


def _send_what_waits(run_id: str) -> None:
    try:
        log.info("%s", replay_run(records_root() / run_id))
    except SpoolInUse:
        raise BadTracking(
            f"run {run_id} is being trained here, or its last records are still being sent; wait "
            "until that is over"
        ) from None
    except Exception as error:
        raise BadTracking(
            f"run {run_id} can go on when all that it has recorded is in MLflow, which does not "
            f"take it now ({reason(error)}); try again later"
        ) from None


def _check_state(run: MlflowRun) -> None:
    status = run.status
    if run.is_running():
        raise BadTracking(
            f"run {run.run_id} still counts as running; if its process was killed on another "
            f"machine or in another folder, say there: {replay_command()}"
        )
    if status == "FINISHED":
        raise BadTracking(f"run {run.run_id} is finished: nothing is left to go on with")


def _stored(run: MlflowRun, table: str) -> list[str]:
    """The table's artifact, or those of its parts, where there are any."""
    folder, _, name = table.rpartition("/")
    if table in _listed(run, folder):
        return [table]
    return _listed(run, f"{folder}/parts/{Path(name).stem}")


def _listed(run: MlflowRun, folder: str) -> list[str]:
    return [one.path for one in run.client.list_artifacts(run.run_id, folder) if not one.is_dir]


def _unreachable(run_id: str, why: str) -> BadTracking:
    return BadTracking(
        f"what run {run_id} has recorded cannot be fetched ({why}); try again when the MLflow "
        "server answers"
    )
