"""Activation checkpointing computes layers a second time, in backward; they count once."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tracking.recorders.activations import ActivationStats
from tracking.sink import MemorySink

__all__: list[str] = []


class Checkpointed(nn.Module):
    def __init__(self, *, use_reentrant: bool) -> None:
        super().__init__()
        self.use_reentrant = use_reentrant
        self.block = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(checkpoint(self.block, x, use_reentrant=self.use_reentrant))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_layer_that_is_computed_again_counts_once(use_reentrant: bool) -> None:
    torch.manual_seed(0)
    model = Checkpointed(use_reentrant=use_reentrant)
    with ActivationStats(model) as stats:
        model(torch.randn(5, 4, requires_grad=True)).sum().backward()
        stats.step()
    rows = {row["layer"]: row for row in stats.read().to_pylist()}
    assert rows["block.1"]["count"] == 5 * 8
    assert sum(rows["block.1"]["hist"]) == 5 * 8
    assert rows["head"]["count"] == 5 * 2


def test_metric_keys_have_only_what_mlflow_takes() -> None:
    model = nn.Sequential()
    model.add_module("act[0]", nn.ReLU())
    sink = MemorySink()
    with ActivationStats(model, layers="act", sink=sink) as stats:
        model(torch.ones(2, 3))
        stats.step()
    assert {metric.key.split("/")[1] for metric in sink.logged_metrics} == {"act_0_"}
    assert stats.read()["layer"].to_pylist() == ["act[0]"]
