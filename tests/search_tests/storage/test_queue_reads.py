"""What a worker sees of a study whose queue is long: all of it, without reading all of it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from search.storage.database import open_storage
from search.storage.queue_storage import QueueStorage
from search.storage.trial_queue import fill_queue
from search.storage.url import storage_url

__all__: list[str] = []

STEPS = 40


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of heartbeats
        yield
    optuna.logging.set_verbosity(level)


@pytest.fixture
def place(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


def opened(place: str) -> optuna.Study:
    """The study, as another process has it."""
    storage = open_storage(storage_url(place), heartbeat=60)
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(
        storage=storage, study_name="s", sampler=sampler, load_if_exists=True
    )


def running(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials() if trial.state == TrialState.RUNNING]


def change(study: optuna.Study, choice: random.Random) -> None:
    """What a worker, or who fills the queue, may do next."""
    some = running(study)
    waiting = study.get_trials(states=(TrialState.WAITING,))
    kind = choice.choice(["fill", "surplus", "ask", "ask", "tell", "note", "give back", "bury"])
    if kind == "fill":
        fill_queue(study, len(study.trials) + choice.randrange(1, 4))
    elif kind == "surplus":
        fill_queue(study, max(len(study.trials) - len(waiting), 1))
    elif kind == "ask" and waiting:
        study.ask().suggest_float("lr", 0.0, 1.0)
    elif some:
        trial = choice.choice(some)
        if kind == "tell":
            study.tell(trial.number, 1.0)
        elif kind == "give back":
            study._storage._backend.give_back(study._study_id, trial._trial_id, "interrupted")
            study.tell(trial.number, state=TrialState.FAIL)
        elif kind == "bury":
            study._storage._backend._bury(study._study_id, trial._trial_id)
        else:
            study._storage.set_trial_user_attr(trial._trial_id, "seen", choice.random())


@pytest.mark.parametrize("seed", range(4))
def test_all_who_look_see_the_same(place: str, seed: int) -> None:
    choice = random.Random(seed)
    studies = [opened(place), opened(place)]
    plain = RDBStorage(place)
    for _ in range(STEPS):
        change(choice.choice(studies), choice)
        looked = choice.choice(studies)
        assert looked.get_trials() == plain.get_all_trials(looked._study_id)
    states = {trial.state for trial in studies[0].get_trials()}
    assert {TrialState.FAIL, TrialState.COMPLETE} <= states


def test_trials_that_wait_are_read_once(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    build = QueueStorage._build_frozen_trial_from_trial_model
    monkeypatch.setattr(
        QueueStorage,
        "_build_frozen_trial_from_trial_model",
        lambda self, row: read.append(row.number) or build(self, row),
    )
    study = opened(place)
    fill_queue(study, 50)
    assert len(study.get_trials()) == 50
    for number in range(3):
        read.clear()
        trial = study.ask()
        trial.suggest_float("lr", 0.0, 1.0)
        study.tell(trial, 1.0)
        assert [t.state for t in study.get_trials()].count(TrialState.COMPLETE) == number + 1
        assert set(read) == {number}
