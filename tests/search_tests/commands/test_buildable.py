"""A space whose networks cannot all be built is refused, in a line that says which cannot."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import run as run_module
from pipelines.config import RunConfig
from pipelines.data.datasets import ImageData, load_dataset
from search.commands import buildable
from search.commands.buildable import MOST, check_networks
from search.definition import StudyDefinition
from tests.search_tests.conftest import SMALL
from tracking.errors import BadModel, BadOption

__all__: list[str] = []

Defined = Callable[..., StudyDefinition]

FACTORY = """
from torch import nn

def picky(image_shape, classes):
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))
    calls.append(float(nn.Linear(2, 2).weight.detach().sum()))  # takes real numbers
    return model

def none(image_shape, classes):
    raise OSError("no such file")

calls = []
"""


@pytest.fixture(scope="module")
def data() -> ImageData:
    """Images of 16x16."""
    return load_dataset(RunConfig(**SMALL))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """What is built, without building it."""
    seen: list[RunConfig] = []
    monkeypatch.setattr(buildable, "make_model", lambda config, data: seen.append(config))
    return seen


@pytest.mark.parametrize(
    ("space", "base", "message"),
    [
        (
            ("widths=4;4,8,16,32,64", "norm=batch,none"),
            {},
            "space: trials with widths=4,8,16,32,64 norm=batch could not be run: model=simple",
        ),
        (
            ("model=resnet_small,simple_cnn", "head=gap,conv"),
            {"layers": "head.conv"},
            "space: trials with model=resnet_small could not be run: layers=head.conv",
        ),
        (
            ("model=simple_cnn,torchvision:resnet_18",),
            {},
            "space: trials with model=torchvision:resnet_18 could not be run: ",
        ),
        (
            ("batch_size=1:16",),
            {"widths": (4, 8, 16, 32), "head": "conv"},
            "space: trials with batch_size=1 could not be run: model=simple_cnn: cannot train on",
        ),
        (
            ("activation=relu,gelu",),
            {"layers": "conv1.relu"},
            "space: trials with activation=gelu could not be run: layers=conv1.relu",
        ),
    ],
)
def test_a_combination_that_cannot_be_built_is_named(
    space: tuple[str, ...], base: dict[str, Any], message: str, defined: Defined, data: ImageData
) -> None:
    with pytest.raises(BadOption) as caught:
        check_networks(defined(space, base), data)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "space",
    [
        ("widths=4;4,8,16,32", "downsample=stride,max,avg", "head=conv,gap,linear"),
        ("first_kernel=3:7:2", "activation=tanh,gelu", "init=default,kaiming"),
        ("model=simple_cnn,resnet_small,torchvision:resnet18", "norm=batch,none"),
        ("batch_size=1,64", "norm=batch,none"),
        ("lr_max=log:1e-3:0.1",),
    ],
)
def test_what_can_be_built_is_allowed_and_leaves_no_trace(
    space: tuple[str, ...], defined: Defined, data: ImageData
) -> None:
    torch.manual_seed(3)
    random.seed(3)
    expected = torch.get_rng_state(), random.getstate()
    check_networks(defined(space), data)
    assert torch.get_rng_state().equal(expected[0])
    assert random.getstate() == expected[1]


def test_every_combination_is_built_once_and_only_with_what_has_an_effect(
    defined: Defined, data: ImageData, built: list[RunConfig]
) -> None:
    space = (
        "model=simple_cnn,resnet_small,torchvision:resnet18",
        "first_kernel=3:7:2",
        "activation=relu,gelu",
        "init=default,kaiming",
        "lr_max=log:1e-3:0.1",
    )
    check_networks(defined(space), data)
    # The ends of a range, and not what lies between.
    assert {config.first_kernel for config in built} == {3, 7, RunConfig().first_kernel}
    count = [sum(config.model == name for config in built) for name in sorted({*MODELS})]
    assert count == [4, 8, 2]
    assert len({config.model_dump_json() for config in built}) == len(built)


MODELS = ("simple_cnn", "resnet_small", "torchvision:resnet18")


def test_nothing_is_built_where_networks_are_not_searched(
    defined: Defined, data: ImageData, built: list[RunConfig]
) -> None:
    check_networks(defined(("lr_max=log:1e-3:0.1", "batch_size=8,16")), data)
    assert built == []


def test_of_very_many_a_sample_is_built(
    defined: Defined, data: ImageData, built: list[RunConfig]
) -> None:
    space = (
        "widths=4;8;16;4,8;8,16;4,8,16",
        "activation=relu,leaky_relu,gelu,silu,tanh,sigmoid",
        "downsample=stride,max,avg",
        "head=conv,gap,linear",
    )
    check_networks(defined(space), data)
    first = list(built)
    assert len(first) == MOST
    assert len({config.widths for config in first}) == 6
    built.clear()
    check_networks(defined(space), data)
    assert built == first


def test_ones_own_network_is_built_as_it_would_be(
    defined: Defined, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_networks.py").write_text(FACTORY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    space = ("model=simple_cnn,own_networks:picky",)
    try:
        check_networks(defined(space), data)
        assert len(sys.modules["own_networks"].calls) == 1
        with pytest.raises(BadOption, match=r"model=own_networks:none could not be run: .*no such"):
            check_networks(defined(("model=simple_cnn,own_networks:none",)), data)
    finally:
        sys.modules.pop("own_networks", None)


def test_what_only_fails_without_numbers_is_built_with_them(
    defined: Defined, data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = run_module.build_model

    def numbers(*given: Any) -> torch.nn.Module:
        if torch.zeros(1).is_meta:
            raise BadModel("there are no numbers")
        return build(*given)

    monkeypatch.setattr(run_module, "build_model", numbers)
    check_networks(defined(("widths=4;4,8",)), data)
