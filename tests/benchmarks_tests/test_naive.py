"""The naive statistics that a peer is timed with are those that this project records."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from benchmarks.peers.naive import naive_statistics
from tracking import ActivationStats

__all__: list[str] = []

INF, NAN = math.inf, math.nan


def ours(x: Tensor) -> dict[str, object]:
    """The row that this project records of a layer's output."""
    layer = nn.Sequential(nn.Identity())
    with ActivationStats(layer, layers="all") as stats:
        layer(x)
        stats.step()
    row: dict[str, object] = stats.read().to_pylist()[0]
    return row


def spoilt(x: Tensor) -> Tensor:
    x.view(-1)[:4] = torch.tensor([INF, -INF, NAN, NAN])
    return x


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_naive_statistics_are_ours(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 5 * torch.randn(8, 6, 5, 5, generator=generator)
    x[:, 2] = -x[:, 2].abs()  # a dead channel
    row = ours(x := x.contiguous(memory_format=layout))
    scalars, histogram = naive_statistics(x)
    assert scalars["dead_channels"] == pytest.approx(1 / 6)
    others = {"step", "layer", "mode", "count", "hist", "dead_lasting"}  # the last needs 20 steps
    assert set(scalars) == set(row) - others
    for name, value in scalars.items():
        assert value == pytest.approx(row[name], rel=1e-5), name
    assert histogram == row["hist"]
    assert min(histogram[0], histogram[-1]) > 0  # both ends are in use


def test_naive_statistics_of_non_finite_values_are_ours() -> None:
    x = spoilt(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))
    row = ours(x)
    scalars, histogram = naive_statistics(x)
    assert scalars["nonfinite"] == row["nonfinite"] == 4
    for name, value in scalars.items():
        assert value == pytest.approx(row[name], rel=1e-5), name
    assert histogram == row["hist"]


def test_naive_statistics_leave_the_output_and_its_graph_alone() -> None:
    x = torch.full((2, 2), 20.0, requires_grad=True)
    y = x * 1.0
    naive_statistics(y)
    y.sum().backward()
    assert y.tolist() == [[20.0, 20.0], [20.0, 20.0]]
    assert x.grad is not None
    assert x.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]
