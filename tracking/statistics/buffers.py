"""Accumulators of one layer, kept on its device until a flush brings many steps over at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tracking.statistics.kernels import accumulators as k
from tracking.statistics.kernels.reduction import Reduction
from tracking.statistics.layer_rows import LayerRows

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
        self._nothing = torch.tensor(k.NOTHING, dtype=torch.float64, device=device)
        # Found once: taking a row out of a tensor costs as much as a small reduction.
        self._rows = list(zip(kernel.rows(self._ints), kernel.rows(self._floats), strict=True))
        self._channels: dict[int, _Channels] = {}
        self._moments: list[tuple[int, float]] = []
        self._open = False
        self._clear()

    def __len__(self) -> int:
        """Rows that are finished."""
        return len(self._moments)

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

    def abandon(self) -> None:
        """Forget the open row; nothing may be added any more."""
        self._open = False

    def memory(self) -> list[Tensor]:
        """That of the finished rows, uint8 (bytes,), table by table."""
        rows = len(self._moments)
        tables = [self._ints, self._floats, *(c.alive for c in self._channels.values())]
        return [table[:rows].reshape(-1).view(torch.uint8) for table in tables]

    def take(self, parts: Iterator[npt.NDArray[np.uint8]]) -> LayerRows:
        """The rows whose memory ``parts`` brought to the host; start over."""
        rows = len(self._moments)
        taken = LayerRows(
            self.layer,
            self.mode,
            list(self._moments),
            next(parts).view(np.int64).reshape(rows, k.INTS),
            next(parts).view(np.float64).reshape(rows, k.FLOATS),
            {
                width: (channels.called(rows), next(parts).view(np.bool_).reshape(rows, width))
                for width, channels in self._channels.items()
            },
        )
        self._start_over()
        return taken

    def _start_over(self) -> None:
        done = len(self._moments)
        # Who reads in the middle of a step must not lose its row: it becomes the first one.
        kept = (self._ints[done].clone(), self._floats[done].clone()) if self._open else None
        self._moments.clear()
        self._clear()
        if kept is not None:
            self._ints[0], self._floats[0] = kept
        # Outputs whose dimension 1 is of another size each time must not fill the memory.
        self._channels = {
            width: channels for width, channels in self._channels.items() if channels.in_use
        }
        for channels in self._channels.values():
            channels.start_over(done if self._open else None)

    def _clear(self) -> None:
        self._ints.zero_()
        self._floats.copy_(self._nothing)

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
        self.alive = alive
        self._rows = kernel.rows(alive)
        self._called: set[int] = set()

    def row(self, index: int) -> Any:
        """A row to be marked."""
        self._called.add(index)
        return self._rows[index]

    @property
    def in_use(self) -> bool:
        """Whether any row has such channels."""
        return bool(self._called)

    def called(self, rows: int) -> npt.NDArray[np.bool_]:
        """In which of the first rows there were such channels."""
        return np.array([row in self._called for row in range(rows)], np.bool_)

    def start_over(self, kept: int | None) -> None:
        """Forget all rows, except one, which becomes the first."""
        marked = self.alive[kept].clone() if kept in self._called else None
        self.alive.zero_()
        self._called.clear()
        if marked is not None:
            self.alive[0] = marked
            self._called.add(0)


def drain(buffers: Sequence[LayerBuffer]) -> list[LayerRows]:
    """Take the finished rows of all buffers, with one transfer for each device."""
    taken: list[LayerRows] = []
    for device in {buffer.device for buffer in buffers}:
        here = [buffer for buffer in buffers if buffer.device == device and len(buffer)]
        if not here:
            continue
        pieces = [piece for buffer in here for piece in buffer.memory()]
        packed = torch.cat(pieces).cpu().numpy()
        # Copies, since a view of numbers needs an aligned beginning.
        ends = accumulate(map(len, pieces))
        parts = (
            packed[end - len(piece) : end].copy() for end, piece in zip(ends, pieces, strict=True)
        )
        taken.extend(buffer.take(parts) for buffer in here)
    return taken
