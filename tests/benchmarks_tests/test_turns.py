"""Trainings take turns, a few steps each, and nobody's wait is taken for training."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import deque
from pathlib import Path

import psutil
import pytest

from benchmarks.turns import Side, TakeTurns, in_turns
from pipelines.config import RunConfig
from pipelines.run import prepare, train

__all__: list[str] = []

TINY = RunConfig(
    train_limit=50, epochs=2, batch_size=10, widths=(4,), image_size=8, device="cpu", report=False
)
"""Ten steps."""


def test_a_wait_is_not_training(tmp_path: Path) -> None:
    here, there = multiprocessing.Pipe()
    asked: list[None] = []

    def keep_it_waiting() -> None:
        while there.poll(30):
            asked.append(there.recv())
            if len(asked) == 4:
                there.send(None)
                return
            time.sleep(0.3)
            there.send(None)

    other = threading.Thread(target=keep_it_waiting)
    other.start()
    began = time.perf_counter()
    result = train(prepare(TINY), tmp_path, [TakeTurns(here, steps=3)], test=False)
    whole = time.perf_counter() - began
    other.join()
    assert len(asked) == 4  # before steps 0, 3, 6 and 9
    trained = sum(50 / epoch.samples_per_second for epoch in result.history)
    assert trained <= whole - 0.9


def test_who_has_not_the_turn_stands_still_with_all_it_has_started() -> None:
    side = Side(TINY, steps=5)
    try:
        results = [side.turn(), side.turn()]
        assert results == [None, None]  # before the first step, and after five
        family = [side.process, *side.process.children(recursive=True)]
        assert len(family) >= 2  # it sends to MLflow from a process of its own
        assert _stopped(family)
        figures = side.turn()
        assert figures is not None
        assert figures["recorded steps"] == 10
        assert 0 < figures["training"] < figures["whole run"]
    finally:
        side.close()
    _, left = psutil.wait_procs(family, timeout=30)
    assert not left


def _stopped(processes: list[psutil.Process]) -> bool:
    """Whether they all do; a signal takes its time."""
    for _ in range(100):
        if {process.status() for process in processes} == {psutil.STATUS_STOPPED}:
            return True
        time.sleep(0.1)
    return False


def test_a_side_that_fails_is_an_error_here(capfd: pytest.CaptureFixture[str]) -> None:
    side = Side(TINY.model_copy(update={"lr_max": 1e30, "norm": "none"}))
    try:
        turns = iter(side.turn, 0)
        with pytest.raises(RuntimeError, match="a training has failed"):
            deque(turns, maxlen=0)
    finally:
        side.close()
    assert "loss" in capfd.readouterr().err


def test_rounds_give_the_figures_of_each_but_for_whole_runs() -> None:
    variants = {"unrecorded": TINY.model_copy(update={"record": False}), "recorded": TINY}
    series = in_turns(variants, rounds=2, warm_up=0, steps=4)
    assert {len(values) for values in series.values()} == {2}
    assert series["recorded: recorded steps"] == [10, 10]
    assert series["unrecorded: recorded steps"] == [0, 0]
    assert series["recorded: accuracy"] == series["unrecorded: accuracy"]
    assert "recorded: whole run" not in series
