"""What each step changes in each parameter, against the weights before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from tests.tracking_tests.flow import NoWaiting, assert_updates, weights
from tests.tracking_tests.models import batches, cnn, rows, sgd
from tests.tracking_tests.reference import any_tensor
from tracking.recorders import updates
from tracking.recorders.updates import UpdateStats
from tracking.statistics.norms import torch_update_sums

__all__: list[str] = []

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=False),
    "sgd foreach": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1, foreach=True),
    "adam fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "adamw capturable": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), foreach=False),
}


class Put(torch.optim.Optimizer):
    """Sets every parameter to what its gradient holds."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 1.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(p.grad)


def one(weight: Tensor) -> nn.Module:
    model = nn.Module()
    model.weight = nn.Parameter(weight.clone())
    return model


@settings(max_examples=60)
@given(any_tensor())
def test_any_change_of_any_weight(after: Tensor) -> None:
    before = torch.where(after.isnan(), after, -after * 0.75 + 0.5)
    before.flatten()[::3].zero_()
    model = one(before)
    optimizer = Put(model.parameters())
    with UpdateStats(model, optimizer) as stats:
        model.weight.grad = after.contiguous()
        optimizer.step()
    [row] = rows(stats.read())
    assert (row["step"], row["parameter"]) == (0, "weight")
    assert_updates(row, before, after)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_training_run(name: str, dtype: torch.dtype) -> None:
    model = cnn().to(dtype)
    head, body = list(model[3].parameters()), list(model[0].parameters())
    optimizer = OPTIMIZERS[name]([{"params": head}, {"params": body, "lr": 0.001}])
    seen = [weights(model)]
    with UpdateStats(model, optimizer, every=2) as stats:
        for x in batches(5):
            optimizer.zero_grad()
            model(x.to(dtype)).square().mean().backward()
            optimizer.step()
            seen.append(weights(model))
    found = rows(stats.read())
    names = ("0.weight", "0.bias", "3.weight", "3.bias")
    assert stats.parameters == names
    assert [(row["step"], row["parameter"]) for row in found] == [
        (step, parameter) for step in (0, 2, 4) for parameter in names
    ]
    for row in found:
        step, parameter = row["step"], row["parameter"]
        assert_updates(row, seen[step][parameter], seen[step + 1][parameter])
        assert row["ratio"] > 0


def test_bfloat16_weights_that_a_step_is_too_small_for() -> None:
    model = one(torch.full((8,), 256.0, dtype=torch.bfloat16))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with UpdateStats(model, optimizer) as stats:
        model.weight.grad = torch.ones(8, dtype=torch.bfloat16)
        optimizer.step()
    [row] = rows(stats.read())
    assert (row["update_norm"], row["ratio"]) == (0, 0)
    assert row["weight_norm"] == pytest.approx(256 * 8**0.5)


def test_a_ratio_to_nothing_is_null() -> None:
    model = nn.Linear(2, 2)
    nn.init.zeros_(model.bias)
    optimizer = sgd(model)
    with UpdateStats(model, optimizer) as stats:
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    found = {row["parameter"]: row for row in rows(stats.read())}
    assert found["bias"]["update_norm"] == pytest.approx(0.05 * 2**0.5)
    assert (found["bias"]["weight_norm"], found["bias"]["ratio"]) == (0, None)
    assert found["weight"]["ratio"] > 0


def test_weights_that_become_no_numbers() -> None:
    model = one(torch.tensor([3.0, 4.0, 0.0]))
    optimizer = Put(model.parameters())
    values = [[3.0, torch.nan, 1.0], [torch.nan] * 3, [1.0] * 3]
    with UpdateStats(model, optimizer) as stats:
        for value in values:
            model.weight.grad = torch.tensor(value)
            optimizer.step()
    first, second, third = rows(stats.read())
    assert (first["update_norm"], first["weight_norm"], first["nonfinite"]) == (1, 5, 1)
    assert (second["update_norm"], second["ratio"], second["nonfinite"]) == (None, None, 3)
    assert second["weight_norm"] == pytest.approx(10**0.5)
    assert (third["weight_norm"], third["ratio"], third["nonfinite"]) == (None, None, 3)


