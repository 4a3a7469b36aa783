"""What is set of a trial at once is written at once, and is then what it would have been."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from search.storage.database import open_storage
from search.storage.queue_storage import batched_writes
from search.storage.trial_queue import fill_queue
from search.storage.url import storage_url

__all__: list[str] = []


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    storage = open_storage(storage_url(f"sqlite:///{tmp_path}/studies.db"), heartbeat=60)
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(storage=storage, study_name="s", sampler=sampler)


@pytest.fixture
def trial(study: optuna.Study) -> optuna.Trial:
    """One that runs."""
    fill_queue(study, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of heartbeats
        return study.ask()


@contextmanager
def commits(study: optuna.Study) -> Iterator[list[object]]:
    """Grows by one with each transaction that is committed."""
    seen: list[object] = []
    engine, add = study._storage._backend.engine, seen.append
    event.listen(engine, "commit", add)
    yield seen
    event.remove(engine, "commit", add)


def choose(trial: optuna.Trial) -> None:
    trial.set_user_attr("worker", "a:1")
    trial.suggest_float("lr", 1e-3, 1.0, log=True)
    trial.suggest_categorical("schedule", ["one_cycle", "linear"])
    trial.set_user_attr("worker", "a:2")
    trial.set_constraint("memory", -1.0)


def test_it_is_as_if_each_had_been_written(study: optuna.Study, trial: optuna.Trial) -> None:
    with commits(study) as written, batched_writes():
        choose(trial)
        before = len(written)  # set_constraint reads
    assert len(written) == before + 1 == 2
    stored = study.trials[0]
    assert stored.params == trial.params
    assert set(stored.params) == {"lr", "schedule"}
    assert stored.user_attrs == trial.user_attrs == {"worker": "a:2"}
    assert stored.constraints == {"memory": -1.0}


def test_a_parameter_that_somebody_else_has_set_is_no_silent_loss(
    study: optuna.Study, trial: optuna.Trial
) -> None:
    other = optuna.Trial(study, trial._trial_id)
    other.suggest_float("lr", 0.0, 1.0)

    @batched_writes()
    def choose_again() -> None:
        trial.set_user_attr("worker", "a:1")
        trial.suggest_float("lr", 0.0, 1.0)

    with pytest.raises(IntegrityError):
        choose_again()


def test_outside_each_is_written_at_once(study: optuna.Study, trial: optuna.Trial) -> None:
    with commits(study) as written:
        choose(trial)
    assert len(written) == 6
    assert study.trials[0].user_attrs == {"worker": "a:2"}


def test_what_was_set_before_a_failure_is_kept(study: optuna.Study, trial: optuna.Trial) -> None:
    @batched_writes()
    def fail() -> None:
        trial.set_user_attr("worker", "a:1")
        raise KeyError("oops")

    with pytest.raises(KeyError, match="oops"):
        fail()
    assert study.trials[0].user_attrs == {"worker": "a:1"}
    trial.set_user_attr("more", 1)
    assert study.trials[0].user_attrs == {"worker": "a:1", "more": 1}


def test_a_trial_that_is_over_is_not_changed(study: optuna.Study, trial: optuna.Trial) -> None:
    @batched_writes()
    def end() -> None:
        trial.set_user_attr("worker", "a:1")
        study.tell(0, 1.0)

    with pytest.raises(UpdateFinishedTrialError):
        end()
    assert study.trials[0].user_attrs == {}


def test_signs_of_life_and_other_threads_do_not_wait(
    study: optuna.Study, trial: optuna.Trial
) -> None:
    storage = study._storage._backend
    other = threading.Thread(target=trial.set_user_attr, args=("other", 1))
    with commits(study) as written, batched_writes():
        trial.set_user_attr("worker", "a:1")
        storage.record_heartbeat(trial._trial_id)
        other.start()
        other.join()
        assert len(written) == 2
        assert study.trials[0].user_attrs == {"other": 1}
    assert study.trials[0].user_attrs == {"other": 1, "worker": "a:1"}
