"""Running statistics beside those of validation batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tracking.batch_norms import NormStats
from tracking.diagnosis.evidence import NormFigures

__all__: list[str] = []


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU())


def test_distances_are_those_of_the_formulas() -> None:
    model = network()
    x = torch.randn(8, 1, 6, 6)
    with torch.no_grad():
        y = model[0](x)
    mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3))
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean + torch.tensor([1.0, 0.0, -2.0]))
    norm.running_var.copy_(var * 4)
    found: list[NormFigures] = []
    with NormStats(model, found.append), torch.no_grad():
        model.eval()(x)
    [one] = found
    shift = torch.tensor([-1.0, 0.0, 2.0]) / (4 * var + norm.eps).sqrt()
    assert (one.layer, one.step) == ("1", 0)
    assert one.shift == pytest.approx(float(shift.square().mean().sqrt()), rel=1e-4)
    scale = ((var + norm.eps) / (4 * var + norm.eps)).log()
    assert one.scale == pytest.approx(float(scale.square().mean().sqrt()), rel=1e-4)


def test_one_look_for_each_validation_and_none_in_training() -> None:
    model, found = network(), []
    stats = NormStats(model, found.append)
    with stats:
        model.train()(torch.randn(4, 1, 6, 6))
        for step in (5, 9):
            stats.current_step = step
            model.eval()
            for _ in range(3):
                model(torch.randn(4, 1, 6, 6))
    assert [one.step for one in found] == [5, 9]
    assert not model[1]._forward_pre_hooks


def test_layers_without_running_statistics_and_tiny_batches_are_left_out() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.GroupNorm(1, 3))
    found: list[NormFigures] = []
    with NormStats(model, found.append):
        model.eval()(torch.randn(1, 3))
        assert found == []
        model(torch.randn(5, 3))
    assert [one.layer for one in found] == ["0"]
    own = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False))
    with NormStats(own, found.append):
        own.eval()(torch.randn(5, 3))
    assert len(found) == 1
