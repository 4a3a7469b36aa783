"""The summary: every parameter once, buffers apart, and a model that is left as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.config import RunConfig
from pipelines.models import build_model
from pipelines.summary import LayerSummary, ModelSummary, summarize

__all__: list[str] = []


def layer(summary: ModelSummary, name: str) -> LayerSummary:
    (found,) = [layer for layer in summary.layers if layer.name == name]
    return found


def numbers(item: LayerSummary | ModelSummary) -> tuple[int, int, int]:
    return item.trainable, item.frozen, item.buffers


@pytest.fixture
def digits_net() -> nn.Module:
    torch.manual_seed(0)
    return build_model(RunConfig(), (1, 28, 28), 10)


def test_totals_and_layers_of_the_default_network(digits_net: nn.Module) -> None:
    summary = summarize(digits_net, torch.zeros(1, 1, 28, 28))
    # Of each channel: running mean and variance; of each norm: the number of batches.
    assert numbers(summary) == (30_542, 0, 2 * 130 + 5)
    first = layer(summary, "conv1.conv")
    assert (first.kind, first.output_shape) == ("Conv2d", (8, 14, 14))
    assert first.shapes == {"weight": (8, 1, 5, 5), "bias": (8,)}
    assert numbers(first) == (208, 0, 0)
    norm = layer(summary, "conv1.norm")
    assert norm.shapes == {
        "weight": (8,),
        "bias": (8,),
        "running_mean": (8,),
        "running_var": (8,),
        "num_batches_tracked": (),
    }
    assert numbers(norm) == (16, 0, 17)
    assert numbers(layer(summary, "conv1.relu")) == (0, 0, 0)
    assert layer(summary, "head.flatten").output_shape == (10,)
    assert [item.name for item in summary.layers][:3] == ["conv1.conv", "conv1.relu", "conv1.norm"]
    assert "conv1" not in [item.name for item in summary.layers]


def test_frozen_parameters_are_counted_apart(digits_net: nn.Module) -> None:
    digits_net.conv1.requires_grad_(False)
    digits_net.conv2.conv.bias.requires_grad_(False)
    summary = summarize(digits_net, torch.zeros(1, 1, 28, 28))
    assert numbers(summary)[:2] == (30_542 - 224 - 16, 224 + 16)
    assert numbers(layer(summary, "conv2.conv")) == (1152, 16, 0)


class Odd(nn.Module):
    """Shared weights, own parameters beside children, one layer never called and one twice."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.first = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3, bias=False)
        self.tied.weight = self.first.weight
        self.again = self.first
        self.unused = nn.Linear(3, 100)
        self.block = nn.Module()
        self.block.empty = nn.Sequential()
        self.register_buffer("hidden", torch.zeros(7), persistent=False)
        self.register_buffer("first_mean", self.hidden)

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = self.first(x * self.scale)
        x = self.again(x)
        return {"ids": x.argmax(1), "scores": [self.tied(x)]}


def test_shared_parameters_are_counted_once_in_the_totals() -> None:
    summary = summarize(Odd(), torch.zeros(1, 3))
    assert numbers(layer(summary, "first")) == (12, 0, 0)
    assert numbers(layer(summary, "tied")) == (9, 0, 0)
    assert numbers(layer(summary, "unused")) == (400, 0, 0)
    assert numbers(summary) == (3 + 12 + 400, 0, 7)
    assert summary.trainable == sum(p.numel() for p in Odd().parameters())


def test_parameters_beside_children_and_modules_that_are_not_called() -> None:
    summary = summarize(Odd(), torch.zeros(1, 3))
    names = [item.name for item in summary.layers]
    assert names == ["model", "first", "tied", "unused", "block.empty"]
    assert layer(summary, "model").shapes == {"scale": (3,), "hidden": (7,)}
    assert layer(summary, "model").output_shape == (3,)
    assert layer(summary, "unused").output_shape is None
    assert layer(summary, "block.empty").output_shape is None


def test_a_model_without_children_is_one_layer() -> None:
    (only,) = summarize(nn.Linear(3, 2), torch.zeros(1, 3)).layers
    assert (only.name, only.kind, only.output_shape) == ("model", "Linear", (2,))


def test_the_model_is_left_as_it_was(digits_net: nn.Module) -> None:
    digits_net.train()
    digits_net.conv2.eval()
    modes = [module.training for module in digits_net.modules()]
    before = {name: tensor.clone() for name, tensor in digits_net.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    summarize(digits_net, torch.randn(4, 1, 28, 28, generator=torch.Generator()))
    assert torch.rand(1) == expected
    assert [module.training for module in digits_net.modules()] == modes
    assert all(tensor.equal(before[name]) for name, tensor in digits_net.state_dict().items())
    assert not any(module._forward_hooks for module in digits_net.modules())
    assert all(p.grad is None for p in digits_net.parameters())


def test_hooks_and_modes_are_put_back_when_the_model_fails(digits_net: nn.Module) -> None:
    with pytest.raises(RuntimeError):
        summarize(digits_net, torch.zeros(1, 5, 28, 28))
    assert all(module.training for module in digits_net.modules())
    assert not any(module._forward_hooks for module in digits_net.modules())


def test_text_shows_layers_shapes_and_totals(
    digits_net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    text = summarize(digits_net, torch.zeros(1, 1, 28, 28)).to_text()
    lines = text.splitlines()
    assert "\x1b" not in text
    assert max(map(len, lines)) <= 140
    for heading in ("layer", "output", "trainable", "frozen", "buffers"):
        assert heading in lines[1]
    (first,) = [line for line in lines if "conv1.conv" in line]
    assert "8x14x14" in first
    assert "weight 8x1x5x5, bias 8" in first
    assert "208" in first
    (total,) = [line for line in lines if "total" in line]
    assert "30,542" in total
    assert "265" in total
    assert "num_batches_tracked scalar" in text


def test_text_shows_names_as_they_are() -> None:
    model = nn.Sequential()
    model.add_module("[bold]a[0]:smile:", nn.Linear(3, 2))
    text = summarize(model, torch.zeros(1, 3)).to_text()
    assert "[bold]a[0]:smile:" in text
    assert "not called" not in text


def test_text_says_what_was_not_called() -> None:
    text = summarize(Odd(), torch.zeros(1, 3)).to_text()
    assert "not called" in next(line for line in text.splitlines() if "unused" in line)


def test_plain_values_for_json(digits_net: nn.Module) -> None:
    summary = summarize(digits_net, torch.zeros(1, 1, 28, 28))
    back = json.loads(json.dumps(summary.to_dict()))
    assert (back["trainable"], back["frozen"], back["buffers"]) == numbers(summary)
    assert [item["name"] for item in back["layers"]] == [item.name for item in summary.layers]
    assert back["layers"][0]["shapes"]["weight"] == [8, 1, 5, 5]


@pytest.mark.parametrize("make", [lambda: nn.LSTM(3, 4), lambda: nn.MultiheadAttention(4, 2)])
def test_modules_with_several_outputs(make: Callable[[], nn.Module]) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make()

        def forward(self, x: Tensor) -> Tensor:
            inputs = (x,) if isinstance(self.inner, nn.LSTM) else (x, x, x)
            return self.inner(*inputs)[0]

    size = 3 if isinstance(make(), nn.LSTM) else 4
    summary = summarize(Wrapped(), torch.zeros(1, 5, size))
    assert layer(summary, "inner").output_shape == (5, 4)
    assert summary.trainable == sum(p.numel() for p in make().parameters())
