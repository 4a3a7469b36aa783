"""Each pruner, from its option, does what the option says to trials of a real study."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.pruners import MedianPruner, NopPruner
from optuna.trial import TrialState

from search.algorithms.halving import Halving, Hyperband
from search.algorithms.health import HEALTH, HealthPruner
from search.algorithms.pruners import make_pruner, rung_score
from search.config import StudyConfig
from search.storage.studies import directions
from tracking.errors import BadOption

__all__: list[str] = []

RISING = [i / 20 for i in range(20)]
FALLING = RISING[::-1]


def pruned(options: StudyConfig, scores: Sequence[Sequence[float]]) -> list[int | None]:
    """For each trial the rung at which it was pruned, counted from 1, or None.

    ``scores``: of each trial those at its rungs; trials come one after the other.
    """
    study = optuna.create_study(
        study_name="pruned", directions=directions(options), pruner=make_pruner(options)
    )
    return [end_of(study, dict(enumerate(each, start=1))) for each in scores]


def end_of(study: optuna.Study, scores: Mapping[int, float]) -> int | None:
    """The rung at which the next trial is pruned, or None; ``scores``: rung -> score."""
    trial = study.ask()
    for rung, score in scores.items():
        trial.report(score, rung)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return rung
    study.tell(trial, 0.0)
    return None


def kept(options: StudyConfig, scores: Sequence[float]) -> list[float]:
    """The scores of the trials that went on from their only rung."""
    ends = pruned(options, [[score] for score in scores])
    return [score for score, end in zip(scores, ends, strict=True) if end is None]


# -- halving --


@pytest.mark.parametrize("reduction", [2, 3, 4])
@pytest.mark.parametrize(("objective", "sign"), [("accuracy", 1), ("loss", -1)])
def test_halving_keeps_one_in_so_many(objective: str, sign: int, reduction: int) -> None:
    options = StudyConfig(objective=objective, reduction=reduction, bootstrap=0, health="none")
    shuffled = random.Random(0).sample([i / 120 for i in range(120)], 120)
    expected = [
        score
        for come, score in enumerate(shuffled, start=1)
        # Of all that have come to the rung by then, the best is kept at least.
        if score in sorted(shuffled[:come])[-max(come // reduction, 1) :]
    ]
    found = kept(options, [sign * score for score in shuffled])
    assert found == [sign * score for score in expected]
    assert len(found) == pytest.approx(len(shuffled) / reduction, rel=0.25)


def test_halving_keeps_every_new_best() -> None:
    options = StudyConfig(bootstrap=0, health="none")
    assert kept(options, RISING) == RISING
    assert kept(options.model_copy(update={"objective": "loss"}), FALLING) == FALLING


@pytest.mark.parametrize(
    ("trials", "prior", "first"), [(20, False, 3), (10, False, 2), (4, False, 0), (20, True, 0)]
)
def test_the_first_only_show_what_is_usual(trials: int, prior: bool, first: int) -> None:
    """None of them in a study of few trials, nor where the first is the range test's."""
    options = StudyConfig(trials=trials, lr_prior=prior, health="none")
    assert kept(options, RISING[:6]) == RISING[first:6]


def test_halving_goes_on_at_the_next_rung() -> None:
    options = StudyConfig(rungs="1/9,1/3", reduction=2, bootstrap=0, health="none")
    # Good at the first rung and bad at the second, where it meets those that the first has kept.
    assert pruned(options, [[0.5, 0.5]] * 4 + [[0.9, 0.1]]) == [None] * 4 + [2]
    assert pruned(options, [[0.5, 0.5]] * 4 + [[0.1, 0.9]]) == [None] * 4 + [1]


def test_batches_that_are_too_large_for_a_rung_compete_at_the_next() -> None:
    """Of 17,000 images in 18 epochs: batch 512 makes 33 steps an epoch, batch 1024 makes 16."""
    options = StudyConfig(rungs="1/18,1/6", reduction=2, bootstrap=0, health="none")
    numbers = {
        steps: [rung.number for rung in options.plan.rungs(18 * steps, options.rung_least_steps)]
        for steps in (33, 16)
    }
    assert numbers == {33: [1, 2], 16: [2]}
    study = optuna.create_study(
        study_name="pruned", direction="maximize", pruner=make_pruner(options)
    )
    for _ in range(20):
        end_of(study, dict.fromkeys(numbers[16], 0.80))
    # All by itself at its first rung, and no worse than the others at the second.
    assert end_of(study, {1: 0.60, 2: 0.80}) is None


