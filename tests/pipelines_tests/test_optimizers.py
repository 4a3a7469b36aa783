"""Parameter groups, and that a group's values are what the update really uses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.config import RunConfig
from pipelines.optimizers import apply_values, make_optimizer
from pipelines.schedules import ScheduleValues, make_schedule
from tracking.errors import BadModel

OPTIMIZERS = ("sgd", "adam", "adamw")
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


class Net(nn.Module):
    """Two convolutions with batch norm, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 8, 3, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu())).relu()
        scores: torch.Tensor = self.head(x.mean(dim=(2, 3)))
        return scores


class OneWeight(nn.Module):
    """A single 2-d weight, so that the update can be followed by hand."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 1), value, dtype=torch.float64))


def names_by_group(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        group["name"]: [names[id(parameter)] for parameter in group["params"]]
        for group in optimizer.param_groups
    }


def train(optimizer: torch.optim.Optimizer, weight: nn.Parameter, rows: list[Any]) -> list[float]:
    """Steps with (lr, momentum, gradient) given; the weight after each."""
    after = []
    for lr, momentum, gradient in rows:
        apply_values(optimizer, ScheduleValues(lr, momentum))
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        after.append(weight.item())
    return after


# -- bad input --


@every_optimizer
@pytest.mark.parametrize("model", [nn.ReLU(), nn.Conv2d(1, 4, 3).requires_grad_(False)])
def test_model_without_trainable_parameters_is_refused(name: str, model: nn.Module) -> None:
    with pytest.raises(BadModel, match="has no trainable parameters") as caught:
        make_optimizer(model, RunConfig(optimizer=name))
    assert "\n" not in str(caught.value)
    assert type(model).__name__ in str(caught.value)


# -- groups --


@every_optimizer
def test_norms_and_biases_do_not_decay(name: str) -> None:
    model = Net()
    optimizer = make_optimizer(model, RunConfig(optimizer=name, weight_decay=0.05))
    assert names_by_group(model, optimizer) == {
        "weights": ["conv1.weight", "conv2.weight", "head.weight"],
        "norms_and_biases": [
            "conv1.bias",
            "norm1.weight",
            "norm1.bias",
            "norm2.weight",
            "norm2.bias",
            "head.bias",
        ],
    }
    decay = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decay == {"weights": 0.05, "norms_and_biases": 0.0}


def test_norms_and_biases_decay_on_request() -> None:
    optimizer = make_optimizer(Net(), RunConfig(weight_decay=0.05, decay_norm_bias=True))
    decay = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decay == {"weights": 0.05, "norms_and_biases": 0.05}


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm((4, 6, 6)),
        nn.RMSNorm((4, 6, 6)),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
    ],
)
def test_all_parameters_of_a_norm_do_not_decay(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), norm)
    groups = names_by_group(model, make_optimizer(model, RunConfig()))
    assert groups["weights"] == ["0.weight"]
    assert groups["norms_and_biases"] == [f"1.{name}" for name, _ in norm.named_parameters()]


def test_scalar_parameters_do_not_decay() -> None:
    model = OneWeight()
    model.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    groups = names_by_group(model, make_optimizer(model, RunConfig()))
    assert groups == {"weights": ["weight"], "norms_and_biases": ["scale"]}


def test_frozen_parameters_are_left_out() -> None:
    model = Net()
    model.conv1.requires_grad_(False)
    model.norm1.weight.requires_grad_(False)
    groups = names_by_group(model, make_optimizer(model, RunConfig()))
    assert groups["weights"] == ["conv2.weight", "head.weight"]
    assert groups["norms_and_biases"] == ["norm1.bias", "norm2.weight", "norm2.bias", "head.bias"]


@pytest.mark.parametrize(
    ("model", "group"),
    [(nn.Linear(3, 2, bias=False), "weights"), (nn.BatchNorm1d(3), "norms_and_biases")],
)
def test_empty_group_is_left_out(model: nn.Module, group: str) -> None:
    assert list(names_by_group(model, make_optimizer(model, RunConfig()))) == [group]


def test_shared_parameters_are_not_duplicated() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(first, nn.ReLU(), second, first)
    optimizer = make_optimizer(model, RunConfig())
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(parameters) == len({id(p) for p in parameters}) == 3


# -- options --


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_options_reach_every_group(name: str, kind: type[torch.optim.Optimizer]) -> None:
    config = RunConfig(
        optimizer=name, lr_max=0.3, momentum_max=0.8, momentum_min=0.1, beta2=0.7, eps=0.02
    )
    optimizer = make_optimizer(Net(), config)
    assert type(optimizer) is kind
    assert len(optimizer.param_groups) == 2
    for group in optimizer.param_groups:
        assert group["lr"] == 0.3
        if name == "sgd":
            assert (group["momentum"], group["nesterov"]) == (0.8, True)
        else:
            assert (group["betas"], group["eps"]) == ((0.8, 0.7), 0.02)


# -- values --


@every_optimizer
def test_values_reach_every_group_and_nothing_else(name: str) -> None:
    optimizer = make_optimizer(Net(), RunConfig(optimizer=name))
    before = [dict(group) for group in optimizer.param_groups]
    apply_values(optimizer, ScheduleValues(lr=0.125, momentum=0.5))
    written = {"lr": 0.125} | (
        {"momentum": 0.5} if name == "sgd" else {"betas": (0.5, RunConfig().beta2)}
    )
    assert len(optimizer.param_groups) == 2
    for group, old in zip(optimizer.param_groups, before, strict=True):
        assert {key: group[key] for key in group if key != "params"} == {
            key: written.get(key, old[key]) for key in old if key != "params"
        }


@every_optimizer
def test_learning_rate_zero_leaves_weights_untouched(name: str) -> None:
    torch.manual_seed(0)
    model = Net()
    optimizer = make_optimizer(model, RunConfig(optimizer=name, weight_decay=0.1))
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def step(lr: float) -> list[bool]:
        apply_values(optimizer, ScheduleValues(lr, 0.9))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return [torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]

    assert all(step(0.0))
    assert not any(step(0.1))


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_follows_the_momentum_it_is_given(nesterov: bool) -> None:
    model = OneWeight()
    config = RunConfig(optimizer="sgd", nesterov=nesterov, weight_decay=0.01)
    rows = [(0.1, 0.95, 1.0), (0.2, 0.85, -0.5), (0.3, 0.5, 2.0), (0.05, 0.9, 0.1)]
    weight, buffer, expected = 1.0, 0.0, []
    for lr, momentum, gradient in rows:
        gradient += 0.01 * weight
        buffer = momentum * buffer + gradient
        weight -= lr * (gradient + momentum * buffer if nesterov else buffer)
        # torch begins its buffer with the gradient itself, which is the same: buffer = 0 before.
        expected.append(weight)
    actual = train(make_optimizer(model, config), model.weight, rows)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_follows_the_beta1_it_is_given(name: str) -> None:
    model = OneWeight()
    config = RunConfig(optimizer=name, weight_decay=0.01, beta2=0.98, eps=1e-3)
    rows = [(0.1, 0.95, 1.0), (0.2, 0.85, -0.5), (0.3, 0.0, 2.0), (0.05, 0.9, 0.1)]
    weight, mean, square, expected = 1.0, 0.0, 0.0, []
    for step, (lr, beta1, gradient) in enumerate(rows, start=1):
        if name == "adam":
            gradient += 0.01 * weight
        else:
            weight -= lr * 0.01 * weight
        mean = beta1 * mean + (1 - beta1) * gradient
        square = 0.98 * square + 0.02 * gradient**2
        root = math.sqrt(square / (1 - 0.98**step))
        weight -= lr * mean / (1 - beta1**step) / (root + 1e-3)
        expected.append(weight)
    actual = train(make_optimizer(model, config), model.weight, rows)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


@every_optimizer
def test_decay_shrinks_weights_and_spares_norms(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    optimizer = make_optimizer(model, RunConfig(optimizer=name, weight_decay=0.5))
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    apply_values(optimizer, ScheduleValues(0.01, 0.9))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(model.named_parameters())
    assert (after["0.weight"].abs() < before["0.weight"].abs()).all()
    for key in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(after[key], before[key])


# -- momentum zero --


def test_nesterov_without_momentum_is_plain_sgd() -> None:
    config = RunConfig(optimizer="sgd", nesterov=True, momentum_max=0, momentum_min=0)
    model = OneWeight()
    rows = [(0.1, 0.0, 1.0), (0.2, 0.0, -0.5)]
    actual = train(make_optimizer(model, config), model.weight, rows)
    decay = 1 - 0.1 * config.weight_decay
    first = decay - 0.1
    second = first * (1 - 0.2 * config.weight_decay) + 0.1
    np.testing.assert_allclose(actual, [first, second], rtol=1e-12)


@pytest.mark.parametrize("schedule", ["one_cycle", "triangular", "cosine"])
def test_schedule_may_reach_momentum_zero(schedule: str) -> None:
    config = RunConfig(optimizer="sgd", schedule=schedule, momentum_min=0, weight_decay=0)
    values = [make_schedule(config, 12)(step) for step in range(12)]
    zero = [step for step, value in enumerate(values) if value.momentum == 0]
    assert zero, "the test is about steps without momentum"
    model = OneWeight()
    weights = [
        1.0,
        *train(make_optimizer(model, config), model.weight, [(*v, 1.0) for v in values]),
    ]
    for step in zero:
        assert weights[step] - weights[step + 1] == pytest.approx(values[step].lr)
    assert np.isfinite(weights).all()
    assert (np.diff(weights) < 0).all()


# -- correctness of the implementation chosen --


@every_optimizer
def test_memory_format_of_gradients_and_weights_may_differ(name: str) -> None:
    # torch.compile and loaded checkpoints make them differ; fused kernels then mix elements up.
    results = []
    for weight_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 5, 3, bias=False).to(memory_format=weight_format)
        optimizer = make_optimizer(conv, RunConfig(optimizer=name))
        for _ in range(3):
            conv.weight.grad = torch.randn(5, 3, 3, 3)
            optimizer.step()
        results.append(conv.weight.detach().contiguous())
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-6)


@every_optimizer
def test_two_runs_are_bit_identical(name: str) -> None:
    def run() -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = Net()
        config = RunConfig(optimizer=name)
        optimizer, schedule = make_optimizer(model, config), make_schedule(config, 8)
        for step in range(8):
            apply_values(optimizer, schedule(step))
            loss = model(torch.randn(6, 1, 9, 9)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return [parameter.detach().clone() for parameter in model.parameters()]

    first, second = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
