"""Which findings end a trial, and that the wrapped pruner decides about all others."""

from __future__ import annotations

from typing import Any

import pytest
from optuna import Study
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from search.algorithms.health import HEALTH, HealthPruner, HealthRule
from tests.search_tests.studies import new_study, trial
from tracking.diagnosis.rules import RULES
from tracking.errors import BadOption

__all__: list[str] = []

LAYER_RULES = {rule.name for rule in RULES if rule.about_layers}


def finding(rule: str, severity: str = "critical") -> dict[str, Any]:
    return {"rule": rule, "severity": severity, "summary": f"{rule} in conv1"}


def stops(text: str, *findings: dict[str, Any]) -> str | None:
    first = HealthRule(text).first(findings)
    return None if first is None else str(first["rule"])


# -- the rule --


def test_rules_on_layers_are_neither_about_data_nor_about_the_course_of_the_loss() -> None:
    assert {"dead_layer", "saturated", "non_finite", "lr_too_high"} < LAYER_RULES
    assert LAYER_RULES.isdisjoint({"overfitting", "inputs_not_normalised", "lr_too_low"})


@pytest.mark.parametrize(
    "text", ["critical", "warning", "none", "dead_layer", "dead_layer, 	saturated"]
)
def test_texts_that_are_allowed(text: str) -> None:
    assert HealthRule(text).text == text


@pytest.mark.parametrize(
    ("text", "name", "suggestion"),
    [
        ("dead_layers", "dead_layers", " Did you mean 'dead_layer'?"),
        ("saturated,dead_layers", "dead_layers", " Did you mean 'dead_layer'?"),
        ("", "", ""),
        ("dead_layer,", "", ""),
        ("critical,warning", "critical", ""),
        ("Critical", "Critical", ""),
        ("zzz", "zzz", ""),
    ],
)
def test_texts_that_are_not(text: str, name: str, suggestion: str) -> None:
    with pytest.raises(BadOption) as caught:
        HealthRule(text)
    assert str(caught.value) == (
        f"health={name}: allowed: critical, warning, none, or rules of the diagnosis "
        f"(docs/diagnosis.md) separated by commas.{suggestion}"
    )


@pytest.mark.parametrize(
    ("text", "stopping"),
    [("critical", {"critical"}), ("warning", {"critical", "warning"}), ("none", set())],
)
def test_severities(text: str, stopping: set[str]) -> None:
    for severity in ("critical", "warning", "info"):
        expected = "dead_layer" if severity in stopping else None
        assert stops(text, finding("dead_layer", severity)) == expected


def test_severities_are_about_layers_only() -> None:
    others = {rule.name for rule in RULES} - LAYER_RULES
    assert others
    for name in others:
        assert stops("critical", finding(name)) is None
        assert stops("warning", finding(name, "warning")) is None


def test_a_rule_that_is_named_counts_at_any_severity() -> None:
    name = next(rule.name for rule in RULES if rule.name not in LAYER_RULES)
    assert stops(f"saturated, {name}", finding(name, "info")) == name
    assert stops(f"saturated, {name}", finding("dead_layer")) is None


def test_the_first_finding_that_stops_is_the_reason() -> None:
    given = [finding("saturated", "warning"), finding("dead_layer"), finding("non_finite")]
    assert stops("critical", *given) == "dead_layer"
    assert stops("warning", *given) == "saturated"
    assert stops("non_finite", *given) == "non_finite"
    assert stops("critical") is None


# -- the pruner --


class Asked(BasePruner):
    """Answers as it is told, and counts how often it is asked."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.times = 0

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        self.times += 1
        return self.answer


@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize(
    "notes",
    [
        {},
        {HEALTH: []},
        {HEALTH: [finding("dead_layer", "warning")]},
        {HEALTH: [finding("overfitting")]},
    ],
)
def test_the_wrapped_pruner_decides_where_nothing_is_ill(
    notes: dict[str, Any], answer: bool
) -> None:
    inner = Asked(answer)
    pruner = HealthPruner(inner, HealthRule("critical"))
    running = trial(TrialState.RUNNING, **notes)
    assert pruner.prune(new_study(), running) is answer
    assert inner.times == 1


def test_an_ill_trial_ends_whatever_the_wrapped_pruner_says() -> None:
    inner = Asked(False)
    pruner = HealthPruner(inner, HealthRule("critical"))
    ill = trial(
        TrialState.RUNNING, **{HEALTH: [finding("saturated", "info"), finding("dead_layer")]}
    )
    assert pruner.prune(new_study(), ill)
    assert inner.times == 0


def test_the_wrapped_pruner_is_asked_once_about_each_score() -> None:
    """A finding may come at any step, and must not make it decide anew about an old one."""
    inner = Asked(False)
    pruner, study = HealthPruner(inner, HealthRule("critical")), new_study()
    first, second = study.ask(), study.ask()
    for times, (running, reported) in enumerate(
        [(first, None), (first, 1), (second, 1), (first, 2)], start=1
    ):
        if reported:
            running.report(0.5, reported)
        for _ in range(3):
            assert not pruner.prune(study, study.trials[running.number])
        assert inner.times == times
    inner.answer = True
    first.report(0.5, 3)
    assert pruner.prune(study, study.trials[0])
    assert pruner.prune(study, study.trials[0])
