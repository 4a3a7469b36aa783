"""Signals that ask a command to end, and wait until what must not be cut in two is done."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["ENDING", "SafePoints", "ending_signals", "held_back", "leave_terminal"]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, ``kill``, and a terminal that closes."""
PATIENCE = 1.0
"""Seconds after which a second signal is one of its own."""


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


class SafePoints:
    """While it is entered, in the main thread, a signal that arrives within ``held`` takes effect
    when that ends, as often as that may be and at next to no cost. One that comes a second later
    does not wait: somebody has lost patience. Sooner it is the same one once more, which `timeout`
    sends to a process and to its group.

    Elsewhere than in the main thread signals do not arrive at all, and what the system does itself
    with one (nobody handles it, or it is ignored) stays as it is.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._holding = False
        self._arrived: tuple[int, FrameType | None] | None = None
        self._since = 0.0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in ENDING}
            self._before = {number: one for number, one in handlers.items() if callable(one)}
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._handle:  # or a first signal has others ignored
                signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is done within it is not cut in two."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            if self._arrived is not None:
                (number, frame), self._arrived = self._arrived, None
                self._before[number](number, frame)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._holding and self._arrived is None:
            self._arrived, self._since = (number, frame), time.monotonic()
        elif not self._holding or time.monotonic() - self._since > PATIENCE:
            self._arrived = None
            self._before[number](number, frame)
