"""Reduce a layer's output to its accumulators: a kernel for the CPU, two for accelerators."""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tracking.reasons import one_line
from tracking.statistics.kernels.accumulators import HIST_BINS, HIST_EDGES
from tracking.statistics.kernels.reduction import Reduction

if TYPE_CHECKING:
    import torch

__all__ = ["HIST_BINS", "HIST_EDGES", "Reduction", "kernel_for"]

log = logging.getLogger("layerscope")


def kernel_for(device: torch.device, near_zero_eps: float, above_threshold: float) -> Reduction:
    """The kernel that serves tensors on ``device``."""
    # Imported here: whoever reads tables needs the histogram's bins, and neither torch nor Triton.
    if device.type == "cpu":
        from tracking.statistics.kernels.numba_kernel import NumbaKernel

        return NumbaKernel(near_zero_eps, above_threshold)
    if device.type == "cuda" and _triton_compiles(device):
        from tracking.statistics.kernels.triton_kernel import TritonKernel

        return TritonKernel(near_zero_eps, above_threshold)
    from tracking.statistics.kernels.torch_kernel import TorchKernel

    return TorchKernel(near_zero_eps, above_threshold)


@cache
def _triton_compiles(device: torch.device) -> bool:
    """Whether Triton is there, and has what it needs: a GPU that it knows, and a C compiler."""
    import torch

    if find_spec("triton") is None or not torch.cuda.is_available():
        return False
    try:
        from tracking.statistics.kernels.triton_kernel import try_out

        try_out(device)
    except Exception as error:  # Triton passes on whatever its compilers raise
        log.warning(
            "Triton does not work on %s (%s): torch operations take its place, which cost more",
            device,
            one_line(error),
        )
        return False
    return True
