from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.tracking_tests.reference import any_tensor, assert_stats
from tracking.records import LayerStats
from tracking.statistics.buffers import LayerBuffer, drain
from tracking.statistics.kernels import Reduction
from tracking.statistics.kernels import accumulators as k
from tracking.statistics.kernels.numba_kernel import NumbaKernel
from tracking.statistics.kernels.torch_kernel import TorchKernel

__all__: list[str] = []

CPU = torch.device("cpu")


def buffer(
    layer: str = "relu", rows: int = 4, kernel: type[Reduction] = NumbaKernel
) -> LayerBuffer:
    return LayerBuffer(layer, "train", CPU, rows, kernel(0.05, 1.0))


def record(outputs: Sequence[Tensor], kernel: type[Reduction] = NumbaKernel) -> LayerStats:
    """What one step of a layer with these outputs leaves."""
    full = buffer(kernel=kernel)
    for x in outputs:
        full.add(x)
    full.end_step(7, 1.5)
    [only] = taken([full])
    return only


def taken(buffers: Sequence[LayerBuffer]) -> list[LayerStats]:
    return [record for rows in drain(buffers) for record in rows.records()]


@settings(max_examples=50)
@given(st.lists(any_tensor(), min_size=1, max_size=3))
def test_record_is_what_numpy_finds(outputs: list[Tensor]) -> None:
    for kernel in (NumbaKernel, TorchKernel):
        found = record(outputs, kernel)
        assert_stats(asdict(found), outputs)
        assert (found.step, found.layer, found.mode, found.time) == (7, "relu", "train", 1.5)


def test_one_element_has_no_deviation() -> None:
    found = record([torch.tensor(-3.0)])
    assert (found.count, found.mean, found.std) == (1, -3, 0)
    assert (found.min, found.max, found.dead_channels) == (-3, -3, None)


def test_values_are_plain_numbers() -> None:
    found = record([torch.ones(2, 3)])
    kinds = {name: type(value) for name, value in asdict(found).items()}
    assert {kinds[name] for name in ("count", "above", "nonfinite")} == {int}
    assert {kinds[name] for name in ("mean", "std", "min", "max", "near_zero")} == {float}
    assert kinds["dead_channels"] is float


def test_calls_of_equal_width_share_their_channels() -> None:
    first, second = torch.tensor([[1.0, -1.0, -1.0]]), torch.tensor([[-1.0, -1.0, 2.0]])
    assert record([first]).dead_channels == 2 / 3
    assert record([first, second]).dead_channels == 1 / 3


def test_calls_of_other_widths_have_channels_of_their_own() -> None:
    narrow, wide = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 1.0, -1.0, 1.0]])
    assert record([narrow, wide]).dead_channels == 2 / 6
    assert record([narrow, wide, torch.ones(3)]).dead_channels == 2 / 6


@pytest.mark.parametrize(
    ("shape", "dead"), [((0, 3, 2), 1.0), ((2, 3, 0), 1.0), ((2, 0), None), ((0,), None)]
)
def test_empty_outputs_make_a_row(shape: tuple[int, ...], dead: float | None) -> None:
    found = record([torch.zeros(shape)])
    assert (found.count, found.nonfinite, found.above, found.hist.sum()) == (0, 0, 0, 0)
    assert (found.mean, found.std, found.min, found.max, found.near_zero) == (None,) * 5
    assert found.dead_channels == dead


def test_rows_do_not_influence_each_other() -> None:
    outputs = [torch.full((2, 3), x) for x in (math.nan, -20.0, 0.01, 5.0)]
    full = buffer(rows=4)
    for step, x in enumerate(outputs):
        full.add(x)
        assert len(full) == step
        full.end_step(step, 0.0)
    for found, x in zip(taken([full]), outputs, strict=True):
        assert_stats(asdict(found), [x])
    full.add(outputs[3])
    full.end_step(9, 0.0)
    [again] = taken([full])
    assert_stats(asdict(again), [outputs[3]])


def test_a_step_without_outputs_leaves_no_row() -> None:
    idle = buffer()
    idle.end_step(0, 0.0)
    assert len(idle) == 0
    assert drain([idle]) == []


@pytest.mark.parametrize("rows", [2, 5])
def test_draining_in_the_middle_of_a_step_keeps_the_open_row(rows: int) -> None:
    a, b = torch.tensor([[1.0, -1.0]]), torch.tensor([[-30.0, 4.0]])
    half = buffer(rows=rows)
    half.add(a)
    half.end_step(0, 0.0)
    half.add(a)
    [first] = taken([half])
    assert drain([half]) == []
    half.add(b)
    half.end_step(1, 0.0)
    [second] = taken([half])
    assert_stats(asdict(first), [a])
    assert_stats(asdict(second), [a, b])


def test_all_buffers_come_over_in_one_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = [buffer(name) for name in "abc"]
    for _ in range(2):
        for b in buffers[:2]:
            b.add(torch.ones(1))
            b.end_step(0, 0.0)
    transfers: list[Tensor] = []
    to_host = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda x: transfers.append(x) or to_host(x))
    assert [r.layer for r in taken(buffers)] == ["a", "a", "b", "b"]
    assert len(transfers) == 1


def test_accumulating_never_asks_the_device_for_a_value() -> None:
    meta = torch.device("meta")  # has no values to give: asking raises
    full = LayerBuffer("relu", "train", meta, 2, TorchKernel(0.05, 1.0))
    for step in range(2):
        full.add(torch.empty(2, 3, 4, device="meta"))
        full.end_step(step, 0.0)
    assert len(full) == 2
    assert sum(map(len, full.memory())) == 2 * (8 * k.INTS + 8 * k.FLOATS + 3)
