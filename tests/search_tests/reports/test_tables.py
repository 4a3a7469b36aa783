"""All trials as Arrow, JSON and CSV, and what the console shows."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from math import inf
from typing import Any

import pyarrow as pa
import pytest
from optuna import Study, create_trial
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from rich.console import Console, RenderableType

from search.reports.console_tables import best_table, status_table
from search.reports.tables import trials_csv, trials_json, trials_table
from search.reports.trial_text import as_result, as_value
from tests.search_tests.studies import BEGAN, every_state, finished, new_study, realistic, trial


def printed(shown: RenderableType, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(shown)
    return str(console.file.getvalue())


def test_every_trial_is_a_row_with_typed_columns() -> None:
    table = trials_table(every_state())
    assert table.column("number").to_pylist() == list(range(9))
    kinds = {
        "value/accuracy": pa.float64(),
        "params/lr_max@64": pa.float64(),
        "params/batch_size": pa.int64(),
        "params/schedule": pa.string(),
        "config/lr_max": pa.float64(),
        "samples": pa.int64(),
        "findings": pa.list_(pa.string()),
        "started": pa.timestamp("us", tz="UTC"),
        "retry_of": pa.int64(),
    }
    assert {name: table.schema.field(name).type for name in kinds} == kinds


def test_what_a_trial_lacks_is_null() -> None:
    rows = trials_table(every_state()).to_pylist()
    assert rows[2]["params/pct_start"] is None
    assert rows[1]["params/pct_start"] == 0.3
    assert rows[1]["retry_of"] == 0
    waiting = {name: value for name, value in rows[6].items() if value is not None}
    assert waiting == {"number": 6, "state": "waiting", "findings": []}
    assert rows[4]["reason"] == "batch_size=512 does not fit into memory"


def test_local_times_become_universal() -> None:
    started = trials_table(every_state()).column("started").to_pylist()
    assert started[0] == BEGAN.astimezone(UTC)
    assert started[6] is None


def test_an_empty_study_is_an_empty_table() -> None:
    study = new_study("maximize", "minimize")
    table = trials_table(study)
    assert table.num_rows == 0
    assert {"value/accuracy", "value/seconds", "state"} <= set(table.column_names)
    assert json.loads(trials_json(study)) == []
    assert trials_csv(study).count("\r\n") == 1


@pytest.mark.parametrize(
    ("choices", "kind", "shown"),
    [
        ((True, False), pa.bool_(), True),
        ((1, 2.5), pa.float64(), 1.0),
        ((2**70, 1), pa.string(), str(2**70)),
        (("a", 3), pa.string(), '"a"'),
        ((None, 0.5), pa.float64(), None),
    ],
)
def test_the_type_of_a_column_fits_all_its_values(
    choices: tuple[Any, ...], kind: pa.DataType, shown: Any
) -> None:
    study = new_study()
    for choice in choices:
        spaces = {"x": CategoricalDistribution(choices)}
        study.add_trial(create_trial(value=1.0, params={"x": choice}, distributions=spaces))
    column = trials_table(study).column("params/x")
    assert column.type == kind
    assert column.to_pylist()[0] == shown


def test_a_list_in_a_configuration_is_written_as_json() -> None:
    study = new_study()
    study.add_trial(trial(TrialState.COMPLETE, 0.5, config={"widths": [8, 16]}))
    study.add_trial(trial(TrialState.COMPLETE, 0.5, config="damaged"))
    assert trials_table(study).column("config/widths").to_pylist() == ["[8, 16]", None]


def test_json_holds_only_what_a_trial_has() -> None:
    rows = json.loads(trials_json(every_state()))
    assert rows[1]["params"]["pct_start"] == 0.3
    assert "pct_start" not in rows[2]["params"]
    assert rows[3]["values"] == {"accuracy": None}
    assert datetime.fromisoformat(rows[1]["ended"]).tzinfo is not None


def test_json_has_no_infinity() -> None:
    study = new_study("minimize")
    study.add_trial(trial(TrialState.COMPLETE, inf))
    (row,) = json.loads(trials_json(study), parse_constant=pytest.fail)
    assert row["values"] == {"loss": None}


def test_csv_reads_back_whatever_a_reason_holds() -> None:
    study = new_study()
    nasty = 'said "no",\nthen; stopped'
    study.add_trial(trial(TrialState.FAIL, reason=nasty, findings=["dead", "collapse"]))
    (row,) = csv.DictReader(io.StringIO(trials_csv(study), newline=""))
    assert row["reason"] == nasty
    assert row["findings"] == "dead;collapse"
    assert row["value/accuracy"] == ""


@pytest.mark.parametrize("make", [every_state, new_study, realistic, lambda: realistic(two=True)])
@pytest.mark.parametrize("width", [40, 80])
def test_the_console_is_never_wider_than_it_is(make: Any, width: int) -> None:
    study: Study = make()
    text = printed(status_table(study, 50), width) + printed(best_table(study), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_the_status_tells_how_far_a_study_is() -> None:
    text = printed(status_table(every_state(), 10), 100)
    assert "5 of 10 done (50%)" in text
    assert "2 complete, 1 pruned, 1 infeasible, 1 failed, 1 running, 1 waiting" in text
    assert "trial 1: accuracy 97.00 %" in text
    assert "node1:2" in text
    assert "with 1 worker" in text


def test_the_status_of_a_study_that_nobody_works_on() -> None:
    study = new_study()
    assert "nothing waits" in printed(status_table(study, 0))
    study.add_trial(trial(TrialState.WAITING))
    text = printed(status_table(study, 1))
    assert "no worker runs; 1 wait" in text
    assert "none yet" in text


def test_the_best_is_shown_with_digits_that_matter() -> None:
    study = new_study()
    params = {"lr_max@64": 0.012345678, "batch_size": 128}
    study.add_trial(finished(0, params, 0.98765))
    text = printed(best_table(study))
    for cell in ("98.77 %", "0.0123 ", "128", "lr_max ", "0.0247", "36,000", "41.5 s", "0" * 32):
        assert cell in text
    assert "study retrain --name" in text
    elsewhere = printed(best_table(study, "sqlite:///other.db"), 120)
    assert "--storage sqlite:///other.db" in elsewhere


def test_the_best_of_nothing_says_so() -> None:
    assert "no complete trial yet: no trials" in printed(best_table(new_study()))


def test_names_are_no_markup() -> None:
    study = every_state("[red]x[/red] <b>")
    assert "[red]x[/red] <b>" in printed(status_table(study, 5))
    assert "'[red]x[/red] <b>'" in printed(best_table(study), 120)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0314159, "0.0314"),
        (1e-5, "1e-05"),
        (12345.6, "12346"),
        (1e9, "1e+09"),
        (512, "512"),
        (True, "true"),
        ([8, 16], "8,16"),
        (None, "none"),
    ],
)
def test_values_have_three_digits(value: Any, shown: str) -> None:
    assert as_value(value) == shown


def test_results_that_are_not_finite_are_no_error() -> None:
    assert as_result("loss", inf) == "∞"
    assert as_result("seconds", float("nan")) == "—"
    assert as_result("accuracy", None) == "—"
