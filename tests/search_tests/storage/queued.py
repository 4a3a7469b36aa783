"""What tests do with the queue of a study, as workers would."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from search.storage.trial_queue import fill_queue
from search.storage.url import StorageUrl

__all__ = [
    "Workers",
    "count",
    "gives_back",
    "let_time_pass",
    "next_trial",
    "queue_workers",
    "rescue",
    "take",
]

ROOT = Path(__file__).parents[3]
WORKER = Path(__file__).with_name("queue_worker.py")

Workers = Callable[..., "subprocess.Popen[str]"]


def count(study: optuna.Study, state: TrialState) -> int:
    return len(study.get_trials(states=(state,)))


def rescue(study: optuna.Study) -> None:
    """What a worker does before each trial."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def let_time_pass(tmp_path: Path) -> None:
    """Make all heartbeats an hour old."""
    with sqlite3.connect(tmp_path / "studies.db") as database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
    database.close()


def take(study: optuna.Study, lr: float = 0.1) -> FrozenTrial:
    """A trial that runs, as a worker has it that was killed."""
    fill_queue(study, len(study.trials) + 1)
    return next_trial(study, lr)


def next_trial(study: optuna.Study, lr: float = 0.1) -> FrozenTrial:
    """The first trial that waits, running."""
    with pytest.warns(UserWarning, match="Heartbeat"):
        trial = study.ask({"lr": FloatDistribution(lr, lr)})
    return study.trials[trial.number]


def gives_back(study: optuna.Study, trial: FrozenTrial) -> None:
    study._storage._backend.give_back(study._study_id, trial._trial_id, "interrupted")


@contextmanager
def queue_workers(url: StorageUrl) -> Iterator[Workers]:
    """Starts worker processes (queue_worker.py), and ends those that a test leaves."""
    started: list[subprocess.Popen[str]] = []

    def start(task: str) -> subprocess.Popen[str]:
        environment = os.environ | url.environment | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, str(WORKER), task, "s"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()
