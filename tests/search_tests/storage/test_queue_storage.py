"""The queue of trials in SQLite: one worker's trial is nobody else's, and is given back whole."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from search.storage.queue_storage import QueueEmpty, QueueStorage, give_back
from search.storage.trial_queue import MAX_RETRIES, fill_queue, settled
from tests.search_tests.storage.queued import (
    gives_back,
    let_time_pass,
    next_trial,
    rescue,
    take,
)


class TestQueue:
    def test_no_trial_without_a_waiting_one(self, study: optuna.Study) -> None:
        with pytest.raises(QueueEmpty):
            study.optimize(lambda trial: 0.0, n_trials=1)
        assert study.trials == []

    def test_filled_to_the_target(self, study: optuna.Study) -> None:
        assert fill_queue(study, 3) == 3
        assert fill_queue(study, 3) == 3
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
        assert fill_queue(study, 3) == 1
        assert fill_queue(study, 5) == 3
        assert len(study.trials) == 5

    def test_running_trials_count(self, study: optuna.Study) -> None:
        take(study)
        assert fill_queue(study, 3) == 2

    def test_surplus_is_taken_out_newest_first(self, study: optuna.Study) -> None:
        fill_queue(study, 5)
        study.optimize(lambda trial: 0.0, n_trials=1)
        assert fill_queue(study, 3) == 2
        states = [trial.state.name for trial in study.trials]
        assert states == ["COMPLETE", "WAITING", "WAITING", "FAIL", "FAIL"]
        assert study.trials[4].user_attrs == {
            "reason": "not wanted any more (trials=3)",
            "surplus": True,
        }
        assert len(settled(study.trials)) == 1
        assert fill_queue(study, 4) == 3

    def test_one_that_dies_while_it_is_taken_out_does_not_come_back(
        self, study: optuna.Study, tmp_path: Path
    ) -> None:
        trial = take(study)
        study._storage.set_trial_user_attr(trial._trial_id, "surplus", True)
        study._storage.record_heartbeat(trial._trial_id)
        let_time_pass(tmp_path)
        rescue(study)
        assert [trial.state for trial in study.trials] == [TrialState.FAIL]

    def test_target_below_what_is_done(self, study: optuna.Study) -> None:
        fill_queue(study, 3)
        study.optimize(lambda trial: 0.0, n_trials=2)
        assert fill_queue(study, 1) == 0
        assert len(settled(study.trials)) == 2

    def test_own_failures_settle(self, study: optuna.Study) -> None:
        fill_queue(study, 2)
        study.optimize(lambda trial: float("nan"), n_trials=1)
        assert [trial.state for trial in settled(study.trials)] == [TrialState.FAIL]
        assert fill_queue(study, 2) == 1


class TestGiveBack:
    def test_copy_starts_anew_with_the_parameters(self, study: optuna.Study) -> None:
        distributions = {
            "lr": FloatDistribution(1e-3, 1.0, log=True),
            "schedule": CategoricalDistribution(["one_cycle", "linear"]),
        }
        study.add_trial(
            optuna.create_trial(
                state=TrialState.RUNNING,
                params={"lr": 0.1, "schedule": "linear"},
                distributions=distributions,
                user_attrs={"run_id": "dead"},
                system_attrs={
                    "grid_id": 4,
                    "search_space": {"lr": [0.1]},
                    "fixed_params": {"lr": 0.1},
                    "constraints:memory": 1.0,
                    "completed_rung_0": 0.5,
                },
                intermediate_values={0: 0.5},
            )
        )
        gives_back(study, study.trials[0])
        dead, copy = study.trials
        assert copy.state == TrialState.WAITING
        assert copy.params == dead.params
        assert copy.distributions == distributions
        assert copy.intermediate_values == {}
        assert copy.user_attrs == {"retry_of": 0}
        assert copy.system_attrs == {
            "grid_id": 4,
            "search_space": {"lr": [0.1]},
            "fixed_params": {"lr": 0.1},
            "failed_trial": 0,
            "retry_history": [0],
            "counted_retries": 0,
        }
        # The trial itself is for its worker to end.
        assert dead.state == TrialState.RUNNING
        assert dead.user_attrs == {"run_id": "dead", "reason": "interrupted", "retried_as": 1}

    def test_copy_keeps_its_parameters_when_it_runs(self, study: optuna.Study) -> None:
        gives_back(study, take(study, 0.3))
        study.optimize(lambda trial: trial.suggest_float("lr", 0.3, 0.3), n_trials=1)
        assert study.trials[1].params == {"lr": 0.3}
        assert study.trials[1].state == TrialState.COMPLETE

    def test_twice_is_once(self, study: optuna.Study) -> None:
        dead = take(study)
        gives_back(study, dead)
        gives_back(study, dead)
        assert len(study.trials) == 2

    def test_killed_meanwhile_is_queued_once(
        self, study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The worker is killed after the copy, and before the trial says that it has one."""
        note = QueueStorage._note

        def killed(storage: QueueStorage, session: Session, *given: Any) -> None:
            if "retried_as" in given:
                raise SystemExit("killed")
            note(storage, session, *given)

        dead = take(study)
        with monkeypatch.context() as patch:
            patch.setattr(QueueStorage, "_note", killed)
            with pytest.raises(SystemExit):
                gives_back(study, dead)
        assert [trial.state.name for trial in study.trials] == ["RUNNING"]
        let_time_pass(tmp_path)
        rescue(study)
        assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]
        assert fill_queue(study, 1) == 1

    def test_a_trial_that_somebody_has_ended(self, study: optuna.Study) -> None:
        dead = take(study)
        assert study._storage._backend._bury(study._study_id, dead._trial_id)
        with pytest.raises(UpdateFinishedTrialError):
            gives_back(study, dead)
        assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]

    def test_interruptions_are_no_retries(self, study: optuna.Study, tmp_path: Path) -> None:
        fill_queue(study, 1)
        for _ in range(4):
            gives_back(study, next_trial(study))
            let_time_pass(tmp_path)
            rescue(study)
        assert study.trials[4].system_attrs["counted_retries"] == 0
        for _ in range(MAX_RETRIES + 1):
            next_trial(study)
            let_time_pass(tmp_path)
            rescue(study)
        last = study.trials[-1]
        assert (last.state, last.number) == (TrialState.FAIL, 4 + MAX_RETRIES)
        assert last.system_attrs["counted_retries"] == MAX_RETRIES
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            history = RetryHeartbeatStaleTrialCallback.retry_history(last)
            assert history == list(range(last.number))
            assert RetryHeartbeatStaleTrialCallback.retried_trial_number(last) == 0

    def test_enqueued_value_out_of_range(self, study: optuna.Study) -> None:
        study.enqueue_trial({"lr": 5.0})

        def objective(trial: optuna.Trial) -> float:
            with pytest.warns(UserWarning, match="out of range"):
                trial.suggest_float("lr", 0, 1)
            if trial.number == 0:
                give_back(study, trial, "interrupted")
            return 0.0

        study.optimize(objective, n_trials=2)
        assert study.trials[1].params == {"lr": 5.0}


class TestSettled:
    def test_each_state(self) -> None:
        states = list(TrialState)
        trials = []
        for number, state in enumerate(states):
            value = 1.0 if state == TrialState.COMPLETE else None
            trial = optuna.create_trial(state=state, value=value)
            trial.number = number
            trials.append(trial)
        kept = {trial.state for trial in settled(trials)}
        assert kept == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}

    def test_failed_ones_with_a_retry_or_too_many(self) -> None:
        notes: list[dict[str, Any]] = [{"retried_as": 0}, {"surplus": True}, {"reason": "x"}]
        trials = [optuna.create_trial(state=TrialState.FAIL, user_attrs=note) for note in notes]
        for number, trial in enumerate(trials):
            trial.number = number
        assert settled(trials) == [trials[2]]
        assert settled(iter(trials)) == [trials[2]]
