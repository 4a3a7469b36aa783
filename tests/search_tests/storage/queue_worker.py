"""A worker process for the tests of the storage: `python queue_worker.py drain|hold STUDY`.

The database is that of OPTUNA_STORAGE. `drain` waits for a line on its standard input, then runs
trials until none waits and prints their numbers; `hold` takes one trial, prints its number, and
works on it until it is killed.
"""

from __future__ import annotations

import sys
import time

import optuna

from search.storage.database import open_storage
from search.storage.queue_storage import QueueEmpty
from search.storage.url import storage_url

__all__: list[str] = []


def _say(*numbers: int) -> None:
    sys.stdout.write(" ".join(map(str, numbers)) + "\n")
    sys.stdout.flush()


def drain(study: optuna.Study) -> None:
    """Run all trials that wait."""
    done = []

    def objective(trial: optuna.Trial) -> float:
        done.append(trial.number)
        lr = trial.suggest_float("lr", 1e-3, 1.0, log=True)
        trial.suggest_categorical("schedule", ["one_cycle", "linear"])
        trial.set_user_attr("run_id", f"run-{trial.number}")
        for step in range(3):
            trial.report(lr / (step + 1), step)
        return lr

    sys.stdin.readline()
    try:
        study.optimize(objective)
    except QueueEmpty:
        _say(*done)


def hold(study: optuna.Study) -> None:
    """Run one trial for ever."""

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("lr", 1e-3, 1.0, log=True)
        _say(trial.number)
        while True:
            time.sleep(1)

    study.optimize(objective, n_trials=1)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(storage_url(), heartbeat=1)
    found = optuna.load_study(
        study_name=sys.argv[2], storage=storage, sampler=optuna.samplers.RandomSampler()
    )
    {"drain": drain, "hold": hold}[sys.argv[1]](found)
