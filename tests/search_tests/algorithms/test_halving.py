"""Halving and Hyperband: who competes with whom; else as Optuna's."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna import Study
from optuna.pruners import BasePruner, HyperbandPruner, SuccessiveHalvingPruner
from optuna.trial import TrialState

from search.algorithms.halving import Halving, Hyperband
from search.storage.trial_queue import copy_of
from tests.search_tests.studies import new_study

__all__: list[str] = []

Scores = dict[int, float]
"""Rung, counted from 1 -> score."""


def study_of(pruner: BasePruner, *scores: Scores, direction: str = "maximize") -> Study:
    """One in which trials with these scores were trained to their end, whatever it says of them."""
    study = optuna.create_study(study_name="halved", direction=direction, pruner=pruner)
    for each in scores:
        trial = study.ask()
        for rung, score in each.items():
            trial.report(score, rung)
            trial.should_prune()
        study.tell(trial, 0.0)
    return study


def end_of(study: Study, scores: Scores, steps: Sequence[int] = ()) -> int | None:
    """The rung at which the next trial is pruned; ``steps``: those of the rungs, for Optuna."""
    trial = study.ask()
    for rung, score in scores.items():
        trial.report(score, steps[rung - 1] if steps else rung)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return rung
    study.tell(trial, 0.0)
    return None


# -- rungs that some trials do not have --


def test_scores_of_other_rungs_are_no_competition() -> None:
    """Large batches have no early rung, and later scores are higher."""
    large = [{2: 0.80 + number / 100} for number in range(6)]
    study = study_of(Halving(2), *large)
    assert end_of(study, {1: 0.60, 2: 0.87}) is None
    assert end_of(study, {1: 0.59, 2: 0.88}) == 1
    assert end_of(study, {2: 0.70}) == 2


def test_a_trial_without_an_early_rung_meets_those_that_it_has_kept() -> None:
    study = study_of(Halving(2), *[{1: 0.5, 2: 0.7}, {1: 0.9, 2: 0.8}, {1: 0.4}, {1: 0.3}])
    assert end_of(study, {2: 0.75}) == 2
    assert end_of(study, {2: 0.81}) is None


def test_the_first_at_a_rung_are_counted_there() -> None:
    study = study_of(Halving(2, bootstrap=2), *[{2: 0.5}] * 3)
    assert end_of(study, {1: 0.9}) == 1
    assert end_of(study, {1: 0.9}) == 1
    assert end_of(study, {1: 0.9, 2: 0.9}) is None


# -- trials that were tried again --


@pytest.mark.parametrize("knows", [True, False])
def test_a_copy_does_not_compete_with_its_own_former_score(knows: bool) -> None:
    """Whether it was queued while the trial ran, or after its end."""
    study = study_of(Halving(3), {1: 0.5}, {1: 0.4})
    trial = study.ask()
    trial.report(0.9, 1)
    assert not trial.should_prune()
    copy = copy_of(study.trials[trial.number], counted=False)
    assert copy is not None
    if knows:
        study.add_trial(copy)
        trial.set_user_attr("retried_as", study.trials[-1].number)
    study.tell(trial, state=TrialState.FAIL)
    if not knows:
        study.add_trial(copy)
    # A little worse than before, on another machine.
    assert end_of(study, {1: 0.89}) is None
    assert study.trials[-1].user_attrs["retry_of"] == trial.number


def test_a_trial_that_failed_for_good_has_shown_what_is_usual() -> None:
    study = study_of(Halving(2))
    trial = study.ask()
    trial.report(0.9, 1)
    assert not trial.should_prune()
    study.tell(trial, state=TrialState.FAIL)
    assert end_of(study, {1: 0.8}) == 1


# -- as Optuna's, where every trial has every rung --

VALUES = st.integers(0, 6).map(lambda value: value / 6)


@given(
    st.integers(2, 4),
    st.integers(0, 3),
    st.sampled_from(["maximize", "minimize"]),
    st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=24),
    st.integers(1, 3),
)
def test_halving_is_that_of_optuna(
    reduction: int, bootstrap: int, direction: str, scores: list[tuple[float, ...]], rungs: int
) -> None:
    steps = [reduction**index for index in range(rungs)]
    theirs = SuccessiveHalvingPruner(
        min_resource=1, reduction_factor=reduction, bootstrap_count=bootstrap
    )
    expected = study_of(theirs, direction=direction)
    found = study_of(Halving(reduction, bootstrap), direction=direction)
    for each in scores:
        own = dict(enumerate(each[:rungs], start=1))
        assert end_of(found, own) == end_of(expected, own, steps)


@pytest.mark.parametrize(("rungs", "reduction"), [(2, 2), (2, 3), (3, 2), (3, 4)])
@pytest.mark.parametrize("bootstrap", [0, 2])
def test_hyperband_is_that_of_optuna(rungs: int, reduction: int, bootstrap: int) -> None:
    steps = [reduction**index for index in range(rungs)]
    theirs = HyperbandPruner(1, reduction**rungs, reduction, bootstrap)
    expected, found = study_of(theirs), study_of(Hyperband(rungs, reduction, bootstrap))
    order = random.Random(0)
    ends = Counter[Any]()
    for _ in range(100):
        own = {rung: order.random() for rung in range(1, rungs + 1)}
        end = end_of(found, own)
        assert end == end_of(expected, own, steps)
        ends[end] += 1
    assert set(ends) == {None, *range(1, rungs + 1)}


@pytest.mark.parametrize(("rungs", "reduction"), [(3, 10), (5, 3)])
def test_hyperband_has_one_bracket_for_each_rung_and_one_without(
    rungs: int, reduction: int
) -> None:
    """Optuna takes a logarithm for it, and one bracket too few where that is rounded down."""
    pruner = Hyperband(rungs, reduction)
    found = Counter(pruner.bracket("study", number) for number in range(20_000))
    assert set(found) == set(range(rungs + 1))
    # As Hyperband shares them out: n s^-1 eta^s, rounded up.
    assert [found[b] > found[b + 1] for b in range(rungs - 1)] == [True] * (rungs - 1)


# -- hyperband --


def in_bracket(study: Study, pruner: Hyperband, bracket: int, scores: Scores) -> int | None:
    """The end of the next trial that falls into a bracket; others are ended unseen."""
    while pruner.bracket(study.study_name, len(study.trials)) != bracket:
        study.tell(study.ask(), state=TrialState.FAIL)
    return end_of(study, scores)


def test_a_bracket_is_judged_from_its_rung_on_and_by_its_own_trials() -> None:
    pruner = Hyperband(rungs=2, reduction=2)
    study = study_of(pruner)
    best, good, bad = {1: 0.9, 2: 0.9}, {1: 0.5, 2: 0.5}, {1: 0.1, 2: 0.1}
    assert in_bracket(study, pruner, 0, best) is None
    assert in_bracket(study, pruner, 0, good) == 1
    assert in_bracket(study, pruner, 1, good) is None
    assert in_bracket(study, pruner, 1, bad) == 2
    assert in_bracket(study, pruner, 2, best) is None
    assert in_bracket(study, pruner, 2, bad) is None


def test_a_bracket_compares_scores_of_the_same_rung() -> None:
    pruner = Hyperband(rungs=2, reduction=2)
    study = study_of(pruner)
    assert in_bracket(study, pruner, 0, {2: 0.8}) is None
    assert in_bracket(study, pruner, 0, {1: 0.6, 2: 0.9}) is None


# -- what is no score --


@pytest.mark.parametrize("pruner", [Halving(2), Hyperband(2, 2)])
def test_a_trial_without_a_score_goes_on(pruner: BasePruner) -> None:
    study = new_study("maximize", "minimize")
    assert not pruner.prune(study, optuna.create_trial(state=TrialState.RUNNING))


def test_a_score_that_is_no_number_is_the_end_and_beats_nobody() -> None:
    study = study_of(Halving(2), {1: 0.5})
    assert end_of(study, {1: float("nan")}) == 1
    assert end_of(study, {1: 0.6}) is None
