"""Reading ahead: the order, what is read when, failures, and no thread that stays."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipelines.data.read_ahead import read_ahead

__all__: list[str] = []


def readers() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("read-ahead")]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert readers() == []


@pytest.mark.parametrize("ahead", [0, 1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 6])
def test_the_order_is_that_of_the_items(ahead: int, count: int) -> None:
    # The first to be read is the last to be done.
    done = [threading.Event() for _ in range(count + 1)]
    done[min(ahead, count)].set()

    def read(item: int) -> int:
        if ahead > 1 and item < min(ahead, count):
            done[item + 1].wait(30)
        done[item].set()
        return item * item

    assert list(read_ahead(read, range(count), ahead)) == [n * n for n in range(count)]


def test_the_next_ones_are_read_while_one_is_used() -> None:
    begun = [threading.Event() for _ in range(9)]

    def read(item: int) -> int:
        begun[item].set()
        return item

    items = read_ahead(read, range(9), 3)
    assert next(items) == 0
    assert all(event.wait(30) for event in begun[:4])
    assert not any(event.is_set() for event in begun[4:])
    items.close()


def test_nothing_is_read_before_it_is_wanted() -> None:
    seen: list[int] = []
    items = read_ahead(seen.append, range(9), 0)
    next(items)
    assert seen == [0]


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_a_failure_comes_in_its_turn(ahead: int) -> None:
    items = read_ahead(lambda n: 6 // (2 - n), range(9), ahead)
    assert [next(items), next(items)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(items)


def test_an_interruption_ends_the_threads() -> None:
    items = read_ahead(int, ["1"] * 9, 4)
    next(items)
    with pytest.raises(KeyboardInterrupt):
        items.throw(KeyboardInterrupt)
