from __future__ import annotations

import re
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tracking.errors import BadOption
from tracking.hooks.layers import (
    check_layers,
    inner_model,
    matching_layers,
    named_layers,
    select_layers,
)

__all__: list[str] = []


class Scale(nn.Module):
    """Has a parameter and a child: neither a leaf nor a known kind of layer."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x * self.factor)


def model() -> nn.Sequential:
    first = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2)))
    return nn.Sequential(
        OrderedDict(
            first=first,
            act=nn.ReLU(),
            drop=nn.Dropout(),
            scale=Scale(),
            attention=nn.MultiheadAttention(2, 1),
            act2=nn.GELU(),
            head=nn.Linear(2, 2),
            soft=nn.LogSoftmax(dim=1),
        )
    )


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("activations", ["act", "scale.gate", "act2", "head", "soft"]),
        (
            "params",
            ["first.conv", "first.norm", "scale", "attention", "attention.out_proj", "head"],
        ),
        (
            "all",
            [
                *("first.conv", "first.norm", "act", "drop", "scale.gate"),
                *("attention.out_proj", "act2", "head", "soft"),
            ],
        ),
        ("act", ["act", "act2"]),
        (r"^act$", ["act"]),
        (r"\.conv|head", ["first.conv", "head"]),
        ("first", ["first", "first.conv", "first.norm"]),
    ],
)
def test_selects_in_the_order_of_the_model(layers: str, names: list[str]) -> None:
    root = model()
    chosen = select_layers(root, layers)
    assert list(chosen) == names
    modules = dict(root.named_modules())
    assert all(chosen[name] is modules[name] for name in names)


def test_a_model_that_is_one_module_is_called_model() -> None:
    relu, linear = nn.ReLU(), nn.Linear(2, 2)
    assert select_layers(relu, "activations") == {"model": relu}
    assert select_layers(linear, "activations") == {"model": linear}
    assert select_layers(linear, "params") == {"model": linear}


def test_a_child_called_model_does_not_hide_the_model_itself() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.model = nn.Linear(2, 2)

    wrapper = Wrapper()
    assert select_layers(wrapper, "params") == {"(model)": wrapper, "model": wrapper.model}
    assert [*named_layers(nn.Sequential(nn.ReLU()))] == ["model", "0"]


def test_the_last_layer_with_parameters_may_be_a_non_linearity() -> None:
    prelu = nn.Sequential(nn.Linear(2, 2), nn.PReLU())
    assert list(select_layers(prelu, "activations")) == ["1"]


# Its being deprecated does not make it disappear.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_what_torch_jit_has_compiled_is_left_out() -> None:
    scripted = torch.jit.script(nn.Linear(3, 3))
    mixed = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), scripted)
    assert list(select_layers(mixed, "all")) == ["0", "1"]
    assert list(select_layers(mixed, "activations")) == ["0", "1"]
    for whole in (scripted, torch.jit.script(nn.Sequential(nn.ReLU()))):
        with pytest.raises(BadOption, match=r"^model: torch\.jit has compiled it"):
            inner_model(whole)


def test_a_shared_module_goes_by_its_first_name() -> None:
    relu = nn.ReLU()
    shared = nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu)
    assert list(select_layers(shared, "activations")) == ["1", "2"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("layers", "expected"),
    [("activations", ["1", "2"]), ("params", ["0", "2"]), ("all", ["0", "1", "2"]), (".", None)],
)
def test_what_makes_a_weight_is_no_layer(
    layers: str, expected: list[str] | None, bias: bool
) -> None:
    head = weight_norm(nn.Linear(2, 2, bias=bias))
    root = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), head)
    assert list(select_layers(root, layers)) == (expected or ["0", "1", "2"])


@pytest.mark.parametrize(
    ("root", "layers", "there"),
    [
        (nn.Sequential(OrderedDict(fc=nn.Linear(2, 2))), "relu", "model, fc"),
        (nn.Sequential(nn.Flatten(), nn.Flatten()), "activations", "model, 0, 1"),
        (nn.Sequential(nn.ReLU()), "params", "model, 0"),
        (nn.ReLU(), "all", "model"),
        (nn.Sequential(), "all", "model"),
    ],
)
def test_what_matches_nothing_is_refused_with_the_names_there_are(
    root: nn.Module, layers: str, there: str
) -> None:
    expected = f"layers={layers}: matches no module of the model; it has: {there}"
    with pytest.raises(BadOption, match=f"^{re.escape(expected)}$"):
        select_layers(root, layers)
    assert matching_layers(root, layers) == {}


@pytest.mark.parametrize("layers", ["(", "[a", "*relu", "a(?P<b"])
def test_a_malformed_expression_is_refused(layers: str) -> None:
    for check in (check_layers, lambda x: select_layers(model(), x)):
        with pytest.raises(BadOption, match="not a regular expression") as caught:
            check(layers)
        message = str(caught.value)
        assert message.startswith(f"layers={layers}: ")
        assert "allowed: activations, params, all, or an expression" in message
        assert "\n" not in message
