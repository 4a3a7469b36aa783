"""The engine: what is new, in which order, at which step, and rules that fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tracking_tests.diagnosis.recorded import CNN, layer, losses, validations
from tracking.diagnosis.engine import Diagnosis, ranked
from tracking.diagnosis.evidence import NormFigures, RunContext, Stretch
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules import RULES
from tracking.errors import BadOption
from tracking.records import Finding

__all__: list[str] = []


class Steps(Rule):
    """Finds something after so many steps."""

    name = "steps"
    severity = "warning"
    needs = "steps"
    cause = "The test wants it."

    def __init__(self, run: RunContext, *, after: float = 3) -> None:
        super().__init__(run)
        self._after, self._seen = after, 0

    def observe(self, stretch: Stretch) -> None:
        self._seen += 0 if stretch.steps is None else len(stretch.steps.step)

    def findings(self, ended: bool) -> Iterator[Finding]:
        if self._seen >= self._after:
            yield self.finding("enough", 1, self._seen - 1, seen=self._seen)


class Over(Steps):
    """Finds something at the end."""

    name = "over"

    def findings(self, ended: bool) -> Iterator[Finding]:
        if ended:
            yield self.finding("over", 0, self._seen - 1, layers=("end",))


class Broken(Steps):
    """Fails as soon as it looks."""

    name = "broken"

    def observe(self, stretch: Stretch) -> None:
        raise ZeroDivisionError("of the rule's own")


def portion(first: int, last: int) -> Stretch:
    return Stretch(steps=losses([1.0] * (last - first), first=first))


def test_a_finding_is_new_once_and_keeps_the_step_at_which_it_was_found() -> None:
    diagnosis = Diagnosis(CNN, rules=[Steps, Over])
    assert diagnosis.observe(portion(0, 2)) == []
    [new] = diagnosis.observe(portion(2, 6))
    assert (new.summary, new.first_step, new.found_step) == ("enough", 1, 5)
    assert diagnosis.observe(portion(6, 9)) == []
    [now] = diagnosis.findings
    assert (now.last_step, now.found_step, now.evidence) == (8, 5, {"seen": 9.0})
    [late] = diagnosis.end()
    assert (late.summary, late.found_step, late.layers) == ("over", 8, ("end",))
    assert diagnosis.end() == []


def test_a_rule_that_fails_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    diagnosis = Diagnosis(CNN, rules=[Broken, Steps])
    assert [one.rule for one in diagnosis.observe(portion(0, 4))] == ["steps"]
    diagnosis.observe(portion(4, 6))
    assert [record.getMessage() for record in caplog.records] == [
        "rule broken failed and is left out (ZeroDivisionError: of the rule's own)"
    ]


def test_thresholds_reach_their_rule_and_wrong_ones_are_refused() -> None:
    diagnosis = Diagnosis(CNN, {"steps": {"after": 1}}, rules=[Steps])
    assert len(diagnosis.observe(portion(0, 1))) == 1
    with pytest.raises(BadOption, match=r"no rule 'stepz'; the rules: steps. Did you mean 'steps'"):
        Diagnosis(CNN, {"stepz": {}}, rules=[Steps])
    with pytest.raises(BadOption, match="rule steps has no 'befor'; it has: after"):
        Diagnosis(CNN, {"steps": {"befor": 1}}, rules=[Steps])


def finding(rule: str, severity: str, first_step: int = 0) -> Finding:
    return Finding(rule, severity, rule, "", (), first_step, 9, 9)


def test_what_explains_others_comes_before_them_and_the_worst_before_the_rest() -> None:
    explains = {"lr": frozenset({"dead", "nan"}), "data": frozenset({"lr"})}
    found = [
        finding("note", "note"),
        finding("dead", "critical"),
        finding("overfit", "warning", 3),
        finding("nan", "critical", 5),
        finding("lr", "warning", 4),
    ]
    order = [one.rule for one in ranked(found, explains)]
    assert order == ["lr", "dead", "nan", "overfit", "note"]
    assert [one.rule for one in ranked([*found, finding("data", "warning")], explains)][:2] == [
        "data",
        "lr",
    ]


def test_what_is_critical_comes_before_mere_consequences() -> None:
    explains = {"lr": frozenset({"chance", "constant"})}
    found = [
        finding("chance", "warning"),
        finding("constant", "critical", 15),
        finding("lr", "critical"),
    ]
    assert [one.rule for one in ranked(found, explains)] == ["lr", "constant", "chance"]


def test_findings_that_explain_each_other_do_not_go_round_for_ever() -> None:
    explains = {"a": frozenset({"b"}), "b": frozenset({"a"})}
    both = ranked([finding("a", "warning"), finding("b", "critical")], explains)
    assert sorted(one.rule for one in both) == ["a", "b"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_says_what_it_is(rule: type[Rule]) -> None:
    assert rule.severity in {"critical", "warning", "note"}
    assert rule.cause.endswith(".")
    assert rule.__doc__
    assert rule.explains <= {one.name for one in RULES}
    assert rule.name not in rule.explains


def test_rules_have_names_of_their_own() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_no_rule_minds_a_run_of_which_nothing_is_known(rule: type[Rule]) -> None:
    mute = rule(RunContext())
    for stretch in (Stretch(), Stretch(steps=losses([])), Stretch(layers={"a": layer(3)})):
        mute.observe(stretch)
    assert not list(mute.findings(ended=True))


def test_a_run_that_goes_well_has_no_findings() -> None:
    diagnosis = Diagnosis(CNN)
    steps = 160
    falling = [2.3 * 0.97**n + 0.05 for n in range(steps)]
    rate = [0.1 * (1 - n / steps) for n in range(steps)]
    for first in range(0, steps, 16):
        here = slice(first, first + 16)
        diagnosis.observe(Stretch(steps=losses(falling[here], rate[here], first=first)))
        layers = {name: layer(16, first) for name in ("conv1.relu", "conv2.relu", "head")}
        diagnosis.observe(Stretch(layers=layers))
    diagnosis.end()
    assert diagnosis.findings == ()


class Fickle(Steps):
    """Finds something in the first three stretches, and again in the fifth."""

    name = "fickle"

    def observe(self, stretch: Stretch) -> None:
        self._seen += 1

    def findings(self, ended: bool) -> Iterator[Finding]:
        if self._seen in {1, 2, 3, 5}:
            yield self.finding("now", 0, 0)


def test_what_goes_away_and_comes_back_is_new_again() -> None:
    diagnosis = Diagnosis(CNN, rules=[Fickle])
    news = [len(diagnosis.observe(portion(n, n + 1))) for n in range(6)]
    assert news == [1, 0, 0, 0, 1, 0]
    assert diagnosis.findings == ()


class Unranked(Steps):
    """Says something of a severity that nobody knows."""

    name = "unranked"

    def findings(self, ended: bool) -> Iterator[Finding]:
        yield self.finding("?", 0, 0, severity="dire")


class Late(Steps):
    """Finds something, and fails later."""

    name = "late"

    def observe(self, stretch: Stretch) -> None:
        self._seen += 1
        if self._seen > 1:
            raise KeyError("gone")

    def findings(self, ended: bool) -> Iterator[Finding]:
        yield self.finding("before it failed", 0, 0)


def test_a_rule_that_fails_takes_its_findings_along(caplog: pytest.LogCaptureFixture) -> None:
    diagnosis = Diagnosis(CNN, rules=[Unranked, Late])
    diagnosis.observe(portion(0, 1))
    assert [one.rule for one in diagnosis.findings] == ["late"]
    diagnosis.observe(portion(1, 2))
    assert diagnosis.findings == ()
    assert "severities are critical, warning, note" in caplog.text


def test_batches_of_two_are_named_before_what_follows_from_them() -> None:
    diagnosis = Diagnosis(CNN)
    loss = [2.3, *[0.5, 1.4] * 100]
    diagnosis.observe(
        Stretch(steps=losses(loss, 0.1, 2), norms=[NormFigures(200, "norm", 0.9, 0.1, 2, 32)])
    )
    diagnosis.end()
    assert [one.rule for one in diagnosis.findings] == ["small_batch_norm", "high_final_lr"]


def test_what_overfits_did_not_stop_too_early() -> None:
    diagnosis = Diagnosis(CNN, {"stopped_too_early": {"worse": 9.0, "loss": 0.0}})
    diagnosis.observe(
        Stretch(
            steps=losses([2.3 * 0.98**n for n in range(200)]),
            epochs=validations(1.0, 0.5, 0.9, 1.4),
        )
    )
    diagnosis.end()
    assert [one.rule for one in diagnosis.findings] == ["overfitting", "stopped_too_early"]
