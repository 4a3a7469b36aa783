"""The sink that reaches MLflow, from a thread of its own.

Entries are on disk before anything is sent (tracking/spool.py). The thread acknowledges what has
arrived; a server that is away is tried again, and what it refuses for good is set aside and
reported, so one bad entry does not hold up the rest. Sending a metric again with its time and step
is idempotent in MLflow's SQL stores.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tracking.errors import RecordsWaiting
from tracking.mlflow_run import MlflowRun
from tracking.records import DatasetInfo, Metric
from tracking.spool import Spool

__all__ = ["MlflowSink"]

log = logging.getLogger("layerscope")


class MlflowSink:
    """Writes to a spool; a thread delivers it to a run.

    ``close`` waits until everything has arrived, and gives up ``patience`` seconds after the last
    delivery. Raises RecordsWaiting then: nothing is lost, `layerscope replay` sends it later.
    """

    def __init__(
        self, run: MlflowRun, directory: Path, *, interval: float = 1.0, patience: float = 60.0
    ) -> None:
        self.run = run
        self.refused: list[str] = []
        self._patience = patience
        self._interval = interval
        target = {"tracking_uri": run.tracking_uri, "run_id": run.run_id}
        self._spool = Spool(directory, target)
        self._closing = threading.Event()
        self._progress = time.monotonic()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._deliver, name="layerscope-mlflow", daemon=True)
        self._thread.start()

    def metrics(self, metrics: Sequence[Metric]) -> None:
        if metrics:
            self._spool.append({"metrics": [[m.key, m.value, m.step, m.time] for m in metrics]})

    def params(self, params: Mapping[str, str]) -> None:
        self._spool.append({"params": dict(params)})

    def tags(self, tags: Mapping[str, str]) -> None:
        self._spool.append({"tags": dict(tags)})

    def dataset(self, dataset: DatasetInfo) -> None:
        self._spool.append({"dataset": asdict(dataset)})

    def artifact(self, path: Path, folder: str = "") -> None:
        self._spool.append({"artifact": [str(path.resolve()), folder]})

    def finish(self, status: str) -> None:
        """End the run with an MLflow status (FINISHED, FAILED, KILLED) and close."""
        if not self._closing.is_set():
            self._spool.append({"finish": status})
        self.close()

    def close(self) -> None:
        if self._closing.is_set():
            return
        self._progress = time.monotonic()
        self._closing.set()
        self._thread.join()
        self._spool.close()
        if self.refused:
            log.warning("MLflow refused %d batches: %s", len(self.refused), self.refused[0])
        if self._spool.waiting:
            raise RecordsWaiting(
                f"records of run {self.run.run_id} wait in {self._spool.directory} "
                f"({self._error}); send them with: layerscope replay"
            )

    def _deliver(self) -> None:
        delay = self._interval
        while True:
            closing = self._closing.is_set()
            try:
                arrived = self._deliver_some()
                delay = self._interval
                if closing and not arrived:
                    return
                if not closing:
                    self._closing.wait(delay)
            except Exception as error:
                self._error = error
                if closing and time.monotonic() - self._progress > self._patience:
                    return
                # A pause that the end of the run does not cut short: the server is still away.
                time.sleep(delay)
                delay = min(2 * delay, 15.0)

    def _deliver_some(self) -> bool:
        entries, offset = self._spool.read()
        if not entries:
            return False
        refused = self.run.deliver(entries)
        if refused:
            self.refused.extend(refused)
            with (self._spool.directory / "refused.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in entries)
        self._spool.acknowledge(offset)
        self._progress = time.monotonic()
        return True
