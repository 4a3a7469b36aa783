"""Trials as lines of text, in each state."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState

from search.reports.trial_lines import trial_line, trials_text
from tests.search_tests.studies import every_state, finished, new_study, trial

__all__: list[str] = []

PARAMS = {"lr_max@64": 0.0312345, "batch_size": 128}
SHOWN = "lr_max@64 0.0312, batch_size 128"


def test_a_complete_trial() -> None:
    study = new_study()
    one = finished(3, PARAMS, 0.97125)
    one.number = 3
    assert trial_line(study, one, "complete") == (
        f"trial   3  complete    accuracy 97.12 %  44.5 s  {SHOWN}"
    )
    assert trial_line(study, one, "complete", top=True) == (
        f"trial   3  complete    accuracy 97.12 %  best  44.5 s  {SHOWN}"
    )


def test_the_loss_is_a_plain_figure() -> None:
    text = trial_line(new_study("minimize"), trial(TrialState.COMPLETE, 0.123456), "complete")
    assert "loss 0.123" in text
    assert "%" not in text


def test_seconds_are_named_once() -> None:
    study = new_study("maximize", "minimize")
    text = trial_line(study, finished(0, PARAMS, 0.5, values=(0.5, 41.5)), "complete")
    assert text == f"trial  -1  complete    accuracy 50.00 %  seconds 41.5 s  {SHOWN}"


@pytest.mark.parametrize("key", ["reason", "infeasible"])
def test_why_a_trial_ended_is_a_line_below(key: str) -> None:
    one = trial(TrialState.FAIL, params=PARAMS)
    one.set_user_attr(key, "no such file: [/data]")
    first, second = trial_line(new_study(), one, "failed").split("\n")
    assert first == f"trial  -1  failed      {SHOWN}"
    assert second == " " * 11 + "no such file: [/data]"


def test_what_a_trial_does_not_have_is_left_out() -> None:
    assert trial_line(new_study(), trial(TrialState.WAITING), "waiting") == "trial  -1  waiting   "
    bare = trial(TrialState.PRUNED, params={"lr_max@64": 1e-3}, seconds=0.0)
    assert trial_line(new_study(), bare, "pruned") == "trial  -1  pruned      lr_max@64 0.001"


def test_a_value_that_was_never_reached_is_not_shown() -> None:
    pruned = trial(TrialState.PRUNED, params=PARAMS, reported={1: 0.3})
    assert "accuracy" not in trial_line(new_study(), pruned, "pruned")


def test_all_trials_in_their_order() -> None:
    lines = trials_text(every_state()).split("\n")
    heads = [line.split()[1:3] for line in lines if line.startswith("trial")]
    assert heads == [
        ["0", "retried"],
        ["1", "complete"],
        ["2", "pruned"],
        ["3", "failed"],
        ["4", "infeasible"],
        ["5", "running"],
        ["6", "waiting"],
        ["7", "cancelled"],
        ["8", "complete"],
    ]
    assert [line.split()[1] for line in lines if "  best  " in line] == ["1"]
    reasons = [line.strip() for line in lines if not line.startswith("trial")]
    assert reasons == [
        "pruned by halving",
        "no such file",
        "batch_size=512 does not fit into memory",
        "not wanted any more (trials=6)",
    ]


def test_a_front_has_no_single_best_in_the_list() -> None:
    study = new_study("maximize", "minimize")
    study.add_trials(
        [
            finished(0, PARAMS, 0.9, values=(0.9, 50.0)),
            finished(1, PARAMS, 0.8, values=(0.8, 40.0)),
        ]
    )
    marked = [line for line in trials_text(study).split("\n") if "  best  " in line]
    assert len(marked) == 1
    assert marked[0].startswith("trial   0")


def test_no_trials() -> None:
    assert trials_text(new_study()) == "no trials yet"
