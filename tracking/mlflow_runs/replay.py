"""Send what earlier runs left in their spools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tracking.errors import BadTracking, RecordsWaiting
from tracking.mlflow_runs.delivery import Delivery
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.run_folders import records_root, remove_run_folder
from tracking.mlflow_runs.set_aside import RETURNED
from tracking.reasons import reason
from tracking.spool import Spool, SpoolInUse

__all__ = ["replay_all", "replay_run"]

OWN = {"spool", RETURNED}
"""What in a run's folder is no record of the run."""


def replay_all(directory: Path | None = None) -> Iterator[str]:
    """Deliver every spool below ``directory``; gives a line for each run and removes its folder.

    A run whose process is still at work, or that another replay is sending, is left alone. A run
    whose process was killed ends as KILLED, and what lies in its folder goes along.
    Raises BadTracking: there is no such folder; RecordsWaiting, after all have been tried: a store
    still cannot be reached, or something before it does not take all of them.
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
            yield replay_run(folder.parent)
        except SpoolInUse:
            yield f"run {folder.parent.name}: in use by another process, left alone"
        except Exception as error:
            failures.append(f"{folder.parent} ({reason(error)})")
    if failures:
        raise RecordsWaiting(f"records still wait in {', '.join(failures)}")


def replay_run(directory: Path) -> str:
    """Deliver what waits in a run's folder, and remove it; gives a line about it.

    A run whose process was killed ends as KILLED. Raises SpoolInUse: a process is at work there;
    RecordsWaiting: something before MLflow does not take all of it; what the client raises.
    """
    spool = Spool(directory / "spool")
    try:
        run = MlflowRun.find(spool.target["tracking_uri"], spool.target["run_id"])
        delivery = Delivery(spool, run)
        delivery.returned.queue_again(spool)
        while delivery.send():
            pass
        cut_short, killed = not spool.finished, False
        if cut_short:
            _hand_over(delivery)
        if cut_short and "owner" not in spool.target:
            killed = run.is_running()
            _end_cut_short(run, spool, killed)
        if delivery.returns():
            raise RecordsWaiting(delivery.returns())
        remove_run_folder(directory)
    finally:
        spool.close()
    return _outcome(run, delivery, killed)


def _hand_over(delivery: Delivery) -> None:
    """What the process had recorded and had no time to hand over."""
    directory = delivery.spool.directory.parent
    for half_written in directory.rglob("*.tmp"):
        half_written.unlink()
    delivery.hand_over(sorted({path.name for path in directory.iterdir()} - OWN))


def _end_cut_short(run: MlflowRun, spool: Spool, killed: bool) -> None:
    """End the run, unless somebody has: a study ends those of its workers that have died."""
    if killed:
        run.tag({"layerscope.state": "killed", "layerscope.reason": "the process was killed"})
        run.end("KILLED", spool.last_written)
    else:
        # The spool's own tag, which has just been sent, says that it is running.
        run.tag({"layerscope.state": run.status.lower()})


def _outcome(run: MlflowRun, delivery: Delivery, killed: bool) -> str:
    parts = [f"run {run.run_id}: delivered to {run.shown_uri}"]
    if killed:
        parts.append("its process was killed, so it ended as KILLED")
    return "; ".join([*parts, *filter(None, [delivery.refusals()])])
