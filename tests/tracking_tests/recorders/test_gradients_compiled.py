"""Gradients where layers are compiled, or computed a second time by activation checkpointing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils.checkpoint import checkpoint

from tests.tracking_tests.flow import assert_gradients, output_gradients
from tests.tracking_tests.models import batches, cnn, hooks_on, rows, sgd
from tracking.recorders.gradients import GradientStats

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


def run(backend: str, **options: Any) -> list[dict[str, Any]]:
    model = cnn(inplace=True)
    called: Any = torch.compile(model, backend=backend) if backend else model
    optimizer = sgd(model)
    with GradientStats(called, optimizer=optimizer, **options) as stats:
        for x in batches(3):
            called(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert hooks_on(model, optimizer) == 0
    called(batches(1)[0]).sum().backward()  # compiled with the hooks in it
    optimizer.step()
    table = rows(stats.read())
    stats.close()
    assert rows(stats.read()) == table
    return table


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("layers", ["activations", "all"])
def test_gradients_are_those_of_the_plain_model(backend: str, layers: str) -> None:
    plain, compiled = run("", layers=layers), run(backend, layers=layers)
    assert len(plain) == 3 * (2 if layers == "activations" else 4)
    for a, b in zip(plain, compiled, strict=True):
        for name in ("step", "layer", "count", "nonfinite"):
            assert a[name] == b[name]
        for name in ("norm", "mean_abs", "zeros"):
            assert a[name] == pytest.approx(b[name], rel=1e-5)


def test_steps_that_are_not_due_are_left_out_of_a_compiled_model_too() -> None:
    assert [row["step"] for row in run("eager", every=2)] == [0, 0, 2, 2]


def test_a_whole_graph_is_recorded_without_being_split() -> None:
    model, counter = cnn(), CompileCounter()
    compiled: Any = torch.compile(model, backend=counter, fullgraph=True)
    with GradientStats(model) as stats:
        for x in batches(3):
            compiled(x).square().mean().backward()
            stats.step()
    assert counter.frame_count == 1
    assert [row["layer"] for row in rows(stats.read())] == ["1", "3"] * 3


class Checkpointed(nn.Module):
    def __init__(self, *, use_reentrant: bool) -> None:
        super().__init__()
        self.use_reentrant = use_reentrant
        self.block = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.block, x, use_reentrant=self.use_reentrant))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_layer_that_is_computed_again_counts_once(use_reentrant: bool) -> None:
    torch.manual_seed(0)
    model = Checkpointed(use_reentrant=use_reentrant)
    x = torch.randn(5, 4, requires_grad=True)
    plain = nn.Sequential(model.block[0], nn.ReLU(), model.head)
    expected = dict(
        zip(("block.0", "block.1", "head"), output_gradients(plain, x).values(), strict=True)
    )
    with GradientStats(model, layers="all") as stats:
        for _ in range(2):
            model(x).square().mean().backward()
        stats.step()
    found = {row["layer"]: row for row in rows(stats.read())}
    assert list(found) == list(expected)
    for name, row in found.items():
        assert_gradients(row, [expected[name]] * 2)
