"""Reading what comes next while what is here is being used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["read_ahead"]

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(read: Callable[[T], R], items: Iterable[T], ahead: int) -> Generator[R]:
    """``read(item)`` for each of the items, in their order, whatever the number of threads.

    While one is used, ``ahead`` threads read the next ones; with 0 each is read when it is wanted.
    Threads and not processes: they end with the process, however it ends, and images are decoded
    outside Python's lock. Raises what ``read`` raises, when that item's turn comes. Left early, it
    waits for what is being read.
    """
    if not ahead:
        yield from map(read, items)
        return
    rest = iter(items)
    with ThreadPoolExecutor(ahead, thread_name_prefix="read-ahead") as readers:
        coming = deque(readers.submit(read, item) for item in islice(rest, ahead))
        try:
            while coming:
                result = coming.popleft().result()
                coming.extend(readers.submit(read, item) for item in islice(rest, 1))
                yield result
        finally:
            readers.shutdown(wait=False, cancel_futures=True)
