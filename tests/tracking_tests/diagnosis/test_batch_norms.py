"""Running statistics beside those of validation batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tracking.diagnosis.batch_norms import NormStats
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
    stats = NormStats(model, found.append)
    stats.before_forward(training=False)
    with torch.no_grad():
        model.eval()(x)
    [one] = found
    shift = torch.tensor([-1.0, 0.0, 2.0]) / (4 * var + norm.eps).sqrt()
    assert (one.layer, one.step) == ("1", 0)
    assert one.shift == pytest.approx(float(shift.square().mean().sqrt()), rel=1e-4)
    scale = ((var + norm.eps) / (4 * var + norm.eps)).log()
    assert one.scale == pytest.approx(float(scale.square().mean().sqrt()), rel=1e-4)


def passes(stats: NormStats, model: nn.Module, *batches: torch.Tensor) -> None:
    for x in batches:
        stats.before_forward(model.training)
        model(x)


def test_one_look_for_each_validation_and_hooks_in_its_first_pass_alone() -> None:
    model = network()
    found: list[NormFigures] = []
    stats = NormStats(model, found.append)
    batches = [torch.randn(4, 1, 6, 6) for _ in range(3)]
    for step in (5, 9):
        passes(stats, model.train(), *batches)
        assert not model[1]._forward_pre_hooks
        stats.current_step = step
        passes(stats, model.eval(), batches[0])
        assert len(model[1]._forward_pre_hooks) == 1
        passes(stats, model, *batches)
        assert not model[1]._forward_pre_hooks
    assert [(one.step, one.samples, one.values) for one in found] == [(5, 4, 64), (9, 4, 64)]
    passes(stats, model.train(), batches[0])
    stats.close()
    stats.close()
    assert not model[1]._forward_pre_hooks


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_compiled_model_is_looked_at_in_each_validation_too() -> None:
    torch.compiler.reset()
    model = network()
    found: list[NormFigures] = []
    stats = NormStats(model, found.append)
    stats.attach()
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    batches = [torch.randn(4, 1, 6, 6) for _ in range(3)]
    for step in (5, 9):
        for mode in (True, False):
            model.train(mode)
            stats.current_step = step
            for x in batches:
                stats.before_forward(mode, compiled=True)
                compiled(x)
    stats.close()
    assert [(one.step, one.samples, one.values) for one in found] == [(5, 4, 64), (9, 4, 64)]
    assert not model[1]._forward_pre_hooks
    model.train()
    compiled(batches[0])
    assert len(found) == 2


def test_layers_without_running_statistics_and_tiny_batches_are_left_out() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.GroupNorm(1, 3)).eval()
    found: list[NormFigures] = []
    stats = NormStats(model, found.append)
    passes(stats, model, torch.randn(1, 3))
    stats.close()
    assert found == []
    passes(NormStats(model, found.append), model, torch.randn(5, 3))
    assert [(one.layer, one.samples) for one in found] == [("0", 0)]
    own = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)).eval()
    passes(NormStats(own, found.append), own, torch.randn(5, 3))
    assert len(found) == 1
