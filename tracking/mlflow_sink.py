"""The sink that reaches MLflow, from a thread of its own.

Entries are on disk before anything is sent (tracking/spool.py); the thread delivers them
(tracking/mlflow_delivery.py) and tries again while the server is away.
"""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tracking.errors import RecordsWaiting
from tracking.mlflow_delivery import Delivery
from tracking.mlflow_run import MlflowRun
from tracking.reasons import reason
from tracking.records import DatasetInfo, Metric
from tracking.spool import Spool

__all__ = ["MlflowSink"]

log = logging.getLogger("layerscope")

LONGEST_PAUSE = 15.0


class MlflowSink:
    """Writes to a spool in ``directory/spool``; a thread delivers it to a run.

    ``close`` waits until everything has arrived, and gives up ``patience`` seconds after the last
    delivery (a request on its way may add MLflow's own timeout), or when it is interrupted. Raises
    RecordsWaiting then: nothing is lost, `layerscope replay` sends it later.
    """

    def __init__(
        self, run: MlflowRun, directory: Path, *, interval: float = 1.0, patience: float = 60.0
    ) -> None:
        self.run = run
        self._directory = directory.absolute()
        self._interval = interval
        self._patience = patience
        target = {"tracking_uri": run.tracking_uri, "run_id": run.run_id}
        self._spool = Spool(directory / "spool", target)
        self._delivery = Delivery(self._spool, run)
        self._closing = threading.Event()
        self._closing_since = 0.0
        self._given_up = threading.Event()
        self._away = ""
        self._thread = threading.Thread(target=self._deliver, name="layerscope-mlflow", daemon=True)
        self._thread.start()

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
        path, root = path.resolve(), self._directory.resolve()
        inside = path.is_relative_to(root)
        self._spool.append({"artifact": [str(path.relative_to(root) if inside else path), folder]})

    def finish(self, status: str) -> None:
        """End the run with an MLflow status (FINISHED, FAILED, KILLED) and close."""
        if not self._closing.is_set():
            self._spool.append({"finish": [status, time.time()]})
        self.close()

    def close(self) -> None:
        if self._closing.is_set():
            return
        if self._away:
            log.warning("waiting up to %g s for MLflow; Ctrl-C ends the wait", self._patience)
        self._closing_since = time.monotonic()
        try:
            self._closing.set()
            self._thread.join()
        except (KeyboardInterrupt, SystemExit):
            # Whoever waits has had enough. The thread ends with the process, if not before.
            self._given_up.set()
        if refusals := self._delivery.refusals():
            log.warning("%s", refusals)
        if self._spool.waiting:
            raise RecordsWaiting(
                f"records of run {self.run.run_id} wait in {self._directory} "
                f"({self._away or 'interrupted'}); "
                f"send them with: python layerscope.py replay {shlex.quote(str(self._directory))}"
            )

    def _deliver(self) -> None:
        """The thread: until the sink is closed and all is sent, or there is no hope of it."""
        pause = self._interval
        while not self._given_up.is_set():
            closing = self._closing.is_set()
            try:
                arrived = self._delivery.send()
            except Exception as error:
                self._note_away(error)
                if closing and self._hopeless():
                    break
                (self._given_up if closing else self._closing).wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            self._away, pause = "", self._interval
            if closing and not arrived:
                break
            self._closing.wait(self._interval)
        self._spool.close()

    def _hopeless(self) -> bool:
        since = max(self._delivery.last_success, self._closing_since)
        return time.monotonic() - since > self._patience

    def _note_away(self, error: Exception) -> None:
        if not self._away:
            log.warning("MLflow is away (%s); records wait in %s", reason(error), self._directory)
        self._away = reason(error)
