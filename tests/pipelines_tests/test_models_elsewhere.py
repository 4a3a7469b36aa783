"""Models of torchvision and of one's own: fitted to the data, or refused in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.pipelines_tests.built import build, conv, count, refusal

__all__: list[str] = []

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
