"""Bit by bit: whatever training changes is put back."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipelines.config import RunConfig
from pipelines.data.loaders import Loaders
from pipelines.optimizers import make_optimizer
from pipelines.snapshot import ModelState, RandomState, Snapshot

__all__: list[str] = []

LoadersMaker = Callable[..., Loaders]


class Odd(nn.Module):
    """Buffers of every kind, a shared weight, a frozen one, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.second = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.second.weight
        self.frozen = nn.Linear(8, 3).requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()), persistent=False)
        self.register_buffer("average", torch.zeros(8))
        self.register_buffer("nothing", None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.first(x.flatten(1))))
        if self.training:
            self.calls += 1
            self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)  # a new tensor
        return self.frozen(self.tied(self.second(x)))


def bits(model: nn.Module) -> dict[str, bytes]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: t.detach().numpy().tobytes() for name, t in tensors}


def optimizer_bits(optimizer: torch.optim.Optimizer) -> Any:
    state = optimizer.state_dict()
    moments = {
        (index, name): value.numpy().tobytes() if isinstance(value, Tensor) else value
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    return moments, state["param_groups"]


def draws() -> list[Any]:
    return [
        torch.rand(3).tolist(),
        np.random.rand(3).tolist(),  # noqa: NPY002 - the global state is what is tested
        random.random(),
    ]


def work(model: nn.Module, optimizer: torch.optim.Optimizer, loaders: Loaders) -> list[float]:
    model.train()
    losses = []
    for x, y in loaders.train:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("begun", [False, True], ids=["fresh", "in mid-run"])
def test_restored_state_is_bit_identical_and_goes_on_alike(
    loaders: LoadersMaker, name: str, begun: bool
) -> None:
    torch.manual_seed(0)
    model, three = Odd(), loaders()
    optimizer = make_optimizer(model, RunConfig(optimizer=name))
    if begun:
        work(model, optimizer, three)
    model.norm.eval()
    snapshot = Snapshot(model, optimizer, three.train)
    before = bits(model), optimizer_bits(optimizer), [p.grad for p in model.parameters()]
    objects = [*model.parameters(), *model.buffers()]
    expected = work(model, optimizer, three)
    after = bits(model)
    optimizer.param_groups[0]["lr"] = 77.0
    draws()
    snapshot.restore()
    assert (bits(model), optimizer_bits(optimizer)) == before[:2]
    assert all(p.grad is g for p, g in zip(model.parameters(), before[2], strict=True))
    kept = zip([*model.parameters(), *model.buffers()], objects, strict=True)
    assert all(now is then for now, then in kept)
    assert [m.training for m in (model, model.norm, model.drop)] == [True, False, True]
    assert model.tied.weight is model.second.weight
    assert work(model, optimizer, three) == expected
    assert bits(model) == after


def test_restore_works_twice(loaders: LoadersMaker) -> None:
    model, three = Odd(), loaders()
    optimizer = make_optimizer(model, RunConfig())
    snapshot = Snapshot(model, optimizer, three.train)
    seen = []
    for _ in range(2):
        seen.append(work(model, optimizer, three))
        snapshot.restore()
    assert seen[0] == seen[1]
    assert optimizer.state_dict()["state"] == {}


def test_memory_format_stays() -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    state = ModelState(model)
    nn.init.zeros_(model.weight)
    state.restore()
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    assert bool(model.weight.detach().abs().sum() > 0)


def test_a_replaced_parameter_is_put_back() -> None:
    model = nn.Linear(2, 2)
    weight = model.weight
    state = ModelState(model)
    model.weight = nn.Parameter(torch.zeros(2, 2))
    state.restore()
    assert model.weight is weight


def test_random_states() -> None:
    state = RandomState()
    first = draws()
    assert draws() != first
    state.restore()
    assert draws() == first
