"""A layer's output as its elements lie in memory, which is how the compiled kernels read it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from torch import Tensor

__all__ = ["as_block"]


def as_block(x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """A tensor whose memory has no gaps, and that memory as (outer, channels, inner).

    It is ``x`` itself where it is contiguous or channels_last, otherwise a copy. Channels are
    dimension 1; without one, all elements are of one channel.
    """
    block = _block(x.shape, x.stride())
    if block is None:
        x = x.detach().contiguous()
        block = _block(x.shape, x.stride())
        assert block is not None
    return x, block


@lru_cache(maxsize=1024)
def _block(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, int, int] | None:
    """A tensor as (outer, channels, inner), as it lies in memory; None where that has gaps."""
    n = math.prod(shape)
    if n == 0:
        return 0, 1, 1
    channels = shape[1] if len(shape) > 1 else 1
    if _dense(shape, strides):
        inner = math.prod(shape[2:])
        return n // (channels * inner), channels, inner
    last = [0, *range(2, len(shape)), 1]
    if len(shape) > 2 and _dense([shape[i] for i in last], [strides[i] for i in last]):
        return n // channels, channels, 1
    return None


def _dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
