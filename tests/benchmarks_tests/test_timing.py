"""Series, paired ratios and tables of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.timing import (
    Figures,
    Target,
    interleaved,
    of_figures,
    paired,
    ratios_table,
    targets_table,
    write_report,
)

__all__: list[str] = []


def test_variants_take_turns_in_alternating_order_and_the_warm_up_is_left_out() -> None:
    calls: list[str] = []

    def variant(name: str) -> Callable[[], float]:
        def run() -> float:
            calls.append(name)
            return float(len(calls))

        return run

    series = interleaved({"a": variant("a"), "b": variant("b")}, rounds=2)
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert series == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


def test_a_variant_may_have_several_figures() -> None:
    figures: Figures = {"training": 2.0, "whole run": 3.0}
    variants: dict[str, Callable[[], float | Figures]] = {"a": lambda: figures, "b": lambda: 1.0}
    series = interleaved(variants, rounds=1, warm_up=0)
    assert series == {"a: training": [2.0], "a: whole run": [3.0], "b": [1.0]}


def test_series_are_chosen_by_their_whole_figure() -> None:
    series = {"a: training": [1.0], "a, helped: training": [2.0], "a: no training": [3.0]}
    assert of_figures(series, "training") == {
        "a: training": [1.0],
        "a, helped: training": [2.0],
    }
    assert of_figures(series, "training", "no training") == series


def test_ratios_are_formed_round_by_round() -> None:
    # Of a machine that became ten times slower: the ratio of the medians would be 1.
    series = {"a": [2.0, 20.0, 30.0], "b": [1.0, 10.0, 20.0]}
    assert paired(series, "a", "b") == [2.0, 2.0, 1.5]
    assert "| a / b | 3 | 2.000 | 1.833 | 0.289 | 1.500 - 2.000 |" in ratios_table(
        series, [("a", "b")]
    )


def test_series_of_different_lengths_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired({"a": [1.0, 2.0], "b": [1.0]}, "a", "b")


@pytest.mark.parametrize(
    ("at_least", "ratio", "met"),
    [(False, 1.5, True), (False, 1.51, False), (True, 1.5, True), (True, 1.49, False)],
)
def test_target_is_met_up_to_its_limit(at_least: bool, ratio: float, met: bool) -> None:
    wanted = "at least 1.5" if at_least else "at most 1.5"
    assert Target("a", "b", 1.5, at_least).verdict(ratio) == (wanted, "yes" if met else "no")


def test_ratio_without_a_limit_is_shown_and_not_judged() -> None:
    rows = targets_table({"a": [3.0], "b": [2.0]}, [Target("a", "b")])
    assert rows[2:] == ["| a / b | 1 | 1.500 | 1.500 - 1.500 |  |  |"]


def test_targets_are_judged_by_the_median_of_the_ratios() -> None:
    series = {"a": [1.0, 1.2, 9.0], "b": [1.0, 1.0, 1.0]}
    rows = targets_table(series, [Target("a", "b", 1.2), Target("a", "b", 2.5, at_least=True)])
    assert rows[2:] == [
        "| a / b | 3 | 1.200 | 1.000 - 9.000 | at most 1.2 | yes |",
        "| a / b | 3 | 1.200 | 1.000 - 9.000 | at least 2.5 | no |",
    ]


def test_report_has_command_and_machine(tmp_path: Path) -> None:
    path = tmp_path / "results" / "report.md"
    write_report(path, "Title", "python -m this", ["a row"])
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Title\n\n`python -m this` on 20")
    assert "torch" in text
    assert text.endswith("\n\na row\n")
