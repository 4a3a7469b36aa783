"""Signals that arrive while a worker is between two trials wait until it can be stopped cleanly."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

from tracking.signals import ending_signals, leave_terminal

__all__ = ["Stopping"]


class Stopping:
    """While it is entered, a signal to end interrupts only what runs within ``interruptible``.

    A trial that is taken from the queue or written to the storage is so never left half-way.
    Elsewhere ``asked`` says that somebody wants an end. A second signal has no effect.
    """

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self._interruptible = False
        self._before: dict[signal.Signals, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal has arrived."""
        return self.number is not None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in ending_signals()}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # A second signal must not cut short the end that the first one has asked for.
            signal.signal(number, signal.SIG_IGN if self.asked else handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within it a signal raises KeyboardInterrupt, once."""
        self._interruptible = True
        try:
            # Looked at in here: it may have come a moment ago, when nothing was to be interrupted.
            if self.asked:
                raise KeyboardInterrupt(self.number.name if self.number else "")
            yield
        finally:
            self._interruptible = False

    def sleep(self, seconds: float) -> None:
        """Wait; not after a signal."""
        with suppress(KeyboardInterrupt), self.interruptible():
            time.sleep(seconds)

    def raise_again(self) -> None:
        """End the process as the signal would have: KeyboardInterrupt, or SystemExit(143)."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number is not None:
            raise SystemExit(128 + self.number)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            return
        self.number = signal.Signals(number)
        leave_terminal(number)
        if self._interruptible:
            self._interruptible = False
            raise KeyboardInterrupt(self.number.name)
