"""A run's figures in words."""

from __future__ import annotations

import math

import pytest

from tests.tracking_tests.reports import FINDING, facts
from tracking.report.data import RunFacts, RunReport
from tracking.report.text import (
    as_date,
    as_duration,
    as_number,
    as_share,
    description,
    headline,
    repeat_commands,
    run_note,
)

__all__: list[str] = []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((None, "—"), (math.nan, "—"), (math.inf, "∞"), (-math.inf, "-∞"), (30542.0, "30,542")),
        *((0.12345678, "0.1235"), (1e36, "1e+36"), (0.0, "0"), (-2.5, "-2.5")),
    ],
)
def test_numbers(value: float | None, expected: str) -> None:
    assert as_number(value) == expected


def test_shares_durations_and_dates() -> None:
    assert [as_share(x) for x in (None, math.nan, 0.0, 0.99164)] == ["—", "—", "0.00 %", "99.16 %"]
    given = (None, 0.04, 59.2, 60.0, 3599.7, 7260.0)
    expected = ["—", "0.0 s", "59.2 s", "1 min 0 s", "1 h 0 min", "2 h 1 min"]
    assert [as_duration(x) for x in given] == expected
    assert (as_date(None), as_date(0.0)) == ("—", "1970-01-01 00:00 UTC")


def test_nothing_is_known() -> None:
    bare = RunFacts("id")
    assert description(bare) == ""
    assert headline(RunReport(bare)) == []
    assert run_note(bare) == ""


def test_what_runs_and_what_came_of_it() -> None:
    before = run_note(facts(state="running", metrics={}, ended=None))
    assert before.startswith("simple_cnn on digits, 3 epochs")
    assert "report.html" not in before
    assert "|" not in before
    after = run_note(facts())
    assert "| test accuracy | **99.16 %** |" in after
    assert "| time | **1 min 15 s** |" in after
    assert "report.html" in after


def test_a_failure_is_told_and_cannot_change_the_page() -> None:
    reason = "bad\n# <script>alert(1)</script> | `x` [a](http://b)"
    note = run_note(facts(state="failed", reason=reason))
    assert "**failed**: bad # &#60;script&#62;alert(1)&#60;/script&#62; \\| \\`x\\` \\[a\\]" in note


def test_a_loop_of_its_own_is_not_repeated_by_the_command() -> None:
    note = run_note(facts(params={"lr": "0.1"}))
    assert "layerscope.py train" not in note
    assert "| test accuracy |" in note


def test_commands_can_be_pasted() -> None:
    commands = repeat_commands(facts(commit="abc123", run_id="a b; rm -rf x"))
    assert commands[0] == "git checkout abc123"
    assert "--run-id 'a b; rm -rf x'" in commands[1]
    assert commands[2] == "python layerscope.py train --config config.yaml"


def test_the_description_says_what_is_wrong_and_what_to_do() -> None:
    note = run_note(facts(), [FINDING])
    assert note.splitlines()[2].startswith("**critical**: conv1.relu gives nothing but zeros")
    assert "### Diagnosis" in note
    assert "- **critical**: conv1.relu gives nothing but zeros &#60;since&#62; step 20." in note
    assert "Try: lower it (--lr-max 0.001)." in note
    assert "Nothing found." in run_note(facts(), [])
    assert "### Diagnosis" not in run_note(facts())
