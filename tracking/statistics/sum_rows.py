"""Rows of sums for named things, kept on their devices until a flush brings them all over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SumRow", "SumRows"]


@dataclass(frozen=True, slots=True)
class SumRow:
    """What was summed up for one name in one step."""

    step: int
    name: str
    time: float
    """Seconds since the Unix epoch."""
    sums: list[float]


class SumRows:
    """Adds up tensors of sums, all of one length, under names and steps.

    What is added within a step, on whatever devices, makes one row for each name. The host waits
    for the devices only in ``take``.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, torch.device], Tensor] = {}
        self._done: list[tuple[int, str, float, Tensor]] = []
        self._steps = 0

    def __len__(self) -> int:
        """Finished steps that have rows."""
        return self._steps

    @property
    def open(self) -> bool:
        """Whether anything was added since the last step ended."""
        return bool(self._open)

    def add(self, name: str, sums: Tensor) -> None:
        """Add ``sums``, float64 (n,), to the name's row of the step under way."""
        key = (name, sums.device)
        self._open[key] = self._open[key] + sums if key in self._open else sums

    def abandon(self, name: str) -> None:
        """Forget the name's open row."""
        self._open = {key: sums for key, sums in self._open.items() if key[0] != name}

    def end_step(self, step: int, time: float) -> None:
        """Finish the open rows; where nothing was added there are none."""
        if self._open:
            self._done.extend((step, name, time, sums) for (name, _), sums in self._open.items())
            self._open = {}
            self._steps += 1

    def take(self) -> list[SumRow]:
        """The finished rows, by one transfer for each device; the open ones stay."""
        rows: dict[tuple[int, str], SumRow] = {}
        values = _on_host([sums for *_, sums in self._done])
        for (step, name, time, _), sums in zip(self._done, values, strict=True):
            if (step, name) in rows:
                old = rows[step, name].sums
                sums = [a + b for a, b in zip(old, sums, strict=True)]
            rows[step, name] = SumRow(step, name, time, sums)
        self._done, self._steps = [], 0
        return list(rows.values())


def _on_host(tensors: list[Tensor]) -> list[list[float]]:
    values: list[list[float]] = [[] for _ in tensors]
    for device in {x.device for x in tensors}:
        here = [index for index, x in enumerate(tensors) if x.device == device]
        stacked = torch.stack([tensors[index] for index in here])
        for index, row in zip(here, stacked.cpu().tolist(), strict=True):
            values[index] = row
    return values
