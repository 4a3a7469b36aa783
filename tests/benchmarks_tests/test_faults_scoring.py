"""Scores and tables from findings that are made up."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks.faults.cases import Case
from benchmarks.faults.report import report
from benchmarks.faults.scoring import (
    Judged,
    Remedied,
    applicable,
    divergence_delays,
    fault_score,
    healthy_score,
)
from tracking.records import Finding, Remedy

__all__: list[str] = []


def finding(rule: str, severity: str = "warning", step: int = 0, *remedies: Remedy) -> Finding:
    return Finding(rule, severity, "what", "why", remedies, step, step, step)


DEAD = Case("dead 1", "dead_layer", {"dataset": "digits"}, None, 40, frozenset({"dead_layer"}))
FINE = Case("healthy 1", "", {"dataset": "digits"})


def test_fault_counts_as_found_wherever_it_stands_and_delays_count_from_its_onset() -> None:
    score = fault_score(
        [
            Judged(DEAD, 0.1, [finding("dead_layer", step=45), finding("lr_too_high")]),
            Judged(DEAD, 0.1, [finding("lr_too_high"), finding("dead_layer", step=60)]),
            Judged(DEAD, 0.1, [finding("lr_too_high")]),
            Judged(DEAD, 0.1, []),
        ]
    )
    assert (score.runs, score.found, score.first) == (4, 2, 1)
    assert score.delays == (5, 20)
    assert (score.median_delay, score.largest_delay) == (12.5, 20)
    assert score.remedied == 0


def test_nothing_found_has_no_delay() -> None:
    assert math.isnan(fault_score([Judged(DEAD, 0.1, [])]).largest_delay)


@pytest.mark.parametrize(
    ("accuracy", "helped"), [(0.93, True), (0.929, False), (0.99, True), (math.nan, False)]
)
def test_remedy_helps_within_two_points_of_the_twin(accuracy: float, helped: bool) -> None:
    assert Remedied("rule", "lr_max", "0.1", accuracy, 0.95).helped is helped


def test_run_without_a_remedy_counts_as_one_that_was_not_helped() -> None:
    nothing = Remedied("", "", "", math.nan, 0.95)
    score = fault_score([Judged(DEAD, 0.1, [], remedied=nothing)])
    assert (score.remedied, score.helped) == (1, 0)


def test_healthy_runs_are_counted_once_by_severity_and_notes_are_not_false() -> None:
    score = healthy_score(
        [
            Judged(FINE, 0.9, [finding("a"), finding("b")]),
            Judged(FINE, 0.9, [finding("a", "critical")]),
            Judged(FINE, 0.9, [finding("c", "note")]),
        ]
    )
    assert (score.runs, score.critical, score.warned) == (3, 1, 1)
    assert score.rules == {"a": 2, "b": 1}


def test_first_remedy_with_an_option_and_a_value_is_applied() -> None:
    findings = [
        finding("a", "warning", 0, Remedy("look"), Remedy("lower", "lr_max")),
        finding("b", "warning", 0, Remedy("clip", "clip_norm", "1"), Remedy("x", "div", "9")),
    ]
    chosen = applicable(findings)
    assert chosen is not None
    assert (chosen[0].rule, chosen[1].option) == ("b", "clip_norm")
    assert applicable(findings[:1]) is None


def test_data_can_be_put_right_without_a_value() -> None:
    chosen = applicable([finding("a", "warning", 0, Remedy("look at the images", "dataset"))])
    assert chosen is not None
    assert chosen[1].option == "dataset"


def test_divergence_is_timed_from_the_step_at_which_the_loss_rose() -> None:
    fast = replace(DEAD, fault="lr_too_high", expected=frozenset({"lr_too_high"}))
    found = Judged(fast, math.nan, [finding("lr_too_high", step=30)], diverged=25)
    steady = Judged(fast, 0.1, [finding("lr_too_high", step=90)])
    missed = Judged(fast, math.nan, [], diverged=10)
    assert divergence_delays([found, steady, missed]) == (5,)


def test_report_has_each_half_its_misses_and_its_false_findings() -> None:
    again = Remedied("lr_too_high", "lr_max", "0.001", 0.5, 0.95)
    rows = "\n".join(
        report(
            [
                Judged(DEAD, 0.1, [finding("dead_layer", step=41)], remedied=again),
                Judged(replace(DEAD, name="dead 2"), 0.1, [finding("lr_too_high")]),
                Judged(replace(DEAD, name="dead 3", half="held-out"), math.nan, []),
                Judged(FINE, 0.9, [finding("overfitting", step=7)]),
            ]
        )
    )
    tuning, held_out = rows.split("## Held-out half")
    assert "| fault among the findings | 2 | 50.0% | at least 90% | no |" in tuning
    assert "| healthy runs with a warning | 1 | 100.0% | at most 10% | no |" in tuning
    assert "| dead_layer | 2 | 1 | 1 | 1 | 1 | 0 of 1 | 10.0 % | 95.0 % |" in tuning
    assert "- dead 2: missed; found: lr_too_high" in tuning
    assert "- dead 1: lr_max=0.001 (lr_too_high) gave 0.500, its twin has 0.950" in tuning
    assert "- healthy 1: overfitting (warning, step 7)" in tuning
    assert "- dead 3: missed; found: nothing" in held_out
    assert "healthy runs" not in held_out
