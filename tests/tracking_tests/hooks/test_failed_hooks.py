"""A hook that fails, or that meets what is no training, does not break the training."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, vmap

from tests.tracking_tests.models import batches, cnn, hooks_on, rows, sgd
from tracking import ActivationStats
from tracking.diagnosis import batch_norms
from tracking.recorders import gradients, updates
from tracking.recorders.gradients import GradientStats
from tracking.recorders.updates import UpdateStats
from tracking.recording import RunRecord
from tracking.recording_options import RecordingOptions
from tracking.sink import MemorySink
from tracking.statistics.buffers import LayerBuffer

__all__: list[str] = []

STEPS = 5
Patch = pytest.MonkeyPatch


def steps_of(table: Any, layer: str) -> list[int]:
    return [row["step"] for row in rows(table) if row["layer"] == layer]


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, called: Any = None) -> Tensor:
    """All weights after a few steps."""
    for x in batches(STEPS):
        (called or model)(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def unrecorded() -> Tensor:
    model = cnn()
    return trained(model, sgd(model))


class Failing:
    """Stands for ``LayerBuffer.add``, and fails for some layers from their third call on."""

    def __init__(self, *layers: str) -> None:
        self._add = LayerBuffer.add
        self._layers = layers
        self.calls = dict.fromkeys(layers, 0)

    def __get__(self, buffer: LayerBuffer, kind: type[LayerBuffer]) -> Callable[[Tensor], None]:
        def add(x: Tensor) -> None:
            self._add(buffer, x)
            if buffer.layer in self._layers:
                self.calls[buffer.layer] += 1
                if self.calls[buffer.layer] >= 3:
                    raise RuntimeError(f"no more of {buffer.layer}\nfor now")

        return add


# What the compiler itself warns of is not this project's.
@pytest.mark.filterwarnings("ignore:.*(grad attribute of a Tensor|non-leaf).*:UserWarning")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_layer_whose_hook_fails_is_left_out_and_told_of(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture, compiled: bool
) -> None:
    failing, sink = Failing("1"), MemorySink()
    monkeypatch.setattr(LayerBuffer, "add", failing)
    torch.compiler.reset()
    model = cnn()
    optimizer = sgd(model)
    called: Any = torch.compile(model, backend="eager") if compiled else model
    with (
        caplog.at_level(logging.WARNING),
        ActivationStats(model, optimizer=optimizer, sink=sink) as stats,
    ):
        weights = trained(model, optimizer, called)
    torch.compiler.reset()
    assert torch.equal(weights, unrecorded())
    assert failing.calls == {"1": 3}
    assert steps_of(stats.read(), "1") == [0, 1]
    assert steps_of(stats.read(), "3") == [0, 1, 2, 3, 4]
    [warning] = caplog.messages
    assert "activations of layer 1, whose hook failed" in warning
    assert "RuntimeError: no more of 1 for now" in warning
    tag = sink.logged_tags["layerscope.unrecorded.activations"]
    assert tag.startswith("1 (RuntimeError: no more of 1")
    assert hooks_on(model, optimizer) == 0


def test_many_that_fail_are_told_of_once(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    layers = [str(i) for i in range(60)]
    sink = MemorySink()
    monkeypatch.setattr(LayerBuffer, "add", Failing(*layers))
    model = nn.Sequential(*[nn.ReLU() for _ in layers])
    with ActivationStats(model, sink=sink) as stats:
        for _ in range(STEPS):
            model(torch.ones(2, 3))
            stats.step()
    assert len(caplog.messages) == 1
    tag = sink.logged_tags["layerscope.unrecorded.activations"]
    assert "; 1 (" in tag
    assert len(tag) == 1000
    assert {row["step"] for row in rows(stats.read())} == {0, 1}


@pytest.mark.parametrize("at", ["_catch", "gradient_sums"])
def test_gradients_that_cannot_be_had_are_left_out(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture, at: str
) -> None:
    whole, calls, sink = getattr(gradients, at), [], MemorySink()

    def fails(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 4:  # two layers
            raise ValueError("enough")
        return whole(*arguments)

    monkeypatch.setattr(gradients, at, fails)
    model = cnn()
    optimizer = sgd(model)
    with GradientStats(model, optimizer=optimizer, sink=sink) as stats:
        weights = trained(model, optimizer)
    assert torch.equal(weights, unrecorded())
    assert len(calls) == 6
    assert steps_of(stats.read(), "1") == steps_of(stats.read(), "3") == [0, 1]
    assert len(caplog.messages) == 1
    assert "layerscope.unrecorded.gradients" in sink.logged_tags


@pytest.mark.parametrize("at", ["clone", "update_sums"])
def test_updates_that_cannot_be_had_are_left_out(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture, at: str
) -> None:
    """As where there is no memory left for the copy of a parameter."""
    place, sink = (Tensor if at == "clone" else updates), MemorySink()
    model = cnn()
    optimizer = sgd(model)
    weight = model[0].weight

    def fails(x: Tensor, *others: Tensor) -> Tensor:
        if weight.data_ptr() in [y.data_ptr() for y in (x, *others)] and stats.current_step >= 2:
            raise torch.OutOfMemoryError("not a byte")
        return whole(x, *others)

    whole = getattr(place, at)
    monkeypatch.setattr(place, at, fails)
    with UpdateStats(model, optimizer, sink=sink) as stats:
        weights = trained(model, optimizer)
    assert torch.equal(weights, unrecorded())
    table = rows(stats.read())
    assert [row["step"] for row in table if row["parameter"] == "0.weight"] == [0, 1]
    assert [row["step"] for row in table if row["parameter"] == "0.bias"] == [0, 1, 2, 3, 4]
    [warning] = caplog.messages
    assert "no more updates of parameter 0.weight, whose hook failed" in warning
    assert "layerscope.unrecorded.updates" in sink.logged_tags


def test_a_module_in_the_place_of_one_that_failed_does_not_go_on_with_its_row(
    monkeypatch: Patch,
) -> None:
    monkeypatch.setattr(LayerBuffer, "add", Failing("1"))
    model = cnn()
    with ActivationStats(model) as stats:
        for step, x in enumerate(batches(STEPS)):
            if step == 3:
                model[1] = nn.GELU()
            model(x)
            stats.step()
    assert steps_of(stats.read(), "1") == [0, 1]
    assert steps_of(stats.read(), "3") == [0, 1, 2, 3, 4]


def test_a_look_at_batch_normalisation_that_fails_is_the_last(
    monkeypatch: Patch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def fails(*arguments: Any) -> tuple[float, float]:
        raise ValueError("no distance")

    monkeypatch.setattr(batch_norms, "_distance", fails)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = sgd(model)
    with RunRecord(model, optimizer, tmp_path) as record:
        for _ in range(2):
            model.train()
            model(torch.randn(8, 3)).sum().backward()
            optimizer.step()
            record.step()
            model.eval()
            model(torch.randn(8, 3))
    assert [text for text in caplog.messages if "no distance" in text] == [
        "batch normalisation is not looked at any more (ValueError: no distance)"
    ]
    assert len(record.activation_stats.read()) == 4


def traced(model: nn.Module) -> None:
    torch.jit.trace(model, batches(1)[0], check_trace=False)


def per_sample(model: nn.Module) -> None:
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(given: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, given, (x[None],)).square().mean()

    vmap(grad(loss), in_dims=(None, 0))(parameters, batches(1)[0])


def faked(model: nn.Module) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        copy.copy(model)(torch.empty(5, 1, 8, 8))


@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace:FutureWarning"
)
@pytest.mark.parametrize("other", [traced, per_sample, faked])
def test_what_is_no_training_is_left_out(
    other: Callable[[nn.Module], None], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    model = cnn()
    optimizer = sgd(model)
    with RunRecord(model, optimizer, tmp_path, options=RecordingOptions(gradients=True)) as record:
        for step, x in enumerate(batches(STEPS)):
            if step == 2:
                other(model)
            model(x).square().mean().backward()
            optimizer.step()
            record.step()
            optimizer.zero_grad()
    assert caplog.messages == []
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.equal(weights, unrecorded())
    table = record.activation_stats.read()
    for layer, elements in (("1", 5 * 4 * 36), ("3", 5 * 3)):
        assert [row["count"] for row in rows(table) if row["layer"] == layer] == [elements] * STEPS
    assert record.gradient_stats is not None
    assert steps_of(record.gradient_stats.read(), "3") == list(range(STEPS))


def test_layers_may_be_called_from_several_threads() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    calls, x = 2000, torch.randn(120, 8)

    def call() -> None:
        for _ in range(calls):
            model(x)

    with ActivationStats(model) as stats:
        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    for row in rows(stats.read()):
        assert (
            row["count"] == sum(row["hist"]) == 3 * calls * 120 * (16 if row["layer"] == "1" else 3)
        )
