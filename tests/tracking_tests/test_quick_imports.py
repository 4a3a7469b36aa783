"""Imports without the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tracking.quick_imports import quick_imports

__all__: list[str] = []


@pytest.fixture(autouse=True)
def the_collector_as_it_was() -> Iterator[None]:
    yield
    gc.enable()


def test_the_collector_rests_and_leaves_what_has_come_alone() -> None:
    before = gc.get_freeze_count()
    with quick_imports():
        assert not gc.isenabled()
        stays = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(stays)


def test_it_works_again_after_an_import_that_fails() -> None:
    with pytest.raises(ImportError), quick_imports():
        raise ImportError("gone")
    assert gc.isenabled()


def test_whoever_has_switched_it_off_finds_it_so() -> None:
    gc.disable()
    with quick_imports():
        pass
    assert not gc.isenabled()
