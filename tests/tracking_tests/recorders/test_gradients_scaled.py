"""Gradients of a scaled loss, as fp16 needs it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.tracking_tests.flow import assert_gradients, output_gradients
from tests.tracking_tests.models import batches, cnn, rows, sgd
from tracking.recorders.gradients import GradientStats

__all__: list[str] = []


@pytest.mark.parametrize("scale", [1.0, 1024.0, 2.0**-3])
def test_the_scale_of_the_loss_is_divided_out(scale: float) -> None:
    model = cnn()
    optimizer = sgd(model)
    x, y = batches(2)
    expected = [output_gradients(model, z) for z in (x, y)]
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    with GradientStats(model, optimizer=optimizer, scaler=scaler) as stats:
        for z in (x, y):
            scaler.scale(model(z).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    found = rows(stats.read())
    assert [row["layer"] for row in found] == ["1", "3"]
    for row in found:
        assert_gradients(row, [gradients[row["layer"]] for gradients in expected])


def test_half_precision_with_a_scaler() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    x = torch.randn(4, 6)
    expected = output_gradients(model, x)
    with GradientStats(model, optimizer=optimizer, scaler=scaler) as stats:
        with torch.autocast("cpu", dtype=torch.float16):
            y = model(x)
        assert y.dtype is torch.float16
        scaler.scale(y.float().square().mean()).backward()
        scaler.step(optimizer)
    found = {row["layer"]: row for row in rows(stats.read())}
    for name, row in found.items():
        assert row["norm"] == pytest.approx(expected[name].norm().item(), rel=0.01)


def test_a_scaler_that_is_not_enabled_changes_nothing() -> None:
    x = batches(1)[0]
    tables = []
    for scaler in (None, torch.amp.GradScaler("cpu", enabled=False)):
        model = cnn()
        with GradientStats(model, scaler=scaler) as stats:
            model(x).square().mean().backward()
            stats.step()
        tables.append(rows(stats.read()))
    assert tables[0] == tables[1]
    assert len(tables[0]) == 2


def test_a_skipped_update_ends_no_step() -> None:
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with GradientStats(model, optimizer=optimizer, scaler=scaler, layers="^3$") as stats:
        for factor in (1.0, torch.inf, 1.0):
            optimizer.zero_grad()
            scaler.scale(model(batches(1)[0]).square().mean() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
    found = [(row["step"], row["count"], row["nonfinite"]) for row in rows(stats.read())]
    assert found == [(0, 15, 0), (1, 30, 15)]
