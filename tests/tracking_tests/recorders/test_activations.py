"""The statistics of a model's layers, against NumPy on the outputs that were captured."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.tracking_tests.models import batches, captured, cnn, rows, sgd, verify
from tests.tracking_tests.reference import any_tensor, assert_stats
from tracking import ActivationStats
from tracking.tables.schemas import StatsSettings, stats_schema

__all__: list[str] = []


class Emit(nn.Module):
    """Gives whatever it is told to."""

    def forward(self, output: Any) -> Any:
        return output


def recorded(model: nn.Module, *inputs: Any, **options: Any) -> list[dict[str, Any]]:
    """One step for each input, recorded with the model itself as a layer."""
    with ActivationStats(model, **{"layers": "0", **options}) as stats:
        for x in inputs:
            model(x)
            stats.step()
    return rows(stats.read())


@settings(max_examples=40)
@given(st.lists(any_tensor(), min_size=1, max_size=4))
def test_any_output_of_any_step(outputs: list[Tensor]) -> None:
    found = recorded(nn.Sequential(Emit()), *outputs, flush_every=2)
    assert [row["step"] for row in found] == list(range(len(outputs)))
    for row, x in zip(found, outputs, strict=True):
        assert (row["layer"], row["mode"]) == ("0", "train")
        assert_stats(row, [x])


@settings(max_examples=20)
@given(x=any_tensor(), eps=st.floats(0, 3), threshold=st.floats(-20, 20))
def test_thresholds_are_those_given(x: Tensor, eps: float, threshold: float) -> None:
    thresholds = {"near_zero_eps": eps, "above_threshold": threshold}
    [row] = recorded(nn.Sequential(Emit()), x, **thresholds)
    assert_stats(row, [x], **thresholds)


@pytest.mark.parametrize("layers", ["activations", "params", "all"])
def test_a_training_run(layers: str) -> None:
    model = cnn()
    optimizer = sgd(model)
    names = {"activations": "13", "params": "03", "all": "0123"}[layers]
    with (
        captured({name: model[int(name)] for name in names}) as seen,
        ActivationStats(model, optimizer=optimizer, layers=layers) as stats,
    ):
        optimizer.register_step_post_hook(seen.next_step)
        for x in batches(4):
            model(x).square().mean().backward()
            optimizer.step()
    assert stats.layers == tuple(names)
    verify(stats.read(), seen)


def test_output_is_recorded_before_an_in_place_change() -> None:
    model = cnn(inplace=True)
    plain = cnn()
    [x] = batches(1)
    conv = plain[0](x)
    assert conv.min() < 0
    with ActivationStats(model, layers="^[01]$") as stats:
        model(x)
    first, second = rows(stats.read())
    assert_stats(first, [conv])
    assert_stats(second, [conv.relu()])


class Shared(nn.Module):
    """One ReLU behind two layers, a tensor in two shapes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.relu = nn.ReLU()
        self.first = nn.Conv2d(1, 4, 3)
        self.second = nn.Conv2d(4, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.second(self.relu(self.first(x))))


@pytest.mark.parametrize("width", [4, 6])
def test_calls_of_a_shared_module_merge(width: int) -> None:
    model = Shared(width)
    with captured({"relu": model.relu}) as seen, ActivationStats(model, layers="relu") as stats:
        for x in batches(2):
            model(x)
            stats.step()
            seen.next_step()
    assert [len(calls) for calls in seen.values()] == [2, 2]
    verify(stats.read(), seen)


def test_batches_of_an_accumulated_gradient_merge() -> None:
    model = cnn()
    optimizer = sgd(model)
    with (
        captured({"1": model[1], "3": model[3]}) as seen,
        ActivationStats(model, optimizer=optimizer) as stats,
    ):
        optimizer.register_step_post_hook(seen.next_step)
        for index, x in enumerate(batches(6)):
            model(x[: index + 1]).square().mean().backward()
            if index % 2:
                optimizer.step()
    assert sorted({step for _, step in seen}) == [0, 1, 2]
    assert {len(calls) for calls in seen.values()} == {2}
    verify(stats.read(), seen)


