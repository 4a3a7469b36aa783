"""What gradients and updates should be, by plain NumPy, and a guard against waiting for devices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["NoWaiting", "assert_gradients", "assert_updates", "output_gradients", "weights"]

WAITING = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "unique")


def output_gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Gradients of the loss ``mean of squares`` at every child's output, by autograd alone.

    The children must not change anything in place.
    """
    outputs: dict[str, Tensor] = {}
    for name, child in model.named_children():
        x = outputs[name] = child(x)
    gradients = torch.autograd.grad(x.square().mean(), list(outputs.values()))
    return dict(zip(outputs, gradients, strict=True))


def assert_gradients(row: Mapping[str, Any], gradients: Sequence[Tensor]) -> None:
    """Assert that a row of gradients/stats.parquet is what NumPy finds in its gradients."""
    flat = np.concatenate([x.detach().double().numpy().ravel() for x in gradients])
    finite = np.abs(flat[np.isfinite(flat)])
    assert row["count"] == flat.size
    assert row["nonfinite"] == flat.size - finite.size
    assert row["zeros"] == (_close(np.mean(flat == 0)) if flat.size else None)
    assert row["norm"] == (_close(_norm(finite)) if finite.size else None)
    assert row["mean_abs"] == (_close(finite.mean()) if finite.size else None)


def assert_updates(row: Mapping[str, Any], before: Tensor, after: Tensor) -> None:
    """Assert that a row of updates/stats.parquet is what NumPy finds."""
    old, new = before.double().numpy().ravel(), after.double().numpy().ravel()
    changes = new - old
    finite, known = changes[np.isfinite(changes)], old[np.isfinite(old)]
    assert row["count"] == old.size
    assert row["nonfinite"] == old.size - finite.size
    assert row["update_norm"] == (_close(_norm(finite)) if finite.size else None)
    assert row["weight_norm"] == (_close(_norm(known)) if known.size else None)
    if finite.size and known.any():
        assert row["ratio"] == _close(_norm(finite) / _norm(known))
    else:
        assert row["ratio"] is None


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a model's parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _norm(x: npt.NDArray[np.float64]) -> float:
    return math.sqrt(np.square(x).sum())


def _close(value: float) -> Any:
    # What is smaller than 1e-154 has a square beyond float64.
    return pytest.approx(value, rel=1e-9, abs=1e-150)


class NoWaiting(TorchDispatchMode):
    """Fails where the host would wait for a value of a tensor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in WAITING, f"aten::{name} waits for the device"
        return func(*args, **(kwargs or {}))
