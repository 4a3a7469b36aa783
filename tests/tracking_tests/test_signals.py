"""Signals that wait until something is done, and are heard then."""

from __future__ import annotations

import os
import signal

import pytest

from tracking.signals import ENDING, held_back

__all__: list[str] = []


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("number", ENDING)
def test_a_signal_is_heard_when_it_is_done(number: signal.Signals, fails: bool) -> None:
    heard: list[int] = []
    before = signal.signal(number, lambda number, _: heard.append(number))
    try:
        try:
            with held_back():
                os.kill(os.getpid(), number)
                assert heard == []
                if fails:
                    raise ValueError
        except ValueError:
            assert fails
        assert heard == [number]
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with held_back():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
