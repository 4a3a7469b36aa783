"""The accelerators' kernel: reductions with torch operations that never make the host wait."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tracking.statistics.kernels import accumulators as k
from tracking.statistics.kernels.accumulators import merge

__all__ = ["TorchKernel"]

# Elements that are widened to float64 at a time, so that memory stays bounded.
CHUNK = 1 << 24


class TorchKernel:
    """Reductions with torch operations: any device, no synchronisation with the host."""

    def __init__(self, near_zero_eps: float, above_threshold: float) -> None:
        self.near_zero_eps = near_zero_eps
        self.above_threshold = above_threshold

    def rows(self, table: Tensor) -> Sequence[Tensor]:
        return table.unbind()

    def __call__(self, x: Tensor, ints: Tensor, floats: Tensor, alive: Tensor | None) -> None:
        if x.numel() == 0:
            return
        # Recording takes no part in the model's graph, nor in its inference mode.
        with torch.inference_mode(False), torch.no_grad():
            if x.ndim == 0:
                x = x.reshape(1)
            rows = max(1, CHUNK // max(1, x[0].numel()))
            for start in range(0, len(x), rows):
                wide = x[start : start + rows].double()
                self._add(wide.flatten(), ints, floats)
                if alive is not None:
                    others = [dim for dim in range(wide.ndim) if dim != 1]
                    alive.logical_or_((wide > 0).any(dim=others))

    def _add(self, wide: Tensor, ints: Tensor, floats: Tensor) -> None:
        finite = wide.isfinite()
        kept = torch.where(finite, wide, 0.0)
        n = finite.sum()
        mean = kept.sum() / n.clamp(min=1)
        deviations = torch.where(finite, kept - mean, 0.0)
        rest = deviations.sum() / n.clamp(min=1)
        squares = (deviations.square().sum() - n * rest.square()).clamp(min=0)
        low = torch.where(finite, wide, math.inf).min()
        high = torch.where(finite, wide, -math.inf).max()
        before = ints[k.FINITE]
        # The quotient of two whole numbers would be float32.
        share = n.double() / (before + n).clamp(min=1)
        new = merge(before, share, floats[k.MEAN], floats[k.REST], mean, rest)
        floats[k.MEAN], floats[k.REST] = new[0], new[1]
        floats[k.SQUARES] += squares + new[2]
        floats[k.MIN] = torch.minimum(floats[k.MIN], low)
        floats[k.MAX] = torch.maximum(floats[k.MAX], high)
        ints[k.COUNT] += wide.numel()
        ints[k.FINITE] += n
        ints[k.NEAR] += (wide.abs() <= self.near_zero_eps).sum()
        ints[k.ABOVE] += (wide > self.above_threshold).sum()
        _add_histogram(wide, ints)


def _add_histogram(wide: Tensor, ints: Tensor) -> None:
    last = k.HIST_BINS - 1
    bins = (wide * 4.0).floor().add(41.0).clamp(0.0, float(last))
    # NaN goes to one bin more, which is thrown away: selecting would need the host to know a size.
    index = torch.where(wide.isnan(), float(k.HIST_BINS), bins).long()
    counts = torch.zeros(k.HIST_BINS + 1, dtype=torch.int64, device=wide.device)
    counts.scatter_add_(0, index, torch.ones_like(index))
    ints[k.HIST :] += counts[: k.HIST_BINS]
