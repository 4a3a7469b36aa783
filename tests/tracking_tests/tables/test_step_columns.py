"""What the pictures and the report are told of an optimizer's steps."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.tracking_tests.figures import row, table
from tracking.errors import RecordsDamaged
from tracking.records import HyperParams
from tracking.tables.record_file import RecordFile
from tracking.tables.schemas import steps_schema, steps_table
from tracking.tables.step_columns import StepColumns, read_step_columns

__all__: list[str] = []


def record(step: int, group: str = "0", **changed: float | None) -> HyperParams:
    usual = {"lr": 0.1, "momentum": 0.9, "weight_decay": None, "loss": 2.0, "loss_smooth": 2.0}
    return HyperParams(step, 0, group, **(usual | changed), batch_size=64, time=0.0)


def written(folder: Path, *records: HyperParams) -> Path:
    file = RecordFile("steps.parquet", steps_schema(), folder)
    for begin in range(0, len(records), 3):
        file.append(steps_table(records[begin : begin + 3]))
    return file.close()


def test_another_table_is_refused(tmp_path: Path) -> None:
    pq.write_table(table(row(0)), tmp_path / "stats.parquet")
    with pytest.raises(RecordsDamaged, match=r"without the columns \['group', 'lr', 'momentum'"):
        read_step_columns(tmp_path / "stats.parquet")


def test_no_steps(tmp_path: Path) -> None:
    steps = read_step_columns(written(tmp_path))
    assert (len(steps), steps.groups) == (0, 1)
    assert len(steps.thinned(10)) == 0


def test_the_first_of_several_groups(tmp_path: Path) -> None:
    rows = [record(s, g, lr=s + i / 4) for s in range(7) for i, g in enumerate(("head", "body"))]
    steps = read_step_columns(written(tmp_path, *rows))
    assert steps.groups == 2
    assert steps.step.tolist() == steps.lr.tolist() == list(range(7))


def test_values_that_are_not_there_are_nan(tmp_path: Path) -> None:
    steps = read_step_columns(written(tmp_path, record(0, momentum=None, loss=None), record(1)))
    assert np.isnan(steps.momentum).tolist() == np.isnan(steps.loss).tolist() == [True, False]


@pytest.mark.parametrize("limit", [2, 3, 10, 99])
def test_thinned_keeps_both_ends_and_averages_the_loss(limit: int) -> None:
    step = np.arange(100)
    loss = np.random.default_rng(0).random(100)
    thinned = StepColumns(step, step / 10, step / 100, loss, loss).thinned(limit)
    assert len(thinned) == limit
    assert (thinned.step[0], thinned.step[-1]) == (0, 99)
    np.testing.assert_allclose(thinned.lr, thinned.step / 10)
    bounds = [*thinned.step.tolist(), 100]
    means = [loss[a:b].mean() for a, b in pairwise(bounds)]
    np.testing.assert_allclose(thinned.loss, means)


def test_short_runs_are_not_thinned() -> None:
    step = np.arange(5)
    steps = StepColumns(step, *[step.astype(float)] * 4)
    assert steps.thinned(5) is steps


def test_a_loss_that_became_nan_stays_nan_in_thinned_steps() -> None:
    loss = np.ones(100)
    loss[99] = np.nan
    assert np.isnan(StepColumns(np.arange(100), loss, loss, loss, loss).thinned(10).loss[-1])
