"""The courier takes little of the processor while the training goes on, and all it needs after."""

from __future__ import annotations

import itertools
import math
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.mlflow_stores import history, sqlite_store
from tracking.mlflow_runs import courier
from tracking.mlflow_runs.courier import Courier
from tracking.mlflow_runs.delivery import METRICS_PER_BATCH
from tracking.mlflow_runs.run import MlflowRun
from tracking.spool import Spool

__all__: list[str] = []


class BusyClock:
    """Every look at a thread's time finds that it has worked for a second."""

    def __init__(self) -> None:
        self._seconds = itertools.count()
        self.monotonic = time.monotonic

    def thread_time(self) -> float:
        return next(self._seconds)


class Watched:
    """A courier of a spool to a run in a store, and what it tells."""

    def __init__(self, folder: Path, interval: float) -> None:
        self.run = MlflowRun.open("tests")
        target = {"tracking_uri": self.run.tracking_uri, "run_id": self.run.run_id}
        self.spool = Spool(folder / "spool", target)
        self.heard: list[dict[str, Any]] = []
        self.ended = threading.Event()
        self.courier = Courier(folder, interval, patience=30, tell=self._hear)

    def _hear(self, **news: Any) -> None:
        self.heard.append(news)
        if news.get("ended"):
            self.ended.set()

    def write(self, first: int, last: int) -> None:
        self.spool.append({"metrics": [["loss", 0.5, step, 1.0] for step in range(first, last)]})

    @property
    def stored(self) -> int:
        return len(history(self.run.tracking_uri, self.run.run_id, "loss"))

    def has_stored(self, number: int) -> bool:
        for _ in range(300):
            if self.stored == number:
                return True
            time.sleep(0.1)
        return False

    def arrived_whole(self, number: int) -> bool:
        self.courier.close()
        whole = self.ended.wait(60) and self.stored == number and not self.spool.waiting
        self.spool.close()
        return whole and not any(news.get("away") for news in self.heard)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_store())
    return Watched(tmp_path, interval=0.05)


def test_one_request_and_then_a_rest_until_the_training_has_ended(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.write(0, 3 * METRICS_PER_BATCH)
    monkeypatch.setattr(courier, "time", BusyClock())
    watched.courier.start()
    assert watched.has_stored(METRICS_PER_BATCH)
    time.sleep(1)  # it would have looked again twenty times
    assert watched.stored == METRICS_PER_BATCH
    assert watched.arrived_whole(3 * METRICS_PER_BATCH)


def test_no_rest_lasts_for_ever(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.write(0, 3 * METRICS_PER_BATCH)
    monkeypatch.setattr(courier, "time", BusyClock())  # fifty seconds after each request
    monkeypatch.setattr(courier, "LONGEST_PAUSE", 0.2)
    watched.courier.start()
    assert watched.has_stored(3 * METRICS_PER_BATCH)
    assert watched.arrived_whole(3 * METRICS_PER_BATCH)


def test_after_the_training_all_is_sent_at_once_and_what_comes_later_too(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.write(0, 3 * METRICS_PER_BATCH)
    monkeypatch.setattr(courier, "time", BusyClock())
    watched.courier.start()
    watched.courier.hurry()
    watched.courier.hurry()
    assert watched.has_stored(3 * METRICS_PER_BATCH)
    watched.write(3 * METRICS_PER_BATCH, 5 * METRICS_PER_BATCH)
    assert watched.has_stored(5 * METRICS_PER_BATCH)
    assert not watched.ended.is_set()
    assert watched.arrived_whole(5 * METRICS_PER_BATCH)


def test_a_machine_that_is_never_idle_does_not_keep_records_for_ever(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def starves() -> bool:
        looks.append(threading.current_thread().name)
        return True

    monkeypatch.setattr(courier, "_starves", starves)
    watched.courier.start()
    watched.write(0, 10)
    assert watched.has_stored(10)
    watched.write(10, 20)
    assert watched.has_stored(20)
    assert len(looks) == 1
    assert watched.arrived_whole(20)


def test_with_less_than_beside_one_other_thread_it_starves(monkeypatch: pytest.MonkeyPatch) -> None:
    for waited, expected in ((0.001, False), (0.3, False), (0.5, True), (3.0, True)):
        used, passed = iter([5.0, 5.001]), iter([100.0, 100.0 + waited])
        clock = SimpleNamespace(thread_time=partial(next, used), monotonic=partial(next, passed))
        monkeypatch.setattr(courier, "time", clock)
        assert courier._starves() == expected


@pytest.mark.parametrize("hurried", [False, True])
def test_who_gives_up_before_the_end_still_ends(watched: Watched, hurried: bool) -> None:
    watched.courier.start()
    if hurried:
        watched.courier.hurry()
    watched.courier.give_up()
    time.sleep(0.2)
    assert not watched.ended.is_set()  # who closes it afterwards finds it there
    watched.write(0, 10)
    watched.courier.close()
    assert watched.ended.wait(60)
    assert watched.heard[-1]["ended"]
    assert watched.stored == 0
    watched.spool.close()


def test_what_a_store_that_answers_needs_a_moment_for_still_arrives(watched: Watched) -> None:
    watched.write(0, 3 * METRICS_PER_BATCH)
    watched.courier.start()
    watched.courier.give_up(grace=60)
    assert watched.arrived_whole(3 * METRICS_PER_BATCH)


def test_a_store_that_is_away_gets_no_moment(watched: Watched) -> None:
    target = watched.spool.directory / "target.json"
    target.write_text(target.read_text().replace("sqlite:///", "sqlite:////dev/null"))
    watched.write(0, 10)
    watched.courier.start()
    watched.courier.give_up(grace=math.inf)
    watched.courier.close()
    assert watched.ended.wait(60)
    assert watched.spool.waiting
    watched.spool.close()
