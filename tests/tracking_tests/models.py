"""Small models, a training loop as written by hand, and a second pair of eyes on the outputs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from tests.tracking_tests.reference import assert_stats

__all__ = [
    "Elsewhere",
    "Outputs",
    "batches",
    "captured",
    "cnn",
    "hooks_on",
    "marked",
    "rows",
    "sgd",
    "train",
    "verify",
]

Outputs = dict[tuple[str, int], list[Tensor]]


class Elsewhere(Tensor):
    """As if on an accelerator."""

    @property
    def is_cpu(self) -> bool:
        return False


def cnn(seed: int = 0, *, inplace: bool = False) -> nn.Sequential:
    """For images of 8 x 8 points in one channel."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(4 * 6 * 6, 3)
    )


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def batches(n: int, size: int = 5, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 1, 8, 8, generator=generator) for _ in range(n)]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, n: int = 3) -> None:
    for x in batches(n):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@contextmanager
def captured(modules: Mapping[str, nn.Module]) -> Iterator[Outputs]:
    """Copies of every output, by layer and step; ``outputs.step`` is moved on by the caller."""
    outputs = _Outputs()
    handles = [module.register_forward_hook(outputs.keep(name)) for name, module in modules.items()]
    yield outputs
    for handle in handles:
        handle.remove()


class _Outputs(Outputs):
    step = 0

    def keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.setdefault((name, self.step), []).append(output.detach().clone())

        return hook

    def next_step(self, *_: Any) -> None:
        self.step += 1


def hooks_on(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int:
    """How many hooks a model, and the steps of an optimizer, carry."""
    found = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    if optimizer is not None:
        found += len(optimizer._optimizer_step_pre_hooks)
        found += len(optimizer._optimizer_step_post_hooks)
    return found


class _Mark(torch.autograd.Function):
    """Passes a tensor on; its node in the graph owns a token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Any) -> Tensor:
        ctx.token = token
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _Token:
    """Dies with the graph."""


def marked(x: Tensor) -> tuple[Tensor, Callable[[], bool]]:
    """The same tensor, and a function that tells whether its graph is still alive."""
    token = _Token()
    alive = weakref.ref(token)
    return _Mark.apply(x, token), lambda: alive() is not None


def rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table as plain values."""
    plain: list[dict[str, Any]] = table.to_pylist()
    return plain


def verify(table: pa.Table, outputs: Outputs) -> None:
    """Assert that a table has one right row for each layer and step that had outputs."""
    found = {(row["layer"], row["step"]): row for row in rows(table)}
    assert len(found) == len(table)
    assert found.keys() == outputs.keys()
    for key, tensors in outputs.items():
        assert_stats(found[key], tensors)
