"""Sums from which the norms of gradients and updates are made, in one pass over a tensor.

Everything is accumulated in float64, whatever the dtype of the elements, and only sums are kept, so
parts merge by addition. On the CPU a kernel compiled with Numba reads each element once; elsewhere
torch operations widen a bounded number of elements at a time and never make the host wait.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from tracking.hooks.outputs import has_values

__all__ = [
    "ABS",
    "FINITE",
    "NONFINITE",
    "SQUARES",
    "UPDATE_SQUARES",
    "WEIGHTS",
    "WEIGHT_SQUARES",
    "ZEROS",
    "gradient_sums",
    "has_elements_to_read",
    "torch_gradient_sums",
    "torch_update_sums",
    "update_sums",
]

# Both kinds of sums begin with the finite and the other elements. Counts are exact in float64 up
# to 2**53.
FINITE, NONFINITE = range(2)
# A gradient's further sums: elements that are 0; absolute values and squares of the finite ones.
ZEROS, ABS, SQUARES = range(2, 5)
# An update's: its squares; the finite weights before it, and their squares.
UPDATE_SQUARES, WEIGHTS, WEIGHT_SQUARES = range(2, 5)
SUMS = 5

# Elements that are widened to float64 at a time on accelerators, so that memory stays bounded.
CHUNK = 1 << 24
# Elements in one partial sum on the CPU: the rounding error grows with a sum's length.
BLOCK = 1 << 12


def has_elements_to_read(x: Tensor) -> bool:
    """False for what has no plain memory of real floating-point numbers to read."""
    return x.is_floating_point() and has_values(x)


def gradient_sums(gradient: Tensor) -> Tensor:
    """FINITE, NONFINITE, ZEROS, ABS and SQUARES of a tensor, float64 (5,), on its own device."""
    gradient = _readable(gradient)
    if gradient.device.type != "cpu":
        return torch_gradient_sums(gradient)
    [flat] = _flattened(gradient)
    sums = np.zeros(SUMS)
    _sum_gradient(_narrow(flat).numpy(), sums)
    return torch.from_numpy(sums)


def update_sums(before: Tensor, after: Tensor) -> Tensor:
    """FINITE, NONFINITE, UPDATE_SQUARES, WEIGHTS and WEIGHT_SQUARES, float64 (5,).

    ``before`` and ``after``: a parameter around its update, of equal shape, dtype and device.
    """
    before, after = _readable(before), _readable(after)
    if after.device.type != "cpu":
        return torch_update_sums(before, after)
    old, new = map(_narrow, _flattened(before, after))
    sums = np.zeros(SUMS)
    _sum_update(old.numpy(), new.numpy(), sums)
    return torch.from_numpy(sums)


def torch_gradient_sums(gradient: Tensor) -> Tensor:
    """``gradient_sums`` by torch operations, for any device that has float64."""
    sums = torch.zeros(SUMS, dtype=torch.float64, device=gradient.device)
    [flat] = _flattened(gradient)
    for part in _chunks(flat):
        size = part.double().abs()
        finite = size.isfinite()
        kept = torch.where(finite, size, 0.0)
        sums += torch.stack(
            [_number(finite), _number(~finite), _number(size == 0), kept.sum(), kept.square().sum()]
        )
    return sums


def torch_update_sums(before: Tensor, after: Tensor) -> Tensor:
    """``update_sums`` by torch operations, for any device that has float64."""
    sums = torch.zeros(SUMS, dtype=torch.float64, device=after.device)
    for old, new in zip(*map(_chunks, _flattened(before, after)), strict=True):
        weights = old.double()
        changes = new.double() - weights
        changed, usual = changes.isfinite(), weights.isfinite()
        kept = torch.where(changed, changes, 0.0)
        weights = torch.where(usual, weights, 0.0)
        sums += torch.stack(
            [
                _number(changed),
                _number(~changed),
                kept.square().sum(),
                _number(usual),
                weights.square().sum(),
            ]
        )
    return sums


def _chunks(flat: Tensor) -> tuple[Tensor, ...]:
    return flat.split(CHUNK)  # type: ignore[no-untyped-call,no-any-return]


def _number(condition: Tensor) -> Tensor:
    return condition.sum(dtype=torch.float64)


def _readable(x: Tensor) -> Tensor:
    # Apple's GPU has no float64.
    return (x.cpu() if x.device.type == "mps" else x).detach().resolve_neg()


def _flattened(*tensors: Tensor) -> list[Tensor]:
    """Tensors of one shape as (elements,), all in the order in which the last one lies in memory.

    That spares it a copy in any memory format that is dense, such as channels_last.
    """
    last = tensors[-1]
    if all(x.is_contiguous() for x in tensors):
        return [x.view(-1) for x in tensors]
    strides = last.stride()
    order = sorted(range(last.ndim), key=lambda dim: -strides[dim])
    return [x.permute(order).reshape(-1) for x in tensors]


def _narrow(flat: Tensor) -> Tensor:
    """As a dtype that the compiled kernels know; bf16 and fp16 become fp32 exactly."""
    return flat if flat.dtype in (torch.float32, torch.float64) else flat.float()


# Sums may be regrouped, so that the loops become vector instructions; NaN and infinities hold.
_compiled = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})


@_compiled
def _sum_gradient(x: Any, sums: Any) -> None:  # pragma: no cover - compiled
    for start in range(0, x.size, BLOCK):
        block = x[start : start + BLOCK]
        finite = block.size
        zeros = 0
        total = 0.0
        squares = 0.0
        for i in range(block.size):
            size = abs(np.float64(block[i]))
            total += size
            squares += size * size
        for i in range(block.size):
            zeros += int(block[i] == 0)
        if not total < np.inf:  # rare, and slower: each element has to be looked at
            finite, total, squares = _sum_finite(block)
        sums[FINITE] += finite
        sums[NONFINITE] += block.size - finite
        sums[ZEROS] += zeros
        sums[ABS] += total
        sums[SQUARES] += squares


@_compiled
def _sum_update(before: Any, after: Any, sums: Any) -> None:  # pragma: no cover - compiled
    for start in range(0, after.size, BLOCK):
        old, new = before[start : start + BLOCK], after[start : start + BLOCK]
        finite = weights = old.size
        update_squares = 0.0
        weight_squares = 0.0
        for i in range(old.size):
            weight = np.float64(old[i])
            change = np.float64(new[i]) - weight
            update_squares += change * change
            weight_squares += weight * weight
        if not update_squares + weight_squares < np.inf:
            changes = new.astype(np.float64) - old.astype(np.float64)
            finite, _, update_squares = _sum_finite(changes)
            weights, _, weight_squares = _sum_finite(old)
        sums[FINITE] += finite
        sums[NONFINITE] += old.size - finite
        sums[UPDATE_SQUARES] += update_squares
        sums[WEIGHTS] += weights
        sums[WEIGHT_SQUARES] += weight_squares


@_compiled
def _sum_finite(block: Any) -> tuple[int, float, float]:  # pragma: no cover - compiled
    """Number of the finite elements, the sum of their absolute values, and of their squares."""
    finite = 0
    total = 0.0
    squares = 0.0
    for x in block:
        size = abs(np.float64(x))
        if size < np.inf:
            finite += 1
            total += size
            squares += size * size
    return finite, total, squares
