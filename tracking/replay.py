"""Send what earlier runs left in their spools."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient

from tracking.errors import BadTracking, RecordsWaiting
from tracking.mlflow_run import MlflowRun, masked
from tracking.session import first_line, records_root
from tracking.spool import Spool

__all__ = ["replay_all"]


def replay_all(directory: Path | None = None) -> Iterator[str]:
    """Deliver every spool below ``directory``; gives a line for each run and removes its folder.

    Raises BadTracking: there is no such folder; RecordsWaiting, after all have been tried: a store
    still cannot be reached.
    """
    root = directory or records_root()
    if directory is not None and not root.is_dir():
        raise BadTracking(f"{root}: no such folder; give a run's folder or one that holds them")
    spools = sorted(path.parent for path in root.glob("**/spool/target.json"))
    if not spools:
        yield f"nothing waits in {root}"
    failures = []
    for folder in spools:
        try:
            yield _replay(folder)
        except Exception as error:
            failures.append(f"{folder.parent}: {first_line(error)}")
    if failures:
        raise RecordsWaiting(f"records still wait: {'; '.join(failures)}")


def _replay(folder: Path) -> str:
    spool = Spool(folder)
    uri, run_id = spool.target["tracking_uri"], spool.target["run_id"]
    run = MlflowRun(MlflowClient(uri), run_id)
    while spool.waiting:
        entries, offset = spool.read()
        run.deliver(entries)
        spool.acknowledge(offset)
    spool.close()
    shutil.rmtree(folder.parent)
    return f"run {run_id}: delivered to {masked(uri)}"
