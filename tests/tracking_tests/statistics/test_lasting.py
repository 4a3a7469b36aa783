"""Channels that stay dead, counted across portions of rows."""

from __future__ import annotations

import numpy as np
import pytest

from tracking.statistics.lasting import LASTING, LastingDead

__all__: list[str] = []


@pytest.mark.parametrize("size", [1, 3, 16, 200])
def test_counts_are_those_of_a_loop_whatever_the_portions(size: int) -> None:
    rng = np.random.default_rng(0)
    alive = rng.random((200, 6)) < [0.0, 1.0, 0.02, 0.1, 0.5, 0.03]
    called = rng.random(200) < 0.8
    dead_for, wanted = np.zeros(6, int), []
    for row, was in zip(alive, called, strict=True):
        if was:
            dead_for = np.where(row, 0, dead_for + 1)
        wanted.append(int((dead_for >= LASTING).sum()) if was else 0)
    lasting, counts = LastingDead(), []
    for first in range(0, 200, size):
        here = slice(first, first + size)
        counts += lasting.add({6: (called[here], alive[here])}, len(called[here])).tolist()
    assert counts == wanted
    assert max(counts) > 1


def test_widths_of_a_shared_layer_are_counted_apart() -> None:
    lasting = LastingDead()
    rows = LASTING + 1
    every = np.ones(rows, np.bool_)
    dead, living = np.zeros((rows, 3), np.bool_), np.ones((rows, 2), np.bool_)
    counts = lasting.add({3: (every, dead), 2: (every, living)}, rows)
    assert counts.tolist() == [0] * (LASTING - 1) + [3, 3]


def test_no_rows_and_no_channels_count_nothing() -> None:
    assert LastingDead().add({}, 3).tolist() == [0, 0, 0]
    assert LastingDead().add({4: (np.zeros(0, np.bool_), np.zeros((0, 4), np.bool_))}, 0).size == 0


def test_ever_new_numbers_of_channels_do_not_fill_the_memory() -> None:
    lasting = LastingDead()
    called = np.ones(LASTING, np.bool_)
    for width in range(1, 1000):
        dead = np.zeros((LASTING, width), np.bool_)
        assert lasting.add({width: (called, dead)}, LASTING)[-1] == width
        always = np.zeros((1, 3), np.bool_)
        lasting.add({3: (called[:1], always)}, 1)
    assert len(lasting._dead_for) <= 64
    assert lasting.add({3: (called[:1], always)}, 1).tolist() == [3]
