"""The courier takes little of the processor while the training goes on, and all it needs after."""

from __future__ import annotations

import itertools
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.mlflow_stores import history, sqlite_store
from tracking import courier
from tracking.courier import Courier
from tracking.mlflow_delivery import METRICS_PER_BATCH
from tracking.mlflow_run import MlflowRun
from tracking.spool import Spool

__all__: list[str] = []


class BusyClock:
    """Every look at a thread's time finds that it has worked for a second."""

    def __init__(self) -> None:
        self._seconds = itertools.count()
        self.monotonic = time.monotonic

    def thread_time(self) -> float:
        return next(self._seconds)


def test_one_request_and_then_a_rest_until_the_training_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    run = MlflowRun.open("tests")
    target = {"tracking_uri": run.tracking_uri, "run_id": run.run_id}
    spool = Spool(tmp_path / "spool", target)
    stored = partial(history, run.tracking_uri, run.run_id, "loss")
    points = [["loss", 0.5, step, 1.0] for step in range(3 * METRICS_PER_BATCH)]
    spool.append({"metrics": points})
    monkeypatch.setattr(courier, "time", BusyClock())
    heard: list[dict[str, Any]] = []
    ended = threading.Event()

    def tell(**news: Any) -> None:
        heard.append(news)
        if news.get("ended"):
            ended.set()

    one = Courier(tmp_path, interval=0.05, patience=30, tell=tell)
    one.start()
    for _ in range(300):
        if stored():
            break
        time.sleep(0.1)
    time.sleep(1)  # it would have looked again twenty times
    assert len(stored()) == METRICS_PER_BATCH
    one.close()
    assert ended.wait(60)
    assert len(stored()) == len(points)
    assert not spool.waiting
    assert [news for news in heard if news.get("away")] == []
    spool.close()
