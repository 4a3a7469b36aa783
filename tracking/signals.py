"""Signals that ask a command to end, and wait until what must not be cut in two is done."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ENDING", "ending_signals", "held_back", "leave_terminal"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, ``kill``, and a terminal that closes."""


def ending_signals() -> list[signal.Signals]:
    """Those that end this process: not SIGHUP where nohup has it ignored, for one."""
    return [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]


def leave_terminal(number: int) -> None:
    """After SIGHUP, when a word to the terminal, which has gone, would fail; not to a file."""
    if number != signal.SIGHUP:
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)
    os.close(nowhere)


@contextmanager
def held_back() -> Iterator[None]:
    """In the main thread, SIGINT, SIGTERM and SIGHUP take effect when the context ends.

    Elsewhere they do not arrive at all. For a few seconds at most: nobody likes to wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {held: signal.getsignal(held) for held in ending_signals()}
    for held in before:
        signal.signal(held, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for held, handler in before.items():
            signal.signal(held, handler)
        for number in arrived[:1]:  # also when what was to be done has failed
            os.kill(os.getpid(), number)
