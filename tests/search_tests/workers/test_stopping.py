"""Signals wait until they do no harm, and end the process as they would have."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from search.workers.stopping import Stopping
from tracking.signals import ENDING

__all__: list[str] = []


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """The tests' process keeps its handlers, and has one for SIGTERM that can be recognised."""
    before = {number: signal.getsignal(number) for number in ENDING}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, recognised)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def recognised(*_: object) -> None:
    raise AssertionError("the handler from before")


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_handlers_come_back_where_nothing_has_arrived() -> None:
    with Stopping() as stopping:
        assert signal.getsignal(signal.SIGTERM) == stopping._handle
        assert signal.getsignal(signal.SIGINT) == stopping._handle
    assert signal.getsignal(signal.SIGTERM) is recognised
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not stopping.asked
    stopping.raise_again()


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_elsewhere_is_only_noted(number: signal.Signals) -> None:
    after = False
    with Stopping() as stopping:
        send(number)
        after = True
        assert stopping.asked
        assert stopping.number == number
    assert after


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_interrupts_what_may_be_interrupted(number: signal.Signals) -> None:
    reached = []
    with Stopping() as stopping:
        with pytest.raises(KeyboardInterrupt), stopping.interruptible():
            reached += [send(number), "the line after"]
        assert stopping.number == number
    assert not reached


def test_a_signal_from_a_moment_before_interrupts_too() -> None:
    with Stopping() as stopping:
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), stopping.interruptible():
            raise AssertionError("not reached")


def test_a_second_signal_does_not_cut_the_end_short() -> None:
    def interrupted() -> None:
        try:
            send(signal.SIGINT)
        finally:  # it tidies up
            send(signal.SIGINT)
            send(signal.SIGTERM)

    with Stopping() as stopping:
        with pytest.raises(KeyboardInterrupt), stopping.interruptible():
            interrupted()
        send(signal.SIGTERM)
        assert stopping.number == signal.SIGINT
    send(signal.SIGINT)  # nor once it has been left
    send(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_after_what_was_interruptible_nothing_is_interrupted() -> None:
    with Stopping() as stopping:
        with stopping.interruptible():
            pass
        send(signal.SIGINT)
        assert stopping.asked


def test_an_error_passes_through() -> None:
    with pytest.raises(ValueError, match="mine"), Stopping() as stopping, stopping.interruptible():
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGTERM) is recognised


def test_nobody_sleeps_after_a_signal() -> None:
    with Stopping() as stopping:
        stopping.sleep(0.0)
        send(signal.SIGINT)
        stopping.sleep(3600.0)
        assert stopping.asked


def test_a_signal_ends_a_sleep() -> None:
    signal.signal(signal.SIGALRM, lambda *_: send(signal.SIGTERM))
    with Stopping() as stopping:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        stopping.sleep(3600.0)
        assert stopping.number == signal.SIGTERM
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_the_end_is_that_of_the_signal() -> None:
    with Stopping() as stopping:
        send(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stopping.raise_again()
    signal.signal(signal.SIGTERM, recognised)
    with Stopping() as stopping:
        send(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        stopping.raise_again()
    assert caught.value.code == 143
