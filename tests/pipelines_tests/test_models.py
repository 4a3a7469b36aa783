"""simple_cnn and resnet_small: counts by formula, stable names, every combination of options."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.config import RunConfig
from pipelines.models import build_model
from pipelines.optimizers import make_optimizer
from pipelines.summary import summarize
from tests.pipelines_tests.built import Shape, build, conv, count, refusal

__all__: list[str] = []

ONE_POSITION: Shape = (1, 16, 16)


def leaves(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if not list(module.children())]


# -- counts --


def test_fastbooks_network_has_its_parameters() -> None:
    assert count(build(norm="none")) == 30_282
    assert count(build(norm="batch")) == 30_542


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("first_kernel", "widths"), [(5, (8, 16, 32, 64)), (3, (6, 10))])
def test_each_layer_has_the_parameters_of_its_formula(
    norm: str, channels: int, first_kernel: int, widths: tuple[int, ...]
) -> None:
    model = build((channels, 28, 28), 7, norm=norm, first_kernel=first_kernel, widths=widths)
    found = {
        layer.name: layer for layer in summarize(model, torch.zeros(1, channels, 28, 28)).layers
    }
    inputs, total = channels, 0
    for index, (outputs, kernel) in enumerate(
        [(width, first_kernel if i == 0 else 3) for i, width in enumerate(widths)] + [(7, 3)], 1
    ):
        place = f"conv{index}" if index <= len(widths) else "head"
        expected = conv(kernel, inputs, outputs)
        assert found[f"{place}.conv"].trainable == expected
        if norm == "batch":
            assert found[f"{place}.norm"].trainable == 2 * outputs
            assert found[f"{place}.norm"].buffers == 2 * outputs + 1
            expected += 2 * outputs
        total += expected
        inputs = outputs
    assert count(model) == total


@pytest.mark.parametrize(
    ("downsample", "grid"), [("stride", (2, 2)), ("max", (1, 1)), ("avg", (1, 1))]
)
def test_heads_have_the_parameters_of_their_formula(downsample: str, grid: tuple[int, int]) -> None:
    gap = build(downsample=downsample, head="gap")
    linear = build(downsample=downsample, head="linear")
    assert count(gap.head) == 64 * 10 + 10
    assert count(linear.head) == 64 * math.prod(grid) * 10 + 10


def test_resnet_small_has_about_1_2_million() -> None:
    assert count(build(model="resnet_small")) == pytest.approx(1.2e6, rel=0.05)


# -- names --


def test_names_are_stable() -> None:
    assert leaves(build()) == [
        *("conv1.conv", "conv1.relu", "conv1.norm", "conv2.conv", "conv2.relu", "conv2.norm"),
        *("conv3.conv", "conv3.relu", "conv3.norm", "conv4.conv", "conv4.relu", "conv4.norm"),
        *("head.conv", "head.norm", "head.pool", "head.flatten"),
    ]
    assert leaves(
        build(widths=(4,), activation="leaky_relu", norm="none", downsample="max", head="gap")
    ) == [
        *("conv1.conv", "conv1.leaky_relu", "conv1.pool"),
        *("head.pool", "head.flatten", "head.linear"),
    ]
    assert leaves(build(widths=(4,), head="linear", activation="gelu"))[-2:] == [
        "head.flatten",
        "head.linear",
    ]


def test_names_of_resnet_small_are_stable() -> None:
    names = leaves(build(model="resnet_small"))
    body = ("conv1", "norm1", "act1", "conv2", "norm2")
    first = [f"block1.{part}" for part in (*body, "shortcut", "act2")]
    shortcut = ("shortcut.pool", "shortcut.conv", "shortcut.norm")
    others = [f"block{i}.{part}" for i in (2, 3, 4, 5) for part in (*body, *shortcut, "act2")]
    stem, head = ("stem.conv", "stem.norm", "stem.act"), ("pool", "flatten", "linear")
    assert names == [*stem, *first, *others, *(f"head.{part}" for part in head)]


# -- every combination --


@pytest.mark.parametrize("head", ["conv", "gap", "linear"])
@pytest.mark.parametrize("downsample", ["stride", "max", "avg"])
def test_every_combination_of_options_trains(downsample: str, head: str) -> None:
    x = torch.randn(4, 1, 20, 23, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 0])
    choices = product(
        ["batch", "none"], ["relu", "leaky_relu", "gelu", "silu"], ["default", "kaiming"]
    )
    for norm, activation, init in choices:
        config = RunConfig(
            widths=(4, 6),
            norm=norm,
            activation=activation,
            init=init,
            downsample=downsample,
            head=head,
        )
        model = build_model(config, (1, 20, 23), 3)
        optimizer = make_optimizer(model, config)
        before = [p.detach().clone() for p in model.parameters()]
        scores = model(x)
        assert scores.shape == (4, 3)
        F.cross_entropy(scores, y).backward()
        optimizer.step()
        changed = [not a.equal(b) for a, b in zip(before, model.parameters(), strict=True)]
        # Behind batch norm a bias has no effect, so its gradient may be exactly zero.
        assert all(changed) or (norm == "batch" and sum(changed) >= len(changed) // 2)
        assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu", "silu"])
@pytest.mark.parametrize("channels", [1, 3])
def test_resnet_small_trains(activation: str, channels: int) -> None:
    model = build((channels, 16, 16), 5, model="resnet_small", activation=activation)
    F.cross_entropy(model(torch.randn(2, channels, 16, 16)), torch.tensor([0, 4])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_kaiming_keeps_the_variance_level() -> None:
    wide = {"widths": (64,) * 4, "norm": "none", "first_kernel": 3}
    x = torch.randn(8, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    spread = {}
    for init in ("default", "kaiming"):
        model = build((1, 64, 64), init=init, **wide)
        with torch.no_grad():
            spread[init] = float(model.conv4.conv(model[:3](x)).std() / model.conv1.conv(x).std())
    assert 0.5 < spread["kaiming"] < 2
    assert spread["default"] < 0.2
    convs = [m for m in build(init="kaiming").modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 5
    assert not any(bool(m.bias.detach().any()) for m in convs)


def test_the_activation_of_other_models_does_not_change_their_weights() -> None:
    def first(activation: str, model: str) -> Tensor:
        built = build((3, 64, 64), model=model, init="kaiming", activation=activation)
        return next(built.parameters())

    assert first("tanh", "torchvision:resnet18").equal(first("relu", "torchvision:resnet18"))
    assert not first("tanh", "resnet_small").equal(first("relu", "resnet_small"))


def test_weights_come_from_the_seed() -> None:
    first, second, other = (build(seed=seed) for seed in (1, 1, 2))
    same = [a.equal(b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not first.conv1.conv.weight.equal(other.conv1.conv.weight)


# -- too small --


@pytest.mark.parametrize("image_shape", [(1, 8, 8), (1, 28, 15), (3, 1, 100)])
def test_images_too_small_for_simple_cnn(image_shape: Shape) -> None:
    size = f"{image_shape[1]}x{image_shape[2]}"
    assert refusal(image_shape) == (
        f"model=simple_cnn: images of {size} are too small for 4 halvings; "
        "use image_size=16 or more, or fewer widths"
    )


@pytest.mark.parametrize("head", ["conv", "gap", "linear"])
@pytest.mark.parametrize("downsample", ["stride", "max", "avg"])
def test_the_smallest_images_simple_cnn_takes(downsample: str, head: str) -> None:
    model = build(ONE_POSITION, head=head, downsample=downsample)
    assert model(torch.zeros(2, *ONE_POSITION)).shape == (2, 10)
