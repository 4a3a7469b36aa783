"""Which channels stay dead: a batch may leave a channel at zero that the next one uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["LASTING", "LastingDead"]

Bools = npt.NDArray[np.bool_]

LASTING = 20
"""Recorded steps without any activity after which a channel counts as dead for good."""


MOST_WIDTHS = 64
"""Numbers of channels that are kept apart: outputs of ever new ones must not fill the memory."""


class LastingDead:
    """Counts, for each channel of one layer, the recorded steps since it was last alive."""

    def __init__(self) -> None:
        self._dead_for: dict[int, npt.NDArray[np.int64]] = {}

    def state_dict(self) -> dict[int, list[int]]:
        """By number of channels, for how many recorded steps each of them has been dead."""
        return {width: counts.tolist() for width, counts in self._dead_for.items()}

    def load_state_dict(self, state: Mapping[int, Sequence[int]]) -> None:
        """Go on from what ``state_dict`` gave."""
        self._dead_for = {width: np.array(counts, np.int64) for width, counts in state.items()}

    def add(self, channels: Mapping[int, tuple[Bools, Bools]], rows: int) -> npt.NDArray[np.int64]:
        """Channels that have been dead for LASTING recorded steps, at each of some further rows.

        ``channels`` as in LayerRows, of so many rows. Returns counts (rows,).
        """
        counts = np.zeros(rows, np.int64)
        for width, (called, alive) in channels.items():
            before = self._dead_for.get(width)
            if before is None:
                before = np.zeros(width, np.int64)
            row = np.arange(1, int(called.sum()) + 1)[:, None]
            last_alive = np.where(alive[called], row, -before)
            dead_for = row - np.maximum.accumulate(last_alive, axis=0)
            if len(dead_for):
                counts[called] += (dead_for >= LASTING).sum(axis=1)
                self._dead_for.pop(width, None)
                self._dead_for[width] = dead_for[-1]
        while len(self._dead_for) > MOST_WIDTHS:
            del self._dead_for[next(iter(self._dead_for))]  # who has not been called for longest
        return counts
