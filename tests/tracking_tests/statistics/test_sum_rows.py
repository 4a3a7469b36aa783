from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tracking.statistics.sum_rows import SumRow, SumRows

__all__: list[str] = []


def sums(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_what_is_added_within_a_step_makes_one_row_for_each_name() -> None:
    rows = SumRows()
    for name, x in (("b", 1), ("a", 2), ("b", 4)):
        rows.add(name, sums(x, 10 * x))
    rows.end_step(7, 1.5)
    assert rows.take() == [SumRow(7, "b", 1.5, [5, 50]), SumRow(7, "a", 1.5, [2, 20])]
    assert rows.take() == []


def test_tensors_that_were_added_are_not_changed() -> None:
    rows, first = SumRows(), sums(1)
    rows.add("a", first)
    rows.add("a", sums(2))
    assert first.item() == 1


def test_a_step_without_sums_leaves_nothing() -> None:
    rows = SumRows()
    rows.end_step(0, 0.0)
    assert (len(rows), rows.open, rows.take()) == (0, False, [])


def test_taking_in_the_middle_of_a_step_keeps_the_open_rows() -> None:
    rows = SumRows()
    for step in range(2):
        rows.add("a", sums(1))
        assert rows.open
        assert rows.take() == []
        rows.add("a", sums(2))
        rows.end_step(step, 0.0)
        assert len(rows) == 1
        assert rows.take() == [SumRow(step, "a", 0.0, [3])]
        assert len(rows) == 0


def test_sums_of_one_name_on_two_devices_become_one_row() -> None:
    rows = SumRows()
    rows.add("a", sums(1, 2))
    # As if it lay on another device: a row goes by its key.
    rows._open["a", torch.device("cuda")] = sums(10, 20)
    rows.end_step(3, 0.0)
    assert rows.take() == [SumRow(3, "a", 0.0, [11, 22])]


def test_everything_comes_over_in_one_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = SumRows()
    for step in range(3):
        rows.add("a", sums(step))
        rows.add("b", sums(-step))
        rows.end_step(step, 0.0)
    transfers: list[Tensor] = []
    to_host = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda x: transfers.append(x) or to_host(x))
    assert [(row.step, row.name, row.sums) for row in rows.take()] == [
        (step, name, [sign * step]) for step in range(3) for name, sign in (("a", 1), ("b", -1))
    ]
    assert len(transfers) == 1