# -- threshold --


@pytest.mark.parametrize(
    ("objective", "expected"), [("accuracy", [0.5, 0.9]), ("loss", [0.1, 0.5])]
)
def test_a_threshold_is_the_worst_that_is_kept(objective: str, expected: list[float]) -> None:
    options = StudyConfig(objective=objective, pruner="threshold:0.5", health="none")
    assert kept(options, [0.1, 0.5, 0.9]) == expected


# -- median --


def test_median_keeps_what_is_no_worse_than_half() -> None:
    options = StudyConfig(pruner="median", health="none")
    before = [0.1, 0.3, 0.5, 0.7, 0.9]
    # The first five are never pruned: there is nothing to compare them with.
    assert kept(options, before) == before
    assert kept(options, [*before, 0.49]) == before
    assert kept(options, [*before, 0.5]) == [*before, 0.5]
    loss = options.model_copy(update={"objective": "loss"})
    assert kept(loss, [*before, 0.51]) == before
    assert kept(loss, [*before, 0.49]) == [*before, 0.49]


# -- hyperband --


def test_hyperband_starts_some_trials_at_later_rungs() -> None:
    options = StudyConfig(
        pruner="hyperband", rungs="1/9,1/3", reduction=2, bootstrap=0, health="none"
    )
    worse_and_worse = [[-number, -number] for number in range(200)]
    ends = pruned(options, worse_and_worse)
    assert {1, 2, None} == set(ends)
    # One bracket of three is first judged at the second rung, one never.
    halving = pruned(options.model_copy(update={"pruner": "halving"}), worse_and_worse)
    assert ends.count(None) > halving.count(None)
    assert ends.count(1) < halving.count(1)
    assert ends.count(2) > 0


# -- none --


def test_none_prunes_nothing() -> None:
    assert kept(StudyConfig(pruner="none", health="none"), FALLING) == FALLING


# -- with the diagnosis --


@pytest.mark.parametrize(
    ("pruner", "kind"),
    [
        ("halving", Halving),
        ("hyperband", Hyperband),
        ("median", MedianPruner),
        ("none", NopPruner),
    ],
)
@pytest.mark.parametrize("health", ["critical", "none"])
def test_health_comes_before_every_pruner(pruner: str, kind: type, health: str) -> None:
    options = StudyConfig(pruner=pruner, rungs="1/9,1/3", bootstrap=0, health=health)
    study = optuna.create_study(direction="maximize", pruner=make_pruner(options))
    assert isinstance(study.pruner, HealthPruner)
    assert isinstance(study.pruner.wrapped, kind)
    trial = study.ask()
    trial.report(1.0, 1)
    assert not trial.should_prune()
    trial.set_user_attr(HEALTH, [{"rule": "dead_layer", "severity": "critical", "summary": ""}])
    assert trial.should_prune() is (health == "critical")


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(BadOption, match="Did you mean 'dead_layer'"):
        make_pruner(StudyConfig(health="dead_layr"))


# -- what is compared --


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.8),
        ({"objective": "accuracy,seconds"}, 0.8),
        ({"rung_score": "accuracy"}, 0.8),
        ({"rung_score": "loss"}, 0.5),
        ({"objective": "loss"}, 0.6931471805599453),
        ({"objective": "loss", "rung_score": "loss"}, 0.6931471805599453),
    ],
)
def test_the_score_at_a_rung(options: dict[str, Any], expected: float) -> None:
    assert rung_score(0.8, 0.6931471805599453, StudyConfig(**options)) == pytest.approx(
        expected, abs=1e-5
    )


def test_the_loss_decides_among_equal_accuracies() -> None:
    options = StudyConfig()
    assert rung_score(0.8, 0.5, options) > rung_score(0.8, 0.6, options)
    assert rung_score(0.8 + 1e-5, 9.0, options) > rung_score(0.8, 0.0, options)


LOSS = st.floats(0, 700)


@given(LOSS, LOSS)
def test_scores_order_trials_as_the_loss_does(one: float, other: float) -> None:
    options = StudyConfig(rung_score="loss")
    scores = rung_score(0.1, one, options), rung_score(0.9, other, options)
    assert all(0 < score <= 1 for score in scores)
    if one < other:
        assert scores[0] >= scores[1]
    if one + 1e-6 * (1 + one) < other:
        assert scores[0] > scores[1]
