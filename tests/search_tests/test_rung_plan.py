"""Where rungs lie, and what the option says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.rung_plan import RungPlan

__all__: list[str] = []


@pytest.mark.parametrize("text", ["plain", "cycle", "none", "anneal:0.3", "anneal:2"])
def test_text_comes_back(text: str) -> None:
    assert RungPlan.parse(text, 2, 3).text == text


def test_annealing_has_a_length_of_its_own() -> None:
    assert RungPlan.parse("anneal", 2, 3).length == 0.3
    assert RungPlan.parse("anneal:0.5", 2, 3).anneal_steps(20) == 10
    assert RungPlan.parse("anneal:0.01", 2, 3).anneal_steps(20) == 1


@pytest.mark.parametrize(
    "text", ["", "anneal:", "anneal:0", "anneal:-1", "anneal:nan", "anneal:inf", "anneal:x"]
)
def test_what_no_annealing_is(text: str) -> None:
    if text == "anneal:":
        assert RungPlan.parse(text, 2, 3).length == 0.3
        return
    with pytest.raises(ValueError, match="anneal:EPOCHS"):
        RungPlan.parse(text, 2, 3)


@pytest.mark.parametrize("text", ["cycle:2", "plain:1", "none:0", "median", "Anneal"])
def test_what_no_rung_is(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: anneal:EPOCHS"):
        RungPlan.parse(text, 2, 3)


def test_rungs_lie_at_powers_of_the_reduction() -> None:
    rungs = RungPlan.parse("plain", 2, 3).rungs(900)
    assert [(r.resource, r.step) for r in rungs] == [(1, 100), (3, 300)]
    assert [r.share for r in rungs] == pytest.approx([1 / 9, 1 / 3])


def test_none_has_no_rungs() -> None:
    assert RungPlan.parse("none", 2, 3).rungs(900) == []


@given(st.integers(1, 5000), st.integers(1, 8), st.integers(2, 6))
def test_rungs_come_in_order_and_before_the_end(steps: int, count: int, reduction: int) -> None:
    rungs = RungPlan.parse("plain", count, reduction).rungs(steps)
    places = [rung.step for rung in rungs]
    assert places == sorted(set(places))
    assert all(1 <= step < steps for step in places)
    resources = [rung.resource for rung in rungs]
    assert resources == sorted(set(resources))
    # Those that are missing coincided with a later one.
    assert len(rungs) == count or steps < reduction**count * 2
