"""What a command in this process does to its signals, undone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tracking.signals import ENDING

__all__ = ["own_signals_kept"]


@contextmanager
def own_signals_kept() -> Iterator[None]:
    """Within it handlers may be set; afterwards they are those from before."""
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
