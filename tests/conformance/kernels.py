"""Every kernel under one name, and what it makes of tensors, as a row of statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from tests.tracking_tests.reference import DTYPES
from tracking.kernels import NumbaKernel, Reduction, TorchKernel, torch_kernel
from tracking.kernels import accumulators as k

__all__ = ["KERNELS", "empty_row", "every_dtype", "every_kernel", "kernel", "reduced"]

# The accelerator's kernel takes its input in chunks; here they are so small that every tensor
# with more than a few elements has several.
KERNELS = {"numba": NumbaKernel, "torch": TorchKernel, "torch, chunked": TorchKernel}
every_kernel = pytest.mark.parametrize("name", KERNELS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@contextmanager
def kernel(name: str, eps: float = 0.05, threshold: float = 1.0) -> Iterator[Any]:
    """A kernel that takes rows as tensors."""
    chunk = 5 if name == "torch, chunked" else torch_kernel.CHUNK
    reduce: Reduction = KERNELS[name](eps, threshold)

    def reduce_tensors(x: Tensor, ints: Tensor, floats: Tensor, alive: Tensor | None) -> None:
        row = [
            None if part is None else reduce.rows(part[None])[0] for part in (ints, floats, alive)
        ]
        reduce(x, *row)

    with mock.patch.object(torch_kernel, "CHUNK", chunk):
        yield reduce_tensors


def empty_row(device: str = "cpu") -> tuple[Tensor, Tensor]:
    ints = torch.zeros(k.INTS, dtype=torch.int64, device=device)
    floats = torch.zeros(k.FLOATS, dtype=torch.float64, device=device)
    floats[k.MIN], floats[k.MAX] = math.inf, -math.inf
    return ints, floats


def reduced(name: str, outputs: Sequence[Tensor], **thresholds: float) -> dict[str, Any]:
    """Statistics of the outputs of one layer, merged by a kernel into one row."""
    ints, floats = empty_row()
    alive: dict[int, Tensor] = {}
    with kernel(name, **thresholds) as reduce:
        for x in outputs:
            width = x.shape[1] if x.ndim > 1 else None
            if width is not None:
                alive.setdefault(width, torch.zeros(width, dtype=torch.bool))
            reduce(x, ints, floats, None if width is None else alive[width])
    return as_row(ints, floats, alive)


def as_row(ints: Tensor, floats: Tensor, alive: dict[int, Tensor]) -> dict[str, Any]:
    n = int(ints[k.FINITE])
    living = torch.cat([*alive.values(), torch.zeros(0, dtype=torch.bool)])
    std = math.sqrt(floats[k.SQUARES] / (n - 1)) if n > 1 else 0.0
    return {
        "count": int(ints[k.COUNT]),
        "mean": float(floats[k.MEAN] + floats[k.REST]) if n else None,
        "std": std if n else None,
        "min": float(floats[k.MIN]) if n else None,
        "max": float(floats[k.MAX]) if n else None,
        "near_zero": int(ints[k.NEAR]) / n if n else None,
        "above": int(ints[k.ABOVE]),
        "dead_channels": 1 - living.double().mean().item() if len(living) else None,
        "nonfinite": int(ints[k.COUNT]) - n,
        "hist": ints[k.HIST :].tolist(),
    }
