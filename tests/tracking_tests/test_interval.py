from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracking.errors import BadOption
from tracking.interval import Interval, Thinning

__all__: list[str] = []


@pytest.mark.parametrize(
    "every",
    [
        *(0, -1, "0", "-1", "+1", "00", "", " 1", "1 ", "3\n", "1.0", "1e3", "often", True, None),
        *("auto", "auto:", "auto:0", "auto:0.0", "auto:1", "auto:1.0", "auto:5", "auto:-0.1"),
        *("auto:nan", "auto:0.05s", "Auto:0.05"),
    ],
)
def test_bad_interval_is_refused(every: object) -> None:
    with pytest.raises(BadOption) as caught:
        Interval(every)  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"every={every}: allowed: a whole number from 1, or auto:")


def recorded(
    interval: Interval, steps: int, bare: float = 0.01, cost: float = 0.004, always: float = 0.0
) -> list[int]:
    """The steps that are recorded where a step takes ``bare`` and recording it ``cost`` seconds;
    ``always``: what is done in every step besides.
    """
    done = []
    for step in range(steps):
        due = interval.due(step)
        if due:
            done.append(step)
        interval.end_step(step, bare + always + cost * due, cost * due, always)
    return done


@pytest.mark.parametrize("every", [1, 2, 7, "3"])
def test_fixed_interval_begins_with_the_first_step(every: int | str) -> None:
    interval = Interval(every)
    assert interval.fixed
    assert interval.steps == int(every)
    assert recorded(interval, 30) == list(range(0, 30, int(every)))


@pytest.mark.parametrize("every", ["auto:0.05", "auto:.05"])
def test_automatic_interval_follows_the_formula(every: str) -> None:
    interval = Interval(every)
    assert not interval.fixed
    recorded(interval, 1000)
    # 4 ms of recording in every n-th step of 10 ms: 0.4 * 0.95 / 0.05 = 7.6
    assert interval.steps == 8


@settings(max_examples=50)
@given(
    share=st.sampled_from([0.01, 0.05, 0.2, 0.5, 0.9]),
    cost=st.floats(1e-6, 1),
    part=st.floats(0, 0.7),
)
def test_recording_takes_its_share_and_no_more(share: float, cost: float, part: float) -> None:
    interval = Interval(f"auto:{share}")
    bare = 0.01
    always = part * share * bare / (1 - share)  # up to 0.7 of what the share allows
    recorded(interval, 300, bare, cost, always)
    n = interval.steps

    def taken(n: int) -> float:
        return (n * always + cost) / (n * (bare + always) + cost)

    assert n == 1 or taken(n) <= share * (1 + 1e-9)
    assert n == 1 or taken(n - 1) > share * (1 - 1e-9)


@pytest.mark.parametrize("always", [0.0005, 0.01, 1.0])
def test_what_every_step_takes_leaves_a_tenth_of_the_share_to_recording(always: float) -> None:
    interval = Interval("auto:0.05")
    recorded(interval, 1000, cost=0.0041, always=always)
    # 4.1 ms in every n-th step of 10 ms: 0.41 * 0.95 / (0.05 / 10) = 77.9
    assert interval.steps == 78


def test_interval_follows_a_changing_speed() -> None:
    interval = Interval("auto:0.1")
    recorded(interval, 500, cost=0.01)
    slow = interval.steps
    for step in range(500, 5000):
        due = interval.due(step)
        interval.end_step(step, 0.01 + 0.0001 * due, 0.0001 * due)
    assert slow == 9
    assert interval.steps == 1


def test_compiling_in_the_first_step_does_not_count() -> None:
    interval = Interval("auto:0.05")
    interval.end_step(0, 30.0, 29.0)
    assert interval.due(1)
    assert recorded(interval, 100)[:2] == [1, 1 + interval.steps]
    assert interval.steps == 8


def test_cheap_recording_is_done_in_every_step() -> None:
    assert recorded(Interval("auto:0.5"), 50, cost=1e-5) == list(range(50))


def test_steps_in_which_no_layer_ran_are_not_taken_for_cheap() -> None:
    interval = Interval("auto:0.05")
    for step in range(20):
        interval.end_step(step, 0.01, 0.0)
    assert interval.steps == 1
    assert interval.due(20)


def test_no_duration_at_all_is_no_reason_to_stop() -> None:
    for cost in (0.0, 0.004):
        assert recorded(Interval("auto:0.05"), 20, bare=0.0, cost=cost) == list(range(20))


def kept(thinning: Thinning, records: int) -> list[int]:
    return [i for i in range(records) if thinning.keep(i)]


@pytest.mark.parametrize("expected", [1, 999, 1000, 1001, 2500, 123_456])
def test_known_number_of_records_leaves_evenly_spaced_points(expected: int) -> None:
    points = kept(Thinning(expected), expected)
    stride = math.ceil(expected / 1000)
    assert points == list(range(0, expected, stride))
    assert len(points) <= 1000


@pytest.mark.parametrize("expected", [None, 0])
@pytest.mark.parametrize("records", [1, 1000, 1001, 2000, 4000, 64_000])
def test_unknown_number_of_records_leaves_slowly_growing_points(
    expected: int | None, records: int
) -> None:
    points = kept(Thinning(expected), records)
    assert points[0] == 0
    doublings = math.ceil(math.log2(max(1, records / 1000)))
    assert min(records, 1000) <= len(points) <= 1000 * (1 + doublings / 2)
    gaps = [b - a for a, b in itertools.pairwise(points)]
    assert gaps == sorted(gaps)


def test_a_run_that_is_recorded_sparsely_is_not_thinned_twice() -> None:
    thinning = Thinning(3000)
    assert all(thinning.keep(step) for step in range(0, 3000, 7))


def test_uneven_steps_leave_about_as_many_points_as_wanted() -> None:
    thinning = Thinning(3000)
    assert sum(thinning.keep(step) for step in range(0, 3000, 2)) == 1000


def test_more_records_than_expected_stay_evenly_spaced() -> None:
    assert kept(Thinning(20, points=10), 50) == list(range(0, 50, 2))
