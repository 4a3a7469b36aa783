"""Signals that wait until something is done, and are heard then."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

import tracking.signals
from tests.own_signals import own_signals_kept
from tracking.signals import ENDING, SafePoints, held_back

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


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """The signals that have taken effect, in a process that handles all of them."""
    with own_signals_kept():
        numbers: list[int] = []
        for number in ENDING:
            signal.signal(number, lambda number, _: numbers.append(number))
        yield numbers


@pytest.mark.parametrize("number", ENDING)
def test_between_safe_points_a_signal_waits(number: signal.Signals, heard: list[int]) -> None:
    with SafePoints() as points:
        for expected in ([number], [number, number]):
            with points.held():
                os.kill(os.getpid(), number)
                assert len(heard) == len(expected) - 1
            assert heard == expected


def test_outside_it_takes_effect_at_once(heard: list[int]) -> None:
    with SafePoints() as points:
        with points.held():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]


def test_the_second_one_does_not_wait_and_the_first_is_forgotten(
    heard: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking.signals, "PATIENCE", -1.0)
    with SafePoints() as points:
        with points.held():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == [signal.SIGTERM]
        assert heard == [signal.SIGTERM]


def test_the_same_one_once_more_waits_too(heard: list[int]) -> None:
    with SafePoints() as points:
        with points.held():
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)
            assert heard == []
        assert heard == [signal.SIGINT]
        os.kill(os.getpid(), signal.SIGINT)
        assert heard == [signal.SIGINT] * 2


def test_it_takes_effect_after_a_failure_too(heard: list[int]) -> None:
    with SafePoints() as points:
        with suppress(ValueError), points.held():
            os.kill(os.getpid(), signal.SIGTERM)
            raise ValueError
        assert heard == [signal.SIGTERM]


def test_afterwards_handlers_are_those_from_before(heard: list[int]) -> None:
    before = {number: signal.getsignal(number) for number in ENDING}
    with SafePoints():
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
    assert {number: signal.getsignal(number) for number in ENDING} == before


def test_what_somebody_else_has_set_meanwhile_stays(heard: list[int]) -> None:
    """The command ignores SIGTERM after a first one, which must not be cut short."""
    with SafePoints():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def test_what_the_system_does_itself_stays(heard: list[int]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with SafePoints() as points, points.held():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
