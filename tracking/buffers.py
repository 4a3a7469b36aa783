"""Accumulators of one layer, kept on its device until a flush brings many steps over at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tracking.kernels import accumulators as k
from tracking.kernels.accumulators import Reduction
from tracking.records import LayerStats

__all__ = ["LayerBuffer", "drain"]


class LayerBuffer:
    """Rows of accumulators, one for each recorded step of one layer in one mode.

    Several calls within a step merge into one row. A channel counts as alive when any element of
    it in any of these calls is > 0; calls with different numbers of channels (a ReLU shared by
    layers of different width) have channels of their own. Nothing is > 0 in an empty batch.
    """

    def __init__(
        self, layer: str, mode: str, device: torch.device, rows: int, kernel: Reduction
    ) -> None:
        self.layer = layer
        self.mode = mode
        self.device = device
        self._kernel = kernel
        self._ints = torch.zeros(rows, k.INTS, dtype=torch.int64, device=device)
        self._floats = torch.zeros(rows, k.FLOATS, dtype=torch.float64, device=device)
        # Views made once: taking a row out of a tensor costs as much as a small reduction.
        self._rows = list(zip(kernel.rows(self._ints), kernel.rows(self._floats), strict=True))
        self._channels: dict[int, _Channels] = {}
        self._moments: list[tuple[int, float]] = []
        self._open = False
        self._clear()

    def __len__(self) -> int:
        """Rows that are finished."""
        return len(self._moments)

    @property
    def full(self) -> bool:
        return len(self._moments) == len(self._rows)

    def add(self, x: Tensor) -> None:
        """Merge one output (any floating-point dtype and shape) into the open row."""
        row = len(self._moments)
        alive = self._alive(x.shape[1], row) if x.ndim > 1 else None
        self._kernel(x, *self._rows[row], alive)
        self._open = True

    def end_step(self, step: int, time: float) -> None:
        """Finish the open row, if the layer was called at all."""
        if self._open:
            self._moments.append((step, time))
            self._open = False

    def packed(self) -> Tensor:
        """The finished rows, floats as bit patterns, int64 (rows, INTS + FLOATS): one transfer."""
        rows = len(self._moments)
        ints = self._ints[:rows].clone()
        for channels in self._channels.values():
            called = channels.called(rows)
            ints[:, k.CHANNELS] += called * channels.width
            ints[:, k.DEAD] += called * (channels.width - channels.alive[:rows].sum(dim=1))
        return torch.cat([ints, self._floats[:rows].view(torch.int64)], dim=1)

    def take(self, packed: npt.NDArray[np.int64]) -> list[LayerStats]:
        """Turn rows that ``packed`` brought to the host into records, and start over."""
        ints = packed[:, : k.INTS]
        floats = np.ascontiguousarray(packed[:, k.INTS :]).view(np.float64)
        records = [
            _record(self.layer, self.mode, step, time, i, f)
            for (step, time), i, f in zip(self._moments, ints, floats, strict=True)
        ]
        self._start_over()
        return records

    def _start_over(self) -> None:
        done = len(self._moments)
        # Who reads in the middle of a step must not lose its row: it becomes the first one.
        kept = (self._ints[done].clone(), self._floats[done].clone()) if self._open else None
        self._moments.clear()
        self._clear()
        if kept is not None:
            self._ints[0], self._floats[0] = kept
        for channels in self._channels.values():
            channels.start_over(done if self._open else None)

    def _clear(self) -> None:
        self._ints.zero_()
        self._floats.zero_()
        self._floats[:, k.MIN] = math.inf
        self._floats[:, k.MAX] = -math.inf

    def _alive(self, width: int, row: int) -> Any:
        channels = self._channels.get(width)
        if channels is None:
            with torch.inference_mode(False):
                table = torch.zeros(len(self._rows), width, dtype=torch.bool, device=self.device)
            channels = self._channels[width] = _Channels(table, self._kernel)
        return channels.row(row)


class _Channels:
    """Which of a number of channels have been alive: a table (rows, width), marked row by row."""

    def __init__(self, alive: Tensor, kernel: Reduction) -> None:
        self.width = alive.shape[1]
        self.alive = alive
        self._rows = kernel.rows(alive)
        self._called: set[int] = set()

    def row(self, index: int) -> Any:
        """A row to be marked."""
        self._called.add(index)
        return self._rows[index]

    def called(self, rows: int) -> Tensor:
        """1 for each of the first rows in which there were such channels, 0 for the others."""
        called = [int(row in self._called) for row in range(rows)]
        return torch.tensor(called, dtype=torch.int64, device=self.alive.device)

    def start_over(self, kept: int | None) -> None:
        """Forget all rows, except one, which becomes the first."""
        marked = self.alive[kept].clone() if kept in self._called else None
        self.alive.zero_()
        self._called.clear()
        if marked is not None:
            self.alive[0] = marked
            self._called.add(0)


def drain(buffers: Sequence[LayerBuffer]) -> list[LayerStats]:
    """Take the finished rows of all buffers, with one transfer for each device."""
    records: list[LayerStats] = []
    for device in {buffer.device for buffer in buffers}:
        here = [buffer for buffer in buffers if buffer.device == device and len(buffer)]
        if not here:
            continue
        packed = torch.cat([buffer.packed() for buffer in here]).cpu().numpy()
        parts = np.split(packed, np.cumsum([len(buffer) for buffer in here])[:-1])
        for buffer, part in zip(here, parts, strict=True):
            records.extend(buffer.take(part))
    return records


def _record(
    layer: str,
    mode: str,
    step: int,
    time: float,
    ints: npt.NDArray[np.int64],
    floats: npt.NDArray[np.float64],
) -> LayerStats:
    n = int(ints[k.FINITE])
    count = int(ints[k.COUNT])
    channels = int(ints[k.CHANNELS])
    std = math.sqrt(floats[k.SQUARES] / (n - 1)) if n > 1 else 0.0
    return LayerStats(
        step=step,
        layer=layer,
        mode=mode,
        count=count,
        mean=float(floats[k.MEAN] + floats[k.REST]) if n else None,
        std=std if n else None,
        min=float(floats[k.MIN]) if n else None,
        max=float(floats[k.MAX]) if n else None,
        near_zero=int(ints[k.NEAR]) / n if n else None,
        above=int(ints[k.ABOVE]),
        dead_channels=int(ints[k.DEAD]) / channels if channels else None,
        nonfinite=count - n,
        hist=ints[k.HIST :].copy(),
        time=time,
    )
