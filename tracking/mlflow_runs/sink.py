"""The sink that reaches MLflow, by way of the disk.

An entry is on disk when the call returns (tracking/spool.py); a process of its own delivers it
(tracking/mlflow_runs/uploader.py) and tries again while the server is away.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from tracking.errors import RecordsWaiting
from tracking.mlflow_runs.images import image_name
from tracking.mlflow_runs.run import MlflowRun
from tracking.mlflow_runs.set_aside import RETURNED, SetAside
from tracking.mlflow_runs.uploads import GRACE, start_upload
from tracking.records import DatasetInfo, Metric
from tracking.shown_commands import replay_command
from tracking.spool import Spool

__all__ = ["MlflowSink"]

log = logging.getLogger("layerscope")

UNNOTICED = 20.0
"""Seconds of waiting that need no explanation."""


class MlflowSink:
    """Writes to a spool in ``directory/spool``, which another process delivers to a run.

    ``close`` waits until everything has arrived; it gives up ``patience`` seconds after the last
    delivery (a request on its way may add MLflow's own timeout), or when it is interrupted. Raises
    RecordsWaiting then, or where something before MLflow has refused a request (a gateway with a
    limit for files): nothing is lost, `layerscope replay` sends it later. An interruption
    is raised again where all has arrived. A run that is not ``owned`` is left to its owner to end,
    also when this process is killed.
    """

    def __init__(
        self,
        run: MlflowRun,
        directory: Path,
        *,
        owned: bool = True,
        interval: float = 1.0,
        patience: float = 60.0,
    ) -> None:
        self.run = run
        self._directory = directory.absolute()
        self._owned = owned
        self._patience = patience
        target = {"tracking_uri": run.tracking_uri, "run_id": run.run_id}
        if not owned:
            target["owner"] = "another"
        self._spool = Spool(directory / "spool", target)
        SetAside(directory / RETURNED).queue_again(self._spool)
        self._upload = start_upload(self._directory, interval, patience)
        self.ended = False
        """Whether the run's end has been written down."""
        self._closed = False

    def metrics(self, metrics: Sequence[Metric]) -> None:
        if metrics:
            points = [[m.key, float(m.value), int(m.step), m.time] for m in metrics]
            self._spool.append({"metrics": points})

    def params(self, params: Mapping[str, str]) -> None:
        self._spool.append({"params": dict(params)})

    def tags(self, tags: Mapping[str, str]) -> None:
        self._spool.append({"tags": dict(tags)})

    def dataset(self, dataset: DatasetInfo) -> None:
        self._spool.append({"dataset": asdict(dataset)})

    def artifact(self, path: Path, folder: str = "") -> None:
        self._spool.append({"artifact": [self._place(path), folder]})

    def image(self, path: Path, key: str, step: int) -> None:
        # The name is made here, so that sending it again replaces it.
        self._spool.append({"image": [self._place(path), image_name(key, int(step))]})

    def hurry(self) -> None:
        self._upload.hurry()

    def end(self, status: str) -> None:
        """Write down that the run has ended, unless that stands there; ``close`` delivers it.

        ``status`` is MLflow's: FINISHED, FAILED or KILLED.
        """
        if not self.ended:
            # A clock that has been put back would let the run end before it began.
            self._spool.append({"finish": [status, max(time.time(), self.run.began)]})
            self.ended = True

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # What is left of a spool without an end is that of a process that was killed.
        if not self._owned:
            self._spool.append({"closed": True})
        self._deliver()

    def give_up(self) -> None:
        """From another thread: have ``close`` end soon, at once where the store is away."""
        self._upload.give_up()

    def _deliver(self) -> None:
        upload = self._upload
        interruption: BaseException | None = None
        if upload.away:
            self._say_that_it_waits(f"up to {self._patience:g} s for MLflow")
        upload.close()
        try:
            if not upload.wait(UNNOTICED):
                self._say_that_it_waits("for records to arrive in MLflow")
                upload.wait()
        except (KeyboardInterrupt, SystemExit) as error:
            # Whoever waits has had enough.
            interruption = error
            upload.give_up()
            with suppress(KeyboardInterrupt):
                upload.wait(2 * GRACE)
        if upload.refusals:
            log.warning("%s", upload.refusals)
        waiting = self._spool.waiting
        self._spool.close()
        if waiting or upload.returns:
            raise RecordsWaiting(
                f"records of run {self.run.run_id} wait in {self._directory} "
                f"({upload.away or upload.returns or 'interrupted'}); "
                f"send them with: {replay_command(self._directory)}"
            )
        if interruption is not None:  # all has arrived, and still somebody wants an end
            raise interruption

    def _say_that_it_waits(self, what: str) -> None:
        # Elsewhere than in the main thread nobody waits, and Ctrl-C does not arrive.
        if threading.current_thread() is threading.main_thread():
            # After one Ctrl-C a study ignores others, so that it ends in order.
            ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            log.warning("waiting %s%s", what, "" if ignored else "; Ctrl-C ends the wait")

    def _place(self, path: Path) -> str:
        """A file's path for the spool, relative to the run's folder where it lies inside."""
        path, root = path.resolve(), self._directory.resolve()
        return str(path.relative_to(root) if path.is_relative_to(root) else path)
