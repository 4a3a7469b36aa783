"""Models under torch.compile give the statistics that they give without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from tests.tracking_tests.models import batches, cnn, hooks_on, rows, sgd
from tracking import ActivationStats

__all__: list[str] = []

# What the compiler itself warns of is not this project's.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def run(compile_: str, watched: str = "model", **options: Any) -> list[dict[str, Any]]:
    model = cnn(inplace=True)
    called: Any = torch.compile(model, backend=compile_) if compile_ else model
    optimizer = sgd(model)
    target = called if watched == "compiled" else model
    with ActivationStats(target, optimizer=optimizer, **options) as stats:
        for x in batches(4):
            called(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert hooks_on(model) == 0
    return rows(stats.read())


@pytest.mark.parametrize(("backend", "watched"), [("eager", "model"), ("aot_eager", "compiled")])
def test_statistics_names_and_order_are_those_of_the_plain_model(
    backend: str, watched: str
) -> None:
    plain = run("")
    compiled = run(backend, watched)
    assert [(row["step"], row["layer"]) for row in compiled] == [
        (step, layer) for step in range(4) for layer in ("1", "3")
    ]
    for a, b in zip(plain, compiled, strict=True):
        assert a["hist"] == b["hist"]
        for name in ("mean", "std", "min", "max"):
            assert b[name] == pytest.approx(a[name], rel=1e-5)


def test_steps_that_are_not_due_are_left_out_of_a_compiled_model_too() -> None:
    found = run("eager", every=2, flush_every=1)
    assert [(row["step"], row["count"]) for row in found if row["layer"] == "3"] == [
        (0, 15),
        (2, 15),
    ]


def test_a_model_may_be_compiled_before_between_and_after_recordings() -> None:
    model = cnn()
    compiled: Any = torch.compile(model, backend="eager")
    [x] = batches(1)
    compiled(x)
    counts = []
    for _ in range(2):
        with ActivationStats(model, layers="^1$") as stats:
            compiled(x)
        compiled(x)
        stats.close()
        counts.append([row["count"] for row in rows(stats.read())])
    assert counts == [[720], [720]]


def test_a_model_that_was_trained_in_compiled_form_before_is_recorded_in_full() -> None:
    model = cnn()
    compiled: Any = torch.compile(model, backend="eager")
    for x in batches(2):
        compiled(x).sum().backward()
    with ActivationStats(model) as stats:
        for x in batches(3):
            compiled(x).sum().backward()
            stats.step()
    assert [row["step"] for row in rows(stats.read())] == [0, 0, 1, 1, 2, 2]


def test_evaluation_of_a_compiled_model() -> None:
    model = cnn()
    compiled: Any = torch.compile(model, backend="eager")
    [x] = batches(1)
    with ActivationStats(compiled, layers="^1$", record_eval=True) as stats:
        compiled(x)
        stats.step()
        compiled.eval()
        with torch.no_grad():
            compiled(x)
    assert [row["mode"] for row in rows(stats.read())] == ["train", "eval"]


def test_a_single_compiled_layer_is_called_model() -> None:
    relu: Any = torch.compile(nn.ReLU(), backend="eager")
    with ActivationStats(relu) as stats:
        relu(torch.tensor([-1.0, 3.0]))
    assert [(row["layer"], row["max"]) for row in rows(stats.read())] == [("model", 3)]


def test_a_whole_graph_is_recorded_without_being_split() -> None:
    model, counter = cnn(), CompileCounter()
    compiled: Any = torch.compile(model, backend=counter, fullgraph=True)
    optimizer = sgd(model)
    with ActivationStats(model, optimizer=optimizer) as stats:
        for x in batches(3):
            compiled(x).square().mean().backward()
            optimizer.step()
    assert counter.frame_count == 1
    assert [row["layer"] for row in rows(stats.read())] == ["1", "3"] * 3


def test_a_layer_that_joins_a_compiled_model_is_recorded_from_the_next_step_on() -> None:
    model = cnn()
    compiled: Any = torch.compile(model, backend="eager")
    with ActivationStats(compiled) as stats:
        for step, x in enumerate(batches(4)):
            if step == 1:
                model.append(nn.Tanh())
            compiled(x).sum().backward()
            stats.step()
    assert [row["step"] for row in rows(stats.read()) if row["layer"] == "4"] == [2, 3]


def test_a_model_that_is_compiled_in_part() -> None:
    model = cnn()
    model[1].compile(backend="eager")
    with ActivationStats(model) as stats:
        for x in batches(3):
            model(x).sum().backward()
            stats.step()
    assert [row["layer"] for row in rows(stats.read())] == ["1", "3"] * 3
