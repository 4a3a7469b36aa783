"""Models: counts by formula, stable names, every combination of options, and clear refusals."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.config import RunConfig
from pipelines.models import build_model
from pipelines.optimizers import make_optimizer
from pipelines.summary import summarize
from tracking.errors import BadModel

__all__: list[str] = []

Shape = tuple[int, int, int]
DIGITS: Shape = (1, 28, 28)
ONE_POSITION: Shape = (1, 16, 16)


def build(
    image_shape: Shape = DIGITS, classes: int = 10, seed: int = 0, **options: object
) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(RunConfig(**options), image_shape, classes)


def refusal(image_shape: Shape = DIGITS, classes: int = 10, **options: object) -> str:
    with pytest.raises(BadModel) as caught:
        build(image_shape, classes, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def conv(kernel: int, inputs: int, outputs: int) -> int:
    return kernel * kernel * inputs * outputs + outputs


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


def test_weights_come_from_the_seed() -> None:
    first, second, other = (build(seed=seed) for seed in (1, 1, 2))
    same = [a.equal(b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not first.conv1.conv.weight.equal(other.conv1.conv.weight)


def test_checking_the_model_leaves_no_trace(own: Callable[[str], str]) -> None:
    from own_models import dropout

    torch.manual_seed(0)
    dropout((1, 4, 4), 3)
    expected = torch.rand(1)
    model = build((1, 4, 4), 3, model=own("dropout"))
    assert torch.rand(1) == expected
    assert model.training
    normed = build()
    assert all(module.training for module in normed.modules())
    assert normed.conv1.norm.num_batches_tracked == 0
    assert not normed.conv1.norm.running_mean.any()


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


# -- torchvision --


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet18", 28), ("mobilenet_v3_small", 28), ("shufflenet_v2_x0_5", 32), ("googlenet", 32)],
)
def test_torchvision_models_take_the_channels_and_classes_of_the_data(name: str, size: int) -> None:
    model = build((1, size, size), 7, model=f"torchvision:{name}")
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == 1
    scores = model(torch.zeros(2, 1, size, size))
    assert scores.shape == (2, 7)


def test_three_channels_keep_the_first_convolution() -> None:
    plain = build((3, 32, 32), 7, model="torchvision:squeezenet1_1")
    first = next(m for m in plain.modules() if isinstance(m, nn.Conv2d))
    assert (first.in_channels, first.out_channels, first.stride) == (3, 64, (2, 2))
    grey = next(
        m
        for m in build((1, 32, 32), 7, model="torchvision:squeezenet1_1").modules()
        if isinstance(m, nn.Conv2d)
    )
    for attribute in (
        *("out_channels", "kernel_size", "stride", "padding", "dilation", "padding_mode"),
    ):
        assert getattr(grey, attribute) == getattr(first, attribute)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("alexnet", "Output size is too small"), ("inception_v3", "Kernel size can't be greater")],
)
def test_images_too_small_for_a_torchvision_model(name: str, reason: str) -> None:
    message = refusal(model=f"torchvision:{name}")
    assert message.startswith(
        f"model=torchvision:{name}: cannot take images of 1x28x28 in batches of 2 (RuntimeError: "
    )
    assert reason in message
    assert message.endswith("); a larger image_size may help")


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("resnet_18", " Did you mean 'resnet18'?"), ("fasterrcnn_resnet50_fpn", ""), ("zzz", "")],
)
def test_unknown_torchvision_model(name: str, suggestion: str) -> None:
    message = refusal(model=f"torchvision:{name}")
    assert message == (
        f"model=torchvision:{name}: not one of torchvision's classification models, such as "
        f"resnet18 or mobilenet_v3_small.{suggestion}"
    )


# -- one's own --

FACTORIES = """
import torch
from torch import nn

def good(image_shape, classes):
    channels, height, width = image_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes))

def no_arguments():
    return nn.Linear(1, 1)

def raises(image_shape, classes):
    raise ValueError("not today,\\nnor tomorrow")

def no_module(image_shape, classes):
    return {"a": 1}

def five_classes(image_shape, classes):
    return good(image_shape, 5)

class Pair(nn.Module):
    def __init__(self, image_shape, classes):
        super().__init__()
        self.net = good(image_shape, classes)

    def forward(self, x):
        scores = self.net(x)
        return (scores, scores) if self.training else scores

def dropout(image_shape, classes):
    return nn.Sequential(*good(image_shape, classes), nn.Dropout(0.5))

def lazy(image_shape, classes):
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(),
                         nn.LazyLinear(classes))

class Always(Pair):
    def forward(self, x):
        return [self.net(x)]

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    (tmp_path / "own_models.py").write_text(FACTORIES, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name: f"own_models:{name}"
    sys.modules.pop("own_models", None)


def test_a_model_of_ones_own(own: Callable[[str], str]) -> None:
    model = build((2, 4, 4), 3, model=own("good"))
    assert isinstance(model[1], nn.Linear)
    assert model[1].weight.shape == (3, 32)


@pytest.mark.parametrize("init", ["default", "kaiming"])
def test_lazy_modules_get_their_shapes(own: Callable[[str], str], init: str) -> None:
    first, second = (build((2, 5, 5), 3, model=own("lazy"), init=init) for _ in range(2))
    assert count(first) == conv(3, 2, 4) + 2 * 4 + (4 * 9 * 3 + 3)
    assert first[1].num_batches_tracked == 0
    assert all(a.equal(b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "factory(image_shape, classes) raised ValueError: not today, nor tomorrow"),
        ("no_arguments", "factory(image_shape, classes) raised TypeError: no_arguments() takes 0"),
        ("no_module", "gave a dict; expected a torch.nn.Module from factory(image_shape, classes)"),
        ("five_classes", "gives (2, 5) for 2 images in evaluation mode; the data has 10 classes"),
        ("Pair", "gives tuple for 2 images in training mode; the data has 10 classes, so (2, 10)"),
        ("Always", "gives list for 2 images in evaluation mode"),
        ("number", "number is a int; expected a callable"),
        ("god", "own_models has no 'god'. Did you mean 'good'?"),
    ],
)
def test_a_factory_that_does_not_fit(own: Callable[[str], str], name: str, message: str) -> None:
    text = refusal(model=own(name))
    assert message in text
    assert f"own_models:{name}" in text


def test_a_factory_that_cannot_be_imported() -> None:
    assert "no_such_package:make: no_such_package cannot be imported" in refusal(
        model="no_such_package:make"
    )


def test_output_of_a_single_score(
    own: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).sum(dim=1)

    import own_models

    monkeypatch.setattr(own_models, "good", lambda image_shape, classes: Flat())
    assert "gives (2,) for 2 images" in refusal(model=own("good"))