def test_only_what_is_trained_by_this_optimizer_is_recorded() -> None:
    model = cnn()
    model[0].bias.requires_grad_(False)
    optimizer = torch.optim.SGD([model[0].weight, model[0].bias, torch.zeros(3)], lr=0.1)
    with UpdateStats(model, optimizer) as stats:
        model(batches(1)[0]).sum().backward()
        optimizer.step()
        optimizer.add_param_group({"params": [model[3].bias]})
        optimizer.step()
    assert [(row["step"], row["parameter"]) for row in rows(stats.read())] == [
        (0, "0.weight"),
        (1, "0.weight"),
        (1, "3.bias"),
    ]


def test_a_parameter_without_a_gradient_has_a_row_without_a_change() -> None:
    model = cnn()
    optimizer = sgd(model)
    with UpdateStats(model, optimizer) as stats:
        model[0](batches(1)[0]).sum().backward()
        optimizer.step()
    changed = {row["parameter"]: row["update_norm"] > 0 for row in rows(stats.read())}
    assert changed == {"0.weight": True, "0.bias": True, "3.weight": False, "3.bias": False}


def test_tied_weights_have_one_row() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    optimizer = sgd(model)
    with UpdateStats(model, optimizer) as stats:
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    assert [row["parameter"] for row in rows(stats.read())] == ["0.weight", "0.bias", "1.bias"]


def test_every_optimizer_has_its_own_records() -> None:
    model = cnn()
    body = torch.optim.SGD(model[0].parameters(), lr=0.1)
    head = torch.optim.Adam(model[3].parameters(), lr=0.1)
    with UpdateStats(model, body) as of_body, UpdateStats(model, head) as of_head:
        for x in batches(2):
            model(x).square().mean().backward()
            head.step()
            before = weights(model)
            body.step()
            head.step()
    last = {row["parameter"]: row for row in rows(of_body.read()) if row["step"] == 1}
    assert set(last) == {"0.weight", "0.bias"}
    for name, row in last.items():
        assert_updates(row, before[name], weights(model)[name])
    assert [row["step"] for row in rows(of_head.read())] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_is_not_recorded(fused: bool) -> None:
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    seen = [weights(model)]
    with UpdateStats(model, optimizer) as stats:
        for factor in (1.0, torch.inf, 1.0):
            optimizer.zero_grad()
            scaler.scale(model(batches(1)[0]).square().mean() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
            if factor == 1:
                seen.append(weights(model))
    found = rows(stats.read())
    assert [row["step"] for row in found] == [0] * 4 + [1] * 4
    for row in found:
        step, name = row["step"], row["parameter"]
        assert_updates(row, seen[step][name], seen[step + 1][name])


def test_a_loop_may_number_the_steps() -> None:
    model = cnn()
    optimizer = sgd(model)
    with UpdateStats(model, optimizer, every=2) as stats:
        for step in (0, 1, 5, 6, 8, 9):
            stats.current_step = step
            model(batches(1)[0]).sum().backward()
            optimizer.step()
    assert sorted({row["step"] for row in rows(stats.read())}) == [0, 5, 6, 8]


def test_a_closure_may_compute_the_gradients() -> None:
    model = cnn()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    before = weights(model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(batches(1)[0]).square().mean()
        loss.backward()
        return loss

    with UpdateStats(model, optimizer) as stats:
        optimizer.step(closure)
    for row in rows(stats.read()):
        assert_updates(row, before[row["parameter"]], weights(model)[row["parameter"]])
        assert row["update_norm"] > 0


def test_the_host_never_waits_between_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "update_sums", torch_update_sums)  # as on an accelerator
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with UpdateStats(model, optimizer, flush_every=100) as stats, NoWaiting():
        for x in batches(5):
            model(x).square().mean().backward()
            optimizer.step()
    assert len(stats.read()) == 5 * 4
