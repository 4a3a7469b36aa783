"""Signals that wait until what must not be cut in two is done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["held_back"]

HELD = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back() -> Iterator[None]:
    """In the main thread, SIGINT and SIGTERM take effect when the context ends.

    Elsewhere they do not arrive at all. For a few seconds at most: nobody likes to wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {held: signal.getsignal(held) for held in HELD}
    for held in HELD:
        signal.signal(held, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for held, handler in before.items():
            signal.signal(held, handler)
        for number in arrived[:1]:  # also when what was to be done has failed
            os.kill(os.getpid(), number)