Pair = namedtuple("Pair", ["a", "b"])
CONTAINERS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [a, b],
    "dict": lambda a, b: {"a": a, "b": b},
    "ordered dict": lambda a, b: OrderedDict(x=a, y=b),
    "named tuple": Pair,
    "nested": lambda a, b: {"a": [(a,)], "rest": ({"b": b}, None, "text", 3, [])},
    "with whole numbers": lambda a, b: (a, torch.arange(3), b, torch.ones(2, dtype=torch.bool)),
    "with complex numbers": lambda a, b: (a, torch.ones(2, dtype=torch.complex64), b),
    "with a meta tensor": lambda a, b: (a, b, torch.ones(2, device="meta")),
    "with a sparse tensor": lambda a, b: (a, b, torch.ones(2, 2).to_sparse()),
    "of several dtypes": lambda a, b: (a.double(), b.half()),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_tensors_inside_containers_merge(kind: str) -> None:
    a, b = torch.tensor([[1.0, -2.0], [0.0, 9.0]]), torch.tensor([[-0.5, 0.25, 12.0]])
    [row] = recorded(nn.Sequential(Emit()), CONTAINERS[kind](a, b))
    assert_stats(row, [a, b])


@pytest.mark.parametrize("output", [torch.arange(4), None, "text", (), {"ids": torch.arange(2)}])
def test_outputs_without_real_numbers_leave_no_row(output: Any) -> None:
    assert recorded(nn.Sequential(Emit()), output) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_models_of_other_precision(dtype: torch.dtype) -> None:
    model = cnn().to(dtype)
    with captured({"1": model[1], "3": model[3]}) as seen, ActivationStats(model) as stats:
        model(batches(1)[0].to(dtype))
    assert seen["1", 0][0].dtype == dtype
    verify(stats.read(), seen)


def test_autocast_and_channels_last() -> None:
    model = cnn().to(memory_format=torch.channels_last)
    with (
        captured({"1": model[1], "3": model[3]}) as seen,
        ActivationStats(model) as stats,
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        model(batches(1)[0].contiguous(memory_format=torch.channels_last))
    [relu] = seen["1", 0]
    assert relu.dtype == torch.bfloat16
    assert relu.is_contiguous(memory_format=torch.channels_last)
    verify(stats.read(), seen)


def test_a_model_that_is_a_single_layer() -> None:
    model = nn.ReLU()
    x = torch.tensor([-1.0, 2.0])
    with ActivationStats(model) as stats:
        model(x)
        stats.step()
        model(-x)
    assert stats.layers == ("model",)
    assert [(row["layer"], row["max"]) for row in rows(stats.read())] == [
        ("model", 2),
        ("model", 1),
    ]


def test_deep_nesting_gives_qualified_names() -> None:
    inner: nn.Module = nn.ReLU()
    for _ in range(30):
        inner = nn.Sequential(OrderedDict(block=inner))
    name = ".".join(["block"] * 30)
    [row] = recorded(inner, torch.ones(2, 2), layers="activations")
    assert row["layer"] == name


def test_frozen_layers_and_no_grad_are_recorded_too() -> None:
    model = cnn().requires_grad_(False)
    [x] = batches(1)
    with captured({"1": model[1], "3": model[3]}) as seen, ActivationStats(model) as stats:
        with torch.no_grad():
            model(x)
        stats.step()
        seen.next_step()
        with torch.inference_mode():
            model(x)
        stats.step()
        seen.next_step()
        model(x)
    verify(stats.read(), seen)


@pytest.mark.parametrize("how", ["meta", "no forward", "no step"])
def test_nothing_recorded_gives_an_empty_table(how: str) -> None:
    model = cnn().to("meta") if how == "meta" else cnn()
    with ActivationStats(model) as stats:
        if how == "meta":
            model(batches(1)[0].to("meta"))
        if how != "no step":
            stats.step()
    table = stats.read()
    assert len(table) == 0
    assert table.schema.equals(stats_schema(StatsSettings(0.05, 1.0, "activations", "1")))
    assert stats.path.is_file()
    assert stats.layers == ("1", "3")


def test_losing_the_last_batch_is_not_an_option() -> None:
    # What ran after the last optimizer step belongs to a row as well.
    model = cnn()
    optimizer = sgd(model)
    with ActivationStats(model, optimizer=optimizer, layers="^1$") as stats:
        for x in batches(2):
            model(x).sum().backward()
            optimizer.step()
        model(batches(1)[0])
    assert [row["step"] for row in rows(stats.read())] == [0, 1, 2]


def test_histogram_column_is_the_contract_s() -> None:
    x = torch.tensor([-np.inf, -10.5, -10.0, -0.1, 0.0, 9.99, 10.0, np.inf, np.nan])
    [row] = recorded(nn.Sequential(Emit()), x)
    filled = {i: n for i, n in enumerate(row["hist"]) if n}
    assert filled == {0: 2, 1: 1, 40: 1, 41: 1, 80: 1, 81: 2}
