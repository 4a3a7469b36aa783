"""Signals that wait until something is done, and are heard then."""

from __future__ import annotations

import os
import signal

import pytest

from tracking.signals import HELD, held_back

__all__: list[str] = []


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("number", HELD)
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
