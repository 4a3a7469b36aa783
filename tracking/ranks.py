"""Several processes that train one model together (torch.distributed): rank 0 writes for all."""

from __future__ import annotations

import datetime
import logging
from typing import Any, TypeVar

import torch.distributed as dist

from tracking.reasons import first_line

__all__ = ["Ranks", "is_first_rank", "several_ranks"]

log = logging.getLogger("layerscope")

T = TypeVar("T")

LONGEST_WAIT = datetime.timedelta(minutes=5)
"""For a rank that has not reached its flush yet: an epoch's validation may lie between."""


def is_first_rank() -> bool:
    """Whether this process is rank 0, or the only one."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def several_ranks() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class Ranks:
    """The ranks of a recording, which all must make it, and flush, at the same steps.

    Without torch.distributed, or before its group is made, there is one; so there is where not all
    are ``together``, but this one records its own share. The exchange goes through a gloo group of
    its own: it needs no accelerator, and does not mix with the training's traffic.
    """

    def __init__(self, *, together: bool = True) -> None:
        self.several = together and several_ranks()
        self.first = is_first_rank()
        self._group: Any = (
            dist.new_group(backend="gloo", timeout=LONGEST_WAIT) if self.several else None
        )

    def gathered(self, mine: T) -> list[T]:
        """What every rank has brought, in order of ranks, on rank 0; nothing on the others.

        Where a rank has gone, which ends the training too, rank 0 has only what is its own.
        """
        if not self.several:
            return [mine]
        everything: list[Any] | None = [None] * dist.get_world_size() if self.first else None
        try:
            dist.gather_object(mine, everything, dst=0, group=self._group)
        except (RuntimeError, ValueError) as error:
            return self._left_alone(mine, error)
        return everything or []

    def agreed(self, mine: T) -> T:
        """Rank 0's value on every rank."""
        if not self.several:
            return mine
        box = [mine]
        try:
            dist.broadcast_object_list(box, src=0, group=self._group)
        except (RuntimeError, ValueError) as error:
            self._left_alone(mine, error)
        return box[0]

    def part(self) -> None:
        """Exchange nothing any more: this rank's training has failed."""
        self.several = False

    def _left_alone(self, mine: T, error: Exception) -> list[T]:
        self.part()
        if not self.first:
            return []
        why = first_line(error)
        log.warning("a rank has gone; from here on, records are of rank 0 alone (%s)", why)
        return [mine]
