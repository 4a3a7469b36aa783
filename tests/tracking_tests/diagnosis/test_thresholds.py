"""Thresholds as text."""

from __future__ import annotations

import pytest

from tracking.diagnosis.rules import RULES
from tracking.diagnosis.thresholds import known_thresholds, parse_thresholds
from tracking.errors import BadOption
from tracking.recording_options import RecordingOptions

__all__: list[str] = []


def test_text_is_read() -> None:
    text = "dead_units.share=0.3, lr_too_high.rise=1e-1 ,dead_units.steps=5"
    assert parse_thresholds(text) == {
        "dead_units": {"share": 0.3, "steps": 5.0},
        "lr_too_high": {"rise": 0.1},
    }
    assert parse_thresholds("") == {}


@pytest.mark.parametrize("text", ["dead_units", "share=1", "a.b=c", ".b=1", "a.=1", "a.b="])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadOption, match=r"allowed: rule\.threshold=number"):
        parse_thresholds(text)


def test_options_are_refused_before_anything_starts() -> None:
    with pytest.raises(BadOption, match="rule dead_units has no 'shares'; it has: share, steps"):
        RecordingOptions(thresholds="dead_units.shares=1")


def test_every_threshold_is_a_number_that_its_rule_explains() -> None:
    for rule in RULES:
        for name, default in known_thresholds(rule).items():
            assert isinstance(default, (int, float)), (rule.name, name)
            assert f"``{name}``" in (rule.__doc__ or ""), (rule.name, name)


@pytest.mark.parametrize(
    "text",
    ["dead_units.steps=0", "dead_units.share=nan", "lr_too_high.area=inf", "saturated.level=-1"],
)
def test_values_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(BadOption, match=r"allowed: [01] and more"):
        RecordingOptions(thresholds=text)
