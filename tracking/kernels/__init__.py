"""Reduce a layer's output to its accumulators: one kernel for the CPU, one for accelerators."""

from __future__ import annotations

import torch

from tracking.kernels.accumulators import HIST_BINS, HIST_EDGES
from tracking.kernels.numba_kernel import NumbaKernel
from tracking.kernels.reduction import Reduction
from tracking.kernels.torch_kernel import TorchKernel

__all__ = [
    "HIST_BINS",
    "HIST_EDGES",
    "NumbaKernel",
    "Reduction",
    "TorchKernel",
    "kernel_for",
]


def kernel_for(device: torch.device, near_zero_eps: float, above_threshold: float) -> Reduction:
    """The kernel that serves tensors on ``device``."""
    kind = NumbaKernel if device.type == "cpu" else TorchKernel
    return kind(near_zero_eps, above_threshold)
