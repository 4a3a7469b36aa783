"""The buffers of all layers of a model, made when a layer is first called."""

from __future__ import annotations

import threading
import time

import torch
from torch import Tensor

from tracking.statistics.buffers import LayerBuffer, drain
from tracking.statistics.kernels import kernel_for
from tracking.statistics.layer_rows import LayerRows

__all__ = ["LayerBuffers"]


class LayerBuffers:
    """Accumulates what layers give, by layer, mode and device, in rows of steps.

    ``rows`` is how many steps there is room for until ``take``. Layers may be called from several
    threads.
    """

    def __init__(self, rows: int, near_zero_eps: float, above_threshold: float) -> None:
        self._rows = rows
        self._limits = near_zero_eps, above_threshold
        self._buffers: dict[tuple[str, str, torch.device], LayerBuffer] = {}
        self._called = False
        self._lock = threading.Lock()

    @property
    def on_host(self) -> bool:
        """Whether nothing lies on another device, for which ``take`` would wait."""
        return all(device.type == "cpu" for *_, device in self._buffers)

    def add(self, layer: str, mode: str, x: Tensor) -> None:
        """Merge one output into the layer's open row."""
        with self._lock:
            self._called = True
            buffer = self._buffers.get((layer, mode, x.device))
            if buffer is None:
                buffer = self._new(layer, mode, x.device)
            buffer.add(x)

    def abandon(self, layer: str) -> None:
        """Forget a layer's open rows; it must not be added to any more."""
        with self._lock:
            for (name, *_), buffer in self._buffers.items():
                if name == layer:
                    buffer.abandon()

    def end_step(self, step: int) -> None:
        """Finish the open rows."""
        if not self._called:
            return
        now = time.time()
        with self._lock:
            self._called = False
            for buffer in self._buffers.values():
                buffer.end_step(step, now)

    def take(self) -> list[LayerRows]:
        """The finished rows, on the host; the open ones stay."""
        with self._lock:
            return drain(list(self._buffers.values()))

    def _new(self, layer: str, mode: str, device: torch.device) -> LayerBuffer:
        # Apple's GPU has no float64, in which everything is accumulated.
        at = torch.device("cpu") if device.type == "mps" else device
        # Accumulators made in inference mode could not be changed outside it.
        with torch.inference_mode(False):
            buffer = LayerBuffer(layer, mode, at, self._rows, kernel_for(at, *self._limits))
        self._buffers[layer, mode, device] = buffer
        return buffer
