"""Deliveries wait in threads, a few at a time, and nothing that did not arrive goes unsaid."""

from __future__ import annotations

import threading
import time

import pytest

from tracking.errors import RecordsWaiting
from tracking.mlflow_runs.deliveries import Deliveries

__all__: list[str] = []


def failing(text: str) -> None:
    raise RecordsWaiting(text)


def test_work_goes_on_while_a_delivery_waits() -> None:
    released, arrived = threading.Event(), threading.Event()

    def deliver() -> None:
        assert released.wait(60)
        arrived.set()

    with Deliveries() as deliveries:
        deliveries.add(deliver)
        assert not arrived.is_set()
        released.set()
    assert arrived.is_set()


def test_leaving_waits_for_all() -> None:
    arrived: list[int] = []
    with Deliveries(most=2) as deliveries:
        for number in range(7):
            deliveries.add(lambda number=number: arrived.append(number))  # type: ignore[misc]
    assert sorted(arrived) == list(range(7))


def test_one_more_than_may_wait_waits_for_the_oldest() -> None:
    released = threading.Event()
    most = under_way = 0
    lock = threading.Lock()

    def deliver() -> None:
        nonlocal most, under_way
        with lock:
            under_way += 1
            most = max(most, under_way)
            if most == 2:
                released.set()
        assert released.wait(60)
        with lock:
            under_way -= 1

    with Deliveries(most=2) as deliveries:
        for _ in range(6):
            deliveries.add(deliver)
    assert most == 2


def test_nothing_to_deliver() -> None:
    with Deliveries() as deliveries:
        deliveries.wait()
        deliveries.wait()


def test_what_has_not_arrived_is_raised_at_the_end() -> None:
    with (
        pytest.raises(RecordsWaiting, match=r"^run 7 waits$") as caught,
        Deliveries() as deliveries,
    ):
        deliveries.add(lambda: failing("run 7 waits"))
    assert str(caught.value.__cause__) == "run 7 waits"


def test_several_are_counted_and_told_once() -> None:
    deliveries = Deliveries()
    for number in range(3):
        deliveries.add(lambda number=number: failing(f"run {number} waits"))  # type: ignore[misc]
    with pytest.raises(RecordsWaiting, match=r"^run \d waits; 2 more runs wait too: "):
        deliveries.wait()
    deliveries.wait()  # nothing is left of them


def test_any_failure_means_that_records_wait() -> None:
    def broken() -> None:
        raise OSError("no space left on device")

    with (
        pytest.raises(RecordsWaiting, match="no space left on device"),
        Deliveries() as deliveries,
    ):
        deliveries.add(broken)


def test_others_arrive_although_one_fails() -> None:
    arrived: list[int] = []
    deliveries = Deliveries(most=1)
    deliveries.add(lambda: failing("run 0 waits"))
    deliveries.add(lambda: arrived.append(1))
    with pytest.raises(RecordsWaiting):
        deliveries.wait()
    assert arrived == [1]


def test_an_error_of_the_work_comes_first_and_carries_a_note() -> None:
    deliveries = Deliveries()
    deliveries.add(lambda: failing("run 7 waits"))
    with pytest.raises(ValueError, match="mine") as caught, deliveries:
        raise ValueError("mine")
    assert caught.value.__notes__ == ["run 7 waits"]


def test_an_interrupt_waits_for_what_is_under_way() -> None:
    arrived: list[int] = []
    deliveries = Deliveries()
    deliveries.add(lambda: arrived.append(1))
    with pytest.raises(KeyboardInterrupt), deliveries:
        raise KeyboardInterrupt
    assert arrived == [1]


def test_who_asks_for_an_end_while_it_waits_gets_it() -> None:
    looks: list[None] = []
    given_up = threading.Event()

    def asked() -> bool:
        looks.append(None)
        return len(looks) > 1

    def deliver() -> None:
        assert given_up.wait(60)
        failing("run 7 waits")

    deliveries = Deliveries(asked=asked)
    deliveries.add(deliver, given_up.set)
    with pytest.raises(RecordsWaiting, match=r"^run 7 waits$"):
        deliveries.wait()


def test_who_has_asked_before_gets_what_is_on_its_way() -> None:
    begun, given_up = threading.Event(), threading.Event()

    def deliver() -> None:
        assert begun.wait(60)
        time.sleep(0.3)  # several looks

    deliveries = Deliveries(asked=lambda: begun.set() is None)
    deliveries.add(deliver, given_up.set)
    deliveries.wait()
    assert not given_up.is_set()
