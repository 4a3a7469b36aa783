"""Where rungs lie, and what the options say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.rung_plan import RungPlan, parse_shares

__all__: list[str] = []


@pytest.mark.parametrize("text", ["plain", "cycle", "none", "anneal:0.3", "anneal:2"])
def test_text_comes_back(text: str) -> None:
    assert RungPlan.parse(text, "1/9").text == text


@pytest.mark.parametrize("text", ["anneal", "anneal:"])
def test_annealing_has_a_length_of_its_own(text: str) -> None:
    assert RungPlan.parse(text, "1/9").length == 0.3


def test_an_annealing_takes_a_step_at_least() -> None:
    assert RungPlan.parse("anneal:0.5", "1/9").anneal_steps(20) == 10
    assert RungPlan.parse("anneal:0.01", "1/9").anneal_steps(20) == 1


@pytest.mark.parametrize(
    "text", ["", "anneal:0", "anneal:-1", "anneal:nan", "anneal:inf", "anneal:x"]
)
def test_what_no_annealing_is(text: str) -> None:
    with pytest.raises(ValueError, match="anneal:EPOCHS"):
        RungPlan.parse(text, "1/9")


@pytest.mark.parametrize("text", ["cycle:2", "plain:1", "none:0", "median", "Anneal"])
def test_what_no_rung_is(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: anneal:EPOCHS"):
        RungPlan.parse(text, "1/9")


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("1/9", (1 / 9,)),
        ("0.1,0.3", (0.1, 0.3)),
        (" 1/9 , 1/3 ", (1 / 9, 1 / 3)),
        ("5e-2", (0.05,)),
    ],
)
def test_shares(text: str, shares: tuple[float, ...]) -> None:
    assert parse_shares(text) == shares


@pytest.mark.parametrize(
    "text",
    ["", "0", "1", "1.5", "-0.1", "1/0", "nan", "inf", "0.3,0.1", "0.1,0.1", "0.1,", "x", "9"],
)
def test_what_no_shares_are(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: rising shares of the run"):
        parse_shares(text)


def test_rungs_lie_at_their_shares() -> None:
    rungs = RungPlan.parse("plain", "1/9,1/3").rungs(900)
    assert [(rung.number, rung.step) for rung in rungs] == [(1, 100), (2, 300)]
    assert [rung.share for rung in rungs] == [1 / 9, 1 / 3]


def test_rungs_that_come_too_early_are_left_out_and_the_others_keep_their_numbers() -> None:
    plan = RungPlan.parse("plain", "1/9,1/3")
    assert [(rung.number, rung.step) for rung in plan.rungs(180, least_steps=25)] == [(2, 60)]


def test_none_has_no_rungs() -> None:
    assert RungPlan.parse("none", "1/9").rungs(900) == []


@given(st.integers(1, 5000), st.lists(st.floats(0.001, 0.999), min_size=1, unique=True))
def test_rungs_come_in_order_and_before_the_end(steps: int, shares: list[float]) -> None:
    plan = RungPlan("plain", tuple(sorted(shares)))
    rungs = plan.rungs(steps)
    places = [rung.step for rung in rungs]
    assert places == sorted(set(places))
    assert all(1 <= step < steps for step in places)
    assert [rung.number for rung in rungs] == sorted({rung.number for rung in rungs})
    apart = {max(round(share * steps), 1) for share in plan.shares}
    assert set(places) == apart - set(range(steps, steps + 2))
