"""From trials to what a comparison shows: what counts, what does not, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from optuna import create_trial
from optuna.trial import TrialState

from search.comparisons.pairs import fill_pairs, pair_of, wanted_pairs
from search.comparisons.report import comparison_note, comparison_table, write_comparison
from search.comparisons.result import Comparison, comparison_of
from search.comparisons.verdict import caveats, verdict
from search.space.compared import Compared
from tests.search_tests.comparisons.made import ACCURACIES, add, definition_of, made
from tests.search_tests.studies import new_study

__all__: list[str] = []


def sentences(result: Comparison) -> list[str]:
    return [verdict(result, contrast) for contrast in result.contrasts]


# -- pairs --


def test_pairs_come_seed_by_seed_and_no_value_is_always_first() -> None:
    compared = Compared("norm", ("a", "b", "c"))
    assert list(wanted_pairs(compared, 7, 4)) == [
        *(("a", 7), ("b", 7), ("c", 7)),
        *(("b", 8), ("c", 8), ("a", 8)),
        *(("c", 9), ("a", 9), ("b", 9)),
        *(("a", 10), ("b", 10), ("c", 10)),
    ]


def test_what_is_there_is_not_asked_for_again() -> None:
    study, compared = new_study(), Compared("norm", ("batch", "none"))
    add(study, "batch", 0)
    add(study, "none", 0, TrialState.PRUNED)
    add(study, "batch", 1, TrialState.FAIL)
    fill_pairs(study, compared, 0, 2)
    fill_pairs(study, compared, 0, 2)
    waiting = study.get_trials(states=(TrialState.WAITING,))
    # A failed one is tried again.
    assert [pair_of(compared, trial) for trial in waiting] == [("none", 1), ("batch", 1)]
    fill_pairs(study, compared, 0, 3)
    assert len(study.get_trials(states=(TrialState.WAITING,))) == 4


def test_a_trial_that_is_no_pair_is_left_out() -> None:
    study, definition = new_study(), definition_of()
    study.add_trial(create_trial(state=TrialState.WAITING))
    add(study, "layer", 0)
    result = comparison_of(study, definition)
    assert [len(arm.runs) for arm in result.arms] == [0, 0]


# -- what is shown --


def test_a_difference_is_shown() -> None:
    result = comparison_of(*made())
    (contrast,) = result.contrasts
    assert contrast.difference.values == pytest.approx((-0.05, -0.02, -0.07, -0.04))
    (said,) = sentences(result)
    assert said == (
        "norm=none is worse than norm=batch by 4.50 points (95 % interval 1.19 to 7.81; worse with "
        "4 of 4 seeds)."
    )


def test_the_other_way_round_it_is_better() -> None:
    turned = dict(reversed(ACCURACIES.items()))
    (said,) = sentences(comparison_of(*made(turned)))
    assert said.startswith("norm=batch is better than norm=none by 4.50 points (")


def test_a_loss_is_better_where_it_is_lower() -> None:
    (said,) = sentences(comparison_of(*made(objective="loss")))
    assert said == (
        "norm=none is worse than norm=batch by 0.045 (95 % interval 0.01188 to 0.07812; worse with "
        "4 of 4 seeds)."
    )


def test_no_difference_is_shown_and_what_could_not_have_been() -> None:
    accuracies = {"batch": [0.98, 0.95, 0.97], "none": [0.97, 0.97, 0.96]}
    (said,) = sentences(comparison_of(*made(accuracies)))
    assert said == (
        "No difference is shown between norm=none and norm=batch: norm=none is between 4.30 "
        "points worse and 4.30 points better (95 % interval, 3 seeds). Differences below about "
        "4.30 points cannot be seen with so many; about 5 seeds would halve that."
    )


@pytest.mark.parametrize(
    ("none", "said"),
    [
        (
            [0.98, 0.97, 0.99, 0.98],
            "norm=none and norm=batch gave the same accuracy with each of 4 ",
        ),
        ([], "norm=none cannot be compared with norm=batch: no seed was trained to its end with "),
        ([0.5], "norm=none and norm=batch differ by 48.00 points with the one seed there is."),
    ],
)
def test_too_little_for_an_interval(none: list[float], said: str) -> None:
    (found,) = sentences(comparison_of(*made({"batch": ACCURACIES["batch"], "none": none})))
    assert found.startswith(said)
    assert "interval" not in found


def test_the_same_difference_with_each_seed() -> None:
    accuracies = {"batch": [0.5, 0.75, 0.25], "none": [0.75, 1.0, 0.5]}
    (said,) = sentences(comparison_of(*made(accuracies)))
    assert said == "norm=none is better than norm=batch by 25.00 points with each of 3 seeds."


# -- what is not in the figures --


def test_runs_that_diverge_are_counted_and_said() -> None:
    study, definition = made({"batch": [0.98, 0.97, 0.99], "none": [0.93]})
    reason = "diverged: the loss became nan by step 16"
    add(study, "none", 1, TrialState.PRUNED, reason=reason)
    add(study, "none", 2, TrialState.FAIL, reason="OSError: no space")
    result = comparison_of(study, definition)
    none = result.arms[1]
    assert none.lost == {"diverged": 1, "failed": 1}
    assert [run.state for run in none.runs] == ["complete", "diverged", "failed"]
    (said,) = sentences(result)
    assert said.endswith(
        "Not in these figures: norm=none diverged with 1 of 3 seeds, failed with 1 of 3 seeds."
    )
    assert result.contrasts[0].seeds == (0,)


def test_of_several_runs_of_a_pair_one_counts() -> None:
    study, definition = made()
    add(study, "none", 0, accuracy=0.1)
    add(study, "none", 1, TrialState.FAIL)
    result = comparison_of(study, definition)
    assert result.arms[1].complete[0].accuracy == 0.93
    assert not result.arms[1].lost


def test_a_run_that_diverged_is_not_undone_by_another_of_its_pair() -> None:
    study, definition = made({"batch": [0.9], "none": []})
    add(study, "none", 0, TrialState.PRUNED, reason="diverged")
    add(study, "none", 0, accuracy=0.8)
    none = comparison_of(study, definition).arms[1]
    assert [run.state for run in none.runs] == ["diverged"]


@pytest.mark.parametrize(
    ("factor", "values", "about"),
    [
        ("norm", "batch,none", "simple_cnn on digits, 10 epochs"),
        ("epochs", "1,2", "simple_cnn on digits"),
        ("model", "simple_cnn,resnet_small", "digits, 10 epochs"),
    ],
)
def test_what_differs_is_not_said_of_all(factor: str, values: str, about: str) -> None:
    assert comparison_of(new_study(), definition_of(values, factor)).about == about


def test_a_failed_run_that_was_tried_again_is_forgotten() -> None:
    study, definition = made({"batch": [0.9], "none": []})
    add(study, "none", 0, TrialState.FAIL)
    add(study, "none", 0, accuracy=0.8)
    result = comparison_of(study, definition)
    assert result.arms[1].complete[0].accuracy == 0.8
    assert not result.arms[1].lost


def test_it_is_over_when_nothing_waits() -> None:
    study, definition = made()
    assert comparison_of(study, definition).over
    add(study, "none", 4, TrialState.WAITING)
    assert not comparison_of(study, definition).over
    assert comparison_of(study, definition).seeds == [0, 1, 2, 3, 4]


# -- several values --


def test_intervals_of_several_values_hold_together() -> None:
    study = new_study()
    runs = {"relu": [0.98, 0.97, 0.99, 0.98], "tanh": [0.93, 0.95, 0.92, 0.94], "gelu": [0.9] * 4}
    for value, found in runs.items():
        for seed, accuracy in enumerate(found):
            add(study, value, seed, accuracy=accuracy, factor="activation")
    pair = comparison_of(study, definition_of("relu,tanh", "activation"))
    three = comparison_of(study, definition_of("relu,tanh,gelu", "activation"))
    alone, together = pair.contrasts[0], three.contrasts[0]
    assert together.difference.mean == alone.difference.mean
    assert together.difference.half_width > alone.difference.half_width
    assert together.p == 2 * alone.p
    assert any("Bonferroni" in said for said in caveats(three))
    assert not any("Bonferroni" in said for said in caveats(pair))


def test_what_limits_the_claims() -> None:
    said = caveats(comparison_of(*made()))
    assert "With 4 pairs p of the sign-flip test cannot be below 0.12." in said
    assert "One of the 144 validation images is 0.69 points." in said


# -- what it leaves --


def test_the_files(tmp_path: Path) -> None:
    study, definition = made()
    add(study, "none", 4, TrialState.PRUNED, reason="diverged: <b>nan</b>")
    paths = write_comparison(study, definition, tmp_path / "report")
    assert [path.name for path in paths] == ["comparison.html", "comparison.json", "trials.parquet"]
    page = paths[0].read_text(encoding="utf-8")
    assert "norm=none is worse than norm=batch by 4.50 points" in page
    assert "<b>nan" not in page
    assert "lr_too_low in 4 of 5" in page
    assert len(page) < 6_000_000
    content = json.loads(paths[1].read_text(encoding="utf-8"))
    assert content["format"] == 1
    assert content["contrasts"][0]["difference"]["mean"] == pytest.approx(-0.045)
    assert [run["seed"] for run in content["arms"][1]["runs"]] == [0, 1, 2, 3, 4]
    assert content["arms"][1]["runs"][4]["accuracy"] is None


def test_an_empty_comparison_has_a_page(tmp_path: Path) -> None:
    study, definition = made({"batch": [], "none": []})
    page = write_comparison(study, definition, tmp_path)[0].read_text(encoding="utf-8")
    assert "No run was trained to its end." in page
    json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))


def test_the_note_and_the_table() -> None:
    from rich.console import Console

    result = comparison_of(*made())
    note = comparison_note(result)
    assert "| norm | runs | mean accuracy | std | least | most | time |" in note
    assert "Repeat it: `python layerscope.py compare --factor norm`" in note
    console = Console(width=80, record=True, file=None)
    with console.capture() as shown:
        console.print(comparison_table(result))
    assert "-7.81 to -1.19" in shown.get()
