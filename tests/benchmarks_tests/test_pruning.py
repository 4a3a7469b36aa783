"""Replayed studies cost what they would have cost, on curves made up for the purpose."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from optuna.pruners import MedianPruner, NopPruner, ThresholdPruner

from benchmarks.pruning.curves import BASE, CYCLES, LENGTHS, SHARES, Curve, draw, read
from benchmarks.pruning.replay import (
    GOAL,
    Score,
    Strategy,
    accuracy,
    epochs_of,
    replay,
    rungs_of,
)
from benchmarks.pruning.report import report_rows, strategies, taus
from pipelines.config import RunConfig
from pipelines.options import config_from
from search.algorithms.halving import Halving
from search.config import StudyConfig

__all__: list[str] = []

WHOLE = 100_000
"""Samples of a run."""
ASIDE = 1000
NINTH = StudyConfig(rungs="1/9", reduction=2, bootstrap=0, health="none")


def figures(accuracy: float) -> list[float]:
    """Accuracy, and a loss that falls as it rises."""
    return [accuracy, 1.0 - accuracy]


def curve(final: float | None, score: float | None = None) -> Curve:
    """A run that comes to ``final``; every rung and cycle says ``score``, at ASIDE samples."""
    score = (0.0 if final is None else final) if score is None else score
    kinds = ["plain", *(f"anneal:{length}" for length in LENGTHS)]
    row = {kind: [*figures(score), 0 if kind == "plain" else ASIDE] for kind in kinds}
    return {
        "config": {"schedule": "one_cycle"},
        "samples": WHOLE,
        "final": None if final is None else figures(final),
        "epochs": [] if final is None else [figures(score) for _ in range(5)] + [figures(final)],
        "rungs": [{"share": share} | row for share in SHARES],
        "cycles": [{"share": share, "cycle": [*figures(score), ASIDE]} for share in CYCLES],
        "device": "a processor",
    }


FINALS = [i / 100 for i in range(50, 90)]
GOOD = max(FINALS)


def curves(score: Callable[[float], float] = lambda final: final) -> list[Curve]:
    """One good configuration among forty."""
    return [curve(final, score(final)) for final in FINALS]


NOTHING = Strategy("no pruning", lambda curve: [], NopPruner)


def place(seed: int, finals: Sequence[float] = FINALS) -> int:
    """How many trials a study draws up to the good one."""
    order = random.Random(seed).sample(list(finals), len(finals))
    return order[::-1].index(max(finals)) + 1


# -- what a study costs --


@pytest.mark.parametrize("seed", range(5))
def test_without_pruning_it_costs_the_trials_up_to_the_good_one(seed: int) -> None:
    outcome = replay(curves(), NOTHING, seed)
    assert outcome.found
    assert outcome.runs == outcome.trials == outcome.complete == place(seed)


def test_a_perfect_score_prunes_the_bad() -> None:
    """At a ninth of a run: all but the good one cost a ninth, and what the annealing took."""
    perfect = Strategy(
        "perfect", partial(rungs_of, options=NINTH), lambda: ThresholdPruner(lower=0.88)
    )
    found = replay(curves(lambda final: 0.9 if final == GOOD else 0.5), perfect, 3)
    # Scores are exp(-loss): 0.9 and 0.5 are 0.905 and 0.607.
    bad = place(3) - 1
    assert (found.found, found.complete, found.trials) == (True, 1, bad + 1)
    assert found.runs == pytest.approx(bad * (1 / 9 + 0.01) + 1.01)


@pytest.mark.parametrize("seed", range(3))
def test_halving_by_the_truth_is_cheaper_than_by_its_opposite(seed: int) -> None:
    options = NINTH

    def strategy() -> Strategy:
        pruner = partial(Halving, reduction=2)
        return Strategy("halving", partial(rungs_of, options=options), pruner)

    right = replay(curves(), strategy(), seed)
    assert right.found
    assert right.runs <= place(seed) * 1.01 + 1e-9
    wrong = replay(curves(lambda final: 1.0 - final), strategy(), seed)
    assert wrong.runs > right.runs


def test_a_study_that_never_finds_gives_up() -> None:
    hopeless = Strategy("all", partial(rungs_of, options=NINTH), lambda: ThresholdPruner(lower=2.0))
    outcome = replay(curves(), hopeless, 0)
    assert (outcome.found, outcome.trials, outcome.complete) == (False, 400, 0)
    assert outcome.runs == pytest.approx(400 * (1 / 9 + 0.01))


def test_every_configuration_is_drawn_before_one_is_drawn_twice() -> None:
    drawn: list[float] = []

    def note(one: Curve) -> list[Score]:
        drawn.append(one["final"][0])
        return [Score(1, 0.0, 0, 0.0)]

    replay(curves(), Strategy("noted", note, lambda: ThresholdPruner(lower=1.0)), 0)
    for begin in range(0, 400, 40):
        assert sorted(drawn[begin : begin + 40]) == FINALS


def test_a_study_can_be_replayed() -> None:
    strategy = next(one for one in strategies() if one.name.startswith("this project's default"))
    assert replay(curves(), strategy, 1) == replay(curves(), strategy, 1)


def test_close_to_the_best_is_as_good() -> None:
    near = [curve(0.9), curve(0.9 - GOAL / 2), curve(0.5)]
    costs = {replay(near, NOTHING, seed).trials for seed in range(20)}
    assert costs == {1, 2}


# -- runs that diverge --


def test_a_run_that_diverged_has_the_accuracy_of_guessing_and_is_not_found() -> None:
    assert accuracy(curve(None)) == 0.1
    only = [curve(None), curve(0.5)]
    for seed in range(4):
        outcome = replay(only, NOTHING, seed)
        assert outcome.complete == 1
        assert outcome.runs == outcome.trials


@pytest.mark.parametrize("pruner", [NopPruner, MedianPruner])
def test_a_score_that_is_no_number_ends_the_trial(pruner: Callable[[], Any]) -> None:
    broken = curve(0.6)
    for row in broken["rungs"]:
        row["anneal:0.3"] = [0.1, math.nan, ASIDE]
    strategy = Strategy("nan", partial(rungs_of, options=NINTH), pruner)
    for seed in range(4):
        outcome = replay([broken, curve(0.5)], strategy, seed)
        # The best is never complete, so the study goes on to its end.
        assert not outcome.found
        assert outcome.complete == 200
        assert outcome.runs == pytest.approx(200 * 1.01 + 200 * (1 / 9 + 0.01))


def test_a_run_that_diverged_before_its_rung_is_hopeless_there() -> None:
    gone = curve(None)
    gone["rungs"] = gone["rungs"][:1]  # only that at 1/18 was reached
    (score,) = rungs_of(gone, NINTH)
    assert math.isnan(score.value)
    assert (score.share, score.aside) == (1 / 9, 0)


# -- the scores --


def test_scores_of_rungs_are_those_that_trials_report() -> None:
    one = curve(0.8, 0.7)
    options = StudyConfig(rungs="1/9,1/3", reduction=3)
    assert [(s.step, s.share, s.aside) for s in rungs_of(one, options)] == [
        (1, 1 / 9, ASIDE),
        (2, 1 / 3, ASIDE),
    ]
    assert [s.value for s in rungs_of(one, options)] == pytest.approx([0.7, 0.7], abs=1e-5)
    by_loss = StudyConfig(rungs="1/9,1/3", rung_score="loss")
    assert {s.value for s in rungs_of(one, by_loss)} == {math.exp(-(1 - 0.7))}
    plain = StudyConfig(rung="plain")
    assert [(round(s.value, 5), s.aside) for s in rungs_of(one, plain)] == [(0.7, 0)]
    cycle = StudyConfig(rung="cycle", rungs="1/9,1/3")
    assert [(s.share, s.aside) for s in rungs_of(one, cycle)] == [(0.0, ASIDE), (0.0, ASIDE)]


def test_scores_of_epochs_leave_the_last_one_out() -> None:
    scores = epochs_of(curve(0.8, 0.7))
    assert [score.step for score in scores] == [1, 2, 3, 4, 5]
    assert [score.share for score in scores] == [i / 6 for i in range(1, 6)]
    assert {(score.value, score.aside) for score in scores} == {(0.7, 0)}
    assert epochs_of(curve(None)) == []


def test_tau_tells_a_score_that_predicts_from_one_that_does_not() -> None:
    for score, expected in [(lambda final: final, 1.0), (lambda final: 1 - final, -1.0)]:
        found = list(taus(curves(score)))
        assert {kind for _, kind, _, _ in found} == {"plain", "anneal:0.1", "anneal:0.3", "cycle"}
        for _, _, by_accuracy, by_loss in found:
            assert by_accuracy == pytest.approx(expected)
            assert by_loss == pytest.approx(expected)


def test_the_report_compares_every_strategy() -> None:
    rows = report_rows([*curves()[::4], curve(0.9), curve(None)], 2)
    text = "\n".join(rows)
    assert "12 configurations" in text
    assert "1 diverged" in text
    for strategy in strategies():
        assert f"| {strategy.name} | 2 |" in text
    assert "of what the better of Optuna's two takes" in text
    assert "nan" not in text


# -- recorded curves --


def test_configurations_are_the_same_for_a_seed_and_can_be_trained() -> None:
    once = draw(12, 2)
    assert draw(12, 2) == once
    assert draw(20, 2)[:12] == once
    assert draw(12, 3) != once
    for options in once:
        config = config_from(RunConfig, BASE | options)
        assert config.epochs == BASE["epochs"]
        assert "batch_size" in options
        json.dumps(options)  # as it is recorded


def test_a_curve_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    assert read(path) == []
    whole = [json.dumps(curve(final)) for final in (0.5, None)]
    path.write_text("\n".join(whole) + "\n" + whole[0][:100], encoding="utf-8")
    assert read(path) == [curve(0.5), curve(None)]
    path.write_text("\n".join(whole), encoding="utf-8")  # the last line has no end
    assert read(path) == [curve(0.5)]
