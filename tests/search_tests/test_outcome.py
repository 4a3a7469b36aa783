"""States, the best trial, the front, and the time that is left."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import inf

import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.outcome import Counts, Outcome, objectives
from tests.search_tests.studies import every_state, new_study, realistic, trial

COMPLETE, RUNNING, WAITING, FAIL = (
    TrialState.COMPLETE,
    TrialState.RUNNING,
    TrialState.WAITING,
    TrialState.FAIL,
)


def outcome(*trials: FrozenTrial) -> Outcome:
    return Outcome(trials, (StudyDirection.MAXIMIZE,))


def state_of(one: FrozenTrial) -> str:
    return outcome(one).states[one.number]


def test_each_state_has_its_name() -> None:
    states = Outcome.of(every_state()).states
    assert list(states) == list(range(9))
    assert list(states.values()) == [
        "retried",
        "complete",
        "pruned",
        "failed",
        "infeasible",
        "running",
        "waiting",
        "cancelled",
        "complete",
    ]


def test_a_failed_trial_that_knows_of_its_copy_needs_no_other() -> None:
    assert state_of(trial(FAIL, retried_as=3)) == "retried"


def test_a_complete_trial_is_never_cancelled() -> None:
    assert state_of(trial(COMPLETE, 0.5, surplus=True)) == "complete"


def test_a_trial_cut_short_twice_counts_once() -> None:
    study = new_study()
    study.add_trials(
        [trial(FAIL), trial(FAIL, replaces=[0]), trial(COMPLETE, 0.5, replaces=[0, 1])]
    )
    assert Outcome.of(study).counts == Counts(complete=1, retried=2)


def test_counts_tell_what_is_done() -> None:
    count = Outcome.of(every_state()).counts
    assert count.done == 5
    assert not count.over
    assert count.text().startswith("2 complete, 1 pruned, 1 infeasible, 1 failed, 1 running")
    assert Counts().text() == "no trials"
    assert Counts(failed=1).over


def test_the_best_is_feasible_and_complete() -> None:
    study = every_state()  # the infeasible trial has the highest value of all
    found = Outcome.of(study).best
    assert found is not None
    assert found.number == 1
    assert [one.number for one in Outcome.of(study).ranked] == [1, 8]


@pytest.mark.parametrize(
    "one", [trial(FAIL), trial(WAITING), trial(COMPLETE, 1.0, infeasible=True)]
)
def test_there_may_be_no_best(one: FrozenTrial) -> None:
    study = new_study()
    assert Outcome.of(study).best is None
    study.add_trial(one)
    assert Outcome.of(study).best is None
    assert list(Outcome.of(study).ranked) == []


def test_the_lowest_loss_is_best_and_the_earlier_of_two_equals() -> None:
    study = new_study("minimize")
    study.add_trials([trial(COMPLETE, loss) for loss in (0.5, 0.2, 0.2, inf)])
    found = Outcome.of(study).best
    assert found is not None
    assert found.number == 1
    assert [one.number for one in Outcome.of(study).ranked] == [1, 2, 0]
    assert objectives(study) == ("loss",)


def test_the_front_is_optunas_without_the_infeasible() -> None:
    study = realistic(60, two=True)
    expected = {one.number for one in study.best_trials}
    found = Outcome.of(study).ranked
    assert {one.number for one in found} == expected
    assert len(found) > 1
    accuracies = [one.values[0] for one in found]
    assert accuracies == sorted(accuracies, reverse=True)
    assert objectives(study) == ("accuracy", "seconds")


def test_equals_are_both_on_the_front_and_the_dominated_is_not() -> None:
    study = new_study("maximize", "minimize")
    study.add_trials(
        [trial(COMPLETE, *v) for v in ((0.9, 5.0), (0.9, 5.0), (0.9, 6.0), (0.8, 5.0), (0.8, 4.0))]
    )
    assert [one.number for one in Outcome.of(study).ranked] == [0, 1, 4]
    found = Outcome.of(study).best
    assert found is not None
    assert found.number == 0


def test_time_left_is_shared_among_workers() -> None:
    done = [trial(COMPLETE, 0.5, took=60), trial(TrialState.PRUNED, took=20), trial(FAIL, took=900)]
    waiting = [trial(WAITING) for _ in range(6)]
    assert outcome(*done, *waiting).time_left(2) == pytest.approx(6 * 40 / 2)
    assert outcome(*done, *waiting).time_left(0) == pytest.approx(6 * 40)
    assert outcome(*done, waiting[0]).time_left(8) == pytest.approx(40)


def test_a_running_trial_has_less_left_but_never_less_than_nothing() -> None:
    running = trial(RUNNING)
    running.datetime_start = datetime.now() - timedelta(days=1)
    assert outcome(trial(COMPLETE, 0.5, took=60), running).time_left(1) == 0
    young = trial(RUNNING)
    young.datetime_start = datetime.now() + timedelta(hours=1)  # another machine's clock
    assert outcome(trial(COMPLETE, 0.5, took=60), young).time_left(1) == pytest.approx(60)


def test_time_left_is_unknown_before_the_first_end_and_nothing_at_the_last() -> None:
    assert outcome(trial(WAITING), trial(FAIL)).time_left(1) is None
    assert outcome(trial(FAIL)).time_left(1) == 0
    assert outcome().time_left(1) == 0
