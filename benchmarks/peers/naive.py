"""The statistics of tracking/, as one would write them with torch: a call for each number."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["naive_statistics"]


def naive_statistics(
    x: Tensor, near_zero_eps: float = 0.05, above_threshold: float = 1.0
) -> tuple[dict[str, float], list[float]]:
    """The scalars of docs/statistics.md by name, and the histogram's 82 counts.

    ``x`` has at least one finite element and a dimension 1 of channels. Everything is computed in
    float32, so that the figures are good to about six digits, not to nine.
    """
    x = x.detach().float()
    finite = torch.isfinite(x)
    nonfinite = x.numel() - int(finite.sum().item())
    values = x[finite] if nonfinite else x
    others = [dim for dim in range(x.ndim) if dim != 1]
    alive = (x > 0).any(dim=others)
    scalars = {
        "mean": values.mean().item(),
        "std": values.std().item(),
        "min": values.min().item(),
        "max": values.max().item(),
        "near_zero": (values.abs() <= near_zero_eps).float().mean().item(),
        "above": (x > above_threshold).sum().item(),
        "dead_channels": 1 - alive.float().mean().item(),
        "nonfinite": nonfinite,
    }
    # What lies outside -10 to 10 goes into one more bin on either side.
    return scalars, torch.histc(x.clamp(-10.125, 10.125), 82, -10.25, 10.25).tolist()
