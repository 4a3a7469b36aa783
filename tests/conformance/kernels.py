"""Every kernel under one name, and what it makes of tensors, as a row of statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tracking_tests.reference import DTYPES
from tracking.statistics.kernels import Reduction, torch_kernel
from tracking.statistics.kernels import accumulators as k
from tracking.statistics.kernels.numba_kernel import NumbaKernel
from tracking.statistics.kernels.torch_kernel import TorchKernel

__all__ = ["KERNELS", "empty_row", "every_dtype", "every_kernel", "kernel", "reduced"]

GPU = torch.cuda.is_available()
triton = pytest.importorskip("triton")
triton_kernel = pytest.importorskip("tracking.statistics.kernels.triton_kernel")

# The torch kernel takes its input in chunks, the Triton kernel in blocks that programs share. Here
# these are so small as well that every tensor with more than a few elements has several. Triton's
# interpreter is slow, and shows nothing more with large blocks.
KERNELS = {
    "numba": NumbaKernel,
    "torch": TorchKernel,
    "torch, chunked": TorchKernel,
    "triton, in blocks": triton_kernel.TritonKernel,
    **({"triton": triton_kernel.TritonKernel} if GPU else {}),
}
every_kernel = pytest.mark.parametrize("name", KERNELS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def kernel(name: str, eps: float = 0.05, threshold: float = 1.0) -> Callable[..., None]:
    """A kernel that takes tensors on the CPU, and brings them to where it works."""
    reduce: Reduction = KERNELS[name](eps, threshold)

    def reduce_tensors(x: Tensor, ints: Tensor, floats: Tensor, alive: Tensor | None) -> None:
        parts = [part for part in (ints, floats, alive) if part is not None]
        x = x if name == "numba" or x.is_meta else _as_it_lies(x)
        if name.startswith("triton") and not GPU and x.dtype == torch.bfloat16:
            x = x.float()  # the interpreter loses bfloat16's subnormal numbers, a GPU does not
        tables = [part[None].to(x.device) for part in parts]
        rows = [reduce.rows(table)[0] for table in tables]
        with ExitStack() as patches:
            for module, key, value in _small_parts(name, x.numel()):
                patches.enter_context(mock.patch.object(module, key, value))
            patches.enter_context(np.errstate(all="ignore"))  # Triton's interpreter uses NumPy
            reduce(x, *rows, *[None] * (3 - len(rows)))
        for part, table in zip(parts, tables, strict=True):
            part.copy_(table[0])

    return reduce_tensors


def _small_parts(name: str, elements: int) -> list[tuple[Any, str, int]]:
    if name == "torch, chunked":
        return [(torch_kernel, "CHUNK", max(5, elements // 100))]
    if name == "triton, in blocks":
        block = max(256 if GPU else 8, triton.next_power_of_2(elements // 16))
        return [(triton_kernel, "BLOCK", block), (triton_kernel, "PROGRAMS", 4)]
    return []


def _as_it_lies(x: Tensor) -> Tensor:
    """A tensor on the GPU, where there is one, with the memory layout that it has here."""
    if not GPU or x.is_neg() or x.requires_grad:
        return x.cuda() if GPU else x
    memory = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage()).cuda()
    return memory.as_strided(x.shape, x.stride(), x.storage_offset())


def empty_row(device: str = "cpu") -> tuple[Tensor, Tensor]:
    ints = torch.zeros(k.INTS, dtype=torch.int64, device=device)
    floats = torch.zeros(k.FLOATS, dtype=torch.float64, device=device)
    floats[k.MIN], floats[k.MAX] = math.inf, -math.inf
    return ints, floats


def reduced(name: str, outputs: Sequence[Tensor], **thresholds: float) -> dict[str, Any]:
    """Statistics of the outputs of one layer, merged by a kernel into one row."""
    ints, floats = empty_row()
    alive: dict[int, Tensor] = {}
    reduce = kernel(name, **thresholds)
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
